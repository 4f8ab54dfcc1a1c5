"""From probability to mask, to two whole lungs, and to whether the film is inverted."""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.errors import InvalidValueError

THRESHOLD = 0.5
SMALLEST_LUNG = 0.01
"""A component below this fraction of the image is no lung (the same 1 % as in the metrics)."""
# Width of the surroundings that lungs are compared with, as a fraction of the image.
_SURROUNDINGS = 1 / 16


def to_mask(probability: np.ndarray) -> np.ndarray:
    """Threshold a probability; the one place where this happens.

    A pixel is lung where its probability is above the threshold: exactly 0.5 is background.

    Args:
        probability: Float array of any shape, in [0, 1].

    Returns:
        uint8 {0, 1} of the same shape.

    Raises:
        InvalidValueError: A value is NaN or infinite, which compares as background silently.
    """
    probability = np.asarray(probability)
    if not np.isfinite(probability).all():
        raise InvalidValueError(
            "A probability is a finite number from 0 to 1.",
            f"{int((~np.isfinite(probability)).sum())} NaN or infinite pixels",
            "Check the model's output: its training may have diverged.",
        )
    return (probability > THRESHOLD).astype(np.uint8)


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """Keep the largest component, and the second from 1 % of the image on; fill their holes.

    Components are 8-connected. A smaller second is a crumb, no lung; the largest is kept whatever
    its size. A hole is background that reaches the image's edge by no path of 4-neighbours.

    Args:
        mask: uint8 {0, 1} or bool (H, W).

    Returns:
        uint8 {0, 1} (H, W); an empty mask stays empty.
    """
    mask = np.asarray(mask).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    cleaned = np.zeros_like(mask)
    if width:
        part = slice(top, top + height), slice(left, left + width)
        cleaned[part] = _fill_holes(_two_largest(mask[part], SMALLEST_LUNG * mask.size))
    return cleaned


def _two_largest(mask: np.ndarray, smallest: float) -> np.ndarray:
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    # A stable sort: of equal areas the one met first stays, on every machine.
    largest = np.argsort(-areas, kind="stable")[:2]
    kept = [k for k in largest if k == largest[0] or areas[k] >= smallest]
    keep = np.zeros(count, np.uint8)
    keep[[1 + k for k in kept]] = 1
    return keep[labels]


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # One at a time: where the insides of two overlap, filling them together would leave a hole.
    for outline in outlines:
        cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED)
    return mask


def lungs_are_bright(image: np.ndarray, probability: np.ndarray) -> bool:
    """Whether the lungs are brighter than what lies around them, as only on an inverted film.

    Needs a network that finds lungs on either kind of film, as those trained with inversion do.

    Args:
        image: uint8 (H, W).
        probability: float32 (H, W) in [0, 1], found in this image.
    """
    lungs = to_mask(probability)
    side = round(max(image.shape) * _SURROUNDINGS) | 1
    around = cv2.dilate(lungs, np.ones((side, side), np.uint8)) > lungs
    if not lungs.any() or not around.any():
        return False
    return bool(image[lungs > 0].mean() > image[around].mean())


def doubt(probability: np.ndarray) -> float:
    """How undecided a prediction is: the variance of its pixels, summed, a pixel of lung.

    Args:
        probability: float32 (H, W) in [0, 1].
    """
    probability = probability.astype(np.float64)
    return float((probability * (1 - probability)).sum() / max(int(to_mask(probability).sum()), 1))
