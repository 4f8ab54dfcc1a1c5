"""Scores to the figures that are recorded and shown, and which of them have changed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lungseg_utils.evaluation.summaries import (
    HEADLINE,
    TAILS,
    paired_differences,
    spread,
    summarise,
)
from lungseg_utils.files.records import differing

REFERENCE = "unet"
SOUND_SHENZHEN = "source=shenzhen, questionable=no"
DIGITS = {metric: digits for metric, (_, digits) in HEADLINE.items()}
DIGITS |= {"hd95_mm": DIGITS["hd95_px"], "assd_mm": DIGITS["assd_px"]}
_DECIMALS = 4


def figures_of(scores: pd.DataFrame) -> dict[str, dict]:
    """Means with intervals after post-processing, ready for JSON.

    Args:
        scores: Rows of `score_run`, of one or several models.

    Returns:
        Model to group of cases (those of `summarise`, and `SOUND_SHENZHEN`) to region to record.
        A record holds `n`, `patients`, `empty` and, for each metric that every case has, `mean`,
        `low` and `high`, rounded to 4 decimals; None where there is no interval. That of Dice
        holds `p5`, `min` and `under_0.9` of `spread` too. Single lungs are kept for all cases and
        for each source.
    """
    post = scores[scores["stage"] == "post"]
    summary = summarise(post)
    sound = post[(post["source"] == "shenzhen") & (post["questionable_mask"] == 0)]
    if len(sound):
        alone = summarise(sound)
        alone = alone[alone["group"] == "all"].assign(group=SOUND_SHENZHEN)
        summary = pd.concat([summary, alone], ignore_index=True)
    by_source = summary["group"].str.fullmatch("all|source=[a-z]+")
    kept = summary[(summary["region"] == "both") | by_source]
    return _nested(kept, ["model", "group", "region"])


def differences_of(scores: pd.DataFrame) -> dict[str, dict]:
    """Paired differences to the U-Net after post-processing, both lungs together.

    Args:
        scores: Rows of `score_run` of the U-Net and at least one other model.

    Returns:
        Model to group (`all` and each source) to record, as in `figures_of`; the mean is model −
        U-Net.
    """
    post = scores[(scores["stage"] == "post") & (scores["region"] == "both")]
    others = [model for model in dict.fromkeys(scores["model"]) if model != REFERENCE]
    tables = [paired_differences(post, [REFERENCE, other]) for other in others]
    return _nested(pd.concat(tables), ["model", "group"])


def spread_columns(name: str, dice: np.ndarray) -> dict[str, float]:
    """`spread` as columns of a table: the mean as `name`, the others as `name_p5` and so on."""
    found = spread(dice)
    return {name: found["mean"]} | {f"{name}_{tail}": found[tail] for tail in TAILS}


def changed_figures(recorded: dict, found: dict) -> dict[str, tuple[object, object]]:
    """List the figures that differ by more than half of the last digit that tables of means show.

    That is 0.0005 for Dice, IoU and accuracy, 0.05 for HD95 and 0.005 for ASSD. Counts must be
    the same. A figure that only one of the two has is a change from or to `(absent)`.

    Args:
        recorded: Nested records, as in `figures_of`.
        found: The same, computed anew.

    Returns:
        For each changed figure, by its names joined with dots, the recorded and the new value.
    """
    changes = differing(recorded, found)
    return {name: pair for name, pair in changes.items() if not _alike(name, *pair)}


def _alike(name: str, old: object, new: object) -> bool:
    if not isinstance(old, float | int) or not isinstance(new, float | int):
        return False
    # Not by position: `under_0.9` has a dot of its own.
    digits = next((DIGITS[part] for part in name.split(".") if part in DIGITS), None)
    # A hair more: figures of 4 decimals have no exact binary form.
    return digits is not None and abs(old - new) <= 0.5 * 10**-digits + 1e-9


def _nested(summary: pd.DataFrame, keys: list[str]) -> dict[str, dict]:
    nested: dict[str, dict] = {}
    for names, rows in summary.groupby(keys, sort=False):
        place = nested
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = dict(_record(rows.set_index("metric")))
    return nested


def _record(rows: pd.DataFrame) -> Iterator[tuple[str, object]]:
    dice = rows.loc["dice"]
    for name in ("n", "patients", "empty"):
        if name in rows:
            yield name, int(dice[name])
    for metric, row in rows.iterrows():
        # Millimetres are known for some sources only; a mean over these alone would mislead.
        if row["n"] == dice["n"]:
            names = ("mean", "low", "high", *(TAILS if metric == "dice" else ()))
            yield metric, {name: _rounded(row[name]) for name in names if name in row}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), _DECIMALS)
