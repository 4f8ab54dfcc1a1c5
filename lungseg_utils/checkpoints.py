"""The point a training can go on from: weights, optimizer, random states and history."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

from lungseg_utils.errors import LungsegError
from lungseg_utils.records import write_atomically

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
    """

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    wait: int = 0
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(path: Path, model: keras.Model, progress: Progress) -> Path:
    """Write all that an exact continuation needs into one file, atomically.

    Keras' weight files leave out the states of Dropout's random generators, and its
    callbacks forget their best value; this file holds both.

    Args:
        path: The `.npz` file.
        model: Compiled, its optimizer built.
        progress: Stored as JSON text.
    """
    arrays = {f"variable_{index}": value for index, value in enumerate(_values(model))}
    arrays["progress"] = np.array(json.dumps(asdict(progress)))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    return write_atomically(path, write)


def restore_checkpoint(path: Path, model: keras.Model) -> Progress:
    """Read a checkpoint back into a model of the same architecture and optimizer.

    Raises:
        LungsegError: The file is damaged or belongs to another architecture.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            progress = Progress(**json.loads(str(arrays["progress"])))
            values = [arrays[f"variable_{index}"] for index in range(len(arrays.files) - 1)]
    except Exception as error:  # zipfile, zlib, NumPy and JSON each have their own
        raise LungsegError(
            "A checkpoint must be whole to be continued.",
            f"{path} ({error})",
            "Delete it to start this run anew, or pass OVERWRITE.",
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


def _variables(model: keras.Model) -> list:
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return own + list(model.optimizer.variables)


def _values(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]
