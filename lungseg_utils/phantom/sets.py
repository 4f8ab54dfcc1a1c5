"""Synthetic stand-ins for the real sets: a bundle of chest X-rays, and pictures of objects.

For continuous integration, the demonstration and tests, where the real X-rays may not or cannot
go. The files have the real bundle's layout, names and oddities, and every mask is exact.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_atomically
from lungseg_utils.manifest import MANIFEST_NAME, SOURCES, Case, write_manifest
from lungseg_utils.phantom.chest import Person, draw_anatomy, draw_person
from lungseg_utils.phantom.film import render_phantom

FIRST_NUMBER = 9001  # above every real case number, so that no phantom is taken for one
SMALLEST_COUNT = 6  # one of each source in train, val and test
# How names of cases begin, and those of their masks end.
_NAMES = {"montgomery": ("MCUCXR", ".png"), "shenzhen": ("CHNCXR", "_mask.png")}
_FINDINGS = ("bilateral PTB", "PTB in the left upper field", "infiltrate, consistent with TB")
# As some real readings word sex and age.
_ODD_WORDINGS = {("F", 32): "femal 32yrs", ("M", 1): "male 16month", ("F", 0): "female 64days"}
# Right halves of outlines, from the foot up.
_OBJECTS = {
    "bottle": [(0, 12), (4, 12), (4, -1), (1.5, -5), (1.5, -12), (0, -12)],
    "leaf": [(0.4, 14), (0.4, 9), (4, 6), (5, 2), (4, -4), (0, -11)],
    "spanner": [(0, 12), (3.5, 10), (1.7, 6), (1.7, -6), (4, -9), (2, -13), (2, -9), (0, -9)],
}
_DARK_COLOURS = {"bottle": (30, 90, 62), "leaf": (48, 100, 38), "spanner": (78, 82, 90)}


def write_phantom_bundle(
    folder: Path | str,
    count: int = 24,
    seed: int = 0,
    size: int = 512,
    unlabelled: int = 2,
    separate_masks: bool = False,
) -> Path:
    """Write synthetic chest X-rays in the real bundle's layout.

    The folder gets `CXR_png/`, `masks/`, `ClinicalReadings/` and its own `data_manifest.csv`.
    Two images of the first source are of one patient; some readings are worded as oddly as real
    ones; some images are palette files. The same arguments give the same bytes.

    Args:
        folder: Where to write; made where missing.
        count: Number of images, those without mask included.
        seed: Of every random choice.
        size: Longest side of an image in pixels.
        unlabelled: How many of the images have no mask.
        separate_masks: Montgomery-like masks as `ManualMask/leftMask` and `ManualMask/rightMask`
            instead of merged in `masks/`.

    Returns:
        The folder.

    Raises:
        LungsegError: Too few images for both sources in train, val and test, or too small ones.
    """
    folder = Path(folder)
    if unlabelled < 0 or count - unlabelled < SMALLEST_COUNT or size < 32:
        raise LungsegError(
            f"A phantom bundle has at least {SMALLEST_COUNT} images with a mask, of 32 pixels.",
            f"count {count}, unlabelled {unlabelled}, size {size}",
            "Raise `count` or `size`, or lower `unlabelled`.",
        )
    masked = count - unlabelled
    films = max(min(5, masked // 2), round(0.45 * masked))
    splits = {
        "montgomery": _draw_splits(films, count),
        "shenzhen": _draw_splits(masked - films, count) + ["unlabelled"] * unlabelled,
    }
    cases = [case for source in splits for case in _plan_cases(source, splits[source], seed, size)]
    for case in tqdm(cases, desc="Phantom X-rays", unit="image"):
        _write_case(folder, case, seed, separate_masks)
    write_manifest(folder / MANIFEST_NAME, cases)
    return folder


def write_secondary_set(
    folder: Path | str, count: int = 12, seed: int = 0, size: int = 320
) -> Path:
    """Write pictures of single objects for the cleaning notebook.

    The folder gets `images/` (PNG and JPEG), `annotations/` (PNG, 0 and 255) and `metadata.csv`
    with the columns image, annotation, background (`light` or `dark`) and object. The same
    arguments give the same bytes.

    Args:
        folder: Where to write; made where missing.
        count: Number of pictures.
        seed: Of every random choice.
        size: Longest side in pixels.

    Returns:
        The folder.
    """
    folder, rows = Path(folder), [("image", "annotation", "background", "object")]
    for index in range(count):
        kind = list(_OBJECTS)[index % len(_OBJECTS)]
        background = ("light", "dark")[index // 2 % 2]
        name = f"{kind}_{index + 1:03d}"
        image = f"{name}.jpg" if index % 3 == 1 else f"{name}.png"
        picture, mask = _paint(np.random.default_rng([seed, index]), kind, background, size)
        _write_image(folder / "images" / image, picture)
        _write_image(folder / "annotations" / f"{name}.png", mask * 255)
        rows.append((image, f"{name}.png", background, kind))
    table = "".join(f"{','.join(row)}\n" for row in rows)
    write_atomically(folder / "metadata.csv", lambda path: path.write_bytes(table.encode()))
    return folder


def _draw_splits(number: int, count: int) -> list[str]:
    """Split names of one source: about 50 % train, 20 % val and 20 % test of the bundle."""
    fifth = ceil(0.2 * number)
    test = max(fifth, 2 if count >= 12 else 1)
    return ["train"] * (number - fifth - test) + ["val"] * fifth + ["test"] * test


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])


def _plan_cases(source: str, splits: list[str], seed: int, size: int) -> list[Case]:
    """The cases of one source; two of the first source are of one patient."""
    (prefix, suffix), cases = _NAMES[source], []
    splits = _random(seed, source).permutation(splits).tolist()
    training = [index for index, split in enumerate(splits) if split == "train"]
    twins = training[:2] if source == "montgomery" and len(training) > 2 else []
    # Infants learn and wait, but are not tested on: one would be a fifth of the figure.
    waiting = [index for index, split in enumerate(splits) if split == "unlabelled"]
    places = training[:2] + waiting if source == "shenzhen" else []
    odd = dict(zip(places, _ODD_WORDINGS, strict=False))
    for index, split in enumerate(splits):
        patient = twins[0] if index in twins else index
        evidence = "stated" if index in twins else ""
        # Sick and healthy alternate within each split.
        sick = (splits[:patient].count(split) + SOURCES.index(source)) % 2 == 1
        name = f"{prefix}_{FIRST_NUMBER + index}_{int(sick)}"
        group = f"{prefix}_{FIRST_NUMBER + patient}"
        person = draw_person(_random(seed, f"person {group}"))
        sex, age = odd.get(index, (person.sex, int(person.age_years)))
        shape = _draw_size(_random(seed, f"size {name}"), source, size)
        mask, published = ("", "") if split == "unlabelled" else (name + suffix, split)
        doubted = source == "shenzhen" and mask != "" and index % 5 == 2
        facts = (sick, sex, age, *shape, group, evidence, doubted, published, split)
        cases.append(Case(name, source, f"{name}.png", mask, *facts))
    return cases


def _draw_size(rng: np.random.Generator, source: str, size: int) -> tuple[int, int]:
    """Width and height with the source's proportions, the longest side being `size`."""
    aspect = 4020 / 4892 if source == "montgomery" else min(rng.uniform(0.84, 1.04), 1.0)
    sides = (size, round(size * aspect))
    return sides if rng.random() < 0.5 else sides[::-1]


