"""A small secondary set: colour pictures of objects on light and dark grounds, with exact masks."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import cv2
import numpy as np

from lungseg_utils.records import write_atomically

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
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


def _paint(
    rng: np.random.Generator, kind: str, background: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one object: RGB uint8 (H, W, 3) and mask uint8 {0, 1} (H, W)."""
    short = round(size * rng.uniform(0.7, 1.0))
    height, width = (size, short) if rng.random() < 0.5 else (short, size)
    mask = _draw_outline(rng, kind, height, width)
    ground = _paint_ground(rng, background, height, width)
    skin = _paint_skin(rng, kind, background, mask)
    picture = np.where(mask[..., None] > 0, skin, ground)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.6)
    picture += rng.normal(0, 3.0, (height, width, 1)).astype(np.float32)
    return np.clip(picture, 0, 255).round().astype(np.uint8), mask


def _draw_outline(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    points = _OUTLINES[kind](rng, angle)
    turn = rng.uniform(-0.6, 0.6)
    turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned -= 0.5 * (turned.max(axis=0) + turned.min(axis=0))
    reach = np.abs(turned).max(axis=0)
    half = rng.uniform(0.72, 0.86) * min(0.5 * width / reach[0], 0.5 * height / reach[1])
    centre = np.array([width, height]) / 2
    slack = centre - half * reach
    centre = centre + rng.uniform(-0.5, 0.5, 2) * slack
    mask = np.zeros((height, width), np.uint8)
    corners = np.round((turned * half + centre) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1, cv2.LINE_8, 4)
    return mask


def _apple(rng, angle) -> np.ndarray:
    radius = 1 - 0.18 * np.exp(-8 * (1 - np.sin(angle - np.pi))) + 0.03 * np.cos(2 * angle)
    dent = 0.22 * np.exp(-((np.angle(np.exp(1j * (angle + np.pi / 2)))) ** 2) / 0.06)
    return np.stack([1.02 * radius * np.cos(angle), (radius - dent) * np.sin(angle)], 1)


def _pear(rng, angle) -> np.ndarray:
    waist = rng.uniform(0.22, 0.34)
    across = np.cos(angle) * (1 + waist * np.sin(angle)) * 0.72
    return np.stack([across, 1.15 * np.sin(angle)], 1)


def _leaf(rng, angle) -> np.ndarray:
    teeth = 1 + 0.03 * np.sign(np.sin(28 * angle))
    across = 0.5 * np.sin(angle) * np.abs(np.sin(angle)) ** 0.35 * teeth
    return np.stack([across, 1.2 * np.cos(angle) + 0.18 * across], 1)


def _bottle(rng, angle) -> np.ndarray:
    neck, shoulder = rng.uniform(0.12, 0.17), rng.uniform(-0.35, -0.1)
    y = np.array([1.2, 1.2, 1.1, shoulder + 0.35, shoulder, -1.05, -1.05, -1.2, -1.2])
    x = np.array([0.0, 0.38, 0.44, 0.44, neck, neck, 1.3 * neck, 1.3 * neck, 0.0])
    outline = np.stack([x, y], 1)
    return np.concatenate([outline, outline[::-1] * [-1, 1]])


def _spanner(rng, angle) -> np.ndarray:
    grip = rng.uniform(0.14, 0.2)
    half = [(0.0, 1.2), (0.3, 1.12), (0.36, 0.9), (grip, 0.65), (grip, -0.6), (0.42, -0.8)]
    half += [(0.44, -1.1), (0.26, -1.25), (0.2, -0.92), (0.0, -0.86)]
    outline = np.array(half)
    return np.concatenate([outline, outline[::-1] * [-1, 1]])


_OUTLINES = {"apple": _apple, "leaf": _leaf, "bottle": _bottle, "pear": _pear, "spanner": _spanner}
_COLOURS = {
    "apple": ((176, 38, 40), (226, 150, 60)),
    "leaf": ((52, 104, 40), (150, 168, 70)),
    "bottle": ((28, 88, 66), (120, 176, 190)),
    "pear": ((150, 140, 48), (214, 200, 110)),
    "spanner": ((84, 88, 96), (176, 180, 188)),
}


def _paint_ground(rng, background: str, height: int, width: int) -> np.ndarray:
    level = rng.uniform(222, 250) if background == "light" else rng.uniform(8, 34)
    tint = rng.normal(0, 2.5, 3)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = rng.uniform(-7, 7) * rows + rng.uniform(-7, 7) * columns
    return (level + slope[..., None] + tint).astype(np.float32)


def _paint_skin(rng, kind: str, background: str, mask: np.ndarray) -> np.ndarray:
    """Colour of the object, shaded as a rounded body and speckled; float32 (H, W, 3)."""
    height, width = mask.shape
    dark, bright = (np.array(colour, np.float32) for colour in _COLOURS[kind])
    share = rng.uniform(0.0, 0.35) if background == "light" else rng.uniform(0.55, 1.0)
    colour = dark + share * (bright - dark)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    round_body = np.sqrt(np.clip(depth / depth.max(), 0, 1))
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 0.1 * (-rows * rng.uniform(0.3, 1) - columns * rng.uniform(-1, 1))
    speckle = cv2.resize(
        rng.standard_normal((height // 6 + 2, width // 6 + 2), dtype=np.float32), (width, height)
    )
    shade = 0.82 + 0.22 * round_body + light + 0.05 * speckle
    return (colour * shade[..., None]).astype(np.float32)
