from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.workspace import Workspace, in_colab, mount_drive, open_workspace


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Colab: a package `google.colab` whose Drive is a folder."""
    package = tmp_path / "site" / "google" / "colab"
    package.mkdir(parents=True)
    # No __init__.py in `google`: other packages share that name.
    (package / "__init__.py").touch()
    (package / "drive.py").write_text(
        "from pathlib import Path\n"
        "def mount(mount_point):\n"
        "    (Path(mount_point) / 'MyDrive').mkdir(parents=True, exist_ok=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    yield tmp_path / "drive"
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


def test_this_is_not_colab():
    assert not in_colab()


def test_colab_is_recognised_without_importing_it(colab: Path):
    assert in_colab()
    assert "google.colab" not in sys.modules


def test_drive_is_mounted_in_colab(colab: Path):
    assert mount_drive(str(colab)) == colab / "MyDrive"
    assert (colab / "MyDrive").is_dir()


def test_drive_cannot_be_mounted_elsewhere(tmp_path: Path):
    with pytest.raises(LungsegError, match="in Colab only"):
        mount_drive(str(tmp_path))


def test_the_workspace_lies_on_the_mounted_drive_and_scratch_on_the_local_disk(colab: Path):
    mount_drive(str(colab))
    workspace = open_workspace(drive=str(colab))
    assert workspace.root == colab / "MyDrive" / "lungseg"
    assert workspace.scratch == colab.parent / "local" / "lungseg_scratch"
    assert workspace.root.is_dir() and workspace.scratch.is_dir()


def test_colab_without_drive_uses_the_working_folder(colab: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_workspace(drive=str(colab)).root == tmp_path.resolve() / "workspace"


def test_without_a_path_the_workspace_is_in_the_working_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace()
    assert workspace.root == tmp_path.resolve() / "workspace"
    assert workspace.scratch == workspace.root / "scratch"
    assert workspace.scratch.is_dir()


def test_a_relative_path_survives_a_change_of_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace("mine")
    monkeypatch.chdir("/")
    assert workspace.root == tmp_path.resolve() / "mine" and workspace.root.is_dir()


def test_the_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workspace("~/mine").root == tmp_path.resolve() / "mine"


def test_every_stage_has_its_place():
    workspace = Workspace(Path("/drive"), Path("/local"))
    places = {
        workspace.downloads: "/drive/downloads",
        workspace.source_record: "/drive/downloads/source.json",
        workspace.raw: "/local/raw",
        workspace.prepared(256): "/drive/prepared/256",
        workspace.stitched(512): "/drive/stitched/512.zip",
        workspace.runs: "/drive/runs",
        workspace.run("unet"): "/drive/runs/unet",
        workspace.reports: "/drive/reports",
        workspace.segmented("unet"): "/drive/segmented/unet",
        workspace.cleaned: "/drive/cleaned",
    }
    assert {str(place): expected for place, expected in places.items()} == {
        expected: expected for expected in places.values()
    }


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../unet", "/unet", "unet/"])
def test_a_run_cannot_leave_its_folder(name: str):
    with pytest.raises(LungsegError, match="single folder name"):
        Workspace(Path("/drive"), Path("/local")).run(name)


def test_a_file_in_the_place_of_the_workspace_is_a_clear_error(tmp_path: Path):
    (tmp_path / "taken").touch()
    with pytest.raises(LungsegError, match="can be written to") as caught:
        open_workspace(tmp_path / "taken")
    assert "taken" in str(caught.value.received)


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path, monkeypatch):
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(LungsegError, match="Permission denied"):
        open_workspace(tmp_path)
