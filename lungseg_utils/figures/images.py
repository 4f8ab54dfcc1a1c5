"""Figures of X-rays and masks.

X-rays are uint8 (H, W), or float in [0, 1]; masks uint8 {0, 1} or bool (H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.figures.drawing import (
    PREDICTION,
    SHARED,
    TRUTH,
    Images,
    as_grey,
    as_mask,
    draw_image,
    draw_mask,
    draw_outline,
    image_grid,
    outline_handles,
    overlap_handles,
)

if TYPE_CHECKING:
    from lungseg_utils.segment.cleaning import Cleaned

_OPACITY = 0.55
_SINGLE = 6.0


def show_pairs(images: Images, masks: Images, titles: Sequence[str]) -> Figure:
    """X-ray, mask and overlay of a few cases: a column a case (four fit well).

    Args:
        images: X-rays.
        masks: Their true masks.
        titles: Their ids.
    """
    figure, axes = image_grid(3, len(images), images, legend=outline_handles("Truth"))
    for panels, image, mask, title in zip(axes.T, images, masks, titles, strict=True):
        draw_image(panels[0], image, title)
        draw_mask(panels[1], mask, "Mask")
        draw_image(panels[2], image, "Overlay")
        draw_outline(panels[2], mask, TRUTH)
    return figure


def show_augmentations(
    image: np.ndarray, mask: np.ndarray, augmented: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """A case and its augmented versions, each with its mask's outline.

    Args:
        image: The X-ray.
        mask: Its mask.
        augmented: Pairs of X-ray and mask.
    """
    images, masks = zip((image, mask), *augmented, strict=True)
    titles = ["Original", *(f"Augmented {number}" for number in range(1, len(images)))]
    return _show_outlines(images, titles, {TRUTH: masks}, 4)


def show_worst_cases(
    images: Images, truths: Images, predictions: Images, ids: Sequence[str], columns: int = 4
) -> Figure:
    """Outlines of truth and prediction in the cases given, each with id and Dice."""
    titles = [_title(*case) for case in zip(ids, truths, predictions, strict=True)]
    return _show_outlines(images, titles, {TRUTH: truths, PREDICTION: predictions}, columns)


def show_unlabelled(images: Images, predictions: Images, ids: Sequence[str]) -> Figure:
    """X-rays without a true mask, each with the prediction's outline."""
    return _show_outlines(images, ids, {PREDICTION: predictions}, 6)


def overlap_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, image_id: str = ""
) -> Figure:
    """An X-ray coloured by agreement; the title carries id and Dice. Colours: `overlap_colours`."""
    figure, axes = image_grid(1, 1, [image], legend=overlap_handles(), cell=_SINGLE)
    coloured = overlap_colours(image, truth, prediction)
    draw_image(axes[0, 0], coloured, _title(image_id, truth, prediction))
    return figure


