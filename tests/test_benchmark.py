"""The benchmark as a whole, on a phantom bundle and with networks whose masks are known."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import score_shipped as command
from benchmarks.external import find_films
from benchmarks.markdown import BEGIN, END, marked
from benchmarks.readme import render_readme_results
from benchmarks.score_shipped import Outcome, benchmark
from lungseg_utils.bundle import Pairing, pair_bundle
from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.networks import processor_name
from lungseg_utils.manifest import load_manifest
from lungseg_utils.phantom.sets import write_phantom_bundle
from lungseg_utils.preparation.arrays import prepare
from lungseg_utils.segment.shipped import SHIPPED
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.workspace import open_workspace

SIZE = 32


def lungs() -> np.ndarray:
    """Two strips from top to bottom, 8 pixels wide: without corners, which resizing rounds off."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, 4:12] = 1
    mask[:, 20:28] = 1
    return mask


@dataclass(frozen=True)
class FakeRun:
    """Sees what is not dark, a bit to the side, and a crumb that post-processing removes."""

    name: str
    shift: int = 0
    sha256: str = "a"

    @property
    def config(self) -> TrainingConfig:
        return TrainingConfig(size=SIZE)

    @property
    def record(self) -> dict:
        return {"parameters": 7, "bytes": 14, "sha256": self.sha256}

    def load_model(self):
        def model(inputs: np.ndarray, training: bool) -> np.ndarray:
            assert inputs.shape[1:] == (SIZE, SIZE, 1) and not training
            seen = np.roll(inputs > 0.1, self.shift, axis=2)
            seen[:, 1, 1] = 1
            return seen.astype(np.float32)

        return model


def load_fake(name: str, folder: Path) -> FakeRun:
    # U-Net++ is a pixel off, Pix2Pix two.
    return FakeRun(name, {"unetpp": 1, "pix2pix": 2}.get(name, 0))


