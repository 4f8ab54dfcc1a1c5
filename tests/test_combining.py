from __future__ import annotations

import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from lungseg_utils.acquire import nlm
from lungseg_utils.acquire.arrival import check_bundle
from lungseg_utils.acquire.combining import (
    Part,
    choose_files,
    describe,
    files_of_complete,
    lacking_cases,
    link_bundle,
    link_or_copy,
    origins_of,
)
from lungseg_utils.acquire.sources import ensure_raw, fetch
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import DownloadError, LungsegError
from lungseg_utils.files.records import file_sha256, read_json
from lungseg_utils.manifest import MANIFEST_NAME, write_manifest
from lungseg_utils.verify import verify_workspace
from lungseg_utils.workspace import Workspace
from tests.bundles import SMALL_SIZES, small_cases, write_image, write_small_bundle

CASES = small_cases()
FIRST, SECOND, THIRD = SMALL_SIZES
IMAGE, MASK = f"CXR_png/{FIRST}.png", f"masks/{FIRST}_mask.png"


def two_parts(tmp_path: Path, spoil: Callable[[Path, Path], None]) -> list[Part]:
    folders = [write_small_bundle(tmp_path / name, value=at) for at, name in enumerate("ab")]
    spoil(*folders)
    return [Part(folder.name, check_bundle(folder, CASES)) for folder in folders]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def origin(parts: list[Part], image_id: str = FIRST) -> tuple[str | None, str | None]:
    return tuple(origins_of(choose_files(parts, CASES))[image_id].values())


# --- which files are chosen


def test_of_two_whole_sources_the_first_is_taken(tmp_path: Path):
    parts = two_parts(tmp_path, lambda a, b: None)
    choices = choose_files(parts, CASES)
    assert set(map(str, origins_of(choices).values())) == {str({"image": "a", "mask": "a"})}
    assert lacking_cases(choices, CASES) == []
    assert describe(parts, choices, []).splitlines() == [
        "From a: 3 X-rays and 3 lung masks.",
        "From b: 0 X-rays and 0 lung masks.",
    ]


@pytest.mark.parametrize("name", [IMAGE, MASK])
@pytest.mark.parametrize("spoil", [Path.unlink, cut])
def test_x_ray_and_mask_come_from_one_source_where_one_has_both(tmp_path: Path, name, spoil):
    parts = two_parts(tmp_path, lambda a, b: spoil(a / name))
    assert lacking_cases(choose_files(parts[:1], CASES), CASES) == [FIRST]
    assert origin(parts) == ("b", "b")
    assert origin(parts, SECOND) == ("a", "a")


def test_of_different_sources_only_where_none_has_both_and_said_so(tmp_path: Path):
    def spoil(a: Path, b: Path) -> None:
        (a / MASK).unlink()
        (b / IMAGE).unlink()

    parts = two_parts(tmp_path, spoil)
    choices = choose_files(parts, CASES)
    assert origin(parts) == ("a", "b")
    assert lacking_cases(choices, CASES) == [FIRST]
    assert f"X-ray and mask from different sources: {FIRST}." in describe(parts, choices, [])


def test_a_mask_of_another_size_is_no_other_source_s_mask(tmp_path: Path):
    """A resized copy's mask does not fit the original X-ray."""

    def spoil(a: Path, b: Path) -> None:
        (a / MASK).unlink()
        shutil.rmtree(b)
        write_small_bundle(b, lambda size: (16, 16))
        (b / IMAGE).unlink()

    parts = two_parts(tmp_path, spoil)
    assert parts[1].arrival.resized == "16 × 16"
    assert origin(parts) == ("a", None)
    choices = choose_files(parts, CASES)
    assert lacking_cases(choices, CASES) == [FIRST]
    assert "From b, a copy resized to 16 × 16: 0 X-rays" in describe(parts, choices, [])


def test_an_x_ray_of_an_odd_size_is_used_only_where_there_is_no_other(tmp_path: Path):
    def spoil(a: Path, b: Path) -> None:
        write_image(a / IMAGE, (20, 20))
        write_image(a / MASK, (20, 20))

    parts = two_parts(tmp_path, spoil)
    assert origin(parts) == ("b", "b")
    assert origin(parts[:1]) == ("a", "a")
    assert lacking_cases(choose_files(parts[:1], CASES), CASES) == [FIRST]


def test_left_and_right_lung_come_together(tmp_path: Path):
    def spoil(a: Path, b: Path) -> None:
        for folder in (a, b):
            for side in ("left", "right"):
                write_image(folder / f"ManualMask/{side}Mask/{THIRD}.png", (48, 40), 255)
            (folder / f"masks/{THIRD}.png").unlink()
        cut(a / f"ManualMask/leftMask/{THIRD}.png")

    parts = two_parts(tmp_path, spoil)
    assert origin(parts, THIRD) == ("b", "b")
    choices = choose_files(parts, CASES)
    assert choices[THIRD].masks[1] == (
        f"ManualMask/leftMask/{THIRD}.png",
        f"ManualMask/rightMask/{THIRD}.png",
    )


