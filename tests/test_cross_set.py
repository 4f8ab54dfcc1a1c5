from __future__ import annotations

from types import SimpleNamespace

import pytest

from lungseg_utils.config import TrainingConfig
from lungseg_utils.cross_set import score_cross_set, single_source_runs
from lungseg_utils.data.imaging import Preprocessing
from lungseg_utils.errors import LungsegError
from lungseg_utils.records import write_json
from lungseg_utils.shipped import INDEX, WEIGHTS
from lungseg_utils.workspace import Workspace
from tests.scored import lungs, make_cases


def trained_on(*sources: str) -> SimpleNamespace:
    """A run whose probability is the X-ray itself."""
    return SimpleNamespace(
        name="copy",
        record={"sources": list(sources)},
        config=SimpleNamespace(size=64, preprocessing=Preprocessing()),
        load_model=lambda: lambda inputs, training: inputs,
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


def test_nothing_unseen_is_an_error():
    cases = make_cases([lungs()], source=["shenzhen"])
    with pytest.raises(LungsegError, match="copy, trained on shenzhen"):
        score_cross_set(trained_on("shenzhen"), cases)


def test_runs_of_one_source_are_found(tmp_path):
    workspace = Workspace(tmp_path, tmp_path / "scratch")
    for name, sources in (("both", ["montgomery", "shenzhen"]), ("alone", ["shenzhen"])):
        folder = workspace.run(name)
        folder.mkdir(parents=True)
        write_json(folder / "run.json", {"config": TrainingConfig().to_dict(), "sources": sources})
        (folder / "best.weights.h5").touch()

    assert [run.name for run in single_source_runs(workspace)] == ["alone"]


@pytest.mark.skipif(not (WEIGHTS / INDEX).is_file(), reason="no weights are shipped yet")
def test_without_such_runs_the_shipped_ones_are_taken(tmp_path):
    found = single_source_runs(Workspace(tmp_path, tmp_path / "scratch"))
    assert [(run.name, run.record["sources"]) for run in found] == [
        ("unet-shenzhen", ["shenzhen"]),
        ("unet-montgomery", ["montgomery"]),
    ]
