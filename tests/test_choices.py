"""The table of what each choice of the recipe is worth: how it grows and what is read from it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "choices.py"


@pytest.fixture(scope="module")
def choices():
    specification = importlib.util.spec_from_file_location("choices", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_figures_are_added_to_their_row_in_the_order_of_the_settings(choices, tmp_path):
    path = tmp_path / "choices.csv"
    choices.record("24 epochs", 0, {"val": 0.96}, path)
    choices.record("base", 1, {"val": 0.95, "dark": 0.9}, path)
    choices.record("base", 0, {"val": 0.94004}, path)
    choices.record("base", 1, {choices.TRANSFER: 0.91, "dark": 0.8}, path)
    table = pd.read_csv(path)
    assert list(zip(table["choice"], table["seed"], strict=True)) == [
        ("base", 0),
        ("base", 1),
        ("24 epochs", 0),
    ]
    assert list(table["val"]) == [0.94, 0.95, 0.96]
    assert choices.recorded("base", 1, path) == {"val": 0.95, choices.TRANSFER: 0.91, "dark": 0.8}
    assert choices.recorded("base", 2, path) == {}
    assert not list(tmp_path.glob(".*"))


def test_differences_are_to_the_base_of_the_same_seed(choices):
    rows = [("base", 0, 0.95), ("base", 1, 0.96), ("24 epochs", 0, 0.953), ("24 epochs", 1, 0.961)]
    table = pd.DataFrame(rows, columns=["choice", "seed", "val"])
    found = choices.differences(table.reindex(columns=[*table.columns, *choices.COMPARED[1:]]))
    assert list(found.index) == ["24 epochs"]
    assert found.loc["24 epochs", "val"].to_dict() == {"mean": 0.002, "min": 0.001, "max": 0.003}
    assert found.loc["24 epochs", choices.TRANSFER].isna().all()


def test_the_table_in_the_repository_is_as_the_script_writes_it(choices):
    table = pd.read_csv(choices.TABLE)
    assert set(table["choice"]) <= set(choices.CHOICES)
    assert list(table.columns) == [*choices.KEYS, *choices.COMPARED, *choices.CORRUPTIONS]
    for choice, seed in table[choices.KEYS].itertuples(index=False):
        row = choices.recorded(choice, seed)
        assert row["corrupted"] == pytest.approx(
            sum(row[name] for name in choices.CORRUPTIONS) / len(choices.CORRUPTIONS), abs=1e-4
        )


def test_an_unknown_setting_is_refused_before_anything_is_trained(tmp_path):
    command = [sys.executable, str(SCRIPT), "--workspace", str(tmp_path), "--only", "wild"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "settings are base, mild augmentation" in result.stderr
    assert not list(tmp_path.iterdir())
