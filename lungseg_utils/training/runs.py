"""A training run on disk: what it was made with, how it went, its best weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import file_sha256, require_record
from lungseg_utils.training.config import TrainingConfig

RECORD = "run.json"
_WHOLE = f"A run's {RECORD} is whole, as the training wrote it."
BEST = "best.weights.h5"
HISTORY = "history.csv"
HALF_SIZE = "half_size"  # in a run's folder, that of its first stage
NOTEBOOKS = {
    "unet": "04_train_unet",
    "unetpp": "05_train_unetpp",
    "pix2pix": "06_train_pix2pix",
}


@dataclass(frozen=True)
class Run:
    """A finished or interrupted training run.

    Args:
        folder: `runs/<name>` of the workspace.
        config: What it was trained with.
        record: The whole of `run.json`.
    """

    folder: Path
    config: TrainingConfig
    record: dict

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.folder.name

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: `epoch` from 1, losses, `dice`, `val_dice`, `seconds`."""
        return pd.read_csv(self.folder / HISTORY)

    @property
    def best_weights(self) -> Path:
        """The weights of the epoch with the best validation Dice."""
        return self.folder / BEST

    def load_model(self):
        """Build the run's network and load its best weights.

        Returns:
            A `keras.Model`: float32 `(N, size, size, 1)` in [0, 1] to a probability of the
            same shape.

        Raises:
            LungsegError: The weight file is damaged, of another architecture, or holds anything
                but plain numbers. Nothing in it is executed.
        """
        from lungseg_utils.models.registry import build_architecture
        from lungseg_utils.training.weights import load_weights

        model = build_architecture(self.config.model, self.config.size, self.config.model_options)
        try:
            check_best(self.record, self.best_weights)
            load_weights(model, self.best_weights)
        except Exception as error:  # h5py and Keras raise many kinds
            raise LungsegError(
                "A run's weights must be whole and fit the network that run.json describes.",
                f"{self.best_weights} ({error})",
                train_again(self.folder),
            ) from error
        return model


def check_best(record: dict, best_weights: Path) -> None:
    """Compare the best weights of a finished run with the SHA-256 in its record.

    Raises:
        ValueError: They differ.
    """
    if record.get("finished") and "best_weights_sha256" in record:
        found = file_sha256(best_weights)
        if found != record["best_weights_sha256"]:
            raise ValueError(f"SHA-256 {found}, not that of the weights the training ended with")


def load_run(folder: Path | str) -> Run:
    """Open a training run.

    Args:
        folder: `runs/<name>` of the workspace.

    Raises:
        MissingInputError: There is no run, or it has not finished an epoch.
        LungsegError: `run.json` is damaged or does not describe a run.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() or not (folder / BEST).is_file():
        notebook = NOTEBOOKS.get(folder.name, "04_train_unet, 05_train_unetpp or 06_train_pix2pix")
        raise MissingInputError(
            "A run must be trained before it is used.",
            f"no run with weights in {folder}",
            f"Run notebook {notebook} first, or check RUN_NAME and WORKSPACE.",
        )
    record = read_run_record(folder, "config")
    try:
        return Run(folder, TrainingConfig.from_dict(record["config"]), record)
    except LungsegError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise LungsegError(_WHOLE, f"{folder / RECORD} ({reason})", train_again(folder)) from error


def read_run_record(folder: Path, *keys: str) -> dict:
    """Read a run's `run.json`.

    Args:
        folder: The run's folder.
        *keys: What the record must hold.

    Raises:
        LungsegError: It is damaged, or lacks a key.
    """
    return require_record(folder / RECORD, keys, _WHOLE, train_again(folder))


def train_again(folder: Path) -> str:
    """Advice for a damaged run: `overwrite` alone leaves a run of the same parameters as it is."""
    return f"Delete the folder {folder} and run the notebook again that trained it."


def stage_histories(runs: Iterable[Run]) -> dict[str, dict[str, pd.DataFrame]]:
    """Histories by stage of the training, as `plots.learning_curves` draws them.

    Args:
        runs: One or several.

    Returns:
        Of each stage the runs' histories by name: `at half the size` first, if any of the runs
        began there, then `at full size`.
    """
    half, full = {}, {}
    for run in runs:
        first = run.folder / HALF_SIZE / HISTORY
        if first.is_file():
            half[run.name] = pd.read_csv(first)
        full[run.name] = run.history
    stages = {"at half the size": half, "at full size": full}
    return {stage: histories for stage, histories in stages.items() if histories}
