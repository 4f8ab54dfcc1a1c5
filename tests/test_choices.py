"""The tables of figures on validation cases: how they grow, and whose figures they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import choices, completion
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.hard import HARD
from lungseg_utils.files.records import read_json
from lungseg_utils.segment.network import INDEX, NETWORKS, WEIGHTS
from tests.scored import lungs, make_cases

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "choices.py"


def halved(mask: np.ndarray) -> np.ndarray:
    """The mask without the lower half of its 32 rows."""
    cut = mask.copy()
    cut[np.flatnonzero(mask.any(axis=1))[16:]] = 0
    return cut


def test_figures_are_added_to_their_row_in_the_order_of_the_settings(tmp_path):
    path = tmp_path / "choices.csv"
    choices.record("24 epochs", 0, {"val": 0.96}, path)
    choices.record("base", 1, {"val": 0.95, "dark": 0.9}, path)
    choices.record("base", 0, {"val": 0.94004}, path)
    choices.record("base", 1, {"hard": 0.91, "dark": 0.8}, path)
    table = pd.read_csv(path)
    assert list(zip(table["choice"], table["seed"], strict=True)) == [
        ("base", 0),
        ("base", 1),
        ("24 epochs", 0),
    ]
    assert list(table["val"]) == [0.94, 0.95, 0.96]
    assert choices.recorded("base", 1, path) == {"val": 0.95, "hard": 0.91, "dark": 0.8}
    assert choices.recorded("base", 2, path) == {}
    assert not list(tmp_path.glob(".*"))


def test_figures_keep_questionable_masks_and_kinds_of_films_apart(monkeypatch):
    # Whoever finds the upper half of lungs of 32 rows has a Dice of 2·16 / (16 + 32) = 2/3.
    cases = make_cases([lungs()] * 3, questionable_mask=[0, 1, 0])
    # The last film of the last corruption is found whole, as is each hard one.
    corrupted = [halved(lungs())] * (3 * len(CORRUPTIONS) - 1) + [lungs()]
    found = [lungs(), halved(lungs()), lungs(), *corrupted] + [lungs()] * (3 * len(HARD))
    masks = iter(np.array_split(found, len(found) // 3))
    monkeypatch.setattr(choices, "exported", lambda run: None)
    monkeypatch.setattr(choices, "Segmenter", lambda run: None)
    monkeypatch.setattr(choices, "segmented", lambda segmenter, images: next(masks))
    monkeypatch.setattr(choices, "corrupt", lambda val, name: val)
    monkeypatch.setattr(choices, "harden", lambda val, name: val)

    (row,) = choices.figures(["a run"], cases)

    assert row["val"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert row["val_unquestioned"] == 1
    *others, last = (row[name] for name in CORRUPTIONS)
    assert (others, last) == (pytest.approx([2 / 3] * len(others)), pytest.approx(7 / 9))
    assert row["corrupted"] == pytest.approx((len(others) * 2 / 3 + 7 / 9) / len(CORRUPTIONS))
    assert (row["corrupted_p5"], row["corrupted_min"]) == pytest.approx((2 / 3, 2 / 3))
    assert row["corrupted_under_0.9"] == 1 - 1 / (3 * len(CORRUPTIONS))
    assert [row[name] for name in ("hard", "hard_p5", "hard_under_0.9", *HARD)] == [1, 1, 0] + [
        1
    ] * len(HARD)


@pytest.mark.parametrize("table", ["half_precision.csv", "validation.csv", "completion.csv"])
def test_tables_of_the_shipped_weights_are_of_those_shipped_now(table):
    recorded = pd.read_csv(choices.TABLE.with_name(table)).set_index("network")["weights"]
    shipped = read_json(WEIGHTS / INDEX)
    assert set(recorded.index) >= set(NETWORKS)
    assert recorded.to_dict() == {name: shipped[name]["sha256"][:12] for name in recorded.index}


def test_the_text_shows_the_figures_of_the_table():
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    for row in pd.read_csv(choices.TABLE.with_name("validation.csv")).to_dict("records"):
        shown = [f"{row[name]:.4f}" for name in ("val", "val_unquestioned")]
        for bad in ("corrupted", "hard"):
            shown += [f"{row[name]:.4f}" for name in (bad, f"{bad}_p5", f"{bad}_min")]
            shown.append(f"{100 * row[f'{bad}_under_0.9']:.1f} %")
        assert f"| {' | '.join(shown)} |" in text


def test_the_table_in_the_repository_is_as_the_script_writes_it():
    table = pd.read_csv(choices.TABLE)
    assert set(table["choice"]) <= set(choices.CHOICES)
    assert list(table.columns) == [*choices.KEYS, *choices.COMPARED, *CORRUPTIONS, *HARD]
    for choice, seed in table[choices.KEYS].itertuples(index=False):
        row = choices.recorded(choice, seed)
        for mean, kinds in (("corrupted", CORRUPTIONS), ("hard", HARD)):
            expected = sum(row[name] for name in kinds) / len(kinds)
            assert row[mean] == pytest.approx(expected, abs=1e-4)


def test_what_completing_changes_is_counted_of_completed_films_alone():
    found = completion.figures(np.array([[0.7, 0.9, 1], [0.8, 0.75, 1], [0.95, 0.95, 0]]))
    assert (found["films"], found["completed"]) == (3, 2)
    assert (found["alone_min"], found["whole_min"]) == (0.7, 0.75)
    changes = found["change"], found["worst"], found["best"]
    assert changes == pytest.approx((0.075, -0.05, 0.2))
    assert "change" not in completion.figures(np.array([[0.9, 0.9, 0]]))


def test_questionable_masks_are_left_out_or_shown_half_as_often():
    cases = make_cases([lungs()] * 3, questionable_mask=[0, 1, 0], split=["train"] * 3)
    shown = {
        choice: list(choices.training_cases(f"questionable masks {choice}", cases).ids)
        for choice in ("left out", "half as often")
    }
    first, questionable, last = cases.ids
    assert shown["left out"] == [first, last]
    assert sorted(shown["half as often"]) == sorted([first, first, questionable, last, last])
