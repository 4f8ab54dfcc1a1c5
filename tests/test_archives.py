from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lungseg_utils.data.archives as archives
from lungseg_utils.data.archives import shortened, unpack_zip
from lungseg_utils.errors import DownloadError


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path, compression: int):
    files = {"a.txt": b"alpha" * 1000, "Lung Segmentation/CXR_png/x.png": bytes(range(256))}
    unpack_zip(write_zip(tmp_path / "a.zip", files, compression), tmp_path / "out")
    assert tree(tmp_path / "out") == files


def test_an_archive_packed_by_a_file_manager(tmp_path: Path):
    (tmp_path / "in" / "CXR_png").mkdir(parents=True)
    (tmp_path / "in" / "CXR_png" / "x.png").write_bytes(b"x")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in")
    unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {"CXR_png/x.png": b"x"}


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "C:/out.txt", "C:out.txt", "a:stream"],
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str):
    archive = write_zip(tmp_path / "a.zip", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="stay inside") as caught:
        unpack_zip(archive, tmp_path / "out")
    assert repr(name) in caught.value.received
    assert tree(tmp_path) == {"a.zip": archive.read_bytes()}


def test_a_backslash_is_refused(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"aXXout.txt": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"aXXout", b"..\\out"))
    with pytest.raises(DownloadError, match="stay inside"):
        unpack_zip(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int):
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DownloadError, match="'link'"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_an_encrypted_file_is_refused(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"secret.txt": b"1"})
    data = bytearray(archive.read_bytes())
    # The flags in the central directory, 8 bytes after its signature.
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match=r"secret\.txt"):
        unpack_zip(archive, tmp_path / "out")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"zeros": bytes(10**7)})
    assert archive.stat().st_size < 20_000
    with pytest.raises(DownloadError, match="10,000,000 bytes"):
        unpack_zip(archive, tmp_path / "out", largest_bytes=10**6)
    assert tree(tmp_path / "out") == {}


def test_an_archive_that_lies_about_its_size_is_stopped(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"zeros": bytes(10**6)})
    data = archive.read_bytes().replace((10**6).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match="whole zip file"):
        unpack_zip(archive, tmp_path / "out", largest_bytes=1000)
    assert sum(len(content) for content in tree(tmp_path / "out").values()) <= 1000


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    archive = write_zip(tmp_path / "a.zip", {"a": b"", "b": b"", "c": b""})
    with pytest.raises(DownloadError, match="3 files"):
        unpack_zip(archive, tmp_path / "out")


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 95, 5)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match="at most 5 bytes"):
        unpack_zip(write_zip(tmp_path / "a.zip", {"a": b"123456"}), tmp_path / "out")


def test_no_zip_file(tmp_path: Path):
    (tmp_path / "a.zip").write_text("<html>Quota exceeded</html>")
    with pytest.raises(DownloadError, match="whole zip file"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(DownloadError, match="No such file"):
        unpack_zip(tmp_path / "missing.zip", tmp_path / "out")


def test_a_cut_archive_is_refused(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"a": bytes(range(256)) * 10})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DownloadError, match="whole zip file"):
        unpack_zip(archive, tmp_path / "out")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_archive_never_leaves_the_folder_nor_fails_otherwise(
    tmp_path: Path, position: float, value: int
):
    files = {"good/ä.txt": b"alpha" * 20, "b.txt": b"beta" * 20}
    place = tmp_path / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    archive = write_zip(place / "a.zip", files)
    data = bytearray(archive.read_bytes())
    data[int(position * len(data))] = value
    archive.write_bytes(data)
    with contextlib.suppress(DownloadError):
        unpack_zip(archive, place / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"place"}
    assert {path.name for path in place.iterdir()} <= {"a.zip", "out"}
    # What did come out is what went in, whatever it is called now.
    for content in tree(place / "out").values():
        assert any(whole.startswith(content) for whole in files.values())


def test_long_lists_are_shortened():
    assert shortened("abc") == ["a", "b", "c"]
    names = [str(number) for number in range(25)]
    assert shortened(names) == [*names[:20], "and 5 more"]
