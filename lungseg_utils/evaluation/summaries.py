"""Tables over cases: means with intervals, paired differences, worst cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from lungseg_utils.errors import check_known
from lungseg_utils.evaluation.intervals import bootstrap_means, count_patients
from lungseg_utils.evaluation.metrics import METRICS, REGIONS
from lungseg_utils.evaluation.scoring import AGE_BANDS, STAGES, UNKNOWN

HIGHER_IS_BETTER = ("dice", "iou", "accuracy")
HEADLINE = {
    "dice": ("Dice", 3),
    "iou": ("IoU", 3),
    "accuracy": ("Accuracy", 3),
    "hd95_px": ("HD95 (px)", 1),
    "assd_px": ("ASSD (px)", 2),
}
"""The headline table's metrics: column title and digits."""
TAILS = {
    "p5": ("Dice p5", "{:.3f}"),
    "min": ("Dice min", "{:.3f}"),
    "under_0.9": ("Dice < 0.9", "{:.1%}"),
}
"""What of `spread` is shown beside the mean of Dice: column title and format."""


def spread(dice: np.ndarray) -> dict[str, float]:
    """How good a network is, and how bad it gets: what a mean hides.

    Args:
        dice: Dice of each case (N,), at least one.

    Returns:
        `mean`, `p5` (the 5th percentile, linear between cases), `min`, and `under_0.9`, the share
        of cases below 0.9.
    """
    values = np.asarray(dice, np.float64)
    tails = (np.percentile(values, 5), values.min(), (values < 0.9).mean())
    return {"mean": values.mean(), **dict(zip(TAILS, tails, strict=True))}


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """Means with 95 % intervals by model, stage, region and group of cases.

    Args:
        cases: Rows of `score_run`, of one or several models.

    Returns:
        Columns model, stage, region, group (`all`, `source=montgomery`, `tuberculosis=yes`,
        `sex=F`, `age=40-64`, `questionable=no`, …), metric, n (cases with a value), patients,
        mean, low, high (NaN under 10 patients; all NaN where no case has a value), empty (empty
        predictions among the cases), and p5, min and under_0.9 of `spread` for Dice, else NaN.
    """
    keys = ["model", "stage", "region"]
    tables = []
    for group, members in groups_of(cases):
        values = _table(members, [*keys, "metric"])
        table = _interval_rows(values, members)
        empty = members.groupby(keys)["empty_prediction"].sum().rename("empty")
        table = table.merge(empty, left_on=keys, right_index=True, how="left")
        tails = members.groupby(keys)["dice"].apply(spread).unstack()[[*TAILS]]
        table = table.merge(tails, left_on=keys, right_index=True, how="left")
        table.loc[table["metric"] != "dice", [*TAILS]] = np.nan
        tables.append(table.assign(group=group))
    columns = [*keys, "group", "metric", "n", "patients", "mean", "low", "high", "empty", *TAILS]
    return pd.concat(tables, ignore_index=True)[columns]


def paired_differences(cases: pd.DataFrame, models: Sequence[str] | None = None) -> pd.DataFrame:
    """Differences between models on the same cases, with paired 95 % intervals.

    Args:
        cases: Rows of `score_run` of at least two models.
        models: Which, in order; None: all, in the order of their first row. Each later model is
            compared with each earlier one.

    Returns:
        Columns model, reference, stage, region, group (`all` and each source), metric, n,
        patients, mean (model − reference), low, high.
    """
    models = list(models) if models is not None else list(dict.fromkeys(cases["model"]))
    check_known(models, [*dict.fromkeys(cases["model"])], "A model")
    pairs = [(later, earlier) for earlier, later in combinations(models, 2)]
    return _differences(cases, "model", "stage", pairs)


def postprocessing_differences(cases: pd.DataFrame) -> pd.DataFrame:
    """What post-processing changes: post − raw of each model, with paired 95 % intervals.

    Returns:
        Columns stage (`post`), reference (`raw`), model, region, group, metric, n, patients, mean,
        low, high.
    """
    return _differences(cases, "stage", "model", [("post", "raw")])


