"""What happens beside the training steps: progress, checkpoints, early stopping."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lungseg_utils.errors import LungsegError, TrainingDivergedError
from lungseg_utils.files.records import write_atomically
from lungseg_utils.files.storage import retry_passing
from lungseg_utils.training.runs import BEST, HISTORY, LAST
from lungseg_utils.training.weights import save_weights, weights_of

MONITOR = "val_dice"

# A checkpoint holds weights and optimizer, hundreds of MB for the large networks. On Drive each
# replaced file goes to the bin and counts against the quota, so not every epoch writes one.
CHECKPOINT_SECONDS = 300
_WAITING = ".best-of-epoch-{}.npz"

# The first steps trace the graph and fill caches; they say nothing about the rest.
_WARM_STEPS = 3
_TIMED_STEPS = 8


class EpochClock(keras.callbacks.Callback):
    """Tells a data set which epoch it is, since batches follow from seed, epoch and index."""

    def __init__(self, dataset) -> None:
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch before its first batch is drawn."""
        self.dataset.epoch = epoch


class DivergenceGuard(keras.callbacks.Callback):
    """Stops with an error as soon as the loss is no longer finite."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Check the running loss."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                "The loss must stay finite.",
                f"a loss of {loss} at step {batch + 1}",
                "Lower LEARNING_RATE, or set PRECISION to 'float32'; the run goes on from its "
                "last whole epoch.",
            )


class ProgressBar(keras.callbacks.Callback):
    """One bar over all steps of a training, and an estimate of its time after a few."""

    def __init__(self, steps: int, epochs: int, first_epoch: int) -> None:
        super().__init__()
        self.steps, self.epochs, self.first_epoch = steps, epochs, first_epoch
        self.seen = 0
        self.started = 0.0
        self.bar = tqdm(
            total=steps * epochs,
            initial=steps * first_epoch,
            desc="Training",
            unit="step",
            mininterval=1.0,
        )

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Advance by a step; print the estimate once enough steps were timed."""
        self.bar.update(1)
        self.seen += 1
        if self.seen == _WARM_STEPS:
            self.started = time.perf_counter()
        if self.seen == _WARM_STEPS + _TIMED_STEPS:
            step = (time.perf_counter() - self.started) / _TIMED_STEPS
            left = self.steps * (self.epochs - self.first_epoch)
            tqdm.write(
                f"{step:.2f} s a step, measured on {_TIMED_STEPS}: about {_readable(step * left)} "
                f"for {self.epochs - self.first_epoch} epochs of {self.steps} steps. Validation "
                "comes on top; early stopping may end it sooner."
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Show the epoch's figures beside the bar."""
        logs = logs or {}
        self.bar.set_postfix_str(
            f"epoch {epoch + 1}/{self.epochs}, loss {logs.get('loss', math.nan):.4f}, "
            f"{MONITOR} {logs.get(MONITOR, math.nan):.4f}"
        )

    def close(self) -> None:
        """Close the bar, also when a step raised: `fit` calls no other method then."""
        self.bar.close()


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


class Checkpointing(keras.callbacks.Callback):
    """Keeps history, best and last weights, and stops when patience runs out.

    The history is written after every epoch, the checkpoint and the best weights that belong to it
    every five minutes and at the end; an interrupted run goes on from there.

    Keras' `BackupAndRestore`, `ModelCheckpoint` and `EarlyStopping` each keep a state of
    their own and forget it on a restart; here it is one state in one file.

    Args:
        folder: The run's folder.
        progress: Where the training stands; goes on from there.
        epochs: The last epoch.
        patience: Epochs without improvement before training stops.
    """

    def __init__(self, folder: Path, progress: Progress, epochs: int, patience: int) -> None:
        super().__init__()
        self.folder, self.progress = folder, progress
        self.epochs, self.patience = epochs, patience
        self.unwritten: dict[str, np.ndarray] = {}  # better weights than those on the disk
        self.started = 0.0
        self.saved = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the epoch's clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Record the epoch, and stop when patience has run out."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        progress = self.progress
        progress.epoch = epoch + 1
        seconds = time.perf_counter() - self.started
        progress.history.append({"epoch": epoch + 1, **logs, "seconds": round(seconds, 2)})
        if logs[MONITOR] > progress.best:
            progress.best, progress.best_epoch, progress.wait = logs[MONITOR], epoch + 1, 0
            self.unwritten = weights_of(self.model)
        else:
            progress.wait += 1
        if progress.wait >= self.patience:
            progress.stopped_early = True
            self.model.stop_training = True
        write_history(self.folder, progress)
        ended = progress.stopped_early or progress.epoch == self.epochs
        if ended or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            self._write_checkpoint()
            self.saved = time.monotonic()

    def _write_checkpoint(self) -> None:
        """The best weights wait under another name until the checkpoint that knows them is there.

        Whenever the process is killed, checkpoint and best weights are of one moment: another GPU
        need not reach again what is later than the checkpoint.
        """
        if self.unwritten:
            save_weights(_waiting(self.folder, self.progress), self.unwritten)
        save_checkpoint(self.folder / LAST, self.model, self.progress)
        settle_best(self.folder, self.progress)
        self.unwritten = {}


def settle_best(folder: Path, progress: Progress) -> None:
    """Give the best weights of a checkpoint their final name, if a killed process did not.

    Raises:
        LungsegError: They are gone.
    """
    waiting = _waiting(folder, progress)
    if waiting.is_file():
        retry_passing(lambda: waiting.replace(folder / BEST))
    for later in folder.glob(_WAITING.format("*")):
        later.unlink()
    if progress.best_epoch and not (folder / BEST).is_file():
        raise LungsegError(
            "A training goes on with its checkpoint and its best weights.",
            f"no {BEST} beside {folder / LAST}",
            f"Put it back, or delete {LAST} to start this run anew.",
        )


def _waiting(folder: Path, progress: Progress) -> Path:
    return folder / _WAITING.format(progress.best_epoch)


def save_checkpoint(path: Path, model: keras.Model, progress: Progress) -> Path:
    """Write all that an exact continuation needs into one file, atomically.

    Keras' weight files leave out the states of Dropout's random generators, and its
    callbacks forget their best value; this file holds both. The best weights are a file of
    their own.

    Args:
        path: The `.npz` file, in a folder that is there.
        model: Compiled, its optimizer built.
        progress: Stored as JSON text.
    """
    values = [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]
    arrays = {f"variable_{index}": value for index, value in enumerate(values)}
    arrays["progress"] = np.array(json.dumps(asdict(progress)))
    return save_weights(path, arrays)


def restore_checkpoint(path: Path, model: keras.Model) -> Progress:
    """Read a checkpoint back into a model of the same architecture and optimizer.

    Raises:
        LungsegError: The file is damaged or belongs to another architecture.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            progress = Progress(**json.loads(str(arrays["progress"])))
            values = [arrays[name] for name in arrays.files if name.startswith("variable_")]
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


def write_history(folder: Path, progress: Progress) -> None:
    """Write a row an epoch."""
    table = pd.DataFrame(progress.history)
    write_atomically(folder / HISTORY, partial(table.to_csv, index=False), make_folder=False)


def _variables(model: keras.Model) -> list:
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return own + list(model.optimizer.variables)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