def test_a_complete_case_s_files_need_not_be_asked_for(tmp_path: Path):
    parts = two_parts(tmp_path, lambda a, b: (a / MASK).unlink())
    names = files_of_complete(choose_files(parts[:1], CASES))
    assert {f"CXR_png/{THIRD}.png", f"masks/{THIRD}.png"} < names
    assert f"ClinicalReadings/{THIRD}.txt" in names
    assert not [name for name in names if FIRST in name]


def test_the_linked_bundle_holds_the_chosen_files_and_their_hashes(tmp_path: Path):
    def spoil(a: Path, b: Path) -> None:
        cut(a / IMAGE)
        for folder in (a, b):
            (folder / "ClinicalReadings").mkdir()
        (b / "ClinicalReadings" / f"{SECOND}.txt").write_text("normal")
        write_manifest(a / MANIFEST_NAME, CASES)

    parts = two_parts(tmp_path, spoil)
    hashes = link_bundle(parts, choose_files(parts, CASES), tmp_path / "both")
    found = [path for path in (tmp_path / "both").rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path / "both").as_posix(): file_sha256(path) for path in found}
    assert names == hashes
    assert len(names) == 8
    assert hashes[IMAGE] == file_sha256(tmp_path / "b" / IMAGE)
    assert (tmp_path / "both" / IMAGE).samefile(tmp_path / "b" / IMAGE)
    assert len(pair_bundle(tmp_path / "both").pairs) == 3


def test_a_copy_is_made_where_a_link_cannot_be(tmp_path: Path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "x").write_text("1")
    link_or_copy(tmp_path / "x", tmp_path / "deep" / "y")
    assert (tmp_path / "deep" / "y").read_text() == "1"


# --- several sources fetched


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", tmp_path / "scratch")


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch) -> Path:
    """kagglehub's cache, with the cases' own manifest."""
    cache = write_small_bundle(tmp_path / "cache" / "Lung Segmentation")
    write_manifest(cache / MANIFEST_NAME, CASES)
    fake = types.SimpleNamespace(dataset_download=lambda handle, force_download: str(cache.parent))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    return cache


