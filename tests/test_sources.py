from __future__ import annotations

import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest

from lungseg_utils.acquire import sources
from lungseg_utils.acquire.hosts import parse_drive_location
from lungseg_utils.acquire.sources import DRIVE_FOLDER, HOSTS, KAGGLE_HANDLE, ensure_raw, fetch
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError
from lungseg_utils.files.records import read_json
from lungseg_utils.workspace import Workspace
from tests.bundles import SMALL_SIZES, cut_short, failing, write_image
from tests.bundles import write_small_bundle as write_bundle

FIRST, SECOND, _ = SMALL_SIZES
IMAGE, MASK = f"CXR_png/{SECOND}.png", f"masks/{FIRST}_mask.png"
FILE_LINK = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOp/view?usp=sharing"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", tmp_path / "scratch")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A bundle in a zip file, in a folder of its own there."""
    write_bundle(tmp_path / "in" / "Lung Segmentation")
    return pack(tmp_path / "in", tmp_path / "b.zip")


def pack(folder: Path, archive: Path) -> Path:
    return Path(shutil.make_archive(str(archive.with_suffix("")), "zip", folder))


def change(path: Path) -> None:
    """Another image of the same size, as good as the first."""
    write_image(path, SMALL_SIZES[path.stem.removesuffix("_mask")], 99)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **functions) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**functions))


forbid = failing(AssertionError("nothing should have been fetched"))


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch) -> types.SimpleNamespace:
    """kagglehub: a cache of its own, filled on the first call."""
    cache, calls = tmp_path / "cache" / "versions" / "1", []

    def dataset_download(handle: str, force_download: bool = False) -> str:
        calls.append((handle, force_download))
        if not cache.exists() or force_download:
            shutil.rmtree(cache, ignore_errors=True)
            write_bundle(cache / "Lung Segmentation")
            write_bundle(cache / "data" / "Lung Segmentation")
        return str(cache)

    install(monkeypatch, "kagglehub", dataset_download=dataset_download)
    return types.SimpleNamespace(cache=cache, calls=calls)


def times_read(monkeypatch) -> list:
    """Grows by an entry whenever a bundle's files are read."""
    read: list[tuple] = []
    check = sources.check_bundle
    monkeypatch.setattr(sources, "check_bundle", lambda *given: read.append(given) or check(*given))
    return read


# --- folder


def test_a_folder_is_used_where_it_lies(tmp_path: Path, workspace, capsys, monkeypatch):
    bundle = write_bundle(tmp_path / "mine" / "Lung Segmentation")
    monkeypatch.chdir(tmp_path)
    assert fetch("folder", workspace, "mine") == bundle
    monkeypatch.chdir("/")
    assert ensure_raw(workspace) == bundle
    assert list(workspace.raw.iterdir()) == []
    assert "3 X-rays, 3 lung masks and 0 readings" in capsys.readouterr().out
    assert read_json(workspace.source_record) == {
        "source": "folder",
        "location": str(tmp_path / "mine"),
        "options": {},
    }


@pytest.mark.parametrize("text", ["{", "{}", "5"])
def test_a_damaged_record_is_explained_and_overwritten(tmp_path: Path, workspace, text: str):
    bundle = write_bundle(tmp_path / "mine")
    fetch("folder", workspace, str(bundle))
    [record] = workspace.downloads.glob("arrival-*.json")
    for path in (workspace.source_record, record):
        path.write_text(text)
        with pytest.raises(LungsegError, match=rf"{path.name}(.|\n)*02_download_and_pair"):
            ensure_raw(workspace)
        fetch("folder", workspace, str(bundle), overwrite=True)
        assert ensure_raw(workspace) == bundle


def test_a_folder_is_read_again_only_where_its_files_changed(
    tmp_path: Path, workspace: Workspace, monkeypatch
):
    bundle = write_bundle(tmp_path / "mine" / "Lung Segmentation")
    read = times_read(monkeypatch)

    def count(**options) -> int:
        read.clear()
        assert fetch("folder", workspace, str(tmp_path / "mine"), **options) == bundle
        return len(read)

    assert [count(), count(), count(overwrite=True)] == [1, 0, 1]
    # What lies beside the bundle, such as all else on a Drive, is not looked at.
    (tmp_path / "mine" / "notes.txt").touch()
    assert count() == 0
    (bundle / MASK).unlink()
    assert [count(), count()] == [1, 0]
    cut_short(bundle / IMAGE)
    for _ in range(2):
        with pytest.raises(DownloadError, match=SECOND):
            fetch("folder", workspace, str(tmp_path / "mine"))


