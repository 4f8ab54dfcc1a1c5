"""A small secondary set: colour pictures of objects on light and dark grounds, with exact masks."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import cv2
import numpy as np

from lungseg_utils.files.images import encode_picture
from lungseg_utils.files.records import write_atomically

COLUMNS = ("image", "annotation", "background", "object")


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
    folder = Path(folder)
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        kind = list(_OUTLINES)[index % len(_OUTLINES)]
        background = "light" if (index // 2 + index) % 2 == 0 else "dark"
        picture, mask = _paint(rng, kind, background, size)
        stem = f"{kind}_{index + 1:03d}"
        image, annotation = f"{stem}.{'jpg' if index % 3 == 1 else 'png'}", f"{stem}.png"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if image.endswith("jpg") else []
        _write(folder / "images" / image, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
        _write(folder / "annotations" / annotation, mask * 255, [])
        rows.append((image, annotation, background, kind))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomically(
        folder / "metadata.csv", lambda path: path.write_text(text.getvalue(), encoding="utf-8")
    )
    return folder


def _write(path: Path, image: np.ndarray, options: list[int]) -> None:
    path.write_bytes(encode_picture(image, path.suffix, options))


def _paint(
    rng: np.random.Generator, kind: str, background: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one object: RGB uint8 (H, W, 3) and mask uint8 {0, 1} (H, W)."""
    short = round(size * rng.uniform(0.7, 1.0))
    height, width = (size, short) if rng.random() < 0.5 else (short, size)
    mask = _draw_outline(rng, kind, height, width)
    ground = _paint_ground(rng, background, mask)
    skin = _paint_skin(rng, kind, background, mask)
    picture = np.where(mask[..., None] > 0, skin, ground)
    picture = cv2.GaussianBlur(picture, (0, 0), size / 640)
    picture += rng.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    return np.clip(picture, 0, 255).round().astype(np.uint8), mask


