"""A run's probabilities for a split, written where the evaluation reads them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from lungseg_utils.errors import (
    InvalidValueError,
    LungsegError,
    MissingInputError,
    StaleOutputError,
)
from lungseg_utils.files.records import file_sha256, write_atomically
from lungseg_utils.preparation.arrays import data_digest, load_prepared
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import ExportedRun, predict_images
from lungseg_utils.training.runs import NOTEBOOKS, Run
from lungseg_utils.workspace import Workspace

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def predict_split(run: Run, cases: Cases, split: str, batch_size: int = 8) -> Path:
    """Write a run's probabilities for the cases of a split.

    Skipped when the file holds these cases and this run's best weights already.

    Args:
        run: The run; its preprocessing is applied to the images.
        cases: Prepared cases at the run's size, of any split.
        split: `train`, `val`, `test`, `excluded` or `unlabelled`.
        batch_size: Images predicted at once.

    Returns:
        `runs/<name>/predictions/<split>.npz`: `ids` (N,) text, `probability` float16
        `(N, size, size)` in [0, 1], `digest` of weights and images.

    Raises:
        InvalidValueError: The cases were prepared at another size.
    """
    if cases.size != run.config.size:
        raise InvalidValueError(
            f"The run {run.name} predicts at {run.config.size} pixels.",
            f"cases prepared at {cases.size}",
            "Pass load_prepared(workspace, run.config.size).",
        )
    path = predictions_path(run.folder, split)
    digest = _wanted_digest(run, cases)
    if path.is_file() and _stored_digest(path) == digest:
        return path
    chosen = cases.select(split)
    probability = predict_in_batches(run, chosen.images, f"Predicting {split}", batch_size)
    arrays = {"ids": chosen.ids, "probability": probability.astype(np.float16), "digest": digest}
    return write_atomically(path, lambda temporary: np.savez(temporary, **arrays))


def predict_all(
    run: Run, workspace: Workspace, splits: Sequence[str] = ("val", "test", "unlabelled")
) -> list[Path]:
    """Write a run's probabilities for every case that the evaluation reads; see `predict_split`.

    Args:
        run: The run.
        workspace: Holds the X-rays, prepared at the run's size.
        splits: Which to predict.
    """
    cases = load_prepared(workspace, run.config.size)
    return [predict_split(run, cases, split) for split in splits]


def predict_in_batches(
    run: Run | ExportedRun, images: np.ndarray, title: str = "", batch_size: int = 8
) -> np.ndarray:
    """Probabilities of many images, with a progress bar.

    Args:
        run: Gives network, weights and preprocessing.
        images: uint8 `(N, size, size)` grey, at the run's size.
        title: Of the bar; empty for the run's name.
        batch_size: Images predicted at once.

    Returns:
        float32 `(N, size, size)` in [0, 1].
    """
    predictor, probability = run.load_predictor(), np.empty(images.shape, np.float32)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, title or f"Predicting {run.name}", unit="batch"):
        batch = slice(start, start + batch_size)
        probability[batch] = predict_images(run, predictor, images[batch])
    return probability


def load_predictions(run_folder: Path | str, split: str) -> tuple[list[str], np.ndarray]:
    """Read what `predict_split` wrote.

    Returns:
        The image ids, and float32 probabilities `(N, size, size)` in their order.

    Raises:
        MissingInputError: The run has no predictions for this split.
        LungsegError: They are damaged.
    """
    path = predictions_path(Path(run_folder), split)
    if not path.is_file():
        notebook = NOTEBOOKS.get(Path(run_folder).name, "that trains it")
        raise MissingInputError(
            "A run's predictions must be written before they are evaluated.",
            f"no file {path}",
            f"Run notebook {notebook} first, or check RUNS and SPLIT.",
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["ids"].tolist(), arrays["probability"].astype(np.float32)
    except _DAMAGED as error:
        raise LungsegError(
            "A run's predictions are whole, as they were written.",
            f"{path} ({error})",
            "Delete the file and run the notebook that trained the run: it predicts again.",
        ) from error


def check_predictions(workspace: Workspace, run: Run, split: str, eval_size: int) -> None:
    """Refuse predictions that are not of the run's best weights and of the prepared X-rays.

    Args:
        workspace: Holds the prepared X-rays.
        run: The run.
        split: The split that is scored.
        eval_size: The size it is scored at.

    Raises:
        MissingInputError: The run has no predictions for this split.
        StaleOutputError: The run went on, or the X-rays were prepared anew, after predicting.
    """
    ids, _ = load_predictions(run.folder, split)
    cases = load_prepared(workspace, run.config.size)
    path = predictions_path(run.folder, split)
    same_data = data_digest(workspace, run.config.size) == data_digest(workspace, eval_size)
    current = _stored_digest(path) == _wanted_digest(run, cases)
    if not (same_data and current and ids == cases.select(split).ids):
        changed = "the best weights or the X-rays" if same_data else "the X-rays of one size"
        raise StaleOutputError(
            "Predictions are scored for the weights and the X-rays they were made from.",
            f"{path}, older than {changed}",
            f"Run notebook {NOTEBOOKS[run.config.model]} again; if it finds other X-rays, run "
            "03_preprocess_and_stitch for all sizes first.",
        )


def predictions_path(run_folder: Path, split: str) -> Path:
    """Where a run's predictions for a split lie."""
    return run_folder / "predictions" / f"{split}.npz"


def _wanted_digest(run: Run, cases: Cases) -> str:
    return f"{file_sha256(run.best_weights)} {cases.digest}"


def _stored_digest(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["digest"])
    except _DAMAGED:
        return ""  # damaged or foreign: predicted again