def overlap_colours(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Colour an X-ray green where truth and prediction agree, orange and blue where they do not.

    Args:
        image: The X-ray.
        truth: The true mask.
        prediction: The predicted mask.

    Returns:
        uint8 (H, W, 3): true positive green, false positive (too much) orange, false negative
        (missed) blue, each mixed with the X-ray; grey elsewhere.
    """
    truth, prediction = as_mask(truth), as_mask(prediction)
    coloured = np.repeat(as_grey(image)[..., None], 3, axis=2).astype(np.float32)
    parts = {
        SHARED: truth & prediction,
        PREDICTION: prediction & ~truth,
        TRUTH: truth & ~prediction,
    }
    for colour, where in parts.items():
        mixed = (1 - _OPACITY) * coloured[where] + _OPACITY * 255 * np.array(to_rgb(colour))
        coloured[where] = mixed
    return np.rint(coloured).astype(np.uint8)


def prediction_grid(
    images: Images, truths: Images, predictions: Images, ids: Sequence[str]
) -> Figure:
    """Input, truth, prediction and overlay: a row a case; its id and Dice stand over the overlay.

    Args:
        images: X-rays.
        truths: True masks.
        predictions: Predicted masks.
        ids: Image ids.
    """
    handles = outline_handles("Truth", "Prediction")
    figure, axes = image_grid(len(images), 4, images, legend=handles)
    cases = zip(axes, images, truths, predictions, ids, strict=True)
    for panels, image, truth, prediction, image_id in cases:
        draw_image(panels[0], image, image_id)
        draw_mask(panels[1], truth, "Truth")
        draw_mask(panels[2], prediction, "Prediction")
        draw_image(panels[3], image, _title("", truth, prediction))
        _draw_outlines(panels[3], {TRUTH: truth, PREDICTION: prediction})
    return figure


def compare_models(
    images: Images, truths: Images, predictions: Mapping[str, Images], ids: Sequence[str]
) -> Figure:
    """The models side by side: a row a case, the truth first, then each model's overlap map.

    Args:
        images: X-rays.
        truths: True masks.
        predictions: Each model's predicted masks, in the same order.
        ids: Image ids.
    """
    handles = [*outline_handles("Truth"), *overlap_handles()]
    figure, axes = image_grid(len(images), 1 + len(predictions), images, legend=handles)
    for panels, image, truth, image_id in zip(axes, images, truths, ids, strict=True):
        draw_image(panels[0], image, image_id)
        draw_outline(panels[0], truth, TRUTH)
    for column, (name, masks) in enumerate(predictions.items(), start=1):
        cases = zip(axes[:, column], images, truths, masks, strict=True)
        for panel, image, truth, mask in cases:
            draw_image(panel, overlap_colours(image, truth, mask), _title(name, truth, mask))
    return figure


def show_cleaning(originals: Images, cleaned: Sequence[Cleaned], titles: Sequence[str]) -> Figure:
    """The cleaning step by step: original, grey, denoised, mask, masked; a row an image.

    Args:
        originals: As read: uint8 RGB (H, W, 3) or grey (H, W).
        cleaned: What `clean_image` made of each.
        titles: Their names.
    """
    masks = [steps.mask for steps in cleaned]
    figure, axes = image_grid(len(originals), 5, masks)
    for panels, original, steps, title in zip(axes, originals, cleaned, titles, strict=True):
        draw_image(panels[0], original, title)
        draw_image(panels[1], steps.original_grey, "Grey")
        draw_image(panels[2], steps.denoised, "Denoised")
        inverted = ", inverted" if steps.inverted else ""
        draw_mask(panels[3], steps.mask, f"Otsu at {steps.threshold}{inverted}")
        draw_image(panels[4], steps.masked, "Masked")
    return figure


def _show_outlines(
    images: Images, titles: Sequence[str], masks: Mapping[str, Images], columns: int
) -> Figure:
    """A grid of X-rays with the outlines of masks, which are given by colour."""
    columns = max(1, min(columns, len(images)))
    names = {TRUTH: "Truth", PREDICTION: "Prediction"}
    handles = outline_handles(*(names[colour] for colour in masks))
    figure, axes = image_grid(-(-len(images) // columns), columns, images, legend=handles)
    for panel in axes.flat[len(images) :]:
        panel.set_axis_off()
    cases = zip(images, titles, *masks.values(), strict=True)
    for panel, (image, title, *of_case) in zip(axes.flat, cases, strict=False):
        draw_image(panel, image, title)
        _draw_outlines(panel, dict(zip(masks, of_case, strict=True)))
    return figure


def _draw_outlines(axes: Axes, masks: Mapping[str, np.ndarray]) -> None:
    """Draw outlines by colour; the truth wider, so that both show where the two agree."""
    for colour, mask in masks.items():
        draw_outline(axes, mask, colour, 2.0 if colour == TRUTH else 1.1)


def _title(name: str, truth: np.ndarray, prediction: np.ndarray) -> str:
    score = f"Dice {dice(as_mask(prediction), as_mask(truth)):.3f}"
    return f"{name} · {score}" if name else score
