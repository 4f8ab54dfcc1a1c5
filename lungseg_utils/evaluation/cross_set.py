"""Networks trained on one source alone, scored on the other: what is left of a figure elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.scoring import SCORE_COLUMNS, score_run
from lungseg_utils.manifest import SOURCES
from lungseg_utils.preparation.imaging import resize_image
from lungseg_utils.segment.network import CROSS_SET, WEIGHTS, ExportedRun, load_shipped
from lungseg_utils.segment.predict import predict_in_batches
from lungseg_utils.training.runs import RECORD, Run, load_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lungseg_utils.preparation.cases import Cases
    from lungseg_utils.workspace import Workspace


def single_source_runs(workspace: Workspace) -> list[Run | ExportedRun]:
    """Runs of a workspace that were trained on one source alone; if there is none, the shipped.

    The shipped ones are part of a checkout, not of an installed package.

    Args:
        workspace: Its runs are read. A damaged one is named in a printed line and left out.
    """
    runs = []
    for path in sorted(workspace.runs.glob(f"*/{RECORD}")):
        try:
            runs.append(load_run(path.parent))
        except LungsegError as error:
            print(f"{path.parent.name} is left out: {error.received}.")
    alone = [run for run in runs if len(run.record.get("sources", SOURCES)) == 1]
    there = [name for name in CROSS_SET if (WEIGHTS / f"{name}.onnx").is_file()]
    return alone or [load_shipped(name) for name in there]


def score_all_cross_set(runs: Sequence[Run | ExportedRun], cases: Cases) -> pd.DataFrame:
    """`score_cross_set` of several networks, one below the other.

    Args:
        runs: One that has seen every source of the cases, or whose weights are damaged, is named
            in a printed line and left out.
        cases: As for `score_cross_set`.

    Returns:
        As `score_run`; no rows where all were left out.
    """
    tables = []
    for run in runs:
        try:
            tables.append(score_cross_set(run, cases))
        except LungsegError as error:
            print(f"{run.name} is left out: {error.received}.")
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=SCORE_COLUMNS)


def score_cross_set(run: Run | ExportedRun, cases: Cases) -> pd.DataFrame:
    """Score a network on every case with a mask of the sources that it was not trained on.

    A smaller network gets the prepared X-rays reduced once more. The benchmark prepares each size
    from the files, so that its figures may differ in the last digit.

    Args:
        run: Trained on some of the sources.
        cases: Prepared at the size to score at, of any split.

    Returns:
        As `score_run`; every case of the other source counts, as none of them was seen.

    Raises:
        LungsegError: There is no such case.
    """
    index = cases.index
    unseen = ~index["source"].isin(run.record["sources"]) & (index["has_mask"] == 1)
    other = cases.take(np.flatnonzero(unseen))
    if not len(other):
        raise LungsegError(
            "Scoring across sources needs cases of a source that the network has not seen.",
            f"no case with a mask beyond {' and '.join(run.record['sources'])}, which {run.name} "
            "was trained on",
            "Prepare both sources, and train with TRAIN_SOURCE 'montgomery' or 'shenzhen'.",
        )
    seen = np.stack([resize_image(image, run.config.size) for image in other.images])
    return score_run(run.name, other.ids, predict_in_batches(run, seen), other)