def write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A phantom bundle; its one test image of Montgomery has the two strips for a mask."""
    folder = write_phantom_bundle(tmp_path_factory.mktemp("bundle"), 8, size=48)
    (case,) = load_manifest(folder / "data_manifest.csv", "montgomery", "test")
    truth = np.kron(lungs(), np.ones((512 // SIZE,) * 2, np.uint8))
    write_png(folder / "CXR_png" / case.image_file, truth * 100)
    write_png(folder / "masks" / case.mask_file, truth * 255)
    return folder


@pytest.fixture(scope="module")
def external(tmp_path_factory) -> Path:
    """Two films of different sizes, both twice or three times what the networks see."""
    folder = tmp_path_factory.mktemp("external")
    for name, factors in {"A1": (2, 3), "A2": (3, 2)}.items():
        truth = np.kron(lungs(), np.ones(factors, np.uint8))
        write_png(folder / "images" / f"{name}.png", truth * 50)
        write_png(folder / "masks" / f"{name}.png", truth * 255)
    return folder


def new_place(folder: Path) -> dict[str, Path]:
    """Where weights and README lie."""
    index = {
        name: {
            "file": f"{name}.npz",
            "bytes": 14,
            "parameters": 7,
            "config": TrainingConfig(size=SIZE).to_dict(),
            "data": {"train_cases": 3, "val_cases": 1},
            "epochs_run": 2,
            "best_epoch": 1,
            "best_val_dice": 0.5,
            "training_seconds": 60.0,
            "dtype_policy": "float32",
        }
        for name in SHIPPED
    }
    (folder / "weights").mkdir()
    (folder / "weights" / "weights.json").write_text(json.dumps(index))
    (folder / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\n## Next\n")
    return {"folder": folder / "weights", "readme": folder / "README.md"}


@pytest.fixture
def place(tmp_path) -> dict[str, Path]:
    return new_place(tmp_path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def first(bundle, external, workspace, tmp_path_factory) -> tuple[Outcome, Path]:
    """A first benchmark of everything, and the folder that it wrote to."""
    folder = tmp_path_factory.mktemp("first")
    places = new_place(folder)
    # Arrays of another bundle lie in the workspace: they must not be scored.
    prepare(Pairing(pair_bundle(bundle).pairs[:1]), open_workspace(workspace), 512)
    outcome = benchmark(bundle, external, workspace, **places, load=load_fake)
    shutil.copytree(workspace / "reports", folder / "reports")
    return outcome, folder


@pytest.fixture
def recorded(first, place, tmp_path) -> dict[str, Path]:
    """A copy of what the first benchmark wrote."""
    shutil.copytree(first[1], tmp_path, dirs_exist_ok=True)
    return place


def dice_of_shift(shift: int) -> float:
    """Of two strips, 8 pixels wide, moved sideways by some: 2·(8 − shift) / (8 + 8)."""
    return (8 - shift) / 8


def test_figures_are_those_worked_out_by_hand(first, bundle, recorded):
    outcome = first[0]
    assert (outcome.changed, outcome.kept, outcome.other) == ({}, {}, [])
    results = json.loads((recorded["folder"] / "results.json").read_text())
    assert results == outcome.results
    test, other = results["data"]["figures"]["test"], results["external"]["figures"]
    for shift, name in enumerate(("unet", "unetpp", "pix2pix")):
        alone, films = test[name]["source=montgomery"], other[name]
        assert (alone["both"]["n"], films["both"]["n"]) == (1, 2)
        for region in ("both", "right", "left"):
            assert alone[region]["dice"]["mean"] == dice_of_shift(shift)
            assert films[region]["dice"]["mean"] == dice_of_shift(shift)
        # Moved sideways by so many pixels of 512, and by three and two of the films' own.
        assert alone["both"]["hd95_px"]["mean"] == 16 * shift
        assert films["both"]["hd95_px"]["mean"] == 2.5 * shift
    differences = results["data"]["figures"]["differences"]
    assert differences["pix2pix"]["source=montgomery"]["dice"]["mean"] == -0.25
    assert results["external"]["size"] is None

    # All cases with a mask but those of the split `unlabelled`, by a network of the other set.
    masked = [case.source for case in load_manifest(bundle / "data_manifest.csv") if case.mask_file]
    cross = results["data"]["figures"]["cross"]
    assert cross["unet-shenzhen"]["all"]["both"]["n"] == masked.count("montgomery")
    assert cross["unet-montgomery"]["all"]["both"]["n"] == masked.count("shenzhen")

    cost = results["cost"]["figures"]["unet"]
    assert (cost["parameters"], cost["bytes"]) == (7, 14)
    assert cost["seconds_an_image"] >= 0


def test_readme_and_card_show_the_figures_and_keep_their_surroundings(first, recorded):
    page = recorded["readme"].read_text()
    assert page.startswith("# Title\n") and page.endswith("## Next\n")
    weights = json.loads((recorded["folder"] / "weights.json").read_text())
    assert marked(page) == first[0].table == render_readme_results(first[0].results, weights)
    assert "| JSRT | 2 | Pix2Pix | 0.750 |" in page
    assert "| Pix2Pix | 2 | 0.750 |" in (recorded["folder"] / "MODEL_CARD.md").read_text()


def test_a_second_benchmark_prepares_nothing_and_notices_what_changed(bundle, workspace, recorded):
    def load_moved(name: str, folder: Path) -> FakeRun:
        return FakeRun(name, 3) if name == "pix2pix" else load_fake(name, folder)

    arrays = workspace / "prepared" / "512" / "images.npy"
    before = arrays.stat().st_mtime_ns
    moved = benchmark(bundle, None, workspace, **recorded, load=load_moved)
    assert arrays.stat().st_mtime_ns == before
    assert moved.changed["data.test.pix2pix.source=montgomery.both.dice.mean"] == (0.75, 0.625)
    assert {".".join(name.split(".")[1:3]) for name in moved.changed} == {
        "test.pix2pix",
        "differences.pix2pix",
    }
    assert "| Montgomery | 1 | Pix2Pix | 0.625 |" in recorded["readme"].read_text()
    results = json.loads((recorded["folder"] / "results.json").read_text())
    assert (
        results["data"]["figures"]["test"]["pix2pix"]
        == (moved.results["data"]["figures"]["test"]["pix2pix"])
    )


@pytest.mark.parametrize(("sha256", "current"), [("a", True), ("b", False)])
def test_what_is_left_out_keeps_its_recorded_figures(
    sha256, current, first, external, workspace, recorded
):
    def load_other(name: str, folder: Path) -> FakeRun:
        return replace(load_fake(name, folder), sha256=sha256)

    alone = benchmark(None, external, workspace, **recorded, load=load_other)
    assert (alone.kept, alone.changed) == ({"data": current}, {})
    assert alone.results["data"] == first[0].results["data"]
    assert "| all test images |" in recorded["readme"].read_text()


def test_the_scores_of_each_case_can_be_looked_up(first, bundle):
    outcome, folder = first
    names = ["cases-data.csv", "cases-external.csv"]
    assert [path.name for path in outcome.written][:2] == names
    data, films = (pd.read_csv(folder / "reports" / name) for name in names)
    films = films.set_index(["model", "image_id", "region"])
    assert films.loc[("pix2pix", "A2", "both"), "dice"] == dice_of_shift(2)
    assert len(films) == 3 * 2 * 3  # networks, films, regions

    data = data[data["region"] == "both"]
    (case,) = load_manifest(bundle / "data_manifest.csv", "montgomery", "test")
    of_case = data[data["image_id"] == case.image_id].set_index("model")["dice"]
    assert of_case.loc[["unet", "unetpp", "pix2pix"]].tolist() == [1, 0.875, 0.75]
    figures = outcome.results["data"]["figures"]
    test = figures["test"]["unet"]["all"]["both"]
    of_unet = data.loc[data["model"] == "unet", "dice"]
    assert (len(of_unet), round(of_unet.mean(), 4)) == (test["n"], test["dice"]["mean"])
    cross = figures["cross"]["unet-shenzhen"]["all"]["both"]
    assert (data["model"] == "unet-shenzhen").sum() == cross["n"]


def everything_in(place: dict[str, Path]) -> dict[str, bytes]:
    files = [*place["folder"].iterdir(), place["readme"]]
    return {str(path): path.read_bytes() for path in files}


def write_own_set(folder: Path) -> Path:
    """A film whose mask is half of what the networks see: Dice 2·1 / (1 + 2) of the U-Net."""
    truth = np.kron(lungs(), np.ones((2, 2), np.uint8))
    write_png(folder / "images" / "A1.png", truth * 50)
    truth[:SIZE] = 0
    write_png(folder / "masks" / "A1.png", truth * 255)
    return folder


def test_a_set_of_ones_own_is_scored_and_not_recorded(workspace, recorded, tmp_path):
    before = everything_in(recorded)
    own = write_own_set(tmp_path / "own")

    outcome = benchmark(None, own, workspace, **recorded, load=load_fake)

    assert (outcome.other, outcome.changed, outcome.kept) == (["external"], {}, {})
    assert "| own | 1 | U-Net | 0.667 |" in outcome.table
    assert "JSRT" not in outcome.table
    assert [path.name for path in outcome.written] == ["cases-external.csv"]
    assert everything_in(recorded) == before


def test_beside_other_films_the_recorded_bundle_is_still_compared(
    bundle, workspace, recorded, tmp_path
):
    def load_moved(name: str, folder: Path) -> FakeRun:
        return FakeRun(name, 3) if name == "pix2pix" else load_fake(name, folder)

    before = everything_in(recorded)
    own = write_own_set(tmp_path / "own")
    outcome = benchmark(bundle, own, workspace, **recorded, load=load_moved)
    assert outcome.other == ["external"]
    assert outcome.changed["data.test.pix2pix.source=montgomery.both.dice.mean"] == (0.75, 0.625)
    assert not any(name.startswith("external") for name in outcome.changed)
    assert everything_in(recorded) == before


def test_another_bundle_is_scored_and_not_recorded(bundle, workspace, recorded, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "bundle")
    (case,) = load_manifest(other / "data_manifest.csv", "montgomery", "test")
    write_png(other / "CXR_png" / case.image_file, np.full((512, 512), 200, np.uint8))
    before = everything_in(recorded)

    outcome = benchmark(other, None, tmp_path / "workspace", **recorded, load=load_fake)

    assert (outcome.other, outcome.changed) == (["data"], {})
    assert "| Montgomery | 1 | U-Net | 0.667 |" in outcome.table  # all is lung, half of it truly
    assert everything_in(recorded) == before


def test_the_first_set_that_is_scored_is_recorded(workspace, place, tmp_path):
    own = write_own_set(tmp_path / "own")
    outcome = benchmark(None, own, workspace, **place, load=load_fake)
    assert outcome.other == []
    assert "external" in json.loads((place["folder"] / "results.json").read_text())


def refuse_to_load(name: str, folder: Path) -> FakeRun:
    raise AssertionError("weights are read only once the folders have been looked at")


@pytest.mark.parametrize("named", [("data",), ("external",), ("data", "external")])
def test_a_wrong_folder_is_refused_before_anything_is_done(named, workspace, place, tmp_path):
    paths = dict.fromkeys(named, tmp_path / "nowhere")
    with pytest.raises(LungsegError) as error:
        benchmark(**paths, workspace=workspace, **place, load=refuse_to_load)
    assert str(tmp_path / "nowhere") in str(error.value)
    assert error.value.advice
    assert sorted(path.name for path in place["folder"].iterdir()) == ["weights.json"]
    assert marked(place["readme"].read_text()) == "old\n"


def test_a_bundle_with_a_mask_missing_is_refused_by_name(workspace, place, tmp_path):
    folder = write_phantom_bundle(tmp_path / "bundle", 8, size=48)
    mask = sorted((folder / "masks").iterdir())[0]
    mask.unlink()
    with pytest.raises(LungsegError, match=rf"1 missing in .*{mask.stem.removesuffix('_mask')}"):
        benchmark(folder, None, workspace, **place, load=refuse_to_load)


def test_a_bundle_with_an_unusable_mask_is_refused_by_name(workspace, place, tmp_path):
    folder = write_phantom_bundle(tmp_path / "bundle", 8, size=48)
    mask = sorted((folder / "masks").iterdir())[0]
    write_png(mask, np.zeros((48, 48), np.uint8))
    with pytest.raises(LungsegError, match=rf"1 left out .*{mask.stem.removesuffix('_mask')}"):
        benchmark(folder, None, workspace, **place, load=load_fake)


def test_nothing_to_score_and_no_markers_are_refused(external, workspace, place):
    with pytest.raises(LungsegError, match="neither DATA nor EXTERNAL"):
        benchmark(None, None, workspace, **place, load=refuse_to_load)
    place["readme"].write_text("no place for results\n")
    with pytest.raises(LungsegError, match="Put the two lines back"):
        benchmark(None, external, workspace, **place, load=refuse_to_load)


def test_films_and_masks_without_a_partner_are_named(external, tmp_path):
    assert [film.name for film in find_films(external)] == ["A1", "A2"]
    write_png(tmp_path / "images" / "B1.png", lungs())
    write_png(tmp_path / "masks" / "B2.png", lungs())
    with pytest.raises(LungsegError, match=r"1 images and 1 masks .*without a partner: B1, B2"):
        find_films(tmp_path)
    with pytest.raises(LungsegError, match="0 images and 0 masks"):
        find_films(tmp_path / "images")


def test_a_mask_of_another_size_than_its_film_is_refused(workspace, place, tmp_path):
    write_png(tmp_path / "x" / "images" / "B1.png", lungs())
    write_png(tmp_path / "x" / "masks" / "B1.png", lungs()[:16] * 255)
    with pytest.raises(LungsegError, match="32 × 32, its mask 32 × 16"):
        benchmark(None, tmp_path / "x", workspace, **place, load=load_fake)
    assert not (place["folder"] / "results.json").exists()


def test_two_films_that_differ_in_their_suffix_alone_are_refused(tmp_path):
    for name in ("images/B1.png", "images/B1.jpg", "images/B2.png", "masks/B1.png", "masks/B2.png"):
        write_png(tmp_path / name, lungs())
    with pytest.raises(LungsegError, match=r"B1\.jpg, B1\.png in .*images\n") as error:
        find_films(tmp_path)
    assert error.value.advice == "Keep one file of each name."


@pytest.mark.parametrize(("changed", "code"), [({}, 0), ({"data.x.n": (1, 2)}, 1)])
def test_the_exit_code_tells_whether_figures_changed(changed, code, monkeypatch, capsys):
    outcome = Outcome({}, "| a table |", changed, {"external": False}, [], [])
    asked = []
    monkeypatch.setattr(command, "benchmark", lambda *paths: asked.append(paths) or outcome)
    assert command.main(["--data", "here", "--workspace", "there"]) == code
    assert asked == [("here", None, "there")]
    printed = capsys.readouterr().out
    assert "EXTERNAL was left out: its figures are kept as recorded, of OTHER WEIGHTS" in printed
    assert ("Changed: data.x.n was 1, now 2" in printed) == bool(changed)
    assert f"{len(changed)} figures differ" in printed


def test_the_command_says_that_other_films_are_not_recorded(monkeypatch, capsys):
    outcome = Outcome({}, "| own |", {}, {}, ["external"], [Path("cases-external.csv")])
    monkeypatch.setattr(command, "benchmark", lambda *paths: outcome)
    assert command.main(["--external", "own"]) == 0
    table, said, written = capsys.readouterr().out.splitlines()
    assert (table, written) == ("| own |", "Wrote cases-external.csv")
    assert said.startswith(
        "EXTERNAL holds other X-rays or masks than the recorded ones, so nothing"
    )


def test_the_command_line_refuses_a_wrong_folder(tmp_path, capsys):
    assert command.main(["--data", str(tmp_path / "nowhere")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["Received", "What to do"]


def test_the_processor_is_named_where_linux_says_it(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A Processor 3 GHz\n")
    assert processor_name(tmp_path / "cpuinfo") == "A Processor 3 GHz"
    assert processor_name(tmp_path / "absent")
