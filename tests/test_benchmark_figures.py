"""Figures of the benchmark: rounded means with intervals, and which of them changed."""

from __future__ import annotations

import copy
import json

import pytest
from scored import make_scores

from benchmarks.figures import (
    SOUND_SHENZHEN,
    changed_figures,
    differences_of,
    figures_of,
)


def scores_of_four():
    scores = make_scores(
        {"unet": [0.9, 0.8, 0.6, 0.70004], "pix2pix": [0.8, 0.8, 0.5, 0.7]},
        source=["montgomery", "shenzhen", "shenzhen", "shenzhen"],
        questionable_mask=[0, 0, 1, 0],
        hd95_mm=[2.0, None, None, None],
    )
    return scores.astype({"hd95_mm": float})


def test_each_group_has_the_mean_of_its_own_cases():
    groups = figures_of(scores_of_four())["unet"]
    dice = {group: regions["both"]["dice"]["mean"] for group, regions in groups.items()}
    assert dice["all"] == 0.75  # 0.75001, rounded to 4 decimals
    assert dice["source=montgomery"] == 0.9
    assert dice["source=shenzhen"] == 0.7
    assert dice["questionable=no"] == 0.8
    assert dice["questionable=yes"] == 0.6
    assert dice[SOUND_SHENZHEN] == 0.75
    assert groups[SOUND_SHENZHEN]["both"]["n"] == 2


def test_too_few_patients_have_no_interval_and_the_figures_are_json():
    figures = figures_of(scores_of_four())
    # 0.15 of the way from 0.6 to 0.70004, and 0.9 is not under 0.9.
    spread = {"p5": 0.615, "min": 0.6, "under_0.9": 0.75}
    none = {"low": None, "high": None}
    assert figures["unet"]["all"]["both"]["dice"] == {"mean": 0.75, **none, **spread}
    assert figures["unet"]["all"]["both"]["iou"] == {"mean": 0.5, **none}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_millimetres_are_given_where_every_case_has_them():
    groups = figures_of(scores_of_four())["unet"]
    assert groups["source=montgomery"]["both"]["hd95_mm"]["mean"] == 2.0
    assert "hd95_mm" not in groups["all"]["both"]
    assert "hd95_px" in groups["all"]["both"]


def test_differences_are_paired_and_signed():
    differences = differences_of(scores_of_four())
    assert list(differences) == ["pix2pix"]
    # −0.1, 0, −0.1 and −0.00004
    assert differences["pix2pix"]["all"]["dice"]["mean"] == -0.05
    assert differences["pix2pix"]["source=montgomery"]["dice"]["mean"] == -0.1
    assert "questionable=no" not in differences["pix2pix"]


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("dice.mean", 0.0005, 0.0006),
        ("dice.under_0.9", 0.0005, 0.0006),
        ("hd95_px.mean", 0.05, 0.0501),
        ("assd_px.mean", -0.005, -0.0051),
    ],
)
def test_a_figure_has_changed_when_its_shown_digits_may(name, within, beyond):
    recorded = figures_of(scores_of_four())
    metric, _, kind = name.partition(".")

    def moved(change: float) -> dict:
        found = copy.deepcopy(recorded)
        found["unet"]["all"]["both"][metric][kind] += change
        return found

    assert changed_figures(recorded, moved(within)) == {}
    assert list(changed_figures(recorded, moved(beyond))) == [f"unet.all.both.{name}"]


def test_counts_intervals_and_groups_that_come_or_go_are_changes():
    recorded = figures_of(scores_of_four())
    found = copy.deepcopy(recorded)
    found["unet"]["all"]["both"]["n"] = 5
    found["unet"]["all"]["both"]["iou"]["low"] = 0.5
    del found["unet"]["questionable=yes"], recorded["unet"]["all"]["both"]["dice"]["p5"]
    changes = changed_figures(recorded, found)
    assert changes["unet.all.both.n"] == (4, 5)
    assert changes["unet.all.both.iou.low"] == (None, 0.5)
    assert changes["unet.all.both.dice.p5"] == ("(absent)", 0.615)
    assert changes["unet.questionable=yes.both.dice.mean"] == (0.6, "(absent)")
