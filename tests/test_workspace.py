"""Where the workspace lies: on Drive in Colab, which is mounted for it, else where it is asked."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from colab import DRIVE_STUB

from lungseg_utils.errors import LungsegError, StorageError
from lungseg_utils.workspace import Workspace, in_colab, mount_drive, open_workspace


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Colab: a package `google.colab` whose Drive is a folder."""
    package = tmp_path / "site" / "google" / "colab"
    package.mkdir(parents=True)
    # No __init__.py in `google`: other packages share that name.
    (package / "__init__.py").touch()
    (package / "drive.py").write_text(DRIVE_STUB.format(kept=str(tmp_path / "kept")))
    (tmp_path / "kept").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    yield tmp_path / "drive"
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


def test_in_colab_drive_is_mounted_once_and_holds_the_workspace(colab: Path, capsys):
    assert in_colab()
    assert "google.colab" not in sys.modules
    for path in ("", "", colab / "MyDrive" / "lungseg"):
        workspace = open_workspace(path, drive=str(colab))
        assert workspace.root.resolve() == colab.parent / "kept" / "lungseg"
        assert workspace.scratch == colab.parent / "local" / "lungseg_scratch"
        assert workspace.root.is_dir() and workspace.scratch.is_dir()
    assert capsys.readouterr().out.count("Mounted at") == 1
    assert mount_drive(str(colab)) == colab / "MyDrive"


def test_a_folder_of_the_machine_needs_no_drive(colab: Path):
    assert open_workspace("mine", drive=str(colab)).root == colab.parent / "mine"
    assert not colab.exists()


def test_a_refusal_to_mount_is_explained(colab: Path):
    from google.colab import drive

    def refuse(mount_point: str) -> None:
        raise RuntimeError("credential propagation was unsuccessful")

    drive.mount = refuse
    with pytest.raises(LungsegError, match=r"credential propagation(.|\n)*/content/lungseg"):
        open_workspace(drive=str(colab))
    assert not (colab.parent / "workspace").exists()


def test_elsewhere_nothing_is_mounted(tmp_path: Path, monkeypatch):
    assert not in_colab()
    with pytest.raises(LungsegError, match="in Colab only"):
        mount_drive(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace()
    assert workspace.root == tmp_path.resolve() / "workspace"
    assert workspace.scratch == workspace.root / "scratch"
    assert workspace.scratch.is_dir()


def test_every_stage_has_its_place():
    workspace = Workspace(Path("/drive"), Path("/local"))
    places = {
        "/drive/downloads": workspace.downloads,
        "/drive/downloads/source.json": workspace.source_record,
        "/local/raw": workspace.raw,
        "/drive/prepared/256": workspace.prepared(256),
        "/drive/stitched/512.zip": workspace.stitched(512),
        "/drive/runs": workspace.runs,
        "/drive/runs/unet": workspace.run("unet"),
        "/drive/reports": workspace.reports,
        "/drive/segmented/unet": workspace.segmented("unet"),
        "/drive/cleaned": workspace.cleaned,
    }
    assert {expected: str(place) for expected, place in places.items()} == {
        expected: expected for expected in places
    }


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../unet", "/unet", "unet/"])
def test_a_run_cannot_leave_its_folder(name: str):
    with pytest.raises(LungsegError, match="single folder name"):
        Workspace(Path("/drive"), Path("/local")).run(name)


def test_a_workspace_that_cannot_be_written_to_is_a_clear_error(tmp_path: Path, monkeypatch):
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="can be written to") as caught:
        open_workspace(tmp_path / "taken")
    assert "taken" in str(caught.value.received)

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        open_workspace(tmp_path)
