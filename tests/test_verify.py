from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from lungseg_utils.acquire.sources import fetch
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import MissingInputError
from lungseg_utils.files.records import file_sha256, write_json
from lungseg_utils.preparation.arrays import prepare
from lungseg_utils.preparation.stitching import write_stitched
from lungseg_utils.verify import main, verify_workspace
from lungseg_utils.workspace import Workspace, open_workspace


def write_run(folder: Path) -> None:
    """What a finished training leaves, as far as it is looked at."""
    (folder / "predictions").mkdir(parents=True)
    with h5py.File(folder / "best.weights.h5", "w") as file:
        file["layers/conv/vars/0"] = np.arange(4000, dtype=np.float32)
    np.savez(folder / "last.npz", variable_0=np.arange(500))
    (folder / "history.csv").write_text("epoch,loss,val_dice\n1,0.5,0.8\n2,0.4,0.9\n")
    record = {"config": {}, "data": {}, "epochs_run": 2, "finished": "2026-01-01"}
    record["best_weights_sha256"] = file_sha256(folder / "best.weights.h5")
    write_json(folder / "run.json", record)
    np.savez(
        folder / "predictions" / "test.npz",
        ids=np.array(["a"]),
        probability=np.zeros((1, 4, 4), np.float16),
        digest=np.array(f"{file_sha256(folder / 'best.weights.h5')} x"),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A workspace with something of every kind."""
    workspace = open_workspace(tmp_path_factory.mktemp("whole"))
    bundle = fetch("phantom", workspace, count=8, size=48, unlabelled=1)
    write_stitched(prepare(pair_bundle(bundle), workspace, 16), workspace)
    write_run(workspace.run("unet"))
    write_run(workspace.run("unet") / "half_size")
    with zipfile.ZipFile(workspace.downloads / "drive-1.zip", "w") as archive:
        archive.writestr("a.txt", b"alpha" * 100)
    return workspace.root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "workspace"))


def flip(path: Path, place: float = 0.5) -> None:
    """Damage a file in one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


def test_a_whole_workspace_is_whole(root: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    result = verify_workspace(root)
    assert result.damaged == []
    names = ["downloads/source.json", "downloads/drive-1.zip", "raw/phantom"]
    assert result.checked == [*names, "prepared/16", "stitched/16.zip", "runs/unet"]
    assert main([str(root)]) == 0
    assert capsys.readouterr().out.endswith("Nothing is damaged.\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("scratch/raw/phantom/CXR_png/MCUCXR_9001_0.png", "OVERWRITE"),
        ("scratch/raw/phantom/masks/MCUCXR_9001_0.png", "OVERWRITE"),
        ("scratch/raw/phantom/data_manifest.csv", "OVERWRITE"),
        ("downloads/drive-1.zip", "02_download_and_pair"),
        ("prepared/16/images.npy", "03_preprocess_and_stitch"),
        ("prepared/16/masks.npy", "03_preprocess_and_stitch"),
        ("prepared/16/index.csv", "03_preprocess_and_stitch"),
        ("stitched/16.zip", "03_preprocess_and_stitch"),
        ("runs/unet/last.npz", "Delete it"),
        ("runs/unet/predictions/test.npz", "predicts again"),
    ],
)
def test_one_wrong_bit_is_found_and_the_remedy_told(root: Path, name: str, remedy: str, capsys):
    flip(root / name)
    [damage] = verify_workspace(root).damaged
    assert (root / name).is_relative_to(damage.path)
    assert remedy in damage.remedy
    assert main([str(root)]) == 1
    told = capsys.readouterr().out
    assert str(damage.path) in told and remedy in told and told.endswith("1 damaged.\n")


@pytest.mark.parametrize(
    "name",
    [
        "prepared/16/record.json",
        "runs/unet/run.json",
        "runs/unet/history.csv",
        "runs/unet/best.weights.h5",
        "runs/unet/half_size/best.weights.h5",
        "downloads/source.json",
        "scratch/raw/phantom/fetched.json",
    ],
)
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_cut_or_empty_file_is_found(root: Path, name: str, left: float):
    path = root / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    assert any(path.is_relative_to(damage.path) for damage in verify_workspace(root).damaged)


@pytest.mark.parametrize("name", ["run.json", "best.weights.h5"])
def test_of_a_damaged_run_the_folder_to_delete_is_named(root: Path, name: str):
    (root / "runs" / "unet" / name).write_text("{")
    damage = verify_workspace(root).damaged[0]
    assert damage.path.name == name
    assert f"Delete the folder {root / 'runs' / 'unet'} " in damage.remedy


def test_what_is_gone_or_came_later_is_named(root: Path):
    images = root / "scratch" / "raw" / "phantom" / "CXR_png"
    (images / "MCUCXR_9001_0.png").rename(images / "MCUCXR_9999_0.png")
    gone, strange = verify_workspace(root).damaged
    assert (gone.path.name, gone.reason) == ("MCUCXR_9001_0.png", "gone")
    assert strange.path.name == "MCUCXR_9999_0.png"
    assert "not recorded" in strange.reason


def test_altered_weights_are_found(root: Path):
    with h5py.File(root / "runs" / "unet" / "best.weights.h5", "r+") as file:
        file["layers/conv/vars/0"][7] = 5
    weights, predictions = verify_workspace(root).damaged
    assert weights.path.name == "best.weights.h5" and "SHA-256" in weights.reason
    assert predictions.path.name == "test.npz"
    with h5py.File(root / "runs" / "unet" / "best.weights.h5", "r+") as file:
        file["layers/conv/vars/0"][7] = np.nan
    assert "not finite" in verify_workspace(root).damaged[0].reason


def test_a_lacking_epoch_is_found(root: Path):
    (root / "runs" / "unet" / "history.csv").write_text("epoch,loss\n1,0.5\n")
    [damage] = verify_workspace(root).damaged
    assert damage.reason == "1 epochs of 2"


def test_a_digest_that_is_not_its_own_is_found(root: Path):
    path = root / "prepared" / "16" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"size": 16, "version": 99}))
    [damage] = verify_workspace(root).damaged
    assert "digest" in damage.reason


