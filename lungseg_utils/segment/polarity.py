"""Films on which black and white are exchanged, told by the lungs that a network finds in them."""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.segment.postprocess import to_mask

# Width of the surroundings that lungs are compared with, as a fraction of the image.
_SURROUNDINGS = 1 / 16


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
