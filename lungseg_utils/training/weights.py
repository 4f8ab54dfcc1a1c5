"""Files of weights that may come from anywhere: looked through before Keras sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import h5py
    import keras

_HDF5 = b"\x89HDF\r\n\x1a\n"
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive, such as a whole model saved as .keras, which can hold code",
    b"\x80": "a Python pickle, which runs code when it is read",
    b"<": "a web page or other text",
}
# What Keras's older format writes beside the weights; a Lambda layer in it is code.
_WHOLE_MODEL = ("model_config", "training_config", "layer_names")


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a `.weights.h5` file that holds plain numbers for exactly this network, and no more.

    Nothing in the file is executed: only arrays are read from it.

    Args:
        model: Built; given the weights.
        path: The file, as Keras's `save_weights` writes it.

    Raises:
        ValueError: The file is of another kind, truncated or altered, holds links or a whole
            model, is of another architecture, or has values that are not finite.
        OSError: The file cannot be read.
    """
    import h5py
    import keras

    _check_kind(path)
    with h5py.File(path, "r") as file:
        if whole := [name for name in _WHOLE_MODEL if name in file.attrs]:
            raise ValueError(f"a whole model ({', '.join(whole)}), which can hold code")
        found = _count_numbers(file, path.stat().st_size)
    wanted = sum(int(np.prod(weight.shape)) for weight in model.weights)
    if found != wanted:
        raise ValueError(f"{found:,} weights, and the network has {wanted:,}")
    model.load_weights(path)
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(f"values of {weight.path} are not finite")


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(_HDF5))
    if head != _HDF5:
        kinds = (kind for start, kind in _OTHER_KINDS.items() if head.startswith(start))
        raise ValueError(next(kinds, "no HDF5 file" if head else "an empty file"))


def _count_numbers(file: h5py.File, file_bytes: int) -> int:
    """Number of values in all arrays of a file, which may not unpack to more than its own size."""
    count = size = 0
    for array in _arrays(file):
        if array.dtype.kind not in "fiu" or array.is_virtual or array.external:
            raise ValueError(f"{array.name} is no plain array of numbers")
        count, size = count + array.size, size + array.nbytes
        if size > file_bytes:
            raise ValueError(f"{array.name} claims more values than the file has room for")
    return count


def _arrays(file: h5py.File) -> Iterator[h5py.Dataset]:
    import h5py

    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        # A group can be linked into itself.
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{group.name}/{name} leads elsewhere")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                groups.append(entry)
            else:
                yield entry