def _draw_outline(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Fill the object's outline, turned and placed at random but wholly in the picture."""
    points = _OUTLINES[kind](rng)
    turn = rng.uniform(-0.6, 0.6)
    turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned -= 0.5 * (turned.max(axis=0) + turned.min(axis=0))
    reach = turned.max(axis=0)
    centre = np.array([width, height]) / 2
    size = rng.uniform(0.72, 0.86) * (centre / reach).min()
    centre = centre + rng.uniform(-0.5, 0.5, 2) * (centre - size * reach)
    mask = np.zeros((height, width), np.uint8)
    corners = np.round((turned * size + centre) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1, cv2.LINE_8, 4)
    return mask


_ANGLE = np.linspace(0, 2 * np.pi, 720, endpoint=False)


def _apple(rng: np.random.Generator) -> np.ndarray:
    x = np.cos(_ANGLE) * (1.05 - 0.1 * np.sin(_ANGLE))
    y = 0.95 * np.sin(_ANGLE)
    dip = rng.uniform(0.12, 0.22)
    y = y + dip * np.exp(-((x / 0.22) ** 2)) * (np.sin(_ANGLE) < 0)
    return np.stack([x, y - 0.06 * np.exp(-((x / 0.2) ** 2)) * (np.sin(_ANGLE) > 0)], axis=1)


def _pear(rng: np.random.Generator) -> np.ndarray:
    waist = rng.uniform(0.3, 0.42)
    x = 0.66 * np.cos(_ANGLE) * (1 + waist * np.sin(_ANGLE) - 0.12 * np.cos(2 * _ANGLE))
    return np.stack([x, 1.15 * np.sin(_ANGLE)], axis=1)


def _leaf(rng: np.random.Generator) -> np.ndarray:
    """A pointed blade with teeth, on a short stalk."""
    y = np.linspace(1.0, -1.2, 241)
    part = (1.0 - y) / 2.2
    teeth = rng.uniform(0.02, 0.06) * (part * rng.integers(12, 20) % 1.0)
    x = rng.uniform(0.42, 0.6) * np.sin(np.pi * part**0.8) * (1 - teeth)
    stalk = np.array([[0.035, 1.45], [0.035, 1.0]])
    return _mirrored(np.concatenate([stalk, np.stack([np.maximum(x, 0.035), y], axis=1)]))


def _bottle(rng: np.random.Generator) -> np.ndarray:
    neck, shoulder = rng.uniform(0.13, 0.17), rng.uniform(-0.3, -0.1)
    y = np.linspace(shoulder, shoulder + 0.4, 30)
    round_shoulder = neck + (0.42 - neck) * np.sin(np.pi / 2 * (y - shoulder) / 0.4)
    foot = [(0.36, 1.2), (0.42, 1.12)]
    top = [(neck, -1.0), (1.3 * neck, -1.0), (1.3 * neck, -1.15), (0.0, -1.15)]
    body = np.stack([round_shoulder, y], axis=1)[::-1]
    return _mirrored(np.concatenate([foot, body, top]))


def _spanner(rng: np.random.Generator) -> np.ndarray:
    grip = rng.uniform(0.15, 0.2)
    half = [(0.0, 1.2), (0.2, 1.17), (0.33, 1.05), (0.36, 0.9), (0.3, 0.74), (grip, 0.6)]
    half += [(grip, -0.55), (0.34, -0.72), (0.43, -0.9), (0.4, -1.12), (0.24, -1.28)]
    return _mirrored(np.array([*half, (0.2, -0.95), (0.0, -0.88)]))


def _mirrored(half: np.ndarray) -> np.ndarray:
    return np.concatenate([half, half[::-1] * [-1, 1]])


_OUTLINES = {"apple": _apple, "leaf": _leaf, "bottle": _bottle, "pear": _pear, "spanner": _spanner}
# Two colours each; on a light ground the objects are nearer to the first, the darker one.
_COLOURS = {
    "apple": ((168, 30, 36), (232, 150, 70)),
    "leaf": ((48, 100, 38), (160, 176, 76)),
    "bottle": ((24, 84, 62), (130, 186, 196)),
    "pear": ((140, 128, 40), (218, 206, 116)),
    "spanner": ((78, 82, 90), (182, 186, 194)),
}


def _paint_ground(rng: np.random.Generator, background: str, mask: np.ndarray) -> np.ndarray:
    """A sheet of paper or cloth with uneven light, and the object's soft shadow on it."""
    height, width = mask.shape
    light = background == "light"
    level = rng.uniform(226, 248) if light else rng.uniform(10, 30)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    slope = rng.uniform(-5, 5) * rows + rng.uniform(-5, 5) * columns
    fibres = cv2.GaussianBlur(
        rng.standard_normal((height, width), dtype=np.float32), (0, 0), 0.5, sigmaY=3.0
    )
    level = level + slope + 4.0 * fibres - 4.0 * (rows**2 + columns**2) * light
    away = np.float32([[1, 0, 0.02 * width], [0, 1, 0.03 * height]])
    shadow = cv2.warpAffine(mask.astype(np.float32), away, (width, height))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.03 * width)
    level = level * (1 - rng.uniform(0.05, 0.16) * shadow)
    return (level[..., None] + rng.normal(0, 2.0, 3)).astype(np.float32)


def _paint_skin(
    rng: np.random.Generator, kind: str, background: str, mask: np.ndarray
) -> np.ndarray:
    """Colour of the object: a rounded body under one lamp, speckled; float32 (H, W, 3)."""
    height, width = mask.shape
    share = rng.uniform(0.0, 0.3) if background == "light" else rng.uniform(0.6, 1.0)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    flat = kind in ("leaf", "spanner")
    relief = np.sqrt(depth * (2 * depth.max() - depth)) * (0.25 if flat else 0.8)
    relief = cv2.GaussianBlur(relief, (0, 0), 0.012 * width)
    down, aside = np.gradient(relief)
    lamp = np.array([rng.uniform(-0.6, 0.6), -0.6, 1.0])
    lamp /= np.linalg.norm(lamp)
    facing = (lamp[2] - lamp[0] * aside - lamp[1] * down) / np.sqrt(1 + aside**2 + down**2)
    facing = np.clip(facing, 0, 1)
    speckle = cv2.resize(
        rng.standard_normal((height // 5 + 2, width // 5 + 2), dtype=np.float32), (width, height)
    )
    blend = np.clip(share + 0.06 * speckle, 0, 1)[..., None]
    dark, bright = (np.array(colour, np.float32) for colour in _COLOURS[kind])
    colour = dark + blend * (bright - dark)
    skin = colour * (0.62 + 0.42 * facing)[..., None]
    glossy = 0.0 if flat else rng.uniform(20, 60)
    return (skin + glossy * (facing**40)[..., None]).astype(np.float32)