def _write_case(folder: Path, case: Case, seed: int, separate_masks: bool) -> None:
    """Render and write one case's image, masks and reading."""
    person = Person(case.sex, case.age_years, case.tuberculosis)
    anatomy = draw_anatomy(_random(seed, f"anatomy {case.patient_group}"), person)
    rng, size = _random(seed, f"film {case.image_id}"), (case.original_width, case.original_height)
    image, (left, right) = render_phantom(rng, size, case.source, anatomy)
    palette = case.source == "shenzhen" and int(case.image_id.split("_")[1]) % 3 == 0
    _write_image(folder / "CXR_png" / case.image_file, image, palette)
    text = _word_reading(case, str(rng.choice(_FINDINGS))).encode()
    reading = folder / "ClinicalReadings" / f"{case.image_id}.txt"
    write_atomically(reading, lambda path: path.write_bytes(text))
    if separate_masks and case.source == "montgomery":
        for side, mask in (("left", left), ("right", right)):
            _write_image(folder / "ManualMask" / f"{side}Mask" / case.mask_file, 255 * mask)
    elif case.mask_file:
        _write_image(folder / "masks" / case.mask_file, 255 * (left | right))


def _word_reading(case: Case, finding: str) -> str:
    """The reading in the source's own format."""
    wording = f"Patient's Sex: {case.sex}\nPatient's Age: {case.age_years:03d}Y"
    if case.source == "shenzhen":
        plain = f"{'male' if case.sex == 'M' else 'female'} {case.age_years}yrs"
        wording = _ODD_WORDINGS.get((case.sex, case.age_years), plain)
    finding = finding if case.tuberculosis else "normal"
    if not case.image_id.startswith(case.patient_group):
        finding += f" (same pt as {case.patient_group}_{int(case.tuberculosis)})"
    return f"{wording}\n{finding}\n"


def _write_image(path: Path, picture: np.ndarray, palette: bool = False) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(255 - picture if palette else picture)
    if palette:
        # White first: who reads the indices for grey values gets a negative.
        image.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
    image.save(path, compress_level=4)


def _paint(rng, kind: str, background: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint one object: RGB uint8 (H, W, 3) and mask uint8 {0, 1} (H, W)."""
    light, short = background == "light", round(size * rng.uniform(0.7, 1.0))
    height, width = (size, short) if rng.random() < 0.5 else (short, size)
    mask = _draw_outline(rng, kind, height, width)
    # Uneven light, the object's soft shadow, and grain.
    ramp = rng.uniform(0.97, 1.0) + rng.uniform(-0.03, 0.03) * np.linspace(-1, 1, width)
    away = np.roll(mask, size // 40, (0, 1)).astype(np.float32)
    shadow = 1 - 0.15 * cv2.GaussianBlur(away, (0, 0), size / 40)
    ground = (rng.uniform(230, 248) if light else rng.uniform(12, 30)) * ramp * shadow
    colour = np.array(_DARK_COLOURS[kind]) + (rng.uniform(0, 30) if light else rng.uniform(90, 130))
    picture = np.where(mask[..., None] > 0, colour * ramp[:, None], ground[..., None])
    picture = cv2.GaussianBlur(picture, (0, 0), size / 640)
    picture += rng.normal(0, 3, (height, width, 1))
    return np.clip(picture, 0, 255).round().astype(np.uint8), mask


def _draw_outline(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Fill the object's outline, turned and stretched at random but wholly in the picture."""
    half, angle = np.array(_OBJECTS[kind]) * [rng.uniform(0.8, 1.2), 1.0], rng.uniform(-0.6, 0.6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = np.concatenate([half, half[::-1] * [-1, 1]]) @ turn
    outline -= 0.5 * (outline.max(axis=0) + outline.min(axis=0))
    middle = np.array([width, height]) / 2
    outline *= rng.uniform(0.72, 0.86) * (middle / outline.max(axis=0)).min()
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(16 * (outline + middle)).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask
