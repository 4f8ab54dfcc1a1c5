"""Losses and the training metric, per image and right for empty masks.

Every loss here takes masks and probabilities and returns one value per image, so that a large
lung never outweighs a small one; Keras averages the values over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from lungseg_utils.errors import check_known

SMOOTHING_PIXELS = 1.0


@keras.saving.register_keras_serializable(package="lungseg_utils")
def dice_loss(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """Return 1 - soft Dice of each image (Milletari et al. 2016, arXiv 1606.04797, unsquared).

    One pixel is added to numerator and denominator: two empty masks then lose 0, and a false
    prediction on an empty mask still has a gradient. At the sizes used here, a lung is thousands
    of pixels and the shift is below 1e-3.

    Args:
        y_true: Mask, (N, H, W, 1) in [0, 1].
        y_pred: Probability, (N, H, W, 1) in [0, 1].

    Returns:
        float32 (N,) in [0, 1].
    """
    truth, probability = _as_rows(y_true), _as_rows(y_pred)
    overlap = ops.sum(truth * probability, axis=1)
    total = ops.sum(truth, axis=1) + ops.sum(probability, axis=1)
    return 1.0 - (2.0 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)


@keras.saving.register_keras_serializable(package="lungseg_utils")
def bce_loss(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """Return the binary cross-entropy of each image, averaged over its pixels.

    Args:
        y_true: Mask, (N, H, W, 1) in [0, 1].
        y_pred: Probability, (N, H, W, 1) in [0, 1]; clipped to [1e-7, 1 - 1e-7].

    Returns:
        float32 (N,), at least 0, in nats.
    """
    return ops.mean(ops.binary_crossentropy(_as_rows(y_true), _as_rows(y_pred)), axis=1)


@keras.saving.register_keras_serializable(package="lungseg_utils")
def bce_dice_loss(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """Return `bce_loss` + `dice_loss` of each image, equally weighted.

    Args:
        y_true: Mask, (N, H, W, 1) in [0, 1].
        y_pred: Probability, (N, H, W, 1) in [0, 1].

    Returns:
        float32 (N,), at least 0.
    """
    return bce_loss(y_true, y_pred) + dice_loss(y_true, y_pred)


LOSSES = {"dice": dice_loss, "bce": bce_loss, "bce_dice": bce_dice_loss}


def get_loss(name: str) -> Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]:
    """Return the loss of a name: "dice", "bce" or "bce_dice".

    Raises:
        InvalidValueError: There is no such loss.
    """
    check_known(name, LOSSES, "The loss")
    return LOSSES[name]


def hard_dice(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """Return the Dice coefficient of each image, both sides thresholded at > 0.5.

    Args:
        y_true: Mask, (N, H, W, 1) in [0, 1].
        y_pred: Probability, (N, H, W, 1) in [0, 1].

    Returns:
        float32 (N,) in [0, 1]; 1 where both masks are empty.
    """
    truth = ops.cast(_as_rows(y_true) > 0.5, "float32")
    prediction = ops.cast(_as_rows(y_pred) > 0.5, "float32")
    overlap = ops.sum(truth * prediction, axis=1)
    total = ops.sum(truth, axis=1) + ops.sum(prediction, axis=1)
    return ops.where(total > 0, 2.0 * overlap / ops.maximum(total, 1.0), 1.0)


@keras.saving.register_keras_serializable(package="lungseg_utils")
class DiceCoefficient(keras.metrics.MeanMetricWrapper):
    """Mean of `hard_dice` over the images seen, to watch a training by.

    Taken at the network's own size: the scores to report are `evaluation`'s, at 512x512.

    Args:
        name: Name in the logs.
        dtype: As for every Keras metric.
    """

    def __init__(self, name: str = "dice", dtype: str | None = None) -> None:
        super().__init__(hard_dice, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype}


def _as_rows(tensor: keras.KerasTensor) -> keras.KerasTensor:
    tensor = ops.cast(ops.convert_to_tensor(tensor), "float32")
    return ops.reshape(tensor, (ops.shape(tensor)[0], -1))
