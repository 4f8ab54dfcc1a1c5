"""The scores of each case in a file, so that single ones can be looked up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lungseg_utils.evaluation.metrics import METRICS
from lungseg_utils.files.records import write_atomically
from lungseg_utils.workspace import Workspace

_COLUMNS = ["model", "image_id", "source", "region", *METRICS, "empty_prediction"]


def write_cases(workspace: Workspace, part: str, scores: pd.DataFrame) -> Path:
    """Write the scores after post-processing to `reports/cases-<part>.csv`.

    Args:
        workspace: Where to.
        part: The part of the results: `data` or `external`.
        scores: Rows of `score_run`.

    Returns:
        The file: a row a model, case and region.
    """
    post = scores.loc[scores["stage"] == "post", _COLUMNS]
    return write_atomically(
        workspace.reports / f"cases-{part}.csv",
        lambda path: post.to_csv(path, index=False, lineterminator="\n"),
    )
