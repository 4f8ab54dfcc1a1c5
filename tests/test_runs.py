"""Histories of a training's stages."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import Run, stage_histories


def run_with(folder: Path, **stages: list[float]) -> Run:
    """A run with a history of these losses at `full` size, and perhaps at `half` of it."""
    for stage, losses in stages.items():
        place = folder / "half_size" if stage == "half" else folder
        place.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"loss": losses}).to_csv(place / "history.csv", index=False)
    return Run(folder, TrainingConfig(), {})


def losses(stages: dict[str, dict[str, pd.DataFrame]]) -> dict[str, dict[str, list[float]]]:
    return {
        stage: {name: history["loss"].tolist() for name, history in histories.items()}
        for stage, histories in stages.items()
    }


def test_histories_are_gathered_by_stage(tmp_path):
    runs = [
        run_with(tmp_path / "unet", half=[0.5, 0.4], full=[0.3]),
        run_with(tmp_path / "unetpp", full=[0.6]),
    ]
    found = losses(stage_histories(runs))
    assert list(found) == ["at half the size", "at full size"]
    assert found == {
        "at half the size": {"unet": [0.5, 0.4]},
        "at full size": {"unet": [0.3], "unetpp": [0.6]},
    }


def test_without_a_first_stage_there_is_only_the_last(tmp_path):
    run = run_with(tmp_path / "unetpp", full=[0.6])
    assert losses(stage_histories([run])) == {"at full size": {"unetpp": [0.6]}}
