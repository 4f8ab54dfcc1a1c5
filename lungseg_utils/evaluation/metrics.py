"""Agreement of a predicted mask with the truth: overlap, and distance between the outlines.

Masks are uint8 {0, 1} or bool (H, W). Distances are in pixels, or in the unit of `spacing`, which
is always (x, y): the size of a pixel across and down.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from scipy import ndimage

from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.postprocess import SMALLEST_LUNG

REGIONS = ("both", "right", "left")
METRICS = ("dice", "iou", "accuracy", "hd95_px", "assd_px", "hd95_mm", "assd_mm")
Spacing = tuple[float, float]


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient 2·|A∩B| / (|A|+|B|), in [0, 1]; 1 where both masks are empty (Dice 1945)."""
    prediction, truth = _checked(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def agreement(masks: Sequence[np.ndarray]) -> float:
    """Mean Dice of every two of several masks of one film, in [0, 1] (Zenk et al. 2025)."""
    return float(np.mean([dice(one, other) for one, other in combinations(masks, 2)]))


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union |A∩B| / |A∪B|, in [0, 1]; 1 where both masks are empty."""
    prediction, truth = _checked(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def accuracy(prediction: np.ndarray, truth: np.ndarray, within: np.ndarray | None = None) -> float:
    """Fraction of pixels on which both masks agree, in [0, 1].

    Args:
        prediction: Predicted mask (H, W).
        truth: True mask (H, W).
        within: Pixels that count, bool (H, W): a lung's territory. None: the whole image.
    """
    prediction, truth = _checked(prediction, truth)
    agree = prediction == truth
    return float(agree.mean() if within is None else agree[within].mean())


def surface(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a 4-neighbour outside it; beyond the image's edge is outside.

    Returns:
        bool (H, W).
    """
    return mask.astype(bool) & ~ndimage.binary_erosion(mask)


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Spacing = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Exact Euclidean distances from each surface pixel to the nearest of the other surface.

    Args:
        prediction: Predicted mask (H, W), not empty.
        truth: True mask (H, W), not empty.
        spacing: Size of a pixel (x, y).

    Returns:
        Distances from the prediction's surface to the truth's, and from the truth's to the
        prediction's, float64 (points,), in the unit of `spacing`.
    """
    either = np.asarray(prediction) | np.asarray(truth)
    # Nothing lies beyond the box around both, and most of an image does not have to be searched.
    (box,) = ndimage.find_objects(either.astype(np.uint8))
    ours, theirs = surface(prediction)[box], surface(truth)[box]
    return _to_nearest(ours, theirs, spacing), _to_nearest(theirs, ours, spacing)


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing = (1.0, 1.0)) -> float:
    """95 % Hausdorff distance: the larger of the two directed 95th percentiles.

    Args:
        prediction: Predicted mask (H, W).
        truth: True mask (H, W).
        spacing: Size of a pixel (x, y).

    Returns:
        The distance in the unit of `spacing`; the image's diagonal where one mask is empty, 0
        where both are (Huttenlocher et al. 1993, doi 10.1109/34.232073).
    """
    return outline_scores(prediction, truth, spacing)[0]


def assd(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing = (1.0, 1.0)) -> float:
    """Average symmetric surface distance: the mean over both surfaces' pixels, pooled.

    Args:
        prediction: Predicted mask (H, W).
        truth: True mask (H, W).
        spacing: Size of a pixel (x, y).

    Returns:
        The distance in the unit of `spacing`; the image's diagonal where one mask is empty, 0
        where both are.
    """
    return outline_scores(prediction, truth, spacing)[1]


def outline_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Spacing = (1.0, 1.0)
) -> tuple[float, float]:
    """HD95 and ASSD from one search for the nearest points; arguments as for `hd95`."""
    prediction, truth = _checked(prediction, truth)
    if not prediction.any() and not truth.any():
        return 0.0, 0.0
    if not prediction.any() or not truth.any():
        height, width = truth.shape
        diagonal = float(np.hypot(width * spacing[0], height * spacing[1]))
        return diagonal, diagonal
    there, back = surface_distances(prediction, truth, spacing)
    farthest = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(farthest), float(np.concatenate([there, back]).mean())


def split_lungs(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Divide the image between the two lungs of the truth.

    The lungs are the two 8-connected components of at least 1 % of the image. Every pixel belongs
    to the lung nearest to it (in pixels; where both are equally near, to the right one), so the
    territories cover the image and do not overlap.

    Args:
        truth: True mask (H, W).

    Returns:
        Territories of the patient's right lung (on the image's left) and of the left lung, bool
        (H, W) each. None where the truth has not exactly two lungs.
    """
    truth = np.asarray(truth).astype(np.uint8)
    _, labels, statistics, centres = cv2.connectedComponentsWithStats(truth, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    lungs = 1 + np.flatnonzero(areas >= SMALLEST_LUNG * truth.size)
    if len(lungs) != 2:
        return None
    right, left = sorted(lungs, key=lambda label: centres[label][0])
    # Squares of distances between pixels are whole numbers, so that ties are exact.
    to_right, to_left = (ndimage.distance_transform_edt(labels != lung) for lung in (right, left))
    territory = to_right <= to_left
    return territory, ~territory


def score_case(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Spacing | None = None,
    territories: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[dict[str, object]]:
    """Score one prediction: both lungs together and, where the truth has two, each lung.

    Args:
        prediction: Predicted mask (H, W).
        truth: True mask (H, W).
        spacing_mm: Size of a pixel (x, y) in mm; None where it is not known.
        territories: From `split_lungs(truth)`; computed where not given.

    Returns:
        A row a region (`both`, then `right` and `left`): region, the seven `METRICS` (mm NaN
        without a spacing) and empty_prediction 0 or 1. A lung's accuracy is taken over its own
        territory.
    """
    whole = np.ones(truth.shape, bool)
    areas = [whole, *(territories or split_lungs(truth) or ())]
    return [
        {"region": region} | _score_area(prediction, truth, area, spacing_mm)
        for region, area in zip(REGIONS, areas, strict=False)
    ]


def _score_area(
    prediction: np.ndarray, truth: np.ndarray, area: np.ndarray, spacing_mm: Spacing | None
) -> dict[str, object]:
    prediction, truth = prediction & area, truth & area
    hd95_px, assd_px = outline_scores(prediction, truth)
    hd95_mm, assd_mm = (np.nan, np.nan)
    if spacing_mm is not None:
        hd95_mm, assd_mm = outline_scores(prediction, truth, spacing_mm)
    return {
        "dice": dice(prediction, truth),
        "iou": iou(prediction, truth),
        "accuracy": accuracy(prediction, truth, area),
        "hd95_px": hd95_px,
        "assd_px": assd_px,
        "hd95_mm": hd95_mm,
        "assd_mm": assd_mm,
        "empty_prediction": int(not prediction.any()),
    }


def _checked(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    masks = np.asarray(prediction), np.asarray(truth)
    if masks[0].shape != masks[1].shape or masks[0].ndim != 2:
        raise LungsegError(
            "Prediction and truth are two masks (H, W) of one size.",
            f"shapes {masks[0].shape} and {masks[1].shape}",
            "Resize the probability to the truth's size before thresholding it.",
        )
    for mask in masks:
        if mask.dtype != bool and (mask.dtype != np.uint8 or mask.max(initial=0) > 1):
            raise LungsegError(
                "A mask is bool or uint8 with the values 0 and 1.",
                f"{mask.dtype} from {mask.min()} to {mask.max()}",
                "Turn a probability into a mask with postprocess.to_mask, a 0/255 mask with > 127.",
            )
    return masks[0].astype(bool), masks[1].astype(bool)


def _to_nearest(points: np.ndarray, targets: np.ndarray, spacing: Spacing) -> np.ndarray:
    x, y = spacing
    return ndimage.distance_transform_edt(~targets, sampling=(y, x))[points]