class FakeNlm:
    """NLM's files, given as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.given = write_small_bundle(folder, value=9), 0, []

    def download(self, folder: Path, have=()) -> None:
        self.asked += 1
        self.given = []
        for path in sorted(self.folder.rglob("*.png")):
            name = path.relative_to(self.folder).as_posix()
            if name not in have and not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)
                self.given.append(name)


@pytest.fixture
def library(tmp_path: Path, monkeypatch) -> FakeNlm:
    fake = FakeNlm(tmp_path / "nlm")
    monkeypatch.setattr(nlm, "download_nlm", fake.download)
    return fake


def pixel(path: Path) -> int:
    from PIL import Image

    return Image.open(path).getpixel((0, 0))


def test_the_second_source_is_asked_only_for_what_is_lacking(
    workspace, kaggle: Path, library: FakeNlm, capsys
):
    cut(kaggle / IMAGE)
    (kaggle / f"CXR_png/{SECOND}.png").unlink()
    bundle = fetch("kaggle+nlm", workspace)
    assert library.given == [
        *(IMAGE, f"CXR_png/{SECOND}.png", MASK, f"masks/{SECOND}_mask.png"),
    ]
    assert [pixel(bundle / f"CXR_png/{image_id}.png") for image_id in SMALL_SIZES] == [9, 9, 7]
    assert len(pair_bundle(bundle).pairs) == 3
    told = capsys.readouterr().out
    assert "From kaggle: 1 X-rays and 1 lung masks.\nFrom nlm: 2 X-rays and 2 lung masks." in told
    assert "1 files are damaged" in told
    [record] = [read_json(path) for path in workspace.downloads.glob("arrival-kaggle+nlm-*.json")]
    assert record["origins"][FIRST] == {"image": "nlm", "mask": "nlm"}
    assert record["sha256"][IMAGE] == file_sha256(library.folder / IMAGE)
    assert verify_workspace(workspace).damaged == []


def test_nothing_is_fetched_twice_and_a_fresh_machine_fetches_the_same(
    workspace, kaggle: Path, library: FakeNlm
):
    (kaggle / IMAGE).unlink()
    bundle = fetch("kaggle+nlm", workspace)
    before = {path.name: path.read_bytes() for path in bundle.rglob("*.png")}
    assert fetch("kaggle+nlm", workspace) == ensure_raw(workspace) == bundle
    assert library.asked == 1
    shutil.rmtree(workspace.scratch)
    assert ensure_raw(workspace) == bundle
    assert {path.name: path.read_bytes() for path in bundle.rglob("*.png")} == before


def test_a_whole_first_source_is_enough(workspace, kaggle: Path, library: FakeNlm, capsys):
    fetch("kaggle+nlm", workspace)
    assert library.asked == 0
    assert "Nothing is lacking: nlm is not asked." in capsys.readouterr().out


def test_what_filled_gaps_does_not_pass_for_the_whole_source(workspace, kaggle: Path, library):
    (kaggle / IMAGE).unlink()
    fetch("kaggle+nlm", workspace)
    bundle = fetch("nlm", workspace)
    assert len(list((bundle / "CXR_png").iterdir())) == 3
    # What filled the gaps is there already and is taken along.
    assert IMAGE not in library.given and len(library.given) == 4


def test_a_damaged_first_source_does_not_pass_for_a_whole_one(workspace, kaggle: Path, library):
    cut(kaggle / IMAGE)
    fetch("kaggle+nlm", workspace)
    with pytest.raises(DownloadError, match=FIRST):
        fetch("kaggle", workspace)


def test_a_file_that_changed_at_its_source_is_replaced_by_the_next(workspace, kaggle, library):
    fetch("kaggle", workspace)
    shutil.rmtree(workspace.scratch)
    write_image(kaggle / IMAGE, SMALL_SIZES[FIRST], 8)
    bundle = fetch("kaggle+nlm", workspace)
    assert pixel(bundle / IMAGE) == 9


def test_a_source_that_fails_leaves_the_others_and_is_asked_again(
    workspace, kaggle: Path, library: FakeNlm, monkeypatch, capsys
):
    def fail(folder, have=()):
        raise DownloadError("NLM answers.", "503", "Try later.")

    (kaggle / IMAGE).unlink()
    monkeypatch.setattr(nlm, "download_nlm", fail)
    bundle = fetch("kaggle+nlm", workspace)
    assert pair_bundle(bundle).missing_images == [FIRST]
    told = capsys.readouterr().out
    assert "nlm is left out. NLM answers." in told
    assert f"Not complete and sound in one source: {FIRST}." in told
    assert ensure_raw(workspace) == bundle
    monkeypatch.setattr(nlm, "download_nlm", library.download)
    assert ensure_raw(workspace) == bundle
    assert library.asked == 0
    assert pair_bundle(fetch("kaggle+nlm", workspace)).missing_images == []


def test_where_all_sources_fail_the_first_error_is_told(workspace, library, monkeypatch):
    def fail(*arguments, **keywords):
        raise ConnectionError("no route to host")

    fake = types.SimpleNamespace(dataset_download=fail)
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    monkeypatch.setattr(nlm, "download_nlm", lambda folder, have=(): None)
    with pytest.raises(DownloadError, match="no route to host"):
        fetch("kaggle+nlm", workspace)
    assert not workspace.source_record.exists()


def test_a_folder_and_a_zip_file_fill_each_other(workspace, tmp_path: Path, kaggle: Path):
    other = write_small_bundle(tmp_path / "other", value=5)
    archive = shutil.make_archive(str(tmp_path / "b"), "zip", other)
    (kaggle / IMAGE).unlink()
    bundle = fetch("folder + zip", workspace, f"{kaggle}; {archive}")
    assert pixel(bundle / IMAGE) == 5
    # The user's folder is as it was; when it changes, the bundle is put together anew.
    assert not (kaggle / IMAGE).exists()
    write_image(kaggle / IMAGE, SMALL_SIZES[FIRST], 6)
    assert pixel(fetch("folder+zip", workspace, f"{kaggle};{archive}") / IMAGE) == 6


@pytest.mark.parametrize(
    ("source", "location", "message"),
    [
        ("kaggle+phantom", "", "stay apart"),
        ("nlm+nlm", "", "different ones"),
        ("kaggle+", "", "SOURCE is one of"),
        ("kaggle+nlm", "a;b;c", "3 locations"),
        ("kaggle+nlm", ";http://x", "no location"),
        ("folder+nlm", "", "needs a location"),
    ],
)
def test_what_cannot_be_combined_is_refused(workspace, source: str, location: str, message: str):
    with pytest.raises(LungsegError, match=message):
        fetch(source, workspace, location)


# --- NLM alone


def test_a_broken_connection_costs_no_file(workspace, library: FakeNlm, monkeypatch):
    def break_off(folder, have=()):
        library.download(folder, {name for name in library_names if FIRST in name})
        raise DownloadError("NLM answers.", "no", "Try later.")

    library_names = {
        path.relative_to(library.folder).as_posix() for path in library.folder.rglob("*.png")
    }
    monkeypatch.setattr(nlm, "download_nlm", break_off)
    with pytest.raises(DownloadError):
        fetch("nlm", workspace)
    monkeypatch.setattr(nlm, "download_nlm", library.download)
    fetch("nlm", workspace)
    assert library.given == [IMAGE, MASK]


def test_a_file_that_arrives_damaged_is_asked_for_again(workspace, library: FakeNlm):
    whole = (library.folder / IMAGE).read_bytes()
    cut(library.folder / IMAGE)
    with pytest.raises(DownloadError, match=FIRST):
        fetch("nlm", workspace)
    (library.folder / IMAGE).write_bytes(whole)
    fetch("nlm", workspace)
    assert library.given == [IMAGE]
