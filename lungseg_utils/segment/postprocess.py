"""From probability to mask, to two whole lungs, and to whether the film is inverted.

A lung that a network cuts off, as where it is opaque, is completed by the usual shape of lungs: a
shape model after Leventon et al. 2000 (CVPR), fitted to the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lungseg_utils.errors import InvalidValueError

THRESHOLD = 0.5
SMALLEST_LUNG = 0.01
"""A component below this fraction of the image is no lung (the same 1 % as in the metrics)."""
# Width of the surroundings that lungs are compared with, as a fraction of the image.
_SURROUNDINGS = 1 / 16
# Outlines are compared on a grid of this side, each mask's box within a margin.
_GRID, _MARGIN = 32, 4
_FITTED_SIDE = 48
_BLUR = 0.02  # of a fitted outline, in sides of the box
# Chosen on validation films: lungs of a mask this far from usual outlines are fitted, and it is
# completed where it differs by so much from the fit, to so far within the fit. What that changes is
# said by `python -m benchmarks.completion`: of sound films nothing.
_UNUSUAL_OUTLINE, _CUT_OFF, _WITHIN = 0.015, 0.09, 0.0125


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


@dataclass(frozen=True)
class Outlines:
    """Usual outlines of both lungs: signed distances that `components` vary about a `mean`.

    Args:
        mean: float32 (n,).
        components: float32 (k, n), orthonormal.
        spread: float32 (k,), the standard deviation along each.
    """

    mean: np.ndarray
    components: np.ndarray
    spread: np.ndarray

    @classmethod
    def of_masks(cls, masks: Sequence[np.ndarray], count: int = 12) -> Outlines:
        """Learn them from masks: the main components of their signed distances."""
        distances = np.array([signed_distance(mask) for mask in masks])
        mean = distances.mean(axis=0)
        _, lengths, components = np.linalg.svd(distances - mean, full_matrices=False)
        spread = lengths[:count] / np.float32(np.sqrt(len(masks)))
        return cls(mean, components[:count], spread)

    def distance(self, mask: np.ndarray) -> float:
        """How far a mask's outline is from the nearest usual one, as a share of the box's side."""
        offset = signed_distance(mask) - self.mean
        left = offset - (self.components @ offset) @ self.components
        return float(np.sqrt(np.mean(left**2)))

    def fit(self, probability: np.ndarray) -> np.ndarray:
        """Find the usual lungs that are nearest to a prediction.

        A shape is the likelier the nearer it is to the mean. Lung where the network sees none costs
        less than the other way round, and pixels that it is undecided about cost little.

        Args:
            probability: float32 (S, S) in [0, 1], over 0.5 somewhere.

        Returns:
            float32 (S, S), the distances to their outline, as of `signed_distance`.
        """
        # Most films need it not, and the first is segmented sooner without.
        from scipy.optimize import least_squares

        small = cv2.resize(probability, (_FITTED_SIDE,) * 2, interpolation=cv2.INTER_AREA)
        target = 2 * small - 1
        certain = np.sqrt(np.abs(target) + 0.02)

        def miss(pose: np.ndarray) -> np.ndarray:
            off = np.tanh(self._at(pose, _FITTED_SIDE) / _BLUR) - target
            off = np.where(off > 0, 0.7 * off, off) * certain
            missed = np.concatenate([off.ravel(), 0.9 * pose[5:]])
            # Cauchy's loss, as a part that is hidden is far off whatever the shape.
            return np.copysign(np.sqrt(np.log1p((2 * missed) ** 2)), missed)

        box = np.array(cv2.boundingRect(to_mask(probability))) / len(probability)
        start = [*(box[:2] + box[2:] / 2), *np.log(box[2:]), 0, *np.zeros_like(self.spread)]
        step = np.r_[0.05, 0.05, np.full(3, 0.1), np.ones_like(self.spread)]
        # MINPACK, as the others' linear algebra runs on all cores, and many films at a time stall.
        found = least_squares(miss, start, x_scale=step, method="lm", diff_step=1e-3, max_nfev=300)
        return self._at(found.x, len(probability))

    def _at(self, pose: np.ndarray, side: int) -> np.ndarray:
        """Distances (side, side) of an outline: of what box, how turned, and of which shape.

        `pose` is its middle (x, y), the logarithm of width and height, all in sides of the image,
        an angle, and the components in units of their spread.
        """
        shape = self.mean + (pose[5:] * self.spread) @ self.components
        cosine, sine = np.cos(pose[4]), np.sin(pose[4])
        scale = np.exp(-pose[2:4])[:, None] * (_GRID - 2 * _MARGIN)
        turned = np.array([[cosine, sine], [-sine, cosine]]) * scale
        shift = turned @ (0.5 / side - pose[:2]) + (_GRID - 1) / 2
        return cv2.warpAffine(
            shape.reshape(_GRID, _GRID).astype(np.float32),
            np.c_[turned / side, shift],
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=-0.25,
        )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distances to a mask's outline, positive inside, on a grid that fits its bounding box.

    Args:
        mask: uint8 {0, 1} (H, W).

    Returns:
        float32 (n,), in sides of the box, cut at a quarter of it; of an empty mask all negative.
    """
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return np.full(_GRID**2, -0.25, np.float32)
    side = _GRID - 2 * _MARGIN
    box = mask[top : top + height, left : left + width] * np.float32(255)
    box = cv2.resize(box, (4 * side, 4 * side), interpolation=cv2.INTER_AREA) > 127
    box = np.pad(box.astype(np.uint8), 4 * _MARGIN)
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (box, 1 - box))
    fine = np.clip((inside - outside) / (4 * side), -0.25, 0.25)
    return cv2.resize(fine, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def disagreement(first: np.ndarray, second: np.ndarray) -> float:
    """One less Dice of two masks: the pixels of only one of them, of all pixels of both."""
    pixels = np.count_nonzero(first) + np.count_nonzero(second)
    return np.count_nonzero(first != second) / pixels if pixels else 0.0


def missing_lung(probability: np.ndarray, outlines: Outlines) -> np.ndarray | None:
    """What a mask needs to be whole, where the network has cut off part of a lung.

    Args:
        probability: float32 (S, S) in [0, 1], of an upright film.
        outlines: Of usual lungs.

    Returns:
        float32 (S, S), above 0.5 in what is certainly lung by its shape; None where the mask is
        as lungs are, or empty.
    """
    mask = clean_mask(to_mask(probability))
    if not mask.any() or outlines.distance(mask) <= _UNUSUAL_OUTLINE:
        return None
    distances = outlines.fit(probability)
    if disagreement(mask, distances > 0) <= _CUT_OFF:
        return None
    return np.clip(THRESHOLD + distances - _WITHIN, 0, 1)