def test_own_files_may_change_but_it_is_said(tmp_path: Path, workspace: Workspace, capsys):
    bundle = write_bundle(tmp_path / "mine")
    fetch("folder", workspace, str(bundle))
    change(bundle / IMAGE)
    (bundle / MASK).unlink()
    fetch("folder", workspace, str(bundle))
    told = capsys.readouterr().out
    assert f"Not as they arrived first (2): {IMAGE}, {MASK} (gone)" in told
    fetch("folder", workspace, str(bundle), overwrite=True)
    assert "Not as" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "name"), [("folder", "nowhere"), ("zip", "nowhere.zip"), ("folder", "pictures")]
)
def test_a_folder_or_zip_file_that_holds_none_is_a_missing_input(
    tmp_path: Path, workspace: Workspace, source: str, name: str
):
    (tmp_path / "pictures" / "of my holiday").mkdir(parents=True)
    with pytest.raises(MissingInputError, match=rf"no file .*{name}\n|of my holiday"):
        fetch(source, workspace, str(tmp_path / name))
    assert not workspace.source_record.exists()


# --- kaggle


def test_kaggle_is_used_in_its_cache_and_its_second_copy_is_not(workspace: Workspace, kaggle):
    bundle = fetch("kaggle", workspace)
    assert bundle == kaggle.cache / "Lung Segmentation"
    assert fetch("kaggle", workspace) == ensure_raw(workspace) == bundle
    assert kaggle.calls == [(KAGGLE_HANDLE, False)]
    shutil.rmtree(kaggle.cache)
    assert (ensure_raw(workspace) / "CXR_png").is_dir()
    fetch("kaggle", workspace, overwrite=True)
    fetch("kaggle", workspace, "someone/lungs")
    assert kaggle.calls[2:] == [(KAGGLE_HANDLE, True), ("someone/lungs", False)]


def test_a_fresh_machine_fetches_again_and_names_what_changed(workspace: Workspace, kaggle):
    bundle = fetch("kaggle", workspace)
    shutil.rmtree(workspace.scratch)
    assert ensure_raw(workspace) == bundle
    change(bundle / IMAGE)
    for _ in range(2):
        with pytest.raises(DownloadError, match=rf"{IMAGE}: not the file that") as caught:
            ensure_raw(workspace)
        assert "OVERWRITE" in caught.value.advice
    # Taken as it is now, and compared with that from here on.
    assert fetch("kaggle", workspace, overwrite=True) == bundle
    (bundle / MASK).unlink()
    with pytest.raises(DownloadError, match=rf"1 files gone: {MASK}"):
        ensure_raw(workspace)
    assert fetch("kaggle", workspace, overwrite=True) == bundle


# --- zip


def test_a_zip_is_unpacked_once(archive: Path, workspace: Workspace, monkeypatch):
    bundle = fetch("zip", workspace, str(archive))
    assert bundle == workspace.raw / "zip" / "Lung Segmentation"
    assert {path.stem for path in (bundle / "CXR_png").iterdir()} == set(SMALL_SIZES)
    assert [path.name for path in workspace.raw.iterdir()] == ["zip"]
    monkeypatch.setattr(sources, "unpack_zip", forbid)
    assert fetch("zip", workspace, str(archive)) == ensure_raw(workspace) == bundle
    # What was unpacked outlives its archive, as long as it is there itself.
    archive.unlink()
    assert ensure_raw(workspace) == bundle
    shutil.rmtree(workspace.scratch)
    with pytest.raises(MissingInputError, match=r"no file .*b\.zip"):
        ensure_raw(workspace)


def test_a_changed_zip_is_unpacked_again(tmp_path: Path, archive: Path, workspace: Workspace):
    fetch("zip", workspace, str(archive))
    (tmp_path / "in" / "Lung Segmentation" / IMAGE).unlink()
    pack(tmp_path / "in", archive)
    assert not (fetch("zip", workspace, str(archive)) / IMAGE).exists()


