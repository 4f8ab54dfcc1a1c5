"""What the three networks share: checks of their parameters, and the convolution block."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import keras

from lungseg_utils.errors import InvalidValueError, check_known

LAYER_NORMALISATIONS = ("none", "batch", "instance")
# Encoders that come trained, with the patch_size at whose distance their first level lies.
TRAINED_ENCODERS = {"vgg16": 1, "efficientnet-lite0": 2}
DEEPEST_TRAINED = 4


@keras.saving.register_keras_serializable(package="lungseg_utils")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, trained under TensorFlow by its fused kernel.

    Keras computes moments and scaling one by one and in float32, which on a CPU takes longer than
    the convolutions between them.
    """

    def call(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Return the normalised features, of the inputs' shape."""
        fused = keras.backend.backend() == "tensorflow" and training and self.trainable
        if not fused or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, *moments = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon
        )
        for moving, now in zip((self.moving_mean, self.moving_variance), moments, strict=True):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs


def check_size(size: int, divisor: int, smallest: int = 1) -> None:
    """Check that a network can halve its input as often as it needs to.

    Args:
        size: Height and width of the network's input in pixels.
        divisor: What the size must be a multiple of.
        smallest: The smallest size allowed, in pixels.

    Raises:
        InvalidValueError: The size is not a whole multiple of the divisor, or too small.
    """
    smallest = max(smallest, divisor)
    if not _is_count(size) or size % divisor or size < smallest:
        raise InvalidValueError(
            f"The input size must be a multiple of {divisor}, and at least {smallest} pixels.",
            repr(size),
            "Choose such a size (256 and 512 suit every network here), or a shallower network.",
        )


def check_count(name: str, value: int) -> None:
    """Check that a parameter is a whole number of at least 1.

    Raises:
        InvalidValueError: It is not; the message names the parameter.
    """
    if not _is_count(value):
        raise InvalidValueError(
            f"{name} must be a whole number of at least 1.", repr(value), f"Pass another {name}."
        )


