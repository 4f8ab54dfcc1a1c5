from __future__ import annotations

import inspect
import os
import shutil
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_utils.acquire import download, mendeley, sources
from lungseg_utils.acquire.arrival import check_bundle, stamp_of_bundle
from lungseg_utils.acquire.download import parse_drive_location, stamp_of_files
from lungseg_utils.acquire.source_request import DRIVE_FOLDER, KAGGLE_HANDLE, SOURCES
from lungseg_utils.acquire.sources import ensure_raw, fetch
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError
from lungseg_utils.files.records import read_json
from lungseg_utils.workspace import Workspace

IDS = ("CHNCXR_0001_0", "CHNCXR_0002_0")
FILE_LINK = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOp/view?usp=sharing"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", tmp_path / "scratch")


def write_bundle(folder: Path, ids: tuple[str, ...] = IDS) -> Path:
    """A bundle of tiny images that decode, one mask each."""
    for place, suffix in (("CXR_png", ".png"), ("masks", "_mask.png")):
        (folder / place).mkdir(parents=True)
        for number, image_id in enumerate(ids):
            pixels = np.full((8, 8), number, np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{image_id}{suffix}")
    (folder / "ClinicalReadings").mkdir()
    (folder / "ClinicalReadings" / f"{ids[0]}.txt").write_text("male 45yrs\nnormal")
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def pack(bundle: Path, archive: Path) -> Path:
    return Path(shutil.make_archive(str(archive.with_suffix("")), "zip", bundle))


def install(monkeypatch: pytest.MonkeyPatch, name: str, **functions) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**functions))


def forbid(*arguments, **keywords) -> None:
    raise AssertionError("nothing should have been fetched")


