from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scored import make_scores

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation import summaries
from lungseg_utils.evaluation.intervals import bootstrap_means

TWELVE = [0.9 + number / 200 for number in range(12)]


def only(table: pd.DataFrame, **where) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_means_and_intervals_of_everything():
    scores = make_scores({"unet": TWELVE})
    row = only(summaries.summarise(scores), group="all", metric="dice")
    assert row["mean"] == pytest.approx(np.mean(TWELVE))
    assert (row["n"], row["patients"], row["empty"]) == (12, 12, 0)
    low, high = bootstrap_means(
        np.array(TWELVE)[:, None], scores["patient_group"], scores["source"]
    )
    assert (row["low"], row["high"]) == pytest.approx((low[0], high[0]))
    assert low[0] < row["mean"] < high[0]


def test_the_spread_is_worked_out_by_hand():
    # The 5th percentile of five values lies a fifth of the way from the lowest to the next.
    found = summaries.spread([0.96, 0.7, 0.9, 0.94, 0.8])
    wanted = {"mean": 0.86, "p5": 0.72, "min": 0.7, "under_0.9": 0.4}
    assert found == pytest.approx(wanted)

    scores = make_scores({"unet": [0.96, 0.7, 0.9, 0.94, 0.8], "pix2pix": [0.95] * 5})
    summary = summaries.summarise(pd.concat([scores, scores.assign(stage="raw", dice=0.5)]))
    row = only(summary, model="unet", stage="post", group="all", metric="dice")
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    assert summary.loc[summary["metric"] != "dice", [*summaries.TAILS]].isna().all(axis=None)
    table = summaries.headline_table(summary)
    assert list(table.loc["unet", ["Dice p5", "Dice min", "Dice < 0.9"]]) == [
        "0.720",
        "0.700",
        "40.0%",
    ]
    assert list(table.loc["pix2pix", ["Dice p5", "Dice < 0.9"]]) == ["0.950", "0.0%"]


def test_groups_have_their_own_cases():
    scores = make_scores(
        {"unet": [0.1, 0.2, 0.6, 0.9]},
        source=["montgomery", "shenzhen", "shenzhen", "shenzhen"],
        tuberculosis=[0, 1, 1, 0],
        sex=["F", "M", "", "M"],
        age_band=["under 16", "65 and over", "unknown", "16-39"],
        questionable_mask=[0, 0, 0, 1],
    )
    summary = summaries.summarise(scores)
    dice = summary[summary["metric"] == "dice"].set_index("group")
    means = {
        "all": 0.45,
        "source=montgomery": 0.1,
        "source=shenzhen": 1.7 / 3,
        "tuberculosis=no": 0.5,
        "tuberculosis=yes": 0.4,
        "sex=F": 0.1,
        "sex=M": 0.55,
        "sex=unknown": 0.6,
        "age=under 16": 0.1,
        "age=16-39": 0.9,
        "age=65 and over": 0.2,
        "age=unknown": 0.6,
        "questionable=no": 0.3,
        "questionable=yes": 0.9,
    }
    assert list(dice.index) == list(means)
    assert dice["mean"].to_dict() == pytest.approx(means)
    assert dice["low"].isna().all()  # four patients are too few


def test_millimetres_are_averaged_over_the_cases_that_have_them():
    millimetres = [math.nan] * 10 + [2.0, 4.0]
    summary = summaries.summarise(make_scores({"unet": TWELVE}, hd95_mm=millimetres))
    row = only(summary, group="all", metric="hd95_mm")
    assert (row["n"], row["mean"]) == (2, 3)
    assert math.isnan(row["low"])
    none = only(summary, group="all", metric="assd_mm")
    assert none["n"] == 0
    assert math.isnan(none["mean"])
    assert math.isfinite(only(summary, group="all", metric="dice")["low"])


def test_models_stages_and_regions_stay_apart_and_in_order():
    post = make_scores({"unetpp": [0.5, 0.7], "unet": [0.6, 0.6]})
    raw = post.assign(stage="raw", dice=post["dice"] - 0.1, empty_prediction=[1, 0, 0, 0])
    left = post.assign(region="left", dice=0.2)
    summary = summaries.summarise(pd.concat([post, left, raw], ignore_index=True))
    dice = summary[(summary["metric"] == "dice") & (summary["group"] == "all")]
    found = dice[["model", "stage", "region", "mean", "empty"]].apply(tuple, axis=1).tolist()
    assert found == [
        ("unetpp", "raw", "both", pytest.approx(0.5), 1),
        ("unetpp", "post", "both", pytest.approx(0.6), 0),
        ("unetpp", "post", "left", pytest.approx(0.2), 0),
        ("unet", "raw", "both", pytest.approx(0.5), 0),
        ("unet", "post", "both", pytest.approx(0.6), 0),
        ("unet", "post", "left", pytest.approx(0.2), 0),
    ]


