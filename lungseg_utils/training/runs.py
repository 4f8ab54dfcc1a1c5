"""A training run on disk: what it was made with, how it went, its best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import file_sha256, require_record, write_json
from lungseg_utils.models.registry import NETWORKS, build_architecture
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.devices import explained_exhaustion
from lungseg_utils.training.weights import assign_weights, read_weights, save_weights, weights_of

RECORD = "run.json"
_WHOLE = f"A run's {RECORD} is whole, as the training wrote it."
BEST = "best.npz"
LAST = "last.npz"
HISTORY = "history.csv"
_FORMER_BEST = "best.weights.h5"  # of an earlier version
HALF_SIZE = "half_size"  # in a run's folder, that of its first stage
NOTEBOOKS = {name: network.notebook for name, network in NETWORKS.items()}


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
    def weights_sha256(self) -> str:
        """SHA-256 of the best weights' file."""
        return file_sha256(self.best_weights)

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
        model = build_architecture(self.config.model, self.config.size, self.config.model_options)
        try:
            wanted = self.record.get("best_weights_sha256") if self.record.get("finished") else None
            assign_weights(model, read_weights(self.best_weights, wanted))
        except (OSError, ValueError) as error:
            raise LungsegError(
                "A run's weights must be whole and fit the network that run.json describes.",
                f"{self.best_weights} ({error})",
                train_again(self.folder),
            ) from error
        return model

    def load_predictor(self) -> Callable[[np.ndarray], np.ndarray]:
        """The run's network as a function: float32 `(N, size, size, 1)` to probability."""
        model = self.load_model()

        def predict(inputs: np.ndarray) -> np.ndarray:
            import keras

            with explained_exhaustion(
                f"A batch of {len(inputs)} X-rays of {inputs.shape[1]} × {inputs.shape[2]} pixels",
                "Lower batch_size where there are several, end other notebooks that use the GPU, "
                "or take a run of lower SIZE or BASE_FILTERS.",
            ):
                # Called directly: `predict` would compile anew for each smaller batch.
                return keras.ops.convert_to_numpy(model(inputs, training=False))

        return predict


def load_run(folder: Path | str) -> Run:
    """Open a training run.

    Args:
        folder: `runs/<name>` of the workspace.

    Raises:
        MissingInputError: There is no run, or it has no checkpoint yet; what an earlier version
            trained is taken over by running its notebook again.
        LungsegError: `run.json` is damaged or does not describe a run.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() or not (folder / BEST).is_file():
        notebook = NOTEBOOKS.get(folder.name, " or ".join(NOTEBOOKS.values()))
        raise MissingInputError(
            "A run must be trained before it is used.",
            f"no {RECORD} with a {BEST} in {folder}",
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


def adopt_former(folder: Path) -> None:
    """Give a run of an earlier version its best weights in the present form.

    Its checkpoint holds them too, so that the former file need not be read.

    Args:
        folder: The run's folder; any other run is left as it is.

    Raises:
        LungsegError: The checkpoint is gone or damaged; says what to delete.
    """
    if not (folder / _FORMER_BEST).is_file():
        return
    record = read_run_record(folder, "config")
    config = TrainingConfig.from_dict(record["config"])
    model = build_architecture(config.model, config.size, config.model_options)
    try:
        with np.load(folder / LAST, allow_pickle=False) as arrays:
            model.set_weights([arrays[f"best_{index}"] for index in range(len(model.weights))])
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise LungsegError(
            "A run of an earlier version goes on from its whole checkpoint.",
            f"{folder / LAST} ({error})",
            train_again(folder),
        ) from error
    save_weights(folder / BEST, weights_of(model))
    if "best_weights_sha256" in record:
        record["best_weights_sha256"] = file_sha256(folder / BEST)
        write_json(folder / RECORD, record)
    # Last, so that a killed process has done nothing that is not done again.
    (folder / _FORMER_BEST).unlink()


def train_again(folder: Path) -> str:
    """Advice for a damaged run: `overwrite` alone leaves a run of the same parameters as it is."""
    return f"Delete the folder {folder} and run the notebook again that trained it."


def stage_histories(runs: Iterable[Run]) -> dict[str, dict[str, pd.DataFrame]]:
    """Histories by stage of the training, as `scores.learning_curves` draws them.

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
