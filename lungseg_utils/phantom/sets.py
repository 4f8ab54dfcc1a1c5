"""A synthetic stand-in for the real bundle: seeded chest X-rays with exact lung masks.

For continuous integration, the demonstration and tests, where the real X-rays may not or cannot
go. The files have the real bundle's layout, names and oddities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from lungseg_utils.errors import LungsegError
from lungseg_utils.manifest import MANIFEST_NAME, SOURCES, Case, write_manifest
from lungseg_utils.phantom.anatomy import Person, draw_anatomy
from lungseg_utils.phantom.objects import write_secondary_set
from lungseg_utils.phantom.render import draw_person, render_phantom

__all__ = ["render_phantom", "write_phantom_bundle", "write_secondary_set"]

FIRST_NUMBER = 9001  # above every real case number, so that no phantom is taken for one
SMALLEST_COUNT = 6  # one of each source in train, val and test
_PREFIX = {"montgomery": "MCUCXR", "shenzhen": "CHNCXR"}
_FINDINGS = (
    "bilateral PTB",
    "Right PTB",
    "PTB in the left upper field",
    "infiltrate in the upper lobe, consistent with active TB",
    "STB",
)
# Ages as some real readings word them, with the sex and the years they mean.
_ODD_AGES = {
    "femal 32yrs": ("F", 32.0),
    "male 16month": ("M", 16 / 12),
    "female 64days": ("F", 64 / 365.25),
}


@dataclass(frozen=True)
class _Slot:
    """A place in the bundle: which source, whose chest, in which split."""

    source: str
    index: int
    patient: int
    split: str
    tuberculosis: bool
    same_patient: bool
    odd_age: str

    @property
    def image_id(self) -> str:
        return f"{_PREFIX[self.source]}_{FIRST_NUMBER + self.index}_{int(self.tuberculosis)}"

    def random(self, seed: int, purpose: int, whose: int) -> np.random.Generator:
        return np.random.default_rng([seed, SOURCES.index(self.source), whose, purpose])


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
    for name in ("CXR_png", "masks", "ClinicalReadings"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if separate_masks:
        for side in ("left", "right"):
            (folder / "ManualMask" / f"{side}Mask").mkdir(parents=True, exist_ok=True)
    cases = []
    slots = _plan_bundle(count, unlabelled, seed)
    for slot in tqdm(slots, desc="Phantom X-rays", unit="image"):
        cases.append(_write_case(folder, slot, seed, size, separate_masks))
    write_manifest(folder / MANIFEST_NAME, cases)
    return folder


def _plan_bundle(count: int, unlabelled: int, seed: int) -> list[_Slot]:
    masked = count - unlabelled
    films = max(min(5, masked // 2), round(0.45 * masked))
    splits = {
        "montgomery": _draw_splits(films, count),
        "shenzhen": _draw_splits(masked - films, count) + ["unlabelled"] * unlabelled,
    }
    slots = []
    for source, names in splits.items():
        order = np.random.default_rng([seed, SOURCES.index(source)]).permutation(len(names))
        slots += _fill_slots(source, [names[position] for position in order])
    return slots


def _fill_slots(source: str, splits: list[str]) -> list[_Slot]:
    training = [index for index, split in enumerate(splits) if split == "train"]
    twins = training[:2] if source == "montgomery" and len(training) > 2 else []
    odd_ages = {}
    if source == "shenzhen":
        # Infants learn and wait, but are not tested on: one would be a fifth of the figure.
        places = training[:2] + [index for index, name in enumerate(splits) if name == "unlabelled"]
        odd_ages = dict(zip(places, _ODD_AGES, strict=False))
    slots = []
    for index, split in enumerate(splits):
        patient = twins[0] if index in twins else index
        # Sick and healthy alternate within each split.
        sick = (splits[:patient].count(split) + SOURCES.index(source)) % 2 == 1
        odd_age = odd_ages.get(index, "")
        slots.append(_Slot(source, index, patient, split, sick, index in twins, odd_age))
    return slots


def _draw_splits(number: int, count: int) -> list[str]:
    """Split names of one source: about 50 % train, 20 % val and 20 % test of the bundle."""
    fifth = ceil(0.2 * number)
    test = max(fifth, 2 if count >= 12 else 1)
    return ["train"] * (number - fifth - test) + ["val"] * fifth + ["test"] * test


def _draw_patient(slot: _Slot, seed: int) -> Person:
    person = replace(draw_person(slot.random(seed, 1, slot.patient)), abnormal=slot.tuberculosis)
    if slot.odd_age:
        sex, age_years = _ODD_AGES[slot.odd_age]
        return replace(person, sex=sex, age_years=age_years)
    return replace(person, age_years=int(person.age_years))


def _word_reading(slot: _Slot, person: Person, seed: int) -> str:
    """The reading in the source's own format."""
    age = int(person.age_years)
    if slot.source == "montgomery":
        wording = f"Patient's Sex: {person.sex}\nPatient's Age: {age:03d}Y"
    else:
        sex = "male" if person.sex == "M" else "female"
        wording = slot.odd_age or f"{sex} {age}yrs"
    finding = str(slot.random(seed, 2, slot.index).choice(_FINDINGS))
    finding = finding if slot.tuberculosis else "normal"
    if slot.patient != slot.index:
        finding += f" (same pt as {replace(slot, index=slot.patient).image_id})"
    return f"{wording}\n{finding}\n"


