from __future__ import annotations

import shutil
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundles import read_tree, set_free_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungseg_utils.acquire import archives
from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.errors import DownloadError, LungsegError, StorageError

ZEROS = {"zeros": bytes(10**6)}
REPEATED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
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


def assert_refused(archive: Path, words: str, kind: type[LungsegError] = DownloadError) -> str:
    """What was received; nothing lies beside the archive that did not before."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(kind, match=words) as caught:
        unpack_zip(archive, archive.parent / "out")
    assert sorted(archive.parent.rglob("*")) == before
    return caught.value.received


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path, compression: int):
    inner = write_zip(tmp_path / "inner.zip", ZEROS).read_bytes()
    files = {
        "a.txt": b"alpha" * 1000,
        "Lung Segmentation/CXR_png/x.png": bytes(range(256)),
        "inner.zip": inner,  # stays packed
    }
    unpack_zip(write_zip(tmp_path / "a.zip", files, compression), tmp_path / "out")
    assert read_tree(tmp_path / "out") == files
    assert_refused(write_zip(tmp_path / "b.zip", {"a.txt": b"other"}), "overwrites nothing")
    assert read_tree(tmp_path / "out") == files


@pytest.mark.parametrize(
    ("good", "bad", "kind"),
    [
        # A name that leads out, on one system or another:
        *[("good", bad, 0) for bad in ("../x", "a/../../x", "/tmp/x", "//host/x", ".", "C:/x")],
        *[("good", bad, 0) for bad in ("C:x", "a:b", "..\\x", "\\x", "a\\b", "x\0.png", "a\nb")],
        # Two files that some disk takes for one:
        ("masks/a.png", "./masks//a.png", 0),
        ("masks/a.png", "Masks/A.PNG", 0),
        ("caf\u00e9", "cafe\u0301", 0),
        *[("a/b", "a", 0), ("a/b/c", "A", 0)],
        # Links and devices:
        *[("good", "link", kind) for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)],
    ],
)
def test_a_file_that_may_do_harm_is_refused(tmp_path: Path, good: str, bad: str, kind: int):
    entries = [(good, b"1", 0), (bad, b"/etc/passwd", kind)]
    for order in (-1, 1):
        archive = write_zip_of(tmp_path / "a.zip", entries[::order])
        received = assert_refused(archive, "plain files with names that stay inside its folder")
    assert received == f"{bad!r} in {archive}"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_in_one_piece_are_refused(tmp_path: Path, method: int):
    assert_refused(write_zip(tmp_path / "a.zip", ZEROS, method), "plain files")


def test_a_ratio_that_only_bombs_have_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(archives, "_HARMLESS_BYTES", 10**5)
    assert_refused(write_zip(tmp_path / "a.zip", ZEROS), "100 times its own size")
    # A file of zeros among images that do not shrink is no bomb.
    noise = ZEROS | {"noise": np.random.default_rng(0).bytes(20_000)}
    unpack_zip(write_zip(tmp_path / "b.zip", noise), tmp_path / "out")
    assert read_tree(tmp_path / "out") == noise


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
    assert_refused(archive, "100 times its own size")


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch):
    set_free_space(monkeypatch, 5)
    assert_refused(write_zip(tmp_path / "a.zip", {"a": b"123456"}), "free disk", StorageError)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"<html>Quota exceeded</html>",
        lambda data: data[:-30],
        # It lies about the size of its file.
        lambda data: data.replace((10**6).to_bytes(4, "little"), (9).to_bytes(4, "little")),
        # The flag of an encrypted file, 8 bytes after the signature in the directory.
        lambda data: data.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    ],
)
def test_no_whole_zip_file(tmp_path: Path, damage):
    archive = write_zip(tmp_path / "a.zip", ZEROS)
    archive.write_bytes(damage(archive.read_bytes()))
    assert_refused(archive, "whole zip file")


_PARTS = st.sampled_from(
    ["a", "A", "b.png", "CXR_png", "..", ".", "", "C:", "a\\b", "\0", "ä", "x" * 300, "link"]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join).filter(bool) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
)
_KINDS = st.sampled_from([0, 0, 0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])


@REPEATED
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
    before = read_tree(place)
    try:
        unpack_zip(archive, out)
    except DownloadError:
        assert read_tree(place) == before
    else:
        assert target in {"absent", "empty"}
        # As the archive has it, up to what "./" and "//" add to a name.
        files = {Path(name).as_posix(): data for name, data, _ in entries if name[-1] != "/"}
        assert read_tree(out) == files
        assert {f"out/{name}": data for name, data in files.items()} | before == read_tree(place)
    assert {path.name for path in place.iterdir()} <= {"a.zip", "out", "outside"}
