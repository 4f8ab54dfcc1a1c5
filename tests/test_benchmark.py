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

from benchmarks.external import find_films
from benchmarks.score_shipped import benchmark, main
from benchmarks.texts import BEGIN, END
from lungseg_utils.errors import LungsegError
from lungseg_utils.manifest import load_manifest
from lungseg_utils.phantom.sets import write_phantom_bundle
from lungseg_utils.segment.network import SHIPPED
from lungseg_utils.training.config import TrainingConfig

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

    def load_predictor(self):
        def model(inputs: np.ndarray) -> np.ndarray:
            assert inputs.shape[1:] == (SIZE, SIZE, 1)
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
            "file": f"{name}.onnx",
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
def first(bundle, external, workspace, tmp_path_factory) -> dict[str, Path]:
    """The place after a first benchmark."""
    place = new_place(tmp_path_factory.mktemp("first"))
    assert benchmark(bundle, external, workspace, **place, load=load_fake) == {}
    return place


@pytest.fixture
def recorded(first, tmp_path) -> dict[str, Path]:
    """A copy of that place."""
    folder = shutil.copytree(first["folder"].parent, tmp_path / "place")
    return {"folder": folder / "weights", "readme": folder / "README.md"}


def results_in(place: dict[str, Path]) -> dict:
    return json.loads((place["folder"] / "results.json").read_text())


def dice_of_shift(shift: int) -> float:
    """Dice of strips 8 wide, moved sideways."""
    return (8 - shift) / 8


def test_figures_are_those_worked_out_by_hand(first, bundle):
    results = results_in(first)
    test, other = results["data"]["figures"]["test"], results["external"]["figures"]
    for name, shift in {"unet": 0, "unetpp": 1, "pix2pix": 2}.items():
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


def load_moved(name: str, folder: Path) -> FakeRun:
    return FakeRun(name, 3) if name == "pix2pix" else load_fake(name, folder)


def test_a_second_benchmark_prepares_nothing_and_notices_what_changed(bundle, workspace, recorded):
    arrays = workspace / "prepared" / "512" / "images.npy"
    before = arrays.stat().st_mtime_ns
    changed = benchmark(bundle, None, workspace, **recorded, load=load_moved)
    assert arrays.stat().st_mtime_ns == before
    assert changed["data.test.pix2pix.source=montgomery.both.dice.mean"] == (0.75, 0.625)
    places = {".".join(name.split(".")[1:3]) for name in changed}
    assert places == {"test.pix2pix", "differences.pix2pix"}
    assert "| Montgomery | 1 | Pix2Pix | 0.625 |" in recorded["readme"].read_text()
    test = results_in(recorded)["data"]["figures"]["test"]
    assert test["pix2pix"]["source=montgomery"]["both"]["dice"]["mean"] == 0.625


@pytest.mark.parametrize(("sha256", "whose"), [("a", "of these weights"), ("b", "OTHER WEIGHTS")])
def test_what_is_left_out_keeps_its_recorded_figures(
    sha256, whose, external, workspace, recorded, capsys
):
    def load_other(name: str, folder: Path) -> FakeRun:
        return replace(load_fake(name, folder), sha256=sha256)

    before = results_in(recorded)["data"]
    assert benchmark(None, external, workspace, **recorded, load=load_other) == {}
    assert results_in(recorded)["data"] == before
    assert f"DATA was left out: its figures are kept as recorded, {whose}" in (
        capsys.readouterr().out.replace(", of OTHER", ", OTHER")
    )
    assert "| all test images |" in recorded["readme"].read_text()


def everything_in(place: dict[str, Path]) -> dict[str, bytes]:
    files = [*place["folder"].iterdir(), place["readme"]]
    return {str(path): path.read_bytes() for path in files}


def test_other_films_are_scored_and_not_recorded_while_the_bundle_is_compared(
    bundle, workspace, recorded, tmp_path, capsys
):
    # A film whose mask is half of what the networks see: Dice 2·1 / (1 + 2) of the U-Net.
    truth = np.kron(lungs(), np.ones((2, 2), np.uint8))
    write_png(tmp_path / "own" / "images" / "A1.png", truth * 50)
    truth[:SIZE] = 0
    write_png(tmp_path / "own" / "masks" / "A1.png", truth * 255)
    before = everything_in(recorded)
    changed = benchmark(bundle, tmp_path / "own", workspace, **recorded, load=load_moved)
    printed = capsys.readouterr().out
    assert "EXTERNAL holds other X-rays or masks than the recorded ones, so nothing was" in printed
    assert "0.667" in printed
    assert changed["data.test.pix2pix.source=montgomery.both.dice.mean"] == (0.75, 0.625)
    assert not any(name.startswith("external") for name in changed)
    assert everything_in(recorded) == before


def refuse_to_load(name: str, folder: Path) -> FakeRun:
    raise AssertionError("weights are read only once the folders have been looked at")


@pytest.mark.parametrize("named", [("data",), ("external",), ("data", "external")])
def test_a_wrong_folder_is_refused_before_anything_is_done(named, workspace, recorded, tmp_path):
    before = everything_in(recorded)
    paths = dict.fromkeys(("data", "external")) | dict.fromkeys(named, tmp_path / "nowhere")
    with pytest.raises(LungsegError) as error:
        benchmark(**paths, workspace=workspace, **recorded, load=refuse_to_load)
    assert str(tmp_path / "nowhere") in str(error.value)
    assert error.value.advice
    assert everything_in(recorded) == before