def _draw_size(rng: np.random.Generator, source: str, size: int) -> tuple[int, int]:
    """Width and height with the source's proportions, the longest side being `size`."""
    if source == "montgomery":
        short = round(size * 4020 / 4892)
        return (size, short) if rng.random() < 0.5 else (short, size)
    short = size if rng.random() < 0.3 else round(size * rng.uniform(0.84, 0.99))
    return (short, size) if rng.random() < 0.6 else (size, short)


def _write_case(folder: Path, slot: _Slot, seed: int, size: int, separate_masks: bool) -> Case:
    """Render and write one case; returns its row of the manifest."""
    person = _draw_patient(slot, seed)
    dimensions = _draw_size(slot.random(seed, 3, slot.index), slot.source, size)
    case = _describe(slot, person, dimensions)
    anatomy = draw_anatomy(slot.random(seed, 4, slot.patient), person)
    film = slot.random(seed, 5, slot.index)
    image, (left, right) = render_phantom(film, dimensions, slot.source, anatomy)
    palette = slot.source == "shenzhen" and slot.index % 3 == 0
    _write_png(folder / "CXR_png" / case.image_file, image, palette)
    reading = folder / "ClinicalReadings" / f"{case.image_id}.txt"
    reading.write_bytes(_word_reading(slot, person, seed).encode("utf-8"))
    if separate_masks and slot.source == "montgomery":
        _write_png(folder / "ManualMask" / "leftMask" / case.mask_file, left * 255)
        _write_png(folder / "ManualMask" / "rightMask" / case.mask_file, right * 255)
    elif case.mask_file:
        _write_png(folder / "masks" / case.mask_file, (left | right) * 255)
    return case


def _describe(slot: _Slot, person: Person, dimensions: tuple[int, int]) -> Case:
    masked = slot.split != "unlabelled"
    suffix = "" if slot.source == "montgomery" else "_mask"
    return Case(
        image_id=slot.image_id,
        source=slot.source,
        image_file=f"{slot.image_id}.png",
        mask_file=f"{slot.image_id}{suffix}.png" if masked else "",
        tuberculosis=slot.tuberculosis,
        sex=person.sex,
        age_years=int(person.age_years),
        original_width=dimensions[0],
        original_height=dimensions[1],
        patient_group=replace(slot, index=slot.patient).image_id.rpartition("_")[0],
        same_patient_evidence="stated" if slot.same_patient else "",
        questionable_mask=slot.source == "shenzhen" and masked and slot.index % 5 == 2,
        published_split=slot.split if masked else "",
        split=slot.split,
    )


def _write_png(path: Path, grey: np.ndarray, palette: bool = False) -> None:
    from PIL import Image

    image = Image.fromarray(255 - grey if palette else grey)
    if palette:
        # White first: who reads the indices for grey values gets a negative.
        image.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
    image.save(path, compress_level=4)