def test_a_folder_of_the_user_s_is_hashed_again(root: Path, tmp_path: Path):
    mine = shutil.copytree(root / "scratch" / "raw" / "phantom", tmp_path / "mine")
    workspace = Workspace(tmp_path / "other", tmp_path / "scratch")
    fetch("folder", workspace, str(mine))
    assert verify_workspace(workspace).damaged == []
    flip(mine / "masks" / "MCUCXR_9001_0.png")
    [damage] = verify_workspace(workspace).damaged
    assert damage.path == mine / "masks" / "MCUCXR_9001_0.png"
    shutil.rmtree(mine)
    [damage] = verify_workspace(workspace).damaged
    assert damage.path == mine and "Mount" in damage.remedy


def test_a_fresh_machine_without_raw_files_is_whole(root: Path):
    shutil.rmtree(root / "scratch")
    assert verify_workspace(root).damaged == []


def test_no_workspace_is_an_error(tmp_path: Path, capsys):
    with pytest.raises(MissingInputError, match="nowhere"):
        verify_workspace(tmp_path / "nowhere")
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "What to do" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_the_usual_workspace_is_verified_and_never_made(
    root: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(root.parent)
    shutil.rmtree(root / "scratch")
    assert root.name == "workspace" and main([]) == 0
    assert not (root / "scratch").exists()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main([]) == 2
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_command_line_needs_no_tensorflow(root: Path):
    code = (
        "import sys; from lungseg_utils.verify import main; code = main(sys.argv[1:]); "
        "sys.exit(3 if {'tensorflow', 'keras'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
