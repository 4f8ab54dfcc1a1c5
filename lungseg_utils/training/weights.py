"""Weights as files: plain numbers by their variables' paths, looked through before they are used.

A file of weights is a NumPy archive (`.npz`) without pickles, so that nothing in it can run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.files.records import differing, write_atomically

if TYPE_CHECKING:
    import keras

_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
_LARGEST_RATIO = 100  # of unpacked to packed: weights hardly get smaller


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """A network's weights by their variables' paths, as arrays of their own; float32."""
    import keras

    return {
        variable.path: np.array(keras.ops.convert_to_numpy(variable)) for variable in model.weights
    }


def save_weights(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    """Write weights into a file, atomically.

    Args:
        path: The `.npz` file, in a folder that is there.
        weights: As `weights_of` gives them.

    Raises:
        StorageError: The disk is full, read-only or gone.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **weights)

    return write_atomically(path, write, make_folder=False)


def read_weights(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a file of weights. Nothing in it is executed.

    Args:
        path: The `.npz` file.
        sha256: What its bytes must have, if that is known.

    Returns:
        Arrays by their names, finite, float16 or float32.

    Raises:
        OSError: The file is gone.
        ValueError: The file is truncated or altered, of another kind, would unpack to much more
            than its own size, or holds anything but finite numbers; says which.
    """
    # What is verified is what is read: the file is opened only once.
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ValueError(f"SHA-256 {found} of {len(content):,} bytes, not {sha256}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            size = sum(entry.file_size for entry in arrays.zip.infolist())
            if size > _LARGEST_RATIO * len(content):
                raise ValueError(f"it would unpack to {size:,} bytes")
            weights = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise ValueError(f"no whole .npz file of plain arrays: {error}") from error
    for name, array in weights.items():
        # An entry that is no array comes as bytes.
        if getattr(array, "dtype", None) not in _DTYPES:
            raise ValueError(f"{name} is no plain array of numbers, float16 or float32")
        if not np.isfinite(array).all():
            raise ValueError(f"values of {name} are not finite")
    return weights


def assign_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Give a network its weights, which must be those of all its variables and no others.

    Args:
        model: Built.
        weights: Arrays by their variables' paths, float16 or float32.

    Raises:
        ValueError: They are of another architecture; names the first array that differs.
    """
    variables = {variable.path: variable for variable in model.weights}
    stored = {path: list(array.shape) for path, array in weights.items()}
    wanted = {path: list(variable.shape) for path, variable in variables.items()}
    for path, (found, expected) in differing(stored, wanted).items():
        raise ValueError(f"{path} is {found} in the file, {expected} in the network")
    for path, variable in variables.items():
        variable.assign(weights[path].astype(np.float32))
