"""EfficientNet-Lite0 as the encoder of a segmentation network, trained on photographs before.

Tan and Le 2019 (arXiv 1905.11946), in their variant for small devices: no squeeze and excitation,
and ReLU6 in the place of swish. Its weights come with the package, from `tools.convert_encoder`.
"""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.models.blocks import BatchNormalization

IMAGENET = Path(__file__).resolve().parents[1] / "weights" / "efficientnet-lite0.npz"
_STEM_FILTERS = 32
# Of each stage: blocks, side of the kernels, stride of the first block, expansion, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def lite0_levels(
    inputs: keras.KerasTensor,
    depth: int,
    weights: str | os.PathLike | None,
    batch_momentum: float = 0.9,
) -> list[keras.KerasTensor]:
    """Apply EfficientNet-Lite0 and give the last features of each resolution.

    The photographs' three channels are equal in a grey picture, so that the kernels of the first
    convolution are kept summed over them.

    Args:
        inputs: X-rays, float32 (N, H, W, 1) in [0, 1].
        depth: How often the first level is halved, at most 4.
        weights: None (random), "imagenet", or the path of a file as `tools.convert_encoder` writes.
        batch_momentum: As in `normalisation_layer`.

    Returns:
        depth + 1 tensors, of 1/2, 1/4, 1/8, 1/16, 1/32 of the inputs' height and width, with
        16, 24, 40, 112 and 320 channels.

    Raises:
        InvalidValueError: The file is none of this encoder's weights.
    """
    # In float32, as half precision would lose grey levels; to -1 … 1, as it was trained on.
    tensor = keras.layers.Rescaling(255 / 128, -127 / 128, dtype="float32", name="lite0_scale")(
        inputs
    )
    stem = _convolution(_STEM_FILTERS, 3, 2, "lite0_stem")
    tensor = _normalised(stem(tensor), batch_momentum, "lite0_stem", True)
    levels, block = [tensor], 0
    for blocks, kernel, stride, expansion, filters in _STAGES:
        if stride == 2:
            if len(levels) > depth:
                break
            levels.append(tensor)
        for first in [True] + [False] * (blocks - 1):
            tensor = inverted_residual(
                tensor,
                filters,
                kernel,
                stride if first else 1,
                expansion,
                batch_momentum,
                f"lite0_block{block}",
            )
            block += 1
        levels[-1] = tensor
    if weights is not None:
        _load(keras.Model(inputs, levels), IMAGENET if weights == "imagenet" else weights)
    return levels


def inverted_residual(
    tensor: keras.KerasTensor,
    filters: int,
    kernel: int,
    stride: int,
    expansion: int,
    batch_momentum: float,
    name: str,
) -> keras.KerasTensor:
    """Widen by 1x1 convolution, filter each channel by itself, narrow by 1x1 convolution.

    The block of MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): batch normalisation follows
    each convolution, ReLU6 the first two. Where the shape stays, the input is added.

    Args:
        tensor: Features, (N, H, W, any).
        filters: Number of output channels.
        kernel: Side of the kernels between.
        stride: 1, or 2 to halve height and width.
        expansion: How many times wider the features are between; 1 leaves the first step out.
        batch_momentum: As in `normalisation_layer`.
        name: Prefix of the layers' names.

    Returns:
        Features, (N, H / stride, W / stride, filters).
    """
    inputs, channels = tensor, tensor.shape[-1]
    if expansion > 1:
        widen = _convolution(expansion * channels, 1, 1, f"{name}_expand")
        tensor = _normalised(widen(tensor), batch_momentum, f"{name}_expand", True)
    # In float32: on a CPU, TensorFlow's gradients take up to ten times as long in bfloat16.
    depthwise = keras.layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        dtype="float32",
        name=f"{name}_depthwise",
    )
    tensor = _normalised(depthwise(tensor), batch_momentum, f"{name}_depthwise", True)
    narrow = _convolution(filters, 1, 1, f"{name}_project")
    tensor = _normalised(narrow(tensor), batch_momentum, f"{name}_project", False)
    if stride == 1 and filters == channels:
        tensor = keras.layers.Add(name=f"{name}_add")([inputs, tensor])
    return tensor


def _convolution(filters: int, kernel: int, stride: int, name: str) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )


def _normalised(
    tensor: keras.KerasTensor, batch_momentum: float, name: str, activated: bool
) -> keras.KerasTensor:
    tensor = BatchNormalization(momentum=batch_momentum, name=f"{name}_norm")(tensor)
    return keras.layers.ReLU(6.0, name=f"{name}_relu6")(tensor) if activated else tensor


def _load(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Set the encoder's weights to a file's arrays of their names."""
    wrong = "encoder_weights must be a file of EfficientNet-Lite0 that tools.convert_encoder wrote."
    advice = "Convert the published weights again: python -m tools.convert_encoder --help."
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[weight.path] for weight in encoder.weights]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InvalidValueError(wrong, f"{os.fspath(path)}: {error}", advice) from error
    for weight, array in zip(encoder.weights, arrays, strict=True):
        if weight.shape != array.shape:
            told = f"{os.fspath(path)}: {weight.path} is {array.shape}, not {weight.shape}"
            raise InvalidValueError(wrong, told, advice)
        weight.assign(array)
