"""What happens beside the training steps: progress, checkpoints, early stopping."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import keras
import pandas as pd
from tqdm.auto import tqdm

from lungseg_utils.errors import StorageError, TrainingDivergedError
from lungseg_utils.files.records import write_atomically
from lungseg_utils.files.storage import explained, require_space
from lungseg_utils.training.checkpoints import LAST, Progress, save_checkpoint
from lungseg_utils.training.runs import BEST, HISTORY

MONITOR = "val_dice"

# A checkpoint holds weights and optimizer, hundreds of MB for the large networks. On Drive each
# replaced file goes to the bin and counts against the quota, so not every epoch writes one.
CHECKPOINT_SECONDS = 300

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
        self.bar: tqdm | None = None
        self.seen = 0
        self.started = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Show the bar."""
        self.bar = tqdm(
            total=self.steps * self.epochs,
            initial=self.steps * self.first_epoch,
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

    def on_train_end(self, logs: dict | None = None) -> None:
        """Close the bar."""
        self.bar.close()


class Checkpointing(keras.callbacks.Callback):
    """Keeps history, best and last weights, and stops when patience runs out.

    History and best weights are written after the epoch they belong to, the last weights every
    five minutes and at the end; an interrupted run goes on from there. Where a disk is full or
    gone, all of that is kept in one file, in the folder or else on the local disk, and the
    training stops.

    Keras' `BackupAndRestore`, `ModelCheckpoint` and `EarlyStopping` each keep a state of
    their own and forget it on a restart; here it is one state in one file.

    Args:
        folder: The run's folder.
        best_model: An uncompiled copy of the model, whose weight file holds no optimizer.
        progress: Where the training stands; goes on from there.
        epochs: The last epoch.
        patience: Epochs without improvement before training stops.
        local: Where the checkpoint is kept when the folder is full or gone.
    """

    def __init__(
        self,
        folder: Path,
        best_model: keras.Model,
        progress: Progress,
        epochs: int,
        patience: int,
        local: Path,
    ) -> None:
        super().__init__()
        self.folder, self.best_model = folder, best_model
        self.progress, self.epochs, self.patience = progress, epochs, patience
        self.local = local
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
        improved = logs[MONITOR] > progress.best
        if improved:
            progress.best, progress.best_epoch, progress.wait = logs[MONITOR], epoch + 1, 0
            progress.best_weights = self.model.get_weights()
        else:
            progress.wait += 1
        if progress.wait >= self.patience:
            progress.stopped_early = True
            self.model.stop_training = True
        try:
            self._write(improved)
        except StorageError as error:
            raise self._kept(error) from error

    def _write(self, improved: bool) -> None:
        """The checkpoint comes last, so that it never promises too much."""
        if improved:
            write_best(self.folder, self.best_model, self.progress)
        write_history(self.folder, self.progress)
        ended = self.progress.stopped_early or self.progress.epoch == self.epochs
        if ended or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            save_checkpoint(self.folder / LAST, self.model, self.progress)
            self.saved = time.monotonic()

    def _kept(self, error: StorageError) -> StorageError:
        """Write the checkpoint where there is room; the error, and where it is kept."""
        # The full disk may be the local one, over which the best weights go.
        for place in (self.folder / LAST, self.local):
            with contextlib.suppress(StorageError):
                self._keep_at(place)
                return StorageError(
                    error.rule,
                    error.received,
                    f"{error.advice} The training up to epoch {self.progress.epoch} is kept in "
                    f"{place}: the same call goes on from there.",
                )
        return error  # the last checkpoint in the folder is all there is

    def _keep_at(self, place: Path) -> None:
        if place == self.local:
            with explained(place):
                place.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(place, self.model, self.progress)


def write_best(folder: Path, best_model: keras.Model, progress: Progress) -> None:
    """Write the weights of the best epoch; `best_model` is an uncompiled copy of the network."""
    best_model.set_weights(progress.best_weights)
    size = sum(array.nbytes for array in progress.best_weights)
    # HDF5 kills the process on a disk that fills up; so it writes where room was made sure of.
    with _local_folder(2 * size + 2**20) as local:
        best_model.save_weights(local / BEST)
        write = partial(shutil.copyfile, local / BEST)
        write_atomically(folder / BEST, write, make_folder=False)


@contextlib.contextmanager
def _local_folder(needed: int) -> Iterator[Path]:
    """A folder on the local disk, for a while, with room for that many bytes."""
    place = Path(tempfile.gettempdir())
    advice = "Free some space there, or set TMPDIR to a folder on another disk."
    with explained(place):
        require_space(place, needed, "A copy of the best weights", advice)
        with tempfile.TemporaryDirectory(prefix="lungseg-", ignore_cleanup_errors=True) as local:
            yield Path(local)


def write_history(folder: Path, progress: Progress) -> None:
    """Write a row an epoch."""
    table = pd.DataFrame(progress.history)
    write = partial(table.to_csv, index=False)
    write_atomically(folder / HISTORY, write, make_folder=False)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
