"""The point a training can go on from: weights, optimizer, random states and history."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import digest_of, write_atomically

LAST = "last.npz"


@dataclass
class Progress:
    """How far a training has come.

    Args:
        epoch: Epochs finished.
        best: Best validation Dice so far.
        best_epoch: The epoch that reached it, counted from 1.
        wait: Epochs since then.
        stopped_early: Whether patience ran out.
        history: A row of values an epoch.
        best_weights: The network's arrays after the best epoch, as `get_weights` gives them.
    """

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    wait: int = 0
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)


def save_checkpoint(path: Path, model: keras.Model, progress: Progress) -> Path:
    """Write all that an exact continuation needs into one file, atomically.

    Keras' weight files leave out the states of Dropout's random generators, and its
    callbacks forget their best value; this file holds both. It holds the best weights too: their
    own file may be of a later epoch than the checkpoint, which another GPU need not reach again.

    Args:
        path: The `.npz` file, in a folder that is there.
        model: Compiled, its optimizer built.
        progress: Stored as JSON text and arrays.
    """
    values = dict(vars(progress))
    arrays = {f"best_{index}": value for index, value in enumerate(values.pop("best_weights"))}
    arrays |= {f"variable_{index}": value for index, value in enumerate(_values(model))}
    arrays["progress"] = np.array(json.dumps(values))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    return write_atomically(path, write, make_folder=False)


def restore_checkpoint(path: Path, model: keras.Model) -> Progress:
    """Read a checkpoint back into a model of the same architecture and optimizer.

    Raises:
        LungsegError: The file is damaged or belongs to another architecture.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            progress = Progress(**json.loads(str(arrays["progress"])))
            progress.best_weights = _numbered(arrays, "best")
            values = _numbered(arrays, "variable")
    except Exception as error:  # zipfile, zlib, NumPy and JSON each have their own
        raise LungsegError(
            "A checkpoint must be whole to be continued.",
            f"{path} ({error})",
            "Delete it to start this run anew.",
        ) from error
    variables = _variables(model)
    wanted, found = [tuple(v.shape) for v in variables], [v.shape for v in values]
    if wanted != found:
        raise LungsegError(
            "A checkpoint fits the architecture and optimizer it was written from.",
            f"{path} with {len(found)} arrays, the model with {len(wanted)}",
            "Use the parameters of that run, or another RUN_NAME.",
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return progress


def local_path(folder: Path, started: str) -> Path:
    """Where a training keeps its checkpoint when its folder is full or gone.

    Args:
        folder: The run's folder.
        started: When the run began, so that no other run of that name takes it for its own.
    """
    own = digest_of([str(folder.resolve()), started])[:12]
    # As the scratch of a workspace in Colab: on the local disk, never on Drive.
    place = Path(tempfile.gettempdir()) / "lungseg_scratch" / "checkpoints"
    return place / f"{folder.name}-{own}.npz"


def bring_back(local: Path, checkpoint: Path) -> bool:
    """Copy a checkpoint from the local disk into its run, where it is further on than that one.

    Returns:
        Whether it was.

    Raises:
        StorageError: The run's folder is still full or gone; the local file stays.
    """
    wanted = local.is_file() and _epoch_of(local) > _epoch_of(checkpoint)
    if wanted:
        write_atomically(checkpoint, lambda path: shutil.copyfile(local, path), make_folder=False)
    local.unlink(missing_ok=True)
    return wanted


def _epoch_of(path: Path) -> int:
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as arrays:
        return int(json.loads(str(arrays["progress"]))["epoch"])
    return 0


def _numbered(arrays: np.lib.npyio.NpzFile, name: str) -> list[np.ndarray]:
    count = sum(file.startswith(f"{name}_") for file in arrays.files)
    return [arrays[f"{name}_{index}"] for index in range(count)]


def _variables(model: keras.Model) -> list:
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return own + list(model.optimizer.variables)


def _values(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]
