from __future__ import annotations

import contextlib
import shutil
import stat
import struct
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lungseg_utils.acquire.archives as archives
from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.errors import DownloadError, StorageError, shortened


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def write_zip_of(path: Path, entries: list[tuple[str, bytes, int]]) -> Path:
    """An archive of names, contents and kinds just as given; zipfile's own writer tidies names."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # the same name twice
        for name, content, kind in entries:
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.external_attr = name, (kind | 0o644) << 16
            archive.writestr(member, content)
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
    [
        *("../out.txt", "a/../../out.txt", "/tmp/out.txt", "//host/out.txt", "."),
        *("C:/out.txt", "C:out.txt", "a:stream", "..\\out.txt", "\\out.txt", "a\\b"),
        *("out.txt\0.png", "a\nb"),
    ],
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str):
    archive = write_zip_of(tmp_path / "a.zip", [("good.txt", b"1", 0), (name, b"2", 0)])
    with pytest.raises(DownloadError, match="stay inside") as caught:
        unpack_zip(archive, tmp_path / "out")
    assert repr(name) in caught.value.received
    assert tree(tmp_path) == {"a.zip": archive.read_bytes()}
    assert not (tmp_path / "out").exists()


def test_the_same_file_twice_is_refused(tmp_path: Path):
    archive = write_zip_of(tmp_path / "a.zip", [("a.png", b"1", 0), ("./a.png", b"2", 0)])
    with pytest.raises(DownloadError, match="File exists"):
        unpack_zip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"x.txt": b"new"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "y.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    for name in ("full", "file", "link"):
        with pytest.raises(DownloadError, match="overwrites nothing"):
            unpack_zip(archive, tmp_path / name)
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert unpack_zip(archive, tmp_path / "empty") == 3
    assert tree(tmp_path / "empty") == {"x.txt": b"new"}


def test_only_the_wanted_files_are_unpacked_and_counted(tmp_path: Path):
    files = {"Montgomery/img/a.png": b"1", "Darwin/img/b.png": bytes(1000)}
    archive = write_zip(tmp_path / "a.zip", files)
    size = unpack_zip(archive, tmp_path / "out", 10, lambda name: name.startswith("Montgomery"))
    assert (size, tree(tmp_path / "out")) == (1, {"Montgomery/img/a.png": b"1"})


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int):
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DownloadError, match="'link'"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    assert not (tmp_path / "out").exists()


def test_a_ratio_that_only_bombs_have_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(archives, "_HARMLESS_BYTES", 10**5)
    archive = write_zip(tmp_path / "a.zip", {"zeros": bytes(10**6)})
    with pytest.raises(DownloadError, match="100 times"):
        unpack_zip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A file of zeros among images that do not shrink is no bomb.
    noise = np.random.default_rng(0).bytes(20_000)
    archive = write_zip(tmp_path / "b.zip", {"zeros": bytes(10**6), "noise": noise})
    assert unpack_zip(archive, tmp_path / "out") == 1_020_000


def test_a_bomb_whose_files_share_their_bytes_is_refused(tmp_path: Path, monkeypatch):
    """As Fifield's: many entries of the directory point to the same compressed bytes."""
    monkeypatch.setattr(archives, "_HARMLESS_BYTES", 10**5)
    archive = write_zip(tmp_path / "a.zip", {"f000": bytes(range(256)) * 100})
    data = archive.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = [data[start:end].replace(b"f000", b"f%03d" % number) for number in range(900)]
    tail = struct.pack("<HHII", 900, 900, sum(map(len, entries)), start)
    archive.write_bytes(data[:start] + b"".join(entries) + data[end : end + 8] + tail + b"\0\0")
    assert len(zipfile.ZipFile(archive).infolist()) == 900
    with pytest.raises(DownloadError, match="100 times"):
        unpack_zip(archive, tmp_path / "out")


def test_an_archive_in_the_archive_stays_packed(tmp_path: Path):
    inner = write_zip(tmp_path / "inner.zip", {"zeros": bytes(10**6)}).read_bytes()
    unpack_zip(write_zip(tmp_path / "a.zip", {"inner.zip": inner}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_in_one_piece_are_refused(tmp_path: Path, method: int):
    archive = write_zip(tmp_path / "a.zip", {"zeros": bytes(10**6)}, method)
    with pytest.raises(DownloadError, match="ordinary zip file"):
        unpack_zip(archive, tmp_path / "out")


def test_an_archive_that_lies_about_its_size_is_stopped(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"zeros": bytes(10**6)})
    data = archive.read_bytes().replace((10**6).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(DownloadError, match="whole zip file"):
        unpack_zip(archive, tmp_path / "out", largest_bytes=1000)
    assert tree(tmp_path) == {"a.zip": data}


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 95, 5)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StorageError, match="free disk space"):
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
    assert set(tree(place / "out").values()) <= set(files.values())


_PARTS = st.sampled_from(
    ["a", "A", "b.png", "CXR_png", "..", ".", "", "C:", "a\\b", "\0", "ä", "x" * 300, "link"]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join).filter(bool) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
)
_KINDS = st.sampled_from([0, 0, 0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entries=st.lists(st.tuples(_NAMES, st.binary(max_size=20), _KINDS), max_size=4),
    target=st.sampled_from(["absent", "empty", "full", "link"]),
)
def test_whatever_an_archive_holds_nothing_outside_its_folder_changes(
    tmp_path: Path, entries: list[tuple[str, bytes, int]], target: str
):
    place = tmp_path / "place"
    shutil.rmtree(place, ignore_errors=True)
    (place / "outside").mkdir(parents=True)
    (place / "outside" / "a").write_text("mine")
    out = place / "out"
    if target == "link":
        out.symlink_to(place / "outside")
    elif target != "absent":
        out.mkdir()
    if target == "full":
        (out / "a").write_text("mine")
    archive = write_zip_of(place / "a.zip", entries)
    before = tree(place)
    try:
        unpack_zip(archive, out)
    except DownloadError:
        assert tree(place) == before
    else:
        assert target in {"absent", "empty"}
        # As the archive has it, up to what "./" and "//" add to a name.
        files = {Path(name).as_posix(): data for name, data, _ in entries if name[-1] != "/"}
        assert tree(out) == files
        assert {f"out/{name}": data for name, data in files.items()} | before == tree(place)
    assert {path.name for path in place.iterdir()} <= {"a.zip", "out", "outside"}


def test_long_lists_are_shortened():
    assert shortened("abc") == ["a", "b", "c"]
    names = [str(number) for number in range(25)]
    assert shortened(names) == [*names[:20], "and 5 more"]