@pytest.mark.parametrize("spoilt", ["an image", "the archive", "a name"])
def test_what_is_not_whole_leaves_the_former_bundle(tmp_path, archive, workspace, spoilt: str):
    former = fetch("zip", workspace, str(archive))
    bad = tmp_path / "bad.zip"
    cut_short(tmp_path / "in" / "Lung Segmentation" / MASK)
    pack(tmp_path / "in", bad)
    if spoilt == "the archive":
        bad.write_bytes(bad.read_bytes()[:200])
    elif spoilt == "a name":
        with zipfile.ZipFile(bad, "a") as opened:
            opened.writestr("../../escaped.png", b"")
    message = {"an image": MASK, "the archive": r"bad\.zip", "a name": "stay inside"}[spoilt]
    with pytest.raises(DownloadError, match=message):
        fetch("zip", workspace, str(bad))
    assert ensure_raw(workspace) == former and len(list((former / "CXR_png").iterdir())) == 3
    assert [path.name for path in workspace.raw.iterdir()] == ["zip"]
    assert not list(tmp_path.rglob("escaped.png"))


# --- drive


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("1AbCdEfGhIjKlMnOp", "folder"),
        ("https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp", "folder"),
        ("https://drive.google.com/drive/u/0/folders/1AbCdEfGhIjKlMnOp?usp=sharing", "folder"),
        (FILE_LINK, "file"),
        ("https://drive.google.com/file/u/1/d/1AbCdEfGhIjKlMnOp/edit", "file"),
        ("https://drive.google.com/uc?id=1AbCdEfGhIjKlMnOp", "file"),
        ("https://drive.google.com/open?usp=x&id=1AbCdEfGhIjKlMnOp", "file"),
    ],
)
def test_drive_links(location: str, kind: str):
    assert parse_drive_location(location) == (kind, "1AbCdEfGhIjKlMnOp")


def test_a_drive_folder(archive: Path, workspace: Workspace, monkeypatch):
    """With the bundle in it, or an archive of it."""
    calls = []

    def download_folder(url=None, id=None, output=None, quiet=False):
        calls.append(id)
        if id == DRIVE_FOLDER:
            return [str(write_bundle(Path(output) / "Lung Segmentation"))]
        return [shutil.copy(archive, Path(output) / "x.zip")]

    install(monkeypatch, "gdown", download_folder=download_folder)
    assert fetch("drive", workspace) == workspace.raw / "drive" / "Lung Segmentation"
    assert fetch("drive", workspace) == workspace.raw / "drive" / "Lung Segmentation"
    link = "https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp"
    assert fetch("drive", workspace, link) == workspace.raw / "drive" / "x" / "Lung Segmentation"
    assert not list(workspace.raw.rglob("*.zip"))
    assert calls == [DRIVE_FOLDER, "1AbCdEfGhIjKlMnOp"]


def test_a_zip_on_drive_is_kept_and_not_fetched_again(archive: Path, workspace, monkeypatch):
    install(monkeypatch, "gdown", download=lambda id, output: shutil.copy(archive, output))
    bundle = fetch("drive", workspace, FILE_LINK)
    install(monkeypatch, "gdown", download=forbid)
    shutil.rmtree(workspace.scratch)
    assert ensure_raw(workspace) == bundle
    # Where another download fails, that of the first is kept.
    install(monkeypatch, "gdown", download=lambda id, output: None)
    with pytest.raises(DownloadError):
        fetch("drive", workspace, FILE_LINK, overwrite=True)
    [kept] = workspace.downloads.glob("*.zip")
    assert kept.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", ["", IMAGE, "Lung Segmentation.zip"])
def test_drives_web_page_is_explained_and_not_kept(archive, workspace, monkeypatch, name: str):
    """In place of a zip file, or of a file in a folder."""

    def download(id=None, output=None):
        if name:
            write_bundle(Path(output))
        (Path(output) / name).write_text("<html><body>Sorry, download quota exceeded</body></html>")
        return output

    location = "" if name else FILE_LINK
    install(monkeypatch, "gdown", download=download, download_folder=download)
    with pytest.raises(DownloadError, match=r"page|quota") as caught:
        fetch("drive", workspace, location)
    assert "SOURCE" in caught.value.advice
    assert not [*workspace.downloads.glob("*"), *workspace.raw.iterdir()]
    install(monkeypatch, "gdown", download=lambda id, output: shutil.copy(archive, output))
    assert fetch("drive", workspace, FILE_LINK).is_relative_to(workspace.raw / "drive")