def worst_cases(
    cases: pd.DataFrame, count: int = 8, metric: str = "dice", stage: str = "post"
) -> pd.DataFrame:
    """Each model's worst cases, both lungs together, worst first.

    Args:
        cases: Rows of `score_run`.
        count: How many of each model.
        metric: One of `METRICS`; low is bad for Dice, IoU and accuracy, high for distances.
        stage: `raw` or `post`.

    Returns:
        The rows of these cases.
    """
    check_known(metric, METRICS, "A metric")
    chosen = cases[(cases["stage"] == stage) & (cases["region"] == "both")]
    chosen = chosen.dropna(subset=[metric])
    ordered = chosen.sort_values(
        [metric, "image_id"], ascending=[metric in HIGHER_IS_BETTER, True], kind="stable"
    )
    models = list(dict.fromkeys(cases["model"]))
    return pd.concat([ordered[ordered["model"] == model].head(count) for model in models])


def headline_table(
    summary: pd.DataFrame, stage: str = "post", region: str = "both"
) -> pd.DataFrame:
    """The compact table to print: a row a model, each mean over all cases with its interval.

    Args:
        summary: From `summarise`.
        stage: `raw` or `post`.
        region: `both`, `right` or `left`.

    Returns:
        Columns Dice, IoU, Accuracy, HD95 (px), ASSD (px), Dice p5, Dice min, Dice < 0.9 (from
        `spread`), n and Empty; the index is the model.
    """
    for value, column in ((stage, "stage"), (region, "region")):
        check_known(value, [*dict.fromkeys(summary[column])], f"A {column}")
    chosen = summary[
        (summary["stage"] == stage) & (summary["region"] == region) & (summary["group"] == "all")
    ]
    rows = {}
    for model, of_model in chosen.groupby("model", sort=False):
        of_metric = of_model.set_index("metric")
        cells = {
            title: format_interval(*of_metric.loc[metric, ["mean", "low", "high"]], digits=digits)
            for metric, (title, digits) in HEADLINE.items()
        }
        dice = of_metric.loc["dice"]
        cells |= {title: form.format(dice[key]) for key, (title, form) in TAILS.items()}
        rows[model] = {**cells, "n": int(dice["n"]), "Empty": int(dice["empty"])}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def group_table(summary: pd.DataFrame, metric: str = "dice", stage: str = "post") -> pd.DataFrame:
    """One metric of both lungs for every group of cases, a column a model, with intervals.

    Args:
        summary: From `summarise`.
        metric: One of the headline's metrics.
        stage: `raw` or `post`.

    Returns:
        Column n (cases) and a column a model; the index is the group.
    """
    check_known(metric, HEADLINE, "A metric")
    chosen = summary[
        (summary["metric"] == metric) & (summary["stage"] == stage) & (summary["region"] == "both")
    ]
    digits = HEADLINE[metric][1]
    rows: dict[str, dict[str, object]] = {}
    for row in chosen.itertuples():
        cells = rows.setdefault(row.group, {"n": row.n})
        cells[row.model] = format_interval(row.mean, row.low, row.high, digits)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


def format_interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`0.961 [0.955, 0.966]`; the mean alone where there is no interval, `n/a` without a mean."""
    if np.isnan(mean):
        return "n/a"
    if np.isnan(low) or np.isnan(high):
        return f"{mean:z.{digits}f}"
    return f"{mean:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def empty_predictions(cases: pd.DataFrame) -> pd.DataFrame:
    """The empty predictions, a row each: model, stage, region, image_id."""
    return cases.loc[cases["empty_prediction"] == 1, ["model", "stage", "region", "image_id"]]


def without_two_lungs(cases: pd.DataFrame) -> list[str]:
    """Ids of the cases left out of the scores per lung: their truth has not exactly two lungs."""
    per_lung = set(cases.loc[cases["region"] != "both", "image_id"])
    return sorted(set(cases["image_id"]) - per_lung)


def groups_of(cases: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The groups the summary is made by: each name and its rows; empty groups are left out."""
    yield "all", cases
    yes_no = {1: "yes", 0: "no"}
    sex = cases["sex"].replace("", UNKNOWN)
    factors = {
        "source": (cases["source"], sorted(cases["source"].unique())),
        "tuberculosis": (cases["tuberculosis"].map(yes_no), ["no", "yes"]),
        "sex": (sex, ["F", "M", UNKNOWN]),
        "age": (cases["age_band"], [*AGE_BANDS, UNKNOWN]),
        "questionable": (cases["questionable_mask"].map(yes_no), ["no", "yes"]),
    }
    for factor, (values, levels) in factors.items():
        for level in levels:
            if (values == level).any():
                yield f"{factor}={level}", cases[values == level]