@pytest.mark.parametrize("lacking", ["missing", "left out"])
def test_a_bundle_without_a_usable_mask_is_refused_by_name(lacking, external, place, tmp_path):
    folder = write_phantom_bundle(tmp_path / "bundle", 8, size=48)
    mask = sorted((folder / "masks").iterdir())[0]
    mask.unlink()
    if lacking == "left out":
        write_png(mask, np.zeros((48, 48), np.uint8))
    name = mask.stem.removesuffix("_mask")
    with pytest.raises(LungsegError, match=rf"1 {lacking} .*{name}"):
        benchmark(folder, external, tmp_path / "w", **place, load=load_fake)
    assert not (place["folder"] / "results.json").exists()


def test_films_and_masks_without_a_partner_are_named(external, tmp_path):
    assert [film[0].stem for film in find_films(external)] == ["A1", "A2"]
    names = ("images/B1.png", "images/B3.jpg", "images/B3.png", "masks/B2.png", "masks/B3.png")
    for name in names:
        write_png(tmp_path / name, lungs())
    with pytest.raises(LungsegError, match=r"3 images and 2 masks .*not one of each: B1, B2, B3"):
        find_films(tmp_path)
    with pytest.raises(LungsegError, match="0 images and 0 masks"):
        find_films(tmp_path / "images")


@pytest.fixture
def with_hearts(tmp_path) -> Path:
    """A film whose heart covers the lower half of the left strip, and what is beside it."""
    truth = np.kron(lungs(), np.ones((2, 2), np.uint8))
    heart = np.zeros_like(truth)
    heart[SIZE:, SIZE:] = 1
    folder = tmp_path / "own"
    write_png(folder / "images" / "A1.png", truth * 50)
    write_png(folder / "masks" / "A1.png", truth * 255)
    write_png(folder / "hearts" / "A1.png", heart * 255)
    return folder


def score_anew(folder: Path, workspace: Path, recorded: dict[str, Path], heart: str) -> dict:
    """What is recorded of an external set where none was."""
    results = results_in(recorded)
    del results["external"]
    (recorded["folder"] / "results.json").write_text(json.dumps(results))
    benchmark(None, folder, workspace, **recorded, load=load_fake, heart=heart)
    return results_in(recorded)["external"]


def test_masks_with_lung_behind_the_heart_are_scored_with_and_without_it(
    with_hearts, workspace, recorded, capsys
):
    part = score_anew(with_hearts, workspace, recorded, "in")
    figures = part["figures"]
    assert part["convention"] == "in"
    # The network finds both strips: all of the mask as drawn, or 4 halves where 3 are left.
    assert figures["unet"]["both"]["dice"]["mean"] == 1
    assert figures["minus_heart"]["unet"]["both"]["dice"]["mean"] == round(2 * 3 / (4 + 3), 4)
    assert figures["minus_heart"]["unet"]["left"]["dice"]["under_0.9"] == 1
    printed = capsys.readouterr().out
    assert printed.index("EXTERNAL, masks with the") < printed.index("EXTERNAL, masks without the")
    cases = pd.read_csv(workspace / "reports" / "cases-external.csv").query("region == 'both'")
    assert list(cases.query("model == 'unet'")["convention"]) == ["in", "out"]
    assert "| JSRT | 1 | U-Net | 1.000 |" in recorded["readme"].read_text()


def test_hearts_add_nothing_to_masks_that_leave_them_out(with_hearts, workspace, recorded, capsys):
    part = score_anew(with_hearts, workspace, recorded, "out")
    assert part["convention"] == "out"
    assert set(part["figures"]) == {"unet", "unetpp", "pix2pix"}
    assert "hearts/ is not used" in capsys.readouterr().out


def test_the_same_masks_said_to_be_of_the_other_kind_are_not_recorded(
    external, workspace, recorded, capsys
):
    before = everything_in(recorded)
    assert benchmark(None, external, workspace, **recorded, load=load_fake, heart="in") == {}
    assert "EXTERNAL holds other X-rays or masks" in capsys.readouterr().out
    assert everything_in(recorded) == before


def test_what_is_wrong_with_hearts_is_named(with_hearts, workspace, recorded, capsys):
    everywhere = np.ones((2 * SIZE, 2 * SIZE), np.uint8)
    hearts = with_hearts / "hearts"
    for heart, message in {
        "in front": r"'in front'",
        "in": r"1 images and 1 masks and 2 hearts .*not one of each: B1",
    }.items():
        write_png(hearts / "B1.png", everywhere)
        with pytest.raises(LungsegError, match=message):
            find_films(with_hearts, heart)
    (hearts / "B1.png").unlink()
    for message, heart in {
        r"nothing is left of .*A1.png minus .*A1.png": everywhere,
        r"A1.png is 64 × 64, .*hearts.A1.png 32 × 32": lungs(),
    }.items():
        write_png(hearts / "A1.png", heart * 255)
        with pytest.raises(LungsegError, match=message):
            benchmark(None, with_hearts, workspace, **recorded, load=load_fake, heart="in")
    with pytest.raises(SystemExit):
        main(["--data", "bundle", "--heart", "in"])
    assert "name their folder too" in capsys.readouterr().err
