from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lungseg_utils.acquire.sources import fetch
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import MissingInputError
from lungseg_utils.files.records import file_sha256, write_json
from lungseg_utils.preparation.arrays import prepare
from lungseg_utils.preparation.stitching import write_stitched
from lungseg_utils.training.runs import BEST
from lungseg_utils.verify import main, verify_workspace
from lungseg_utils.workspace import Workspace, open_workspace

RAW = "scratch/raw/phantom"


def write_run(folder: Path) -> None:
    """What a finished training leaves, as far as it is looked at."""
    (folder / "predictions").mkdir(parents=True)
    for name in (BEST, "last.npz"):
        with (folder / name).open("wb") as file:
            np.savez(file, variable_0=np.arange(4000, dtype=np.float32))
    (folder / "history.csv").write_text("epoch,loss,val_dice\n1,0.5,0.8\n2,0.4,0.9\n")
    record = {"config": {}, "data": {}, "epochs_run": 2, "finished": "2026-01-01"}
    record["best_weights_sha256"] = file_sha256(folder / BEST)
    write_json(folder / "run.json", record)
    np.savez(
        folder / "predictions" / "test.npz",
        ids=np.array(["a"]),
        probability=np.zeros((1, 4, 4), np.float16),
        digest=np.array(f"{file_sha256(folder / BEST)} x"),
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
    assert result.checked[:4] == [
        "downloads/source.json",
        "downloads/drive-1.zip",
        "prepared/16",
        "stitched/16.zip",
    ]
    assert main([str(root)]) == 0
    assert capsys.readouterr().out.endswith("Nothing is damaged.\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (f"{RAW}/CXR_png/MCUCXR_9001_0.png", "OVERWRITE"),
        (f"{RAW}/masks/MCUCXR_9001_0.png", "OVERWRITE"),
        (f"{RAW}/data_manifest.csv", "OVERWRITE"),
        ("downloads/drive-1.zip", "02_download_and_pair"),
        ("prepared/16/images.npy", "03_preprocess_and_stitch"),
        ("prepared/16/masks.npy", "03_preprocess_and_stitch"),
        ("prepared/16/index.csv", "03_preprocess_and_stitch"),
        ("stitched/16.zip", "03_preprocess_and_stitch"),
        ("runs/unet/last.npz", "Delete it"),
        (f"runs/unet/{BEST}", "Delete the folder {root}/runs/unet "),
        (f"runs/unet/half_size/{BEST}", "Delete the folder {root}/runs/unet/half_size "),
        ("runs/unet/predictions/test.npz", "predicts again"),
    ],
)
def test_one_wrong_bit_is_found_and_the_remedy_told(root: Path, name: str, remedy: str, capsys):
    flip(root / name)
    damage, *others = verify_workspace(root).damaged
    assert root / name == damage.path or (root / name).is_relative_to(damage.path)
    assert remedy.format(root=root) in damage.remedy
    # Predictions are of the weights that made them.
    assert [each.path.name for each in others] == ["test.npz"] * (BEST in name)
    assert main([str(root)]) == 1
    told = capsys.readouterr().out
    assert str(damage.path) in told and damage.remedy in told and told.endswith(" damaged.\n")


@pytest.mark.parametrize(
    "name",
    [
        "prepared/16/record.json",
        "runs/unet/run.json",
        "runs/unet/history.csv",
        f"runs/unet/{BEST}",
        "downloads/source.json",
        "downloads/arrival-phantom-",
    ],
)
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_cut_or_empty_file_is_found(root: Path, name: str, left: float):
    [path] = root.glob(f"{name}*")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    damage = verify_workspace(root).damaged[0]
    assert path.name in f"{damage.path} {damage.reason}" or path.parent == damage.path


def test_what_is_gone_or_came_later_is_named(root: Path):
    images = root / RAW / "CXR_png"
    (images / "MCUCXR_9001_0.png").rename(images / "MCUCXR_9999_0.png")
    found = {damage.path.name: damage.reason for damage in verify_workspace(root).damaged}
    assert found == {
        "MCUCXR_9001_0.png": "gone",
        "MCUCXR_9999_0.png": "not recorded when it arrived",
    }


def test_a_folder_of_the_user_s_is_hashed_again(root: Path, tmp_path: Path):
    mine = shutil.copytree(root / RAW, tmp_path / "mine")
    workspace = Workspace(tmp_path / "other", tmp_path / "scratch")
    fetch("folder", workspace, str(mine))
    assert verify_workspace(workspace).damaged == []
    flip(mine / "masks" / "MCUCXR_9001_0.png")
    [damage] = verify_workspace(workspace).damaged
    assert damage.path == mine / "masks" / "MCUCXR_9001_0.png"
    shutil.rmtree(mine)
    [damage] = verify_workspace(workspace).damaged
    assert damage.path == mine and "mount" in damage.remedy


def test_a_fresh_machine_s_workspace_is_whole_and_nothing_is_made(
    root: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(root.parent)
    shutil.rmtree(root / "scratch")
    assert root.name == "workspace" and main([]) == 0
    assert not (root / "scratch").exists()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(MissingInputError, match="nowhere"):
        verify_workspace("nowhere")
    assert main([]) == main(["nowhere"]) == 2
    assert "What to do" in capsys.readouterr().err
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_command_line_needs_no_tensorflow(root: Path):
    code = (
        "import sys; from lungseg_utils.verify import main; code = main(sys.argv[1:]); "
        "sys.exit(3 if {'tensorflow', 'keras'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
