"""One X-ray of the user's own, and its mask, made ready for a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungseg_utils.errors import ImageFileError, InvalidValueError
from lungseg_utils.preparation.imaging import (
    Preprocessing,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
    size_text,
    to_grey,
    to_model_input,
)


def preprocess(
    image: Path | str | np.ndarray,
    mask: Path | str | np.ndarray | None = None,
    size: int = 256,
    preprocessing: Preprocessing | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Make one X-ray, and its mask if there is one, ready for a model.

    Args:
        image: File, or array as in `to_grey`.
        mask: File, or array {0, 1}, {0, 255} or bool (H, W).
        size: Side of the model's square, in pixels.
        preprocessing: Applied at that size; by default nothing.

    Returns:
        float32 (size, size, 1) in [0, 1], and uint8 {0, 1} (size, size) or None.

    Raises:
        ImageFileError: A file cannot be read, or image and mask differ in size.
        InvalidValueError: An array is not an image or not a mask.
    """
    grey = to_grey(image) if isinstance(image, np.ndarray) else read_image(image)
    resized = (preprocessing or Preprocessing()).apply(resize_image(grey, size))
    model_input = to_model_input(resized)[0]
    if mask is None:
        return model_input, None
    lungs = _array_to_mask(mask) if isinstance(mask, np.ndarray) else read_mask(mask)
    if lungs.shape != grey.shape:
        raise ImageFileError(
            "An X-ray and its mask have the same size.",
            f"X-ray {size_text(grey)}, mask {size_text(lungs)}",
            "Check that the two belong together.",
        )
    return model_input, resize_mask(lungs, size)


def _array_to_mask(mask: np.ndarray) -> np.ndarray:
    values = np.unique(mask)
    if mask.ndim != 2 or not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
        raise InvalidValueError(
            "A mask is an array (H, W) of {0, 1}, {0, 255} or bool.",
            f"shape {mask.shape}, {len(values)} values from {values.min()} to {values.max()}",
            "Threshold it first; a mask file may be passed by its path.",
        )
    return (mask > 0).astype(np.uint8)
