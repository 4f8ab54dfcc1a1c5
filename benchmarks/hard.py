"""A fixed set of films as of the very ill, to choose settings by how a network holds on them.

Made from the validation cases, whose masks stay true; training cases would be known by heart. A
function of the case's id and of `VERSION` alone, so every network meets the same films. Most
scenarios are made by functions that the augmentation draws from too, with other draws; `grafted`
is not, and shows what a network learned beyond them.
"""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.corruptions import Change, Pair, change_each, warp
from lungseg_utils.errors import check_known
from lungseg_utils.preparation import bedside, effects, shapes
from lungseg_utils.preparation.cases import Cases

VERSION = 2


def harden(cases: Cases, name: str) -> Cases:
    """Make a hard film of every case of a set.

    Args:
        cases: Of any size, with masks.
        name: One of `HARD`.

    Returns:
        New cases of the same ids; the masks are moved with the X-rays where these move.

    Raises:
        InvalidValueError: There is no such scenario.
    """
    check_known(name, HARD, "A scenario")
    return change_each(cases, HARD[name], f"hard {VERSION} {name}")


def _consolidation(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """A lobe or more, up to the chest wall, in one lung or in both."""
    zones = ("lower", "upper", "central", "outer", "patchy")
    return bedside.hide_lungs(image, mask, rng.uniform(0.75, 0.95), rng, zones), mask


def _white_out(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """One lung wholly."""
    return bedside.hide_lungs(image, mask, rng.uniform(0.9, 1), rng, ("whole",), both=False), mask


def _effusion(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    return bedside.hide_lungs(image, mask, rng.uniform(0.85, 1), rng, ("effusion",)), mask


def _grey_heart(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """A hard film: white where it is dense, and the heart's edge as grey as a veiled lung."""
    image = bedside.soften_heart(image, mask, rng.uniform(0.5, 1), rng)
    return effects.expose(image, 0.1, 0.35, -0.3), mask


def _gas(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Bowel gas below a raised diaphragm."""
    image, mask = shapes.deform(image, mask, 0.01, rng.uniform(0.1, 0.3), 0.0, (0, 0), rng)
    for _ in range(3):
        image = bedside.add_gas(image, mask, rng)
    return image, mask


def _devices(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Pacemaker, electrodes, cables, tubes, and text."""
    image = effects.add_devices(image, mask, 6, rng)
    return effects.add_objects(image, 3, rng), mask


def _supine(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Turned, tilted, short, the shoulder blades over the lungs, low contrast."""
    image, mask = shapes.deform(image, mask, 0.03, rng.uniform(0, 0.25), 0.3, (0, 0), rng)
    image, mask = warp(image, mask, float(rng.uniform(-15, 15)), rng.uniform(0.8, 1.1), (0, 0))
    image = effects.add_devices(image, mask, 4, rng)
    return effects.expose(image, float(rng.uniform(-0.1, 0.1)), -0.4, 0.0), mask


def _starved(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Dark, flat and full of noise."""
    dark = effects.expose(image, -0.1, -0.3, 0.7)
    return bedside.add_mottle(dark, rng.uniform(0.06, 0.14), rng), mask


def _collimated(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """A narrow beam, on a film that is wider, with text."""
    image, mask = warp(image, mask, 0.0, rng.uniform(0.6, 0.9), tuple(rng.uniform(-0.1, 0.1, 2)))
    return effects.add_objects(bedside.collimate(image, mask, rng), 2, rng), mask


def _child(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Short lungs in a film that shows arms, abdomen and a wide border."""
    image, mask = shapes.deform(image, mask, 0.02, rng.uniform(0, 0.2), 0.0, (0, 0), rng)
    height, width = image.shape
    wide, high = (rng.uniform(0.65, 0.9, 2) * (1, 0.7) * (width, height)).astype(int)
    size = int(wide), int(high)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    top, left = rng.integers(0, (height - high + 1, width - wide + 1))
    border = top, height - high - top, left, width - wide - left
    image = cv2.copyMakeBorder(image, *border, cv2.BORDER_REPLICATE)
    return image, cv2.copyMakeBorder(mask, *border, cv2.BORDER_CONSTANT)


def _intensive(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Both lungs dense, tubes and cables, turned, badly exposed: all at once."""
    image, mask = shapes.deform(image, mask, 0.02, rng.uniform(0, 0.2), 0.2, (0, 0), rng)
    image = bedside.hide_lungs(image, mask, rng.uniform(0.6, 0.9), rng, both=True)
    image = bedside.add_gas(image, mask, rng)
    image = effects.add_devices(image, mask, 5, rng)
    image, mask = warp(image, mask, float(rng.uniform(-10, 10)), 0.9, (0.0, 0.0))
    image = effects.expose(image, float(rng.uniform(-0.1, 0.1)), -0.3, float(rng.uniform(-0.5, 1)))
    return bedside.add_mottle(image, rng.uniform(0, 0.08), rng), mask


def _grafted(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """What lies below the lungs, mirrored up into their lower part, or what lies above, down."""
    rows = np.flatnonzero(mask.any(axis=1))
    top, base = rows[0], rows[-1] + 1
    share = rng.uniform(0.3, 0.7)
    height, width = image.shape
    blank = np.zeros_like(image, np.float32)
    line = np.rint(base - share * (base - top)).astype(int)
    source = np.flip(image[line:], axis=0) if line < height else image
    blank[line:] = cv2.resize(
        source[: max(height - base, height // 16)], (width, height - line)
    ).astype(np.float32)
    lungs = cv2.dilate(mask, np.ones((9, 9), np.uint8)).astype(np.float32)
    side = rng.integers(3)  # right, left, both
    middle = round(float(np.median(np.flatnonzero(mask.any(axis=0)))))
    lungs[:, middle:] *= side != 0
    lungs[:, :middle] *= side != 1
    lungs[:line] = 0
    blend = cv2.GaussianBlur(lungs, (0, 0), width / 64) * np.float32(0.95)
    return effects.to_levels(image + blend * (blank - image)), mask


HARD: dict[str, Change] = {
    "consolidation": _consolidation,
    "white out": _white_out,
    "effusion": _effusion,
    "grey heart": _grey_heart,
    "gas": _gas,
    "devices": _devices,
    "supine": _supine,
    "starved": _starved,
    "collimated": _collimated,
    "child": _child,
    "intensive": _intensive,
    "grafted": _grafted,
}
