"""README's results and the model card: both are what the recorded figures say."""

from __future__ import annotations

import copy
import json
import re

import pytest

from benchmarks.score_shipped import CARD, RESULTS
from benchmarks.texts import (
    BEGIN,
    END,
    difference,
    figure,
    render_model_card,
    render_readme_results,
    split_at_markers,
)
from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.network import INDEX, WEIGHTS

SHOWN = {"iou": 3, "hd95_px": 1, "assd_px": 2}


def test_a_difference_is_shown_with_a_digit_more_than_a_mean():
    values = {"mean": -0.0005, "low": -0.0009, "high": -0.0001}
    assert difference({"dice": values}, "dice") == "−0.0005 [−0.0009, −0.0001]"
    assert figure({"dice": values}, "dice") == "−0.001 [−0.001, 0.000]"
    in_pixels = {"mean": 0.54, "low": -0.04, "high": 1.0}
    assert difference({"hd95_px": in_pixels}, "hd95_px") == "0.5 [0.0, 1.0]"


@pytest.mark.parametrize("page", ["nothing", f"{BEGIN}\nno end\n", f"{BEGIN}\n{END}\n" * 2])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(LungsegError, match="Put the two lines back"):
        split_at_markers(page)


@pytest.fixture(scope="module")
def recorded() -> dict:
    if not (WEIGHTS / RESULTS).is_file():
        pytest.skip("no results are recorded yet: `make benchmark` writes them")
    return json.loads((WEIGHTS / RESULTS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def weights(recorded) -> dict:
    return json.loads((WEIGHTS / INDEX).read_text(encoding="utf-8"))


def test_the_readme_shows_the_recorded_results(recorded, weights, repository):
    page = (repository / "README.md").read_text(encoding="utf-8")
    assert split_at_markers(page)[1] == render_readme_results(recorded, weights)


@pytest.mark.parametrize("source", ["montgomery", "shenzhen"])
def test_a_row_shows_the_recorded_figures_rounded(recorded, weights, source):
    figures = recorded["data"]["figures"]["test"]["pix2pix"][f"source={source}"]["both"]
    dice, shown = figures["dice"], [f"{figures[name]['mean']:.{n}f}" for name, n in SHOWN.items()]
    interval = f"{dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]"
    tails = [f"{dice['p5']:.3f}", f"{dice['min']:.3f}", f"{100 * dice['under_0.9']:.1f} %"]
    start, cells = f"| {source.title()} | {figures['n']} | Pix2Pix | {interval} |", [*tails, *shown]
    assert f"{start} {' | '.join(cells)} |" in render_readme_results(recorded, weights).splitlines()


def test_figures_recorded_without_their_spread_are_shown_with_dashes(recorded, weights):
    older = copy.deepcopy(recorded)
    for name in ("p5", "min", "under_0.9"):
        del older["external"]["figures"]["unet"]["both"]["dice"][name]
    for render in (render_readme_results, render_model_card):
        assert render(older, weights).count("] | – | – | – |") == 1


def test_the_card_shows_the_recorded_results(recorded, weights):
    assert (WEIGHTS / CARD).read_text(encoding="utf-8") == render_model_card(recorded, weights)


def test_where_it_fails_was_looked_at_for_the_shipped_weights(recorded, weights):
    """Fails once weights are replaced: look at the worst cases again, then correct the line."""
    card = (WEIGHTS / CARD).read_text(encoding="utf-8")
    (written_for,) = re.findall(r"^Written for the U-Net with the SHA-256 `(\w{12})…`", card, re.M)
    assert written_for == weights["unet"]["sha256"][:12]


def test_the_recorded_results_are_those_of_the_shipped_weights(recorded, weights):
    for part in recorded.values():
        for name, digest in part["made_with"]["weights"].items():
            assert digest == weights[name]["sha256"], name


def test_every_case_is_in_the_recorded_results(recorded):
    figures = recorded["data"]["figures"]
    counts = {group: regions["both"]["n"] for group, regions in figures["test"]["unet"].items()}
    wanted = {"all": 141, "source=montgomery": 28, "source=shenzhen": 113, "questionable=no": 127}
    assert {group: counts[group] for group in wanted} == wanted
    assert figures["cross"]["unet-shenzhen"]["all"]["both"]["n"] == 138
    assert figures["cross"]["unet-montgomery"]["all"]["both"]["n"] == 566
    assert recorded["external"]["figures"]["unet"]["both"]["n"] == 247
