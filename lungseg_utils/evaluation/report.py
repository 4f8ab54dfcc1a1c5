"""The evaluation's report: its tables, and the files they are kept in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lungseg_utils.environment import versions
from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.intervals import CONFIDENCE, MINIMUM_PATIENTS, RESAMPLES, SEED
from lungseg_utils.evaluation.metrics import METRICS
from lungseg_utils.evaluation.summaries import (
    empty_predictions,
    paired_differences,
    postprocessing_differences,
    summarise,
    without_two_lungs,
)
from lungseg_utils.files.records import file_sha256, write_atomically, write_json
from lungseg_utils.segment.postprocess import SMALLEST_LUNG, THRESHOLD
from lungseg_utils.workspace import Workspace


@dataclass(frozen=True)
class Report:
    """What was written, as tables and as files.

    Args:
        cases: A row a model, case, stage and region.
        summary: Means with intervals, from `summarise`.
        differences: Between models, from `paired_differences`.
        postprocessing: Post − raw, from `postprocessing_differences`.
        folder: Where the files lie.
    """

    cases: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    postprocessing: pd.DataFrame
    folder: Path


def write_report(
    workspace: Workspace, cases: pd.DataFrame, inputs: dict[str, object] | None = None
) -> Report:
    """Summarise the scores and write everything to `reports/`, each file whole or not at all.

    Args:
        workspace: Where to.
        cases: Rows of `score_run`, those of several models one below the other.
        inputs: What the scores were made from, kept in summary.json: the runs' records, the
            digests of data and predictions. Must be JSON.

    Returns:
        The tables; on disk cases.csv, summary.csv, differences.csv, postprocessing.csv and
        summary.json (headline figures, empty predictions, cases without two lungs, protocol,
        inputs, versions).

    Raises:
        LungsegError: There are no scores.
    """
    if not len(cases):
        raise LungsegError(
            "A report needs at least one scored case.",
            "no rows",
            "Train a model (notebook 04_train_unet) and predict its test split.",
        )
    report = Report(
        cases=cases,
        summary=summarise(cases),
        differences=paired_differences(cases),
        postprocessing=postprocessing_differences(cases),
        folder=workspace.reports,
    )
    for name in ("cases", "summary", "differences", "postprocessing"):
        table = getattr(report, name)
        write_atomically(
            report.folder / f"{name}.csv",
            lambda path, table=table: table.to_csv(path, index=False, lineterminator="\n"),
        )
    write_json(report.folder / "summary.json", _record(report, inputs or {}))
    return report


def _record(report: Report, inputs: dict[str, object]) -> dict[str, object]:
    empty = empty_predictions(report.cases)
    return {
        "headline": _headline(report.summary),
        "empty_predictions": empty.to_dict("records"),
        "without_two_lungs": without_two_lungs(report.cases),
        "protocol": {
            "threshold": THRESHOLD,
            "smallest_lung": SMALLEST_LUNG,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": SEED,
            "minimum_patients": MINIMUM_PATIENTS,
        },
        "inputs": inputs,
        "cases_sha256": file_sha256(report.folder / "cases.csv"),
        "versions": versions(),
    }


def _headline(summary: pd.DataFrame) -> list[dict[str, object]]:
    """A record a model and stage, over all cases and both lungs; None where there is no number."""
    chosen = summary[(summary["region"] == "both") & (summary["group"] == "all")]
    records = []
    for (model, stage), rows in chosen.groupby(["model", "stage"], sort=False):
        of_metric = rows.set_index("metric")
        dice = of_metric.loc["dice"]
        record = {"model": model, "stage": stage}
        record |= {"n": int(dice["n"]), "patients": int(dice["patients"])}
        record["empty"] = int(dice["empty"])
        for metric in METRICS:
            numbers = of_metric.loc[metric, ["mean", "low", "high"]].astype(float)
            record[metric] = {k: None if pd.isna(v) else v for k, v in numbers.items()}
        records.append(record)
    return records
