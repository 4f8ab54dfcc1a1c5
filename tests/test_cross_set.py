from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lungseg_utils.evaluation.cross_set import (
    score_all_cross_set,
    score_cross_set,
    single_source_runs,
)
from lungseg_utils.files.records import write_json
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.segment.network import INDEX, WEIGHTS
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.workspace import Workspace
from tests.scored import lungs, make_cases


def trained_on(*sources: str, name: str = "copy") -> SimpleNamespace:
    """A run whose probability is the X-ray itself."""
    return SimpleNamespace(
        name=name,
        record={"sources": list(sources)},
        config=SimpleNamespace(size=64, preprocessing=Preprocessing()),
        load_predictor=lambda: lambda inputs: inputs,
    )


def test_only_masked_cases_of_the_unseen_source_are_scored():
    sources = ["montgomery", "shenzhen", "montgomery", "montgomery"]
    cases = make_cases([lungs()] * 4, source=sources, has_mask=[1, 1, 1, 0])
    # The first X-ray shows both lungs; the third one of two equal ones: Dice 2/3.
    cases.images[0] = 255 * lungs()
    cases.images[2, :, :32] = 255 * lungs()[:, :32]

    scores = score_cross_set(trained_on("shenzhen"), cases)

    both = scores[(scores["stage"] == "post") & (scores["region"] == "both")]
    assert both["image_id"].tolist() == ["case00", "case02"]
    assert both["dice"].tolist() == pytest.approx([1, 2 / 3])
    assert set(both["model"]) == {"copy"}


def test_a_network_without_unseen_cases_is_named_and_the_others_are_scored(capsys):
    cases = make_cases([lungs()] * 2, source=["montgomery"] * 2)
    runs = [trained_on("montgomery", name="here"), trained_on("shenzhen", name="elsewhere")]

    scores = score_all_cross_set(runs, cases)

    pd.testing.assert_frame_equal(scores, score_cross_set(runs[1], cases))
    said = "here is left out: no case with a mask beyond montgomery, which here was trained on."
    assert capsys.readouterr().out.splitlines() == [said]


def write_run(folder: Path, *sources: str) -> None:
    folder.mkdir(parents=True)
    record = {"config": TrainingConfig().to_dict(), "sources": list(sources)}
    write_json(folder / "run.json", record)
    (folder / "best.npz").touch()


def test_runs_of_one_source_are_found(tmp_path):
    workspace = Workspace(tmp_path, tmp_path / "scratch")
    write_run(workspace.run("both"), "montgomery", "shenzhen")
    write_run(workspace.run("alone"), "shenzhen")

    assert [run.name for run in single_source_runs(workspace)] == ["alone"]


def test_a_damaged_run_is_named_and_the_others_are_found(tmp_path, capsys):
    workspace = Workspace(tmp_path, tmp_path / "scratch")
    write_run(workspace.run("alone"), "shenzhen")
    write_run(workspace.run("broken"), "shenzhen")
    (workspace.run("broken") / "run.json").write_text('{"config": {', encoding="utf-8")

    assert [run.name for run in single_source_runs(workspace)] == ["alone"]
    said = f"broken is left out: {workspace.run('broken') / 'run.json'} (JSONDecodeError: "
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.skipif(not (WEIGHTS / INDEX).is_file(), reason="no weights are shipped yet")
def test_without_such_runs_the_shipped_ones_are_taken(tmp_path):
    found = single_source_runs(Workspace(tmp_path, tmp_path / "scratch"))
    assert [(run.name, run.record["sources"]) for run in found] == [
        ("unet-shenzhen", ["shenzhen"]),
        ("unet-montgomery", ["montgomery"]),
    ]
