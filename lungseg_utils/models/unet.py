"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv 1505.04597)."""

from __future__ import annotations

import keras

from lungseg_utils.errors import check_known
from lungseg_utils.models import blocks


def build_unet(
    size: int = 256,
    base_filters: int = 64,
    depth: int = 4,
    normalisation: str = "none",
    dropout: float = 0.0,
    batch_momentum: float = 0.9,
    patch_size: int = 1,
    context: str = "none",
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
        depth: How often the input is halved.
        normalisation: "none" (the paper), "batch" or "instance", after every 3x3 convolution.
        dropout: Fraction of activations dropped in training at the two deepest levels.
        batch_momentum: How much of the running statistics each step keeps, for "batch".
        patch_size: Side of the patches of pixels the network works on instead of pixels: a strided
            convolution reads them, a transposed one writes them. 4 costs a sixteenth of 1.
        context: "dilated": the deepest level sees the whole image, see `blocks.context_block`.

    Returns:
        A model: float32 (N, size, size, 1) in [0, 1] to probability, float32 (N, size, size, 1).

    Raises:
        LungsegError: A parameter is out of its range.
    """
    blocks.check_levels(size, base_filters, depth, patch_size)
    blocks.check_normalisation(normalisation, batch_momentum)
    blocks.check_fraction("dropout", dropout)
    check_known(context, blocks.CONTEXTS, "context")
    inputs = keras.Input((size, size, 1), name="image")
    tensor, skips = blocks.patch_stem(inputs, base_filters, patch_size), []
    for level in range(depth + 1):
        if level > 0:
            skips.append(tensor)
            tensor = keras.layers.MaxPooling2D(name=f"down{level}")(tensor)
        tensor = blocks.convolution_block(
            tensor, base_filters * 2**level, normalisation, batch_momentum, f"encoder{level}"
        )
        if dropout and level >= depth - 1:
            tensor = keras.layers.Dropout(dropout, name=f"dropout{level}")(tensor)
    tensor = blocks.context_block(tensor, context, normalisation, batch_momentum)
    for level in reversed(range(depth)):
        filters = base_filters * 2**level
        tensor = blocks.upsample(tensor, filters, f"up{level}")
        tensor = keras.layers.Concatenate(name=f"skip{level}")([skips[level], tensor])
        tensor = blocks.convolution_block(
            tensor, filters, normalisation, batch_momentum, f"decoder{level}"
        )
    probability = blocks.probability_head(tensor, "probability", patch_size)
    return keras.Model(inputs, probability, name="unet")
