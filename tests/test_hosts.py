from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from bundles import read_tree
from misbehaving_server import Answer, MisbehavingServer, Served

from lungseg_utils.acquire.hosts import ARCHIVE_NAME, download_mendeley
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import DownloadError
from lungseg_utils.manifest import load_manifest

TOP = "Chest X-ray dataset of Darwin, Montgomery and Shenzhen"
IDS = ("CHNCXR_0001_0", "CHNCXR_0002_0", "MCUCXR_0001_0")
CASES = [case for case in load_manifest() if case.image_id in IDS]
# Each file's place in a bundle and in the archive.
PLACES = {
    "CXR_png/CHNCXR_0001_0.png": "Shenzhen/img/CHNCXR_0001_0.png",
    "CXR_png/CHNCXR_0002_0.png": "Shenzhen/img/CHNCXR_0002_0.png",
    "CXR_png/MCUCXR_0001_0.png": "Montgomery/img/MCUCXR_0001_0.png",
    "masks/CHNCXR_0001_0_mask.png": "Shenzhen/mask/CHNCXR_0001_0.png",
    "masks/CHNCXR_0002_0_mask.png": "Shenzhen/mask/CHNCXR_0002_0.png",
    "masks/MCUCXR_0001_0.png": "Montgomery/mask/MCUCXR_0001_0.png",
}
BUNDLE = {place: place.encode() for place in PLACES}
PLAIN = {name: BUNDLE[place] for place, name in PLACES.items()}


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def of_set(name: str) -> dict[str, bytes]:
    return {path: content for path, content in PLAIN.items() if path.startswith(name)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with MisbehavingServer() as server:
        server.always["/download"] = Answer(status=302, headers={"Location": "/cache.zip"})
        yield server


@pytest.fixture
def fetch(server: MisbehavingServer, tmp_path: Path):
    def fetch(files: dict[str, bytes]) -> list[str]:
        server.files["/cache.zip"] = Served(pack(files), etag='"1"')
        url = server.url("/download")
        return download_mendeley(tmp_path / "raw", tmp_path / "downloads", url, CASES)

    return fetch


@pytest.mark.parametrize(
    "files",
    [
        PLAIN,
        {f"{TOP}/{name}": content for name, content in PLAIN.items()},
        {
            name.replace(".png", "_mask.PNG" if "/mask/" in name else ".PNG"): content
            for name, content in PLAIN.items()
        },
        # The masks of Shenzhen as Kaggle names them, in one folder with the images.
        {
            name.replace("CXR_png", "Set").replace("masks/C", "Set/C"): BUNDLE[name]
            for name in BUNDLE
        },
        {f"{TOP}/{name}.zip": pack(of_set(name)) for name in ("Shenzhen", "Montgomery")},
    ],
    ids=["plain", "below a folder", "suffixes", "one folder", "archives inside"],
)
def test_two_sets_come_in_the_bundle_s_layout(fetch, files, tmp_path: Path):
    others = {
        f"{TOP}/Darwin/img/1.png": b"other",
        f"{TOP}/Darwin.zip": b"not even an archive",
        "__MACOSX/Shenzhen/img/._CHNCXR_0001_0.png": b"other",
        "readme.txt": b"text",
    }
    assert fetch({**others, **files}) == []
    assert read_tree(tmp_path / "raw") == BUNDLE
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [ARCHIVE_NAME]
    pairing = pair_bundle(tmp_path / "raw", CASES)
    assert [pair.case.image_id for pair in pairing.pairs] == list(IDS)
    assert not pairing.orphan_masks


def test_what_is_not_found_is_listed(fetch, tmp_path: Path, capsys):
    del (files := dict(PLAIN))["Shenzhen/mask/CHNCXR_0002_0.png"]
    assert fetch(files) == ["masks/CHNCXR_0002_0_mask.png"]
    assert "Not in the archive (1): masks/CHNCXR_0002_0_mask" in capsys.readouterr().out
    assert len(read_tree(tmp_path / "raw")) == 5


def test_a_whole_archive_is_fetched_once_and_a_damaged_one_not_kept(fetch, server, tmp_path: Path):
    archive = tmp_path / "downloads" / ARCHIVE_NAME
    archive.parent.mkdir()
    archive.write_bytes(pack(PLAIN)[:-30])
    with pytest.raises(DownloadError, match="whole zip file"):
        fetch(PLAIN)
    assert read_tree(tmp_path / "raw") == {}
    for _ in range(2):
        fetch(PLAIN)
        assert read_tree(tmp_path / "raw") == BUNDLE
    assert len(server.asked("/cache.zip")) == 1


def test_another_layout_is_told_and_the_archive_kept(fetch, tmp_path: Path):
    with pytest.raises(DownloadError, match=r"renamed/1\.png"):
        fetch({"renamed/1.png": b"image"})
    assert (tmp_path / "downloads" / ARCHIVE_NAME).is_file()
    assert read_tree(tmp_path / "raw") == {}


def test_a_refusal_says_where_to_put_the_archive(fetch, server, tmp_path: Path):
    server.script("/download", Answer(status=403))
    with pytest.raises(DownloadError, match="403 Forbidden") as caught:
        fetch(PLAIN)
    assert str(tmp_path / "downloads" / ARCHIVE_NAME) in caught.value.advice
    assert "doi.org/10.17632/8gf9vpkhgy.2" in caught.value.advice
