"""A fixed set of bad films made from good ones, to choose settings by how well they hold.

The films of one hospital cannot tell which network survives another's. These eight corruptions of
the validation cases can; they are functions of the case's id alone, so every network meets the
same films.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cv2
import numpy as np

from lungseg_utils.errors import check_known
from lungseg_utils.preparation import effects
from lungseg_utils.preparation.cases import Cases

Pair = tuple[np.ndarray, np.ndarray]
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], Pair]


def corrupt(cases: Cases, name: str) -> Cases:
    """Corrupt every case of a set in one way.

    Args:
        cases: Of any size, with masks.
        name: One of `CORRUPTIONS`.

    Returns:
        New cases of the same ids; the masks are moved with the X-rays where these move.

    Raises:
        InvalidValueError: There is no such corruption.
    """
    check_known(name, CORRUPTIONS, "A corruption")
    return change_each(cases, CORRUPTIONS[name], name)


def change_each(cases: Cases, change: Change, name: str) -> Cases:
    """Change every case of a set; what is drawn follows from the name and the case's id alone."""
    images, masks = np.empty_like(cases.images), np.empty_like(cases.masks)
    for row, case in enumerate(cases.ids):
        rng = np.random.default_rng(zlib.crc32(f"{name} {case}".encode()))
        image, mask = np.asarray(cases.images[row]), np.asarray(cases.masks[row])
        images[row], masks[row] = change(image, mask, rng)
    return Cases(images, masks, cases.index, f"{cases.digest} {name}")


def _dark(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Underexposed, and more so at one end."""
    return effects.shade(effects.expose(image, -0.08, 0.0, 0.9), 0.5, rng), mask


def _bright(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    del rng
    return effects.expose(image, 0.15, 0.0, -0.8), mask


def _flat(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """A quarter of the contrast, at a random level."""
    return effects.expose(image, float(rng.uniform(-0.25, 0.25)), -0.75, 0.0), mask


def _noisy(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    return effects.add_noise(image, 0.1, rng), mask


def _blurred(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    del rng
    return effects.blur(image, image.shape[0] / 100), mask


def _rotated(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Turned by 10 to 20 degrees either way."""
    angle = float(rng.uniform(10, 20) * rng.choice([-1, 1]))
    return warp(image, mask, angle, 1.0, (0.0, 0.0))


def _cropped(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Enlarged by 1.3 and moved, so that a side or an end of the lungs may leave the film."""
    return warp(image, mask, 0.0, 1.3, tuple(rng.uniform(-0.12, 0.12, 2)))


def _opacities(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
    """Dense disease, and the tubes that come with it."""
    return effects.add_objects(effects.add_opacities(image, mask, 0.9, rng), 3, rng), mask


CORRUPTIONS: dict[str, Change] = {
    "dark": _dark,
    "bright": _bright,
    "flat": _flat,
    "noisy": _noisy,
    "blurred": _blurred,
    "rotated": _rotated,
    "cropped": _cropped,
    "opacities": _opacities,
}


def warp(
    image: np.ndarray, mask: np.ndarray, angle: float, scale: float, shift: tuple[float, float]
) -> Pair:
    """Turn (degrees), enlarge and move (fractions of the side) about the centre."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    matrix[:, 2] += (shift[0] * width, shift[1] * height)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return moved, cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