def test_differences_are_paired():
    better = [value + 0.01 for value in TWELVE]
    scores = make_scores({"unet": TWELVE, "unetpp": better, "pix2pix": TWELVE[::-1]})
    differences = summaries.paired_differences(scores)
    pairs = differences[["model", "reference"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert pairs == [("unetpp", "unet"), ("pix2pix", "unet"), ("pix2pix", "unetpp")]
    row = only(differences, model="unetpp", reference="unet", group="all", metric="dice")
    # Better by the same amount on every case: no doubt at all, though the cases vary.
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.01, 0.01, 0.01))
    mirrored = only(differences, model="pix2pix", reference="unet", group="all", metric="dice")
    assert mirrored["mean"] == pytest.approx(0)
    assert mirrored["low"] < -0.01
    assert mirrored["high"] > 0.01


def test_differences_take_the_cases_that_both_models_have():
    scores = make_scores({"unet": [0.9, 0.8], "unetpp": [0.5]})
    row = only(summaries.paired_differences(scores), group="all", metric="dice")
    assert row["n"] == 1
    assert row["mean"] == pytest.approx(-0.4)


def test_chosen_models_set_the_direction_and_unknown_ones_are_refused():
    scores = make_scores({"unet": [0.9, 0.8], "unetpp": [0.5, 0.5]})
    differences = summaries.paired_differences(scores, ["unetpp", "unet"])
    assert only(differences, group="all", metric="dice")["mean"] == pytest.approx(0.35)
    with pytest.raises(LungsegError, match="unt"):
        summaries.paired_differences(scores, ["unt", "unet"])


def test_what_post_processing_changes():
    post = make_scores({"unet": TWELVE})
    scores = pd.concat([post, post.assign(stage="raw", dice=post["dice"] - 0.02)])
    row = only(summaries.postprocessing_differences(scores), group="all", metric="dice")
    assert (row["stage"], row["reference"], row["model"]) == ("post", "raw", "unet")
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.02, 0.02, 0.02))


def test_worst_cases_are_low_dice_and_long_distances():
    scores = make_scores(
        {"unet": [0.9, 0.7, 0.8], "unetpp": [0.5, 0.6, 0.7]}, hd95_px=[3.0, 1.0, 2.0]
    )
    worst = summaries.worst_cases(scores, count=2)
    assert worst[["model", "image_id"]].apply(tuple, axis=1).tolist() == [
        ("unet", "case01"),
        ("unet", "case02"),
        ("unetpp", "case00"),
        ("unetpp", "case01"),
    ]
    far = summaries.worst_cases(scores, count=1, metric="hd95_px")
    assert far["image_id"].tolist() == ["case00", "case00"]
    with pytest.raises(LungsegError, match="hd96"):
        summaries.worst_cases(scores, metric="hd96")


def test_the_headline_reads_at_a_glance():
    scores = make_scores({"unet": TWELVE, "pix2pix": TWELVE}, hd95_px=[12.0] * 12)
    table = summaries.headline_table(summaries.summarise(scores))
    assert list(table.index) == ["unet", "pix2pix"]
    assert table.loc["unet", "HD95 (px)"] == "12.0 [12.0, 12.0]"
    assert table.loc["unet", "Dice"].startswith("0.927 [0.9")
    assert (table.loc["unet", "n"], table.loc["unet", "Empty"]) == (12, 0)
    with pytest.raises(LungsegError, match="middle"):
        summaries.headline_table(summaries.summarise(scores), region="middle")


def test_empty_predictions_and_odd_truths_are_listed():
    both = make_scores({"unet": [0.9, 0.0, 0.8]}, empty_prediction=[0, 1, 0])
    right = both[both["image_id"] != "case02"].assign(region="right")
    scores = pd.concat([both, right], ignore_index=True)
    assert summaries.empty_predictions(scores).to_dict("records") == [
        {"model": "unet", "stage": "post", "region": region, "image_id": "case01"}
        for region in ("both", "right")
    ]
    assert summaries.without_two_lungs(scores) == ["case02"]