class FakeKaggle:
    """kagglehub: a cache of its own, filled on the first call."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.calls = cache, []

    def dataset_download(self, handle, path=None, *, force_download=False, output_dir=None):
        self.calls.append((handle, force_download))
        if not self.cache.exists() or force_download:
            shutil.rmtree(self.cache, ignore_errors=True)
            write_bundle(self.cache / "Lung Segmentation")
            write_bundle(self.cache / "data" / "Lung Segmentation")
            (self.cache / "Lung Segmentation" / "test").mkdir()
        return str(self.cache)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch) -> FakeKaggle:
    fake = FakeKaggle(tmp_path / "cache" / "versions" / "1")
    install(monkeypatch, "kagglehub", dataset_download=fake.dataset_download)
    return fake


# --- folder


def test_a_folder_is_used_where_it_lies(tmp_path: Path, workspace: Workspace, capsys):
    bundle = write_bundle(tmp_path / "mine" / "Lung Segmentation")
    assert fetch("folder", workspace, str(tmp_path / "mine")) == bundle
    assert ensure_raw(workspace) == bundle
    assert not workspace.raw.exists()
    assert "2 X-rays, 2 lung masks and 1 readings" in capsys.readouterr().out
    record = read_json(workspace.source_record)
    assert record == {
        "source": "folder",
        "location": str(tmp_path / "mine"),
        "options": {},
        "files": stamp_of_bundle(bundle),
    }


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_damaged_record_of_the_source_is_explained(tmp_path: Path, workspace: Workspace, text):
    bundle = write_bundle(tmp_path / "mine")
    fetch("folder", workspace, str(bundle))
    workspace.source_record.write_text(text)
    with pytest.raises(LungsegError, match=r"source\.json(.|\n)*02_download_and_pair"):
        ensure_raw(workspace)
    fetch("folder", workspace, str(bundle))
    assert ensure_raw(workspace) == bundle


def test_a_folder_is_decoded_again_only_where_its_files_changed(
    tmp_path: Path, workspace: Workspace, monkeypatch
):
    bundle = write_bundle(tmp_path / "mine" / "Lung Segmentation")
    decoded: list[tuple] = []
    monkeypatch.setattr(
        sources, "check_bundle", lambda *given: decoded.append(given) or check_bundle(*given)
    )

    def times_decoded(**options) -> int:
        decoded.clear()
        assert fetch("folder", workspace, str(tmp_path / "mine"), **options) == bundle
        return len(decoded)

    assert [times_decoded(), times_decoded(), times_decoded(overwrite=True)] == [1, 0, 1]
    # What lies beside the bundle, such as all else on a Drive, is not looked at.
    (tmp_path / "mine" / "notes.txt").touch()
    assert times_decoded() == 0
    (bundle / "masks" / "CHNCXR_0001_0_mask.png").unlink()
    assert [times_decoded(), times_decoded()] == [1, 0]
    cut_short(bundle / "CXR_png" / "CHNCXR_0002_0.png")
    for _ in range(2):
        with pytest.raises(DownloadError, match="CHNCXR_0002_0"):
            fetch("folder", workspace, str(tmp_path / "mine"))


def test_the_stamp_of_files_follows_names_sizes_and_times(tmp_path: Path):
    file = tmp_path / "set" / "a" / "x.png"
    file.parent.mkdir(parents=True)
    stamps = []
    for content, time in (("12", 1), ("123", 1), ("123", 2)):
        file.write_text(content)
        os.utime(file, (time, time))
        stamps += [stamp_of_files(tmp_path / "set"), stamp_of_files(file)]
    file.rename(file.with_name("y.png"))
    stamps.append(stamp_of_files(tmp_path / "set"))
    assert len(set(stamps)) == 7
    (tmp_path / "set").rename(tmp_path / "moved")
    assert stamp_of_files(tmp_path / "moved") == stamps[-1]


def test_a_relative_folder_is_found_from_another_folder(tmp_path: Path, workspace, monkeypatch):
    write_bundle(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    fetch("folder", workspace, "mine")
    monkeypatch.chdir("/")
    assert ensure_raw(workspace) == tmp_path / "mine"


@pytest.mark.parametrize(("source", "name"), [("folder", "nowhere"), ("zip", "nowhere.zip")])
def test_a_folder_or_zip_file_that_is_not_there_is_a_missing_input(
    tmp_path: Path, workspace: Workspace, source: str, name: str
):
    with pytest.raises(MissingInputError, match=name):
        fetch(source, workspace, str(tmp_path / name))
    assert not workspace.source_record.exists()


def test_a_folder_without_a_bundle_shows_what_is_there(tmp_path: Path, workspace: Workspace):
    (tmp_path / "mine" / "holiday pictures").mkdir(parents=True)
    with pytest.raises(DownloadError, match="holiday pictures"):
        fetch("folder", workspace, str(tmp_path / "mine"))
    assert not workspace.source_record.exists()


# --- kaggle


def test_kaggle_is_used_in_its_cache_and_its_second_copy_is_not(workspace: Workspace, kaggle):
    bundle = fetch("kaggle", workspace)
    assert bundle == kaggle.cache / "Lung Segmentation"
    assert kaggle.calls == [(KAGGLE_HANDLE, False)]
    assert fetch("kaggle", workspace) == ensure_raw(workspace) == bundle
    assert len(kaggle.calls) == 1


def test_a_fresh_machine_fetches_again(workspace: Workspace, kaggle):
    fetch("kaggle", workspace)
    shutil.rmtree(workspace.scratch)
    shutil.rmtree(kaggle.cache)
    assert ensure_raw(workspace) == kaggle.cache / "Lung Segmentation"
    assert len(kaggle.calls) == 2


def test_an_emptied_cache_is_filled_again(workspace: Workspace, kaggle):
    fetch("kaggle", workspace)
    shutil.rmtree(kaggle.cache)
    assert (ensure_raw(workspace) / "CXR_png").is_dir()


def test_overwriting_reaches_kaggle(workspace: Workspace, kaggle):
    fetch("kaggle", workspace)
    fetch("kaggle", workspace, overwrite=True)
    assert kaggle.calls[1] == (KAGGLE_HANDLE, True)


def test_another_data_set_is_another_request(workspace: Workspace, kaggle):
    fetch("kaggle", workspace)
    fetch("kaggle", workspace, "someone/lungs")
    assert [handle for handle, _ in kaggle.calls] == [KAGGLE_HANDLE, "someone/lungs"]


def change(path: Path) -> None:
    """Another image of the same size, as good as the first."""
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(path)


def test_a_file_that_changed_since_its_first_arrival_is_named(workspace: Workspace, kaggle):
    bundle = fetch("kaggle", workspace)
    shutil.rmtree(workspace.scratch)
    change(bundle / "CXR_png" / "CHNCXR_0002_0.png")
    for _ in range(2):
        with pytest.raises(DownloadError, match=r"CXR_png/CHNCXR_0002_0\.png: not the file that"):
            ensure_raw(workspace)
    # Taken as it is now, and compared with that from here on.
    assert fetch("kaggle", workspace, overwrite=True) == bundle
    change(bundle / "masks" / "CHNCXR_0001_0_mask.png")
    with pytest.raises(DownloadError, match="1 damaged"):
        ensure_raw(workspace)


def test_a_file_that_is_gone_since_its_first_arrival_is_named(workspace: Workspace, kaggle):
    bundle = fetch("kaggle", workspace)
    (bundle / "masks" / "CHNCXR_0001_0_mask.png").unlink()
    with pytest.raises(DownloadError, match=r"1 files gone: masks/CHNCXR_0001_0_mask\.png"):
        ensure_raw(workspace)
    assert fetch("kaggle", workspace, overwrite=True) == bundle


def test_a_web_page_among_kaggles_files_is_explained(workspace: Workspace, kaggle):
    bundle = write_bundle(kaggle.cache / "Lung Segmentation")
    page = "<!doctype html><title>Sign in</title><input type=password>"
    (bundle / "CXR_png" / "CHNCXR_0002_0.png").write_text(page)
    with pytest.raises(DownloadError, match="a login page, titled 'Sign in'"):
        fetch("kaggle", workspace)


def test_kaggles_failure_is_passed_on_with_advice(workspace: Workspace, monkeypatch):
    def fail(*arguments, **keywords):
        raise ConnectionError("no route to host")

    install(monkeypatch, "kagglehub", dataset_download=fail)
    with pytest.raises(DownloadError, match="ConnectionError: no route to host"):
        fetch("kaggle", workspace)
    assert list(workspace.raw.iterdir()) == []


def test_a_missing_package_is_named(workspace: Workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DownloadError, match="pip install kagglehub"):
        fetch("kaggle", workspace)


# --- zip


def test_a_zip_is_unpacked_once(tmp_path: Path, workspace: Workspace, monkeypatch):
    archive = pack(write_bundle(tmp_path / "in" / "Lung Segmentation").parent, tmp_path / "b.zip")
    bundle = fetch("zip", workspace, str(archive))
    assert bundle == workspace.raw / "zip" / "Lung Segmentation"
    assert {path.name for path in (bundle / "CXR_png").iterdir()} == {f"{i}.png" for i in IDS}
    assert [path.name for path in workspace.raw.iterdir()] == ["zip"]
    monkeypatch.setattr("lungseg_utils.acquire.sources.unpack_zip", forbid)
    assert fetch("zip", workspace, str(archive)) == ensure_raw(workspace) == bundle


def test_a_changed_zip_is_unpacked_again(tmp_path: Path, workspace: Workspace):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    fetch("zip", workspace, str(archive))
    archive.unlink()
    pack(write_bundle(tmp_path / "other", ("CHNCXR_0005_0",)), archive)
    bundle = fetch("zip", workspace, str(archive))
    assert [path.name for path in (bundle / "CXR_png").iterdir()] == ["CHNCXR_0005_0.png"]
    assert [path.name for path in workspace.raw.iterdir()] == ["zip"]


def test_own_files_may_change_but_it_is_said(tmp_path: Path, workspace: Workspace, capsys):
    bundle = write_bundle(tmp_path / "mine")
    fetch("folder", workspace, str(bundle))
    change(bundle / "CXR_png" / "CHNCXR_0002_0.png")
    (bundle / "masks" / "CHNCXR_0001_0_mask.png").unlink()
    capsys.readouterr()
    fetch("folder", workspace, str(bundle))
    told = capsys.readouterr().out
    assert "Not as they arrived first (2): CXR_png/CHNCXR_0002_0.png, " in told
    assert "masks/CHNCXR_0001_0_mask.png (gone)" in told
    fetch("folder", workspace, str(bundle), overwrite=True)
    assert "Not as" not in capsys.readouterr().out


def test_what_was_unpacked_outlives_its_zip(tmp_path: Path, workspace: Workspace):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    bundle = fetch("zip", workspace, str(archive))
    archive.unlink()
    assert ensure_raw(workspace) == bundle
    shutil.rmtree(workspace.scratch)
    with pytest.raises(MissingInputError, match=r"no file .*b\.zip"):
        ensure_raw(workspace)


def test_a_damaged_image_keeps_the_bundle_out(tmp_path: Path, workspace: Workspace):
    bundle = write_bundle(tmp_path / "in")
    cut_short(bundle / "masks" / "CHNCXR_0002_0_mask.png")
    archive = pack(bundle, tmp_path / "b.zip")
    with pytest.raises(DownloadError, match=r"masks/CHNCXR_0002_0_mask\.png") as caught:
        fetch("zip", workspace, str(archive))
    assert "1 damaged" in caught.value.received
    assert list(workspace.raw.iterdir()) == []
    assert not workspace.source_record.exists()


def test_a_failed_replacement_keeps_the_former_bundle(tmp_path: Path, workspace: Workspace):
    good = pack(write_bundle(tmp_path / "in"), tmp_path / "good.zip")
    bundle = fetch("zip", workspace, str(good))
    (tmp_path / "bad.zip").write_bytes(good.read_bytes()[:200])
    with pytest.raises(DownloadError, match=r"bad\.zip"):
        fetch("zip", workspace, str(tmp_path / "bad.zip"))
    assert ensure_raw(workspace) == bundle
    assert len(list((bundle / "CXR_png").iterdir())) == 2


def test_a_zip_that_leads_out_is_refused(tmp_path: Path, workspace: Workspace):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("../../escaped.png", b"")
    with pytest.raises(DownloadError, match="stay inside"):
        fetch("zip", workspace, str(tmp_path / "b.zip"))
    assert not list(tmp_path.rglob("escaped.png"))


# --- drive


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (DRIVE_FOLDER, ("folder", DRIVE_FOLDER)),
        ("https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp", "folder"),
        ("https://drive.google.com/drive/u/0/folders/1AbCdEfGhIjKlMnOp?usp=sharing", "folder"),
        (FILE_LINK, "file"),
        ("https://drive.google.com/file/u/1/d/1AbCdEfGhIjKlMnOp/edit", "file"),
        ("https://drive.google.com/uc?id=1AbCdEfGhIjKlMnOp", "file"),
        ("https://drive.google.com/open?usp=x&id=1AbCdEfGhIjKlMnOp", "file"),
    ],
)
def test_drive_links(location: str, expected):
    expected = expected if isinstance(expected, tuple) else (expected, "1AbCdEfGhIjKlMnOp")
    assert parse_drive_location(location) == expected


@pytest.mark.parametrize(
    "location", ["my folder", "https://example.com/?id=1AbCdEfGhIjKlMnOp", "/content/x", "a/b"]
)
def test_what_is_no_drive_link_is_refused(location: str, workspace: Workspace):
    with pytest.raises(LungsegError, match="Share"):
        fetch("drive", workspace, location)


def test_a_drive_folder(workspace: Workspace, monkeypatch):
    calls = []

    def download_folder(url=None, id=None, output=None, quiet=False):
        calls.append(id)
        write_bundle(Path(output) / "Lung Segmentation")
        return [str(path) for path in Path(output).rglob("*.png")]

    install(monkeypatch, "gdown", download_folder=download_folder)
    bundle = fetch("drive", workspace)
    assert bundle == workspace.raw / "drive" / "Lung Segmentation"
    assert fetch("drive", workspace) == bundle
    assert calls == [DRIVE_FOLDER]


def test_archives_in_a_drive_folder_are_unpacked(tmp_path: Path, workspace, monkeypatch):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")

    def download_folder(url=None, id=None, output=None, quiet=False):
        return [shutil.copy(archive, Path(output) / "Lung Segmentation.zip")]

    install(monkeypatch, "gdown", download_folder=download_folder)
    bundle = fetch("drive", workspace, "https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp")
    assert bundle == workspace.raw / "drive" / "Lung Segmentation"
    assert not list(workspace.raw.rglob("*.zip"))


def test_a_zip_on_drive_is_kept_and_not_fetched_again(tmp_path: Path, workspace, monkeypatch):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")

    def download(url=None, output=None, quiet=False, id=None):
        assert id == "1AbCdEfGhIjKlMnOp"
        return shutil.copy(archive, output)

    install(monkeypatch, "gdown", download=download)
    bundle = fetch("drive", workspace, FILE_LINK)
    assert (workspace.downloads / "drive-1AbCdEfGhIjKlMnOp.zip").is_file()
    install(monkeypatch, "gdown", download=forbid)
    shutil.rmtree(workspace.scratch)
    assert ensure_raw(workspace) == bundle == workspace.raw / "drive"


def test_drives_web_page_in_place_of_a_zip_is_not_kept(tmp_path: Path, workspace, monkeypatch):
    def download(url=None, output=None, quiet=False, id=None):
        Path(output).write_text("<html>Quota exceeded</html>")
        return output

    install(monkeypatch, "gdown", download=download)
    with pytest.raises(DownloadError, match="quota is used up") as caught:
        fetch("drive", workspace, FILE_LINK)
    assert "Wait" in caught.value.advice
    assert not list(workspace.downloads.iterdir())
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    install(monkeypatch, "gdown", download=lambda id, output: shutil.copy(archive, output))
    assert fetch("drive", workspace, FILE_LINK) == workspace.raw / "drive"


def test_a_failed_second_download_keeps_the_zip_of_the_first(tmp_path, workspace, monkeypatch):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    install(monkeypatch, "gdown", download=lambda id, output: shutil.copy(archive, output))
    fetch("drive", workspace, FILE_LINK)
    install(monkeypatch, "gdown", download=lambda id, output: None)
    with pytest.raises(DownloadError):
        fetch("drive", workspace, FILE_LINK, overwrite=True)
    [kept] = workspace.downloads.glob("*.zip")
    assert kept.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", ["CXR_png/CHNCXR_0001_0.png", "Lung Segmentation.zip"])
def test_a_web_page_in_a_drive_folder_is_explained(workspace, monkeypatch, name: str):
    def download_folder(id=None, output=None):
        write_bundle(Path(output))
        (Path(output) / name).write_text("<html><body>Sorry, download quota exceeded</body></html>")
        return [output]

    install(monkeypatch, "gdown", download_folder=download_folder)
    with pytest.raises(DownloadError, match="quota is used up") as caught:
        fetch("drive", workspace)
    assert "Wait" in caught.value.advice
    assert list(workspace.raw.iterdir()) == []


def test_archives_of_a_drive_folder_share_one_limit(tmp_path: Path, workspace, monkeypatch):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    unpacked = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*.*"))

    def download_folder(id=None, output=None):
        return [shutil.copy(archive, Path(output) / f"{number}.zip") for number in range(3)]

    install(monkeypatch, "gdown", download_folder=download_folder)
    monkeypatch.setattr(download, "LARGEST_UNPACKED_BYTES", 2 * unpacked)
    with pytest.raises(DownloadError, match="at most 0 bytes"):
        fetch("drive", workspace)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("FolderContentsMaximumLimitError: has more than 50 files", "pip install --upgrade gdown"),
        ("Too many users have viewed or downloaded this file recently", "quota is used up: wait"),
        ("Cannot retrieve the public link of the file", "Check how it is shared"),
    ],
)
def test_gdowns_failures_are_told_apart(workspace, monkeypatch, reason: str, advice: str):
    def fail(id, output):
        raise RuntimeError(reason)

    install(monkeypatch, "gdown", download_folder=fail)
    with pytest.raises(DownloadError) as caught:
        fetch("drive", workspace)
    assert reason in caught.value.received and advice in caught.value.advice


def test_gdown_5_still_has_the_limit_that_is_explained():
    gdown = pytest.importorskip("gdown")
    if int(gdown.__version__.split(".")[0]) > 5:
        pytest.skip("gdown 6 fetches folders of any size")
    from gdown.exceptions import FolderContentsMaximumLimitError

    assert "MaximumLimit" in FolderContentsMaximumLimitError.__name__


@pytest.mark.parametrize("version", [5, 6])
@pytest.mark.parametrize("location", ["", FILE_LINK])
def test_gdowns_failure_in_both_versions(workspace, monkeypatch, version: int, location: str):
    def fail(id, output):
        if version == 5:
            return None
        raise RuntimeError("too many accesses")

    install(monkeypatch, "gdown", download=fail, download_folder=fail)
    reason = "could not fetch" if version == 5 else "RuntimeError: too many accesses"
    with pytest.raises(DownloadError, match=reason):
        fetch("drive", workspace, location)
    assert list(workspace.raw.iterdir()) == []


def test_the_installed_gdown_and_kagglehub_take_what_is_passed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gdown, kagglehub = pytest.importorskip("gdown"), pytest.importorskip("kagglehub")
    for function in (gdown.download, gdown.download_folder):
        inspect.signature(function).bind(id="x", output="y")
    inspect.signature(kagglehub.dataset_download).bind(KAGGLE_HANDLE, force_download=True)


# --- mendeley


def test_mendeley_is_fetched_once_and_its_archive_anew_with_overwriting(workspace, monkeypatch):
    found = []

    def download_mendeley(folder: Path, downloads: Path) -> None:
        archive = downloads / mendeley.ARCHIVE_NAME
        found.append(archive.exists())
        downloads.mkdir(parents=True, exist_ok=True)
        archive.touch()
        write_bundle(folder)

    monkeypatch.setattr(mendeley, "download_mendeley", download_mendeley)
    bundle = fetch("mendeley", workspace)
    assert bundle == fetch("mendeley", workspace) == workspace.raw / "mendeley"
    shutil.rmtree(workspace.scratch)
    ensure_raw(workspace)
    fetch("mendeley", workspace, overwrite=True)
    assert found == [False, True, False]


# --- phantom


def test_the_phantom_is_written_once_for_the_same_options(workspace: Workspace, monkeypatch):
    options = {"count": 8, "size": 64, "unlabelled": 1}
    bundle = fetch("phantom", workspace, **options)
    assert bundle == workspace.raw / "phantom"
    assert len(list((bundle / "CXR_png").iterdir())) == 8
    recorded = read_json(workspace.source_record)["options"]
    assert recorded == {**options, "seed": 0, "separate_masks": False}
    images = {path.name: path.read_bytes() for path in (bundle / "CXR_png").iterdir()}
    written = (bundle / "fetched.json").stat().st_mtime_ns
    assert fetch("phantom", workspace, **options, seed=0) == bundle
    assert (bundle / "fetched.json").stat().st_mtime_ns == written
    shutil.rmtree(workspace.scratch)
    ensure_raw(workspace)
    assert {path.name: path.read_bytes() for path in (bundle / "CXR_png").iterdir()} == images


def test_other_options_write_another_phantom(workspace: Workspace):
    fetch("phantom", workspace, count=8, size=64)
    bundle = fetch("phantom", workspace, count=9, size=64)
    assert len(list((bundle / "CXR_png").iterdir())) == 9


def test_an_unknown_option_is_refused(workspace: Workspace):
    with pytest.raises(LungsegError, match="count, seed, size"):
        fetch("phantom", workspace, amount=6)
    with pytest.raises(LungsegError, match="takes no options"):
        fetch("kaggle", workspace, count=6)


# --- all


def test_an_unknown_source_is_refused(workspace: Workspace):
    with pytest.raises(LungsegError, match=", ".join(SOURCES)):
        fetch("mendely", workspace)


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_a_path_is_needed(workspace: Workspace, source: str):
    with pytest.raises(LungsegError, match="needs a location"):
        fetch(source, workspace)


def test_without_a_record_the_notebook_to_run_is_named(workspace: Workspace):
    with pytest.raises(MissingInputError, match="02_download_and_pair"):
        ensure_raw(workspace)


def test_a_second_source_lies_beside_the_first(tmp_path: Path, workspace: Workspace, kaggle):
    archive = pack(write_bundle(tmp_path / "in"), tmp_path / "b.zip")
    first = fetch("zip", workspace, str(archive))
    fetch("kaggle", workspace)
    assert ensure_raw(workspace) == kaggle.cache / "Lung Segmentation"
    assert fetch("zip", workspace, str(archive)) == first == ensure_raw(workspace)
