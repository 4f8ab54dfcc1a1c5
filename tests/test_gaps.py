"""Several sources: later ones fill what earlier ones lack or have damaged, by whole cases."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lungseg_utils.acquire import sources
from lungseg_utils.acquire.sources import ensure_raw, fetch
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import DownloadError
from lungseg_utils.files.records import file_sha256, read_json
from lungseg_utils.manifest import MANIFEST_NAME, write_manifest
from lungseg_utils.verify import verify_workspace
from lungseg_utils.workspace import Workspace
from tests.bundles import (
    SMALL_SIZES,
    cut_short,
    failing,
    small_cases,
    write_image,
    write_small_bundle,
)

CASES = small_cases()
FIRST, SECOND, THIRD = SMALL_SIZES
IMAGE, MASK = f"CXR_png/{FIRST}.png", f"masks/{FIRST}_mask.png"
KAGGLE, NLM = 7, 9  # the grey of their X-rays


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", tmp_path / "scratch")


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch) -> Path:
    """kagglehub's cache, with the cases' own manifest."""
    cache = write_small_bundle(tmp_path / "cache" / "Lung Segmentation", value=KAGGLE)
    write_manifest(cache / MANIFEST_NAME, CASES)
    fake = types.SimpleNamespace(dataset_download=lambda handle, force_download: str(cache.parent))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    return cache


class FakeNlm:
    """NLM's files, given as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.given = write_small_bundle(folder, value=NLM), 0, []

    def download(self, folder: Path, have=()) -> None:
        self.asked += 1
        self.given = []
        for path in sorted(path for path in self.folder.rglob("*.*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if name not in have and not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)
                self.given.append(name)


@pytest.fixture
def library(tmp_path: Path, monkeypatch) -> FakeNlm:
    fake = FakeNlm(tmp_path / "nlm")
    monkeypatch.setattr(sources, "download_nlm", fake.download)
    return fake


def greys(bundle: Path) -> list[int]:
    """Of the three X-rays: tells which source each comes from."""
    paths = [bundle / f"CXR_png/{image_id}.png" for image_id in SMALL_SIZES]
    return [Image.open(path).getpixel((0, 0)) for path in paths]


def make_odd(path: Path) -> None:
    write_image(path, (20, 20), KAGGLE)


@pytest.mark.parametrize("name", [IMAGE, MASK])
@pytest.mark.parametrize("spoil", [Path.unlink, cut_short, make_odd])
def test_a_case_comes_whole_from_the_next_source(
    workspace, kaggle: Path, library: FakeNlm, capsys, name: str, spoil: Callable[[Path], None]
):
    spoil(kaggle / name)
    bundle = fetch("kaggle+nlm", workspace)
    assert library.given == [IMAGE, MASK]
    assert greys(bundle) == [NLM, KAGGLE, KAGGLE]
    assert len(pair_bundle(bundle).pairs) == 3
    told = capsys.readouterr().out
    assert "From kaggle: 2 cases.\nFrom nlm: 1 cases.\n" in told
    assert "1 files are damaged" in told or spoil is not cut_short
    [record] = [read_json(path) for path in workspace.downloads.glob("arrival-kaggle+nlm-*.json")]
    assert record["origins"] == {FIRST: "nlm", SECOND: "kaggle", THIRD: "kaggle"}
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*.*")}
    assert record["sha256"] == {key: file_sha256(path) for key, path in found.items()}
    assert (bundle / f"CXR_png/{THIRD}.png").samefile(kaggle / f"CXR_png/{THIRD}.png")
    assert verify_workspace(workspace).damaged == []
    assert [path.name for path in workspace.raw.iterdir()] == ["kaggle+nlm"]


def test_x_ray_and_mask_of_two_sources_make_no_case(workspace, kaggle, library, capsys):
    """They may be of two films, or of two sizes; the manifest cannot tell."""
    (kaggle / MASK).unlink()
    (library.folder / IMAGE).unlink()
    bundle = fetch("kaggle+nlm", workspace)
    assert pair_bundle(bundle).missing_images == [FIRST]
    assert f"of the expected size in no source (1): {FIRST}." in capsys.readouterr().out


def test_an_odd_size_is_used_where_there_is_no_other(workspace, kaggle: Path, library):
    for name in (IMAGE, MASK):
        make_odd(kaggle / name)
    (library.folder / MASK).unlink()
    assert greys(fetch("kaggle+nlm", workspace)) == [KAGGLE] * 3


def test_left_and_right_lung_come_together_and_the_reading_with_them(workspace, kaggle, library):
    for folder in (kaggle, library.folder):
        for side in ("left", "right"):
            write_image(folder / f"ManualMask/{side}Mask/{THIRD}.png", SMALL_SIZES[THIRD], 255)
        (folder / f"masks/{THIRD}.png").unlink()
        (folder / "ClinicalReadings").mkdir()
        for image_id in (SECOND, THIRD):
            (folder / "ClinicalReadings" / f"{image_id}.txt").write_text(folder.name)
    cut_short(kaggle / f"ManualMask/leftMask/{THIRD}.png")
    bundle = fetch("kaggle+nlm", workspace)
    assert greys(bundle) == [KAGGLE, KAGGLE, NLM]
    assert len(library.given) == 4
    [masks] = [pair.masks for pair in pair_bundle(bundle).pairs if pair.case.image_id == THIRD]
    assert [mask.parent.name for mask in masks] == ["leftMask", "rightMask"]
    readings = [(bundle / f"ClinicalReadings/{i}.txt").read_text() for i in (SECOND, THIRD)]
    assert readings == ["Lung Segmentation", "nlm"]


def test_nothing_is_fetched_twice_and_a_fresh_machine_fetches_the_same(
    workspace, kaggle: Path, library: FakeNlm, capsys
):
    fetch("kaggle+nlm", workspace)
    assert library.asked == 0
    assert "Nothing is lacking: nlm is not asked." in capsys.readouterr().out
    (kaggle / IMAGE).unlink()
    bundle = fetch("kaggle+nlm", workspace, overwrite=True)
    before = {path.name: path.read_bytes() for path in bundle.rglob("*.png")}
    assert fetch("kaggle+nlm", workspace) == ensure_raw(workspace) == bundle
    assert library.asked == 1
    shutil.rmtree(workspace.scratch)
    assert ensure_raw(workspace) == bundle
    assert {path.name: path.read_bytes() for path in bundle.rglob("*.png")} == before


def test_what_filled_gaps_or_is_damaged_does_not_pass_for_a_whole_source(
    workspace, kaggle: Path, library: FakeNlm
):
    write_manifest(library.folder / MANIFEST_NAME, CASES)
    cut_short(kaggle / IMAGE)
    fetch("kaggle+nlm", workspace)
    with pytest.raises(DownloadError, match=FIRST):
        fetch("kaggle", workspace)
    assert greys(fetch("nlm", workspace)) == [NLM] * 3
    # A source that is there whole is not asked again.
    assert greys(fetch("nlm+kaggle", workspace)) == [NLM] * 3
    assert library.asked == 2


def test_a_source_that_fails_leaves_the_others_and_is_asked_again(
    workspace, kaggle: Path, library: FakeNlm, monkeypatch, capsys
):
    def break_off(folder, have=()):
        library.download(folder, {*have, MASK})
        raise DownloadError("NLM answers.", "503", "Try later.")

    (kaggle / IMAGE).unlink()
    monkeypatch.setattr(sources, "download_nlm", break_off)
    bundle = fetch("kaggle+nlm", workspace)
    assert pair_bundle(bundle).missing_images == [FIRST]
    assert "nlm is left out. NLM answers." in capsys.readouterr().out
    monkeypatch.setattr(sources, "download_nlm", library.download)
    assert ensure_raw(workspace) == bundle
    assert library.asked == 1
    assert pair_bundle(fetch("kaggle+nlm", workspace)).missing_images == []
    assert library.given == [MASK]


def test_where_all_sources_fail_the_first_error_is_told(workspace, library, monkeypatch):
    fail = failing(ConnectionError("no route to host"))
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=fail))
    monkeypatch.setattr(sources, "download_nlm", lambda folder, have=(): None)
    with pytest.raises(DownloadError, match="no route to host"):
        fetch("kaggle+nlm", workspace)
    (library.folder / "CXR_png").rename(library.folder / "x")
    write_image(library.folder / "CXR_png" / "stranger.png", (8, 8))
    with pytest.raises(DownloadError, match="none in folder"):
        fetch("folder+nlm", workspace, str(library.folder))
    assert list(workspace.raw.iterdir()) == [workspace.raw / ".partial-nlm"]
    assert not workspace.source_record.exists()


def test_a_folder_and_a_zip_file_fill_each_other(workspace, tmp_path: Path, kaggle: Path):
    other = write_small_bundle(tmp_path / "other", value=5)
    archive = shutil.make_archive(str(tmp_path / "b"), "zip", other)
    (kaggle / IMAGE).unlink()
    assert greys(fetch("folder + zip", workspace, f"{kaggle}; {archive}")) == [5, KAGGLE, KAGGLE]
    # The user's folder is as it was; when it changes, the bundle is put together anew.
    assert not (kaggle / IMAGE).exists()
    write_image(kaggle / IMAGE, SMALL_SIZES[FIRST], 6)
    assert greys(fetch("folder+zip", workspace, f"{kaggle};{archive}")) == [6, KAGGLE, KAGGLE]
