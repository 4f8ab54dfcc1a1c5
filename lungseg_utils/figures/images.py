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
    as_grey,
    as_mask,
    draw_image,
    draw_mask,
    draw_outline,
    image_grid,
    outline_handles,
    overlap_handles,
    require_same_length,
)

if TYPE_CHECKING:
    from lungseg_utils.segment.cleaning import Cleaned

Images = Sequence[np.ndarray] | np.ndarray
_OPACITY = 0.55
_SINGLE = 6.0


def show_pairs(images: Images, masks: Images, titles: Sequence[str]) -> Figure:
    """X-ray, mask and overlay of a few cases: a column a case (four fit well).

    Args:
        images: X-rays.
        masks: Their true masks.
        titles: Their ids.
    """
    require_same_length(images=images, masks=masks, titles=titles)
    figure, axes = image_grid(
        3,
        len(images),
        np.shape(masks[0]),
        titled_rows=1,
        row_labels=("X-ray", "Mask", "Overlay"),
        legend=outline_handles("Truth"),
    )
    for column, (image, mask, title) in enumerate(zip(images, masks, titles, strict=True)):
        draw_image(axes[0, column], image, title)
        draw_mask(axes[1, column], mask)
        draw_image(axes[2, column], image)
        draw_outline(axes[2, column], mask, TRUTH)
    return figure


def show_augmentations(
    image: np.ndarray,
    mask: np.ndarray,
    augmented: Sequence[tuple[np.ndarray, np.ndarray]],
    title: str = "Original",
    columns: int = 4,
) -> Figure:
    """A case and its augmented versions, each with its mask's outline.

    Args:
        image: The X-ray.
        mask: Its mask.
        augmented: Pairs of X-ray and mask.
        title: Over the original.
        columns: Images in a row.
    """
    names = [title, *(f"Augmented {number + 1}" for number in range(len(augmented)))]
    figure, panels = _grid_of(names, columns, np.shape(mask), "Truth")
    for panel, name, pair in zip(panels, names, [(image, mask), *augmented], strict=True):
        draw_image(panel, pair[0], name)
        draw_outline(panel, pair[1], TRUTH)
    return figure


def overlay(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, image_id: str = ""
) -> Figure:
    """An X-ray with the outlines of truth and prediction; the title carries id and Dice."""
    handles = outline_handles("Truth", "Prediction")
    figure, axes = image_grid(1, 1, np.shape(truth), legend=handles, cell=_SINGLE)
    _draw_overlay(axes[0, 0], image, truth, prediction, _title(image_id, truth, prediction), 1.6)
    return figure


def overlap_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, image_id: str = ""
) -> Figure:
    """An X-ray coloured by agreement; the title carries id and Dice. Colours: `overlap_colours`."""
    figure, axes = image_grid(1, 1, np.shape(truth), legend=overlap_handles(), cell=_SINGLE)
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
    require_same_length(images=images, truths=truths, predictions=predictions, ids=ids)
    handles = outline_handles("Truth", "Prediction")
    figure, axes = image_grid(len(images), 4, np.shape(truths[0]), legend=handles)
    cases = zip(axes, images, truths, predictions, ids, strict=True)
    for panels, image, truth, prediction, image_id in cases:
        draw_image(panels[0], image, image_id)
        draw_mask(panels[1], truth, "Truth")
        draw_mask(panels[2], prediction, "Prediction")
        _draw_overlay(panels[3], image, truth, prediction, _title("", truth, prediction))
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
    for name, masks in predictions.items():
        require_same_length(images=images, truths=truths, ids=ids, **{name: masks})
    handles = [*outline_handles("Truth"), *overlap_handles()]
    columns = 1 + len(predictions)
    figure, axes = image_grid(len(images), columns, np.shape(truths[0]), legend=handles)
    for row, (image, truth, image_id) in enumerate(zip(images, truths, ids, strict=True)):
        draw_image(axes[row, 0], image, image_id)
        draw_outline(axes[row, 0], truth, TRUTH)
        for column, (name, masks) in enumerate(predictions.items(), start=1):
            coloured = overlap_colours(image, truth, masks[row])
            draw_image(axes[row, column], coloured, _title(name, truth, masks[row]))
    return figure


def show_worst_cases(
    images: Images,
    truths: Images,
    predictions: Images,
    ids: Sequence[str],
    columns: int = 4,
) -> Figure:
    """Overlays of the cases given, each with id and Dice; for the worst, in order."""
    require_same_length(images=images, truths=truths, predictions=predictions, ids=ids)
    figure, panels = _grid_of(ids, columns, np.shape(truths[0]), "Truth", "Prediction")
    cases = zip(panels, images, truths, predictions, ids, strict=True)
    for panel, image, truth, prediction, image_id in cases:
        _draw_overlay(panel, image, truth, prediction, _title(image_id, truth, prediction))
    return figure


def show_unlabelled(images: Images, predictions: Images, ids: Sequence[str]) -> Figure:
    """X-rays without a true mask, each with the prediction's outline."""
    require_same_length(images=images, predictions=predictions, ids=ids)
    figure, panels = _grid_of(ids, 6, np.shape(predictions[0]), "Prediction")
    for panel, image, prediction, image_id in zip(panels, images, predictions, ids, strict=True):
        draw_image(panel, image, image_id)
        draw_outline(panel, prediction, PREDICTION)
    return figure


def show_cleaning(originals: Images, cleaned: Sequence[Cleaned], titles: Sequence[str]) -> Figure:
    """The cleaning step by step: original, grey, denoised, mask, masked; a row an image.

    Args:
        originals: As read: uint8 RGB (H, W, 3) or grey (H, W).
        cleaned: What `clean_image` made of each.
        titles: Their names.
    """
    require_same_length(originals=originals, cleaned=cleaned, titles=titles)
    figure, axes = image_grid(len(originals), 5, cleaned[0].mask.shape)
    for panels, original, steps, title in zip(axes, originals, cleaned, titles, strict=True):
        draw_image(panels[0], original, title)
        draw_image(panels[1], steps.original_grey, "Grey")
        draw_image(panels[2], steps.denoised, "Denoised")
        inverted = ", inverted" if steps.inverted else ""
        draw_mask(panels[3], steps.mask, f"Otsu at {steps.threshold}{inverted}")
        draw_image(panels[4], steps.masked, "Masked")
    return figure


def _draw_overlay(
    axes: Axes,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    title: str,
    width: float = 1.1,
) -> None:
    draw_image(axes, image, title)
    # The truth is drawn wider, so that it shows on both sides where the two agree.
    draw_outline(axes, truth, TRUTH, 1.8 * width)
    draw_outline(axes, prediction, PREDICTION, width)


def _title(name: str, truth: np.ndarray, prediction: np.ndarray) -> str:
    score = f"Dice {dice(as_mask(prediction), as_mask(truth)):.3f}"
    return f"{name} · {score}" if name else score


def _grid_of(
    names: Sequence[str], columns: int, shape: tuple[int, ...], *outlines: str
) -> tuple[Figure, list[Axes]]:
    """A grid with a panel a name, and a legend of the outlines; panels left over are hidden."""
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = image_grid(rows, columns, shape, legend=outline_handles(*outlines))
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    return figure, list(axes.flat[: len(names)])