@pytest.mark.parametrize("location", ["", FILE_LINK])
@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("", "Check how it is shared"),  # gdown 5 says nothing and returns None
        ("FolderContentsMaximumLimitError: has more than 50 files", "pip install --upgrade gdown"),
        ("Too many users have viewed or downloaded this file recently", "quota is used up: wait"),
        ("Cannot retrieve the public link of the file", "Check how it is shared"),
    ],
)
def test_gdowns_failures_are_told_apart(workspace, monkeypatch, location, reason, advice: str):
    fail = failing(RuntimeError(reason)) if reason else lambda id, output: None
    install(monkeypatch, "gdown", download=fail, download_folder=fail)
    with pytest.raises(DownloadError) as caught:
        fetch("drive", workspace, location)
    assert (reason or "could not fetch") in caught.value.received and advice in caught.value.advice
    assert list(workspace.raw.iterdir()) == []


# --- mendeley, nlm


def test_what_nlm_gave_before_it_broke_off_is_kept_unless_damaged(workspace, monkeypatch):
    asked = []

    def download_nlm(folder: Path, have=()) -> None:
        asked.append(sorted(path.stem for path in folder.rglob("*.png")))
        if not asked[-1]:
            write_bundle(folder)
            (folder / IMAGE).unlink()
            raise DownloadError("NLM answers.", "503", "Try later.")
        write_image(folder / IMAGE, SMALL_SIZES[SECOND])
        if len(asked) == 2:
            cut_short(folder / IMAGE)

    monkeypatch.setattr(sources, "download_nlm", download_nlm)
    with pytest.raises(DownloadError, match="503"):
        fetch("nlm", workspace)
    with pytest.raises(DownloadError, match=IMAGE):
        fetch("nlm", workspace)
    assert fetch("nlm", workspace) == workspace.raw / "nlm"
    assert [len(names) for names in asked] == [0, 5, 5]
    # So is what lies there without a record of how it came.
    for record in workspace.downloads.glob("arrival-*.json"):
        record.unlink()
    assert fetch("nlm", workspace) == workspace.raw / "nlm"
    assert len(asked[3]) == 6
    assert [path.name for path in workspace.raw.iterdir()] == ["nlm"]


# --- phantom


def test_the_phantom_is_written_once_for_the_same_options(workspace: Workspace, monkeypatch):
    options = {"count": 8, "size": 48, "unlabelled": 1}
    bundle = fetch("phantom", workspace, **options)
    assert bundle == workspace.raw / "phantom"
    recorded = read_json(workspace.source_record)["options"]
    assert recorded == {**options, "seed": 0, "separate_masks": False}
    images = {path.name: path.read_bytes() for path in (bundle / "CXR_png").iterdir()}
    assert len(images) == 8
    read = times_read(monkeypatch)
    assert fetch("phantom", workspace, **options, seed=0) == bundle
    assert read == []
    shutil.rmtree(workspace.scratch)
    ensure_raw(workspace)
    assert {path.name: path.read_bytes() for path in (bundle / "CXR_png").iterdir()} == images
    fetch("phantom", workspace, count=9, size=48)
    assert len(list((bundle / "CXR_png").iterdir())) == 9


# --- all


@pytest.mark.parametrize(
    ("source", "location", "options", "message"),
    [
        ("mendely", "", {}, ", ".join(HOSTS)),
        ("kaggle+", "", {}, "SOURCE is one of"),
        ("kaggle+phantom", "", {}, "stay apart"),
        ("nlm+nlm", "", {}, "different ones"),
        ("folder", "", {}, "needs a location"),
        ("zip+nlm", "", {}, "needs a location"),
        ("kaggle+nlm", ";http://x", {}, "no location"),
        ("kaggle+nlm", "a;b;c", {}, "no location"),
        *[("drive", place, {}, "Share") for place in ("my folder", "https://x.y/?id=1", "a/b")],
        ("phantom", "", {"amount": 6}, "count, seed, size"),
        ("kaggle", "", {"count": 6}, "none"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(workspace, source, location, options, message: str):
    with pytest.raises(LungsegError, match=message):
        fetch(source, workspace, location, **options)


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_a_workspace_of_before_goes_on(tmp_path: Path, archive: Path, workspace, source: str):
    """Its records said less: SHA-256 in `downloads`, the rest beside the bundle."""
    place = {"folder": tmp_path / "in", "zip": archive}[source]
    bundle = fetch(source, workspace, str(place))
    [path] = workspace.downloads.glob("arrival-*.json")
    old = {key: read_json(path)[key] for key in ("request", "recorded", "sha256")}
    path.write_text(str(old).replace("'", '"'))
    assert ensure_raw(workspace) == bundle
    assert read_json(path)["sha256"] == old["sha256"]