def check_fraction(name: str, value: float) -> None:
    """Check that a parameter lies in [0, 1).

    Raises:
        InvalidValueError: It does not; the message names the parameter.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidValueError(
            f"{name} must be a number from 0 up to, not including, 1.",
            repr(value),
            f"Pass another {name}.",
        )


def check_levels(size: int, base_filters: int, depth: int, patch_size: int) -> None:
    """Check the shape of a network that halves patches of its input, level by level.

    Raises:
        InvalidValueError: A number is no count, or the size cannot be halved that often.
    """
    check_count("base_filters", base_filters)
    check_count("depth", depth)
    check_count("patch_size", patch_size)
    check_size(size, patch_size * 2**depth)


def check_encoder(
    encoder: str,
    known: Collection[str],
    weights: str | os.PathLike | None,
    depth: int,
    patch_size: int,
) -> None:
    """Check that a network can have an encoder, and the encoder its weights.

    Args:
        encoder: "plain", or one of `TRAINED_ENCODERS`.
        known: The encoders that the network can have.
        weights: None, "imagenet" or the path of a file.
        depth: How often the network halves its first level.
        patch_size: Distance between patches in pixels.

    Raises:
        InvalidValueError: It cannot; the message says why.
    """
    check_known(encoder, known, "encoder")
    if encoder == "plain":
        if weights is not None:
            raise InvalidValueError(
                "encoder_weights belong to an encoder that comes trained.",
                f"encoder='plain', encoder_weights={weights!r}",
                f"Set encoder to {' or '.join(known)}, or leave encoder_weights out.",
            )
        return
    if patch_size != TRAINED_ENCODERS[encoder]:
        raise InvalidValueError(
            f"With the encoder {encoder!r}, patch_size is {TRAINED_ENCODERS[encoder]}.",
            f"patch_size {patch_size}",
            f"Set patch_size to {TRAINED_ENCODERS[encoder]}, or use the encoder 'plain'.",
        )
    if depth > DEEPEST_TRAINED:
        raise InvalidValueError(
            f"With the encoder {encoder!r}, depth is at most {DEEPEST_TRAINED}.",
            depth,
            "Lower depth, or use the encoder 'plain'.",
        )
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise InvalidValueError(
            "encoder_weights must be None, 'imagenet' or the path of a file.",
            repr(weights),
            "Correct the path, or pass 'imagenet'.",
        )


def check_normalisation(kind: str, batch_momentum: float) -> None:
    """Check the arguments of `normalisation_layer`.

    Raises:
        InvalidValueError: There is no such kind, or the momentum is out of its range.
    """
    check_known(kind, LAYER_NORMALISATIONS, "normalisation")
    check_fraction("batch_momentum", batch_momentum)


def normalisation_layer(kind: str, batch_momentum: float, name: str) -> keras.layers.Layer | None:
    """Return the normalisation layer of a kind, or None for "none".

    Args:
        kind: "none", "batch" (Ioffe and Szegedy 2015) or "instance" (Ulyanov et al. 2016).
        batch_momentum: How much of the running mean and variance each training step keeps.
        name: The layer's name.
    """
    if kind == "batch":
        return BatchNormalization(momentum=batch_momentum, name=name)
    if kind == "instance":
        return keras.layers.GroupNormalization(groups=-1, epsilon=1e-5, name=name)
    return None


def convolution_block(
    tensor: keras.KerasTensor, filters: int, normalisation: str, batch_momentum: float, name: str
) -> keras.KerasTensor:
    """Apply twice: 3x3 convolution, normalisation, ReLU.

    Args:
        tensor: Features, (N, H, W, any).
        filters: Number of output channels.
        normalisation: One of `LAYER_NORMALISATIONS`.
        batch_momentum: As in `normalisation_layer`.
        name: Prefix of the layers' names.

    Returns:
        Features, (N, H, W, filters).
    """
    for step in (1, 2):
        tensor = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            # A bias before a normalisation would be subtracted again.
            use_bias=normalisation == "none",
            kernel_initializer="he_normal",
            name=f"{name}_conv{step}",
        )(tensor)
        layer = normalisation_layer(normalisation, batch_momentum, f"{name}_norm{step}")
        tensor = tensor if layer is None else layer(tensor)
        tensor = keras.layers.ReLU(name=f"{name}_relu{step}")(tensor)
    return tensor


def upsample(tensor: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Double height and width by a 2x2 transposed convolution.

    Args:
        tensor: Features, (N, H, W, any).
        filters: Number of output channels.
        name: The layer's name.

    Returns:
        Features, (N, 2H, 2W, filters).
    """
    return keras.layers.Conv2DTranspose(
        filters, 2, strides=2, kernel_initializer="he_normal", name=name
    )(tensor)


def patch_stem(tensor: keras.KerasTensor, filters: int, patch_size: int) -> keras.KerasTensor:
    """Turn patches of pixels into feature vectors, by a strided convolution.

    Its kernel is twice as wide as the stride: patches overlap, and their borders leave no trace.

    Args:
        tensor: X-rays, (N, H, W, 1).
        filters: Number of output channels.
        patch_size: Distance between patches in pixels; 1 leaves the tensor as it is.

    Returns:
        Features, (N, H / patch_size, W / patch_size, filters); for 1, the tensor itself.
    """
    if patch_size == 1:
        return tensor
    return keras.layers.Conv2D(
        filters,
        2 * patch_size,
        strides=patch_size,
        padding="same",
        kernel_initializer="he_normal",
        name="patches",
    )(tensor)


def probability_head(
    tensor: keras.KerasTensor, name: str, patch_size: int = 1
) -> keras.KerasTensor:
    """Map features to one probability per pixel, in float32 under every dtype policy.

    Args:
        tensor: Features, (N, H, W, any).
        name: The layer's name.
        patch_size: Distance between patches in pixels; they overlap as in `patch_stem`.

    Returns:
        Probability, float32 (N, H * patch_size, W * patch_size, 1) in [0, 1].
    """
    if patch_size == 1:
        return keras.layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name=name)(tensor)
    return keras.layers.Conv2DTranspose(
        1,
        2 * patch_size,
        strides=patch_size,
        padding="same",
        activation="sigmoid",
        dtype="float32",
        name=name,
    )(tensor)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