def risk_coverage(dice: np.ndarray, trust: np.ndarray) -> pd.DataFrame:
    """What is lost where only the masks that are trusted most are used without a look.

    Args:
        dice: Of each case.
        trust: Of each case, higher for better masks, in whatever unit.

    Returns:
        A row a case, the most trusted first: `coverage`, the share of cases up to it, and `risk`,
        their mean of 1 − Dice (Geifman and El-Yaniv 2017, arXiv 1705.08500).
    """
    loss = 1 - np.asarray(dice)[np.argsort(-np.asarray(trust), kind="stable")]
    count = np.arange(1, len(loss) + 1)
    return pd.DataFrame({"coverage": count / len(loss), "risk": np.cumsum(loss) / count})


def _differences(
    cases: pd.DataFrame, compared: str, kept: str, pairs: list[tuple[str, str]]
) -> pd.DataFrame:
    columns = [compared, "reference", kept, "region", "group", "metric"]
    tables = [pd.DataFrame(columns=[*columns, "n", "patients", "mean", "low", "high"])]
    for group, members in groups_of(cases):
        if group != "all" and not group.startswith("source="):
            continue
        values = _table(members, [compared, kept, "region", "metric"])
        for one, reference in pairs:
            if not {one, reference} <= set(values.columns.get_level_values(compared)):
                continue
            both = values[one].columns.intersection(values[reference].columns, sort=False)
            rows = _interval_rows(values[one][both] - values[reference][both], members)
            tables.append(rows.assign(**{compared: one, "reference": reference, "group": group}))
    filled = [table for table in tables if len(table)] or tables
    return pd.concat(filled, ignore_index=True)[list(tables[0].columns)]


def _table(cases: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Values as image_id × columns, columns ordered as they first appear in the cases."""
    keys = [column for column in columns if column != "metric"]
    long = cases.melt(
        id_vars=["image_id", *keys],
        value_vars=list(METRICS),
        var_name="metric",
    )
    table = long.pivot(index="image_id", columns=columns, values="value")
    orders = {"stage": STAGES, "region": REGIONS, "metric": METRICS}
    orders["model"] = tuple(dict.fromkeys(cases["model"])) if "model" in cases else ()
    ordered = sorted(
        table.columns,
        key=lambda names: [
            orders[column].index(name) for column, name in zip(columns, names, strict=True)
        ],
    )
    return table[pd.MultiIndex.from_tuples(ordered, names=columns)]


def _interval_rows(values: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """A row a column of values: its keys, n, patients, mean, low, high."""
    known = cases.drop_duplicates("image_id").set_index("image_id").loc[values.index]
    present = values.notna().to_numpy()
    rows = pd.DataFrame(list(values.columns), columns=values.columns.names)
    results = pd.DataFrame(
        np.nan, index=rows.index, columns=["n", "patients", "mean", "low", "high"]
    )
    # Columns with a value for the same cases (all; those with mm; those with two lungs) share
    # their draws.
    for pattern in np.unique(present, axis=1).T:
        alike = np.flatnonzero((present == pattern[:, None]).all(axis=0))
        some = values.to_numpy()[np.ix_(pattern, alike)]
        patients, strata = known["patient_group"][pattern], known["source"][pattern]
        mean = some.mean(axis=0) if len(some) else np.full(len(alike), np.nan)
        low, high = bootstrap_means(some, patients.to_numpy(), strata.to_numpy())
        counts = [np.full(len(alike), pattern.sum()), count_patients(patients, strata)]
        results.iloc[alike] = np.column_stack(np.broadcast_arrays(*counts, mean, low, high))
    results = results.astype({"n": int, "patients": int})
    return pd.concat([rows, results], axis=1)
