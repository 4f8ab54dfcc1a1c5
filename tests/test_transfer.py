from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving_server import Answer, MisbehavingServer, Served

from lungseg_utils.acquire import partial_file
from lungseg_utils.acquire.http_answers import (
    Version,
    read_length,
    read_range,
    read_retry_after,
)
from lungseg_utils.acquire.transfer import MissingFileError, Patience, download_file
from lungseg_utils.errors import DownloadError, LungsegError, StorageError

CONTENT = np.random.default_rng(0).bytes(300_000)
CHANGED = np.random.default_rng(1).bytes(300_000)
PATH = "/x.png"
QUOTA = b"<!DOCTYPE html><html><title>Quota exceeded</title>" + b" " * 1000 + b"</html>"


@pytest.fixture
def server(monkeypatch) -> Iterator[MisbehavingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with MisbehavingServer() as server:
        server.files[PATH] = Served(CONTENT, etag='"1"')
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "x.png"


class Waits(list):
    """A sleep that takes no time and remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(server: MisbehavingServer, target: Path, waits: Waits | None = None, **limits) -> Path:
    patience = Patience(sleep=Waits() if waits is None else waits, **limits)
    return download_file(server.url(PATH), target, patience)


def assert_whole(target: Path, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def ranges(server: MisbehavingServer) -> list[str | None]:
    return [asked.headers.get("Range") for asked in server.requests]


# --- a good server


@pytest.mark.parametrize("content", [CONTENT, b"", b"male 45yrs"])
@pytest.mark.parametrize("answer", [Answer(), Answer(chunked=True)])
def test_a_file_comes_as_it_is(server, target: Path, content: bytes, answer: Answer, capsys):
    server.files[PATH] = Served(content)
    server.script(PATH, answer)
    assert fetch(server, target) == target
    assert_whole(target, content)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert "x.png" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_asked_for(server, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"whole")
    fetch(server, target)
    assert_whole(target, b"whole")
    assert server.requests == []


def test_progress_counts_every_byte_and_takes_back_what_is_fetched_again(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(ranges=False))
    counted = []
    download_file(server.url(PATH), target, Patience(sleep=Waits()), progress=counted.append)
    assert sum(counted) == len(CONTENT)
    assert -100_000 in counted


@pytest.mark.parametrize("keep_record", [True, False])
def test_progress_counts_what_an_earlier_call_brought(server, target: Path, keep_record: bool):
    server.script(PATH, Answer(break_after=100_000))
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    if not keep_record:
        (target.parent / "x.png.part.json").unlink()
    counted = []
    download_file(server.url(PATH), target, progress=counted.append)
    assert sum(counted) == len(CONTENT)
    assert (counted[0] == 100_000) == keep_record


def test_an_error_of_progress_ends_the_download_and_keeps_the_part(server, target: Path):
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    server.script(PATH, Answer(break_after=100_000))
    with pytest.raises(KeyboardInterrupt):
        download_file(server.url(PATH), target, progress=stop)
    assert not target.exists()
    fetch(server, target)
    assert_whole(target)
    assert ranges(server)[1].startswith("bytes=")


# --- breaking off


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_download_goes_on_where_it_stopped(server, target: Path, chunked: bool):
    server.script(
        PATH, Answer(break_after=100_000, chunked=chunked), Answer(break_after=50_000), Answer()
    )
    waits = Waits()
    fetch(server, target, waits)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]
    assert [asked.status for asked in server.requests] == [200, 206, 206]
    assert [asked.sent for asked in server.requests] == [100_000, 50_000, 150_000]
    assert [asked.headers.get("If-Range") for asked in server.requests] == [None, '"1"', '"1"']
    assert len(waits) == 2
    assert all(0.7 < wait < 3 for wait in waits)


def test_without_ranges_it_starts_again(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(ranges=False))
    fetch(server, target)
    assert_whole(target)
    assert [asked.status for asked in server.requests] == [200, 200]


def test_a_range_that_ends_early_is_continued(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(piece=50_000))
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]


def test_a_range_that_begins_elsewhere_is_not_appended(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(shift=5))
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_server_that_breaks_forever_is_given_up_and_continued_later(server, target: Path):
    server.always[PATH] = Answer(break_after=1000)
    waits = Waits()
    with pytest.raises(DownloadError, match="6 attempts") as caught:
        fetch(server, target, waits)
    assert "6,000 bytes are here" in caught.value.advice
    assert not target.exists()
    # Doubled each time, give or take a quarter.
    np.testing.assert_allclose(waits, [1, 2, 4, 8, 16], rtol=0.26)
    del server.always[PATH]
    fetch(server, target)
    assert_whole(target)
    assert ranges(server)[-1] == "bytes=6000-"


def test_progress_between_failures_renews_the_patience(server, target: Path):
    server.always[PATH] = Answer(break_after=70_000)
    fetch(server, target, attempts=2)
    assert_whole(target)
    assert len(server.requests) == 5


@pytest.mark.parametrize("validators", [{"etag": '"1"'}, {}])
def test_a_length_that_is_never_reached_ends(server, target: Path, validators: dict):
    server.files[PATH] = Served(CONTENT, **validators)
    server.always[PATH] = Answer(length=len(CONTENT) + 1000)
    with pytest.raises(DownloadError, match="sends the whole file"):
        fetch(server, target)
    assert not target.exists()
    assert len(server.requests) < 15


def test_without_any_length_a_file_is_refused(server, target: Path):
    server.script(PATH, Answer(until_closed=True, break_after=1000))
    with pytest.raises(DownloadError, match="how long a file is"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []


# --- changed content


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Served(CONTENT, etag='"1"'), Served(CHANGED, etag='"2"')),
        (Served(CONTENT, last_modified="a"), Served(CHANGED, last_modified="b")),
        # Weak tags may not stand in If-Range, but they can be compared.
        (Served(CONTENT, etag='W/"1"'), Served(CHANGED, etag='W/"2"')),
        # Without validators the length tells.
        (Served(CONTENT), Served(CHANGED + b"more")),
        (Served(CONTENT), Served(CHANGED[:-1])),
        (Served(CONTENT), Served(CHANGED[:50_000])),
    ],
)
def test_content_that_changes_between_two_ranges_is_not_mixed(server, target, first, second):
    server.files[PATH] = first
    server.script(PATH, Answer(break_after=100_000), Answer(served=second))
    fetch(server, target)
    assert_whole(target, second.content)
    assert ranges(server)[:2] == [None, "bytes=100000-"]


def test_content_changed_between_two_calls_is_not_mixed(server, target: Path):
    server.script(PATH, Answer(break_after=100_000))
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    server.files[PATH] = Served(CHANGED, etag='"2"')
    fetch(server, target)
    assert_whole(target, CHANGED)


def test_a_part_from_another_address_is_not_continued(server, target: Path):
    server.script(PATH, Answer(break_after=100_000))
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    server.files["/other.png"] = Served(CHANGED, etag='"1"')
    download_file(server.url("/other.png"), target)
    assert_whole(target, CHANGED)
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b"\xff", b'{"url": 1, "etag": 2}', None])
def test_a_part_without_its_record_is_not_continued(server, target: Path, record: bytes | None):
    target.parent.mkdir()
    (target.parent / "x.png.part").write_bytes(b"from somewhere")
    if record is not None:
        (target.parent / "x.png.part.json").write_bytes(record)
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None]


# --- refusals


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_s_wait_is_honoured(server, target: Path, status: int):
    in_two_minutes = {"Retry-After": formatdate(1_000_120, usegmt=True)}
    server.script(
        PATH,
        Answer(status=status, headers={"Retry-After": "77"}),
        Answer(status=status, headers={**in_two_minutes, "Date": formatdate(10**6, usegmt=True)}),
        Answer(status=status, headers={"Retry-After": "soon"}),
    )
    waits = Waits()
    fetch(server, target, waits)
    assert_whole(target)
    assert waits[:2] == [77, 120]
    assert 3 <= waits[2] <= 5


def test_a_wait_beyond_all_patience_is_told(server, target: Path):
    server.script(PATH, Answer(status=429, headers={"Retry-After": "7200"}))
    waits = Waits()
    with pytest.raises(DownloadError, match="429 Too Many Requests, wait 7200 s"):
        fetch(server, target, waits)
    assert waits == []


def test_a_server_that_stays_busy_is_given_up(server, target: Path):
    server.always[PATH] = Answer(status=503)
    with pytest.raises(DownloadError, match="503 Service Unavailable; 6 attempts"):
        fetch(server, target)
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_file_is_named_at_once(server, target: Path, status: int):
    server.script(PATH, Answer(status=status))
    with pytest.raises(MissingFileError, match=rf"{status} .*: http://127.*/x\.png"):
        fetch(server, target)
    assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403, 451, 204])
def test_a_refusal_is_final(server, target: Path, status: int):
    server.script(PATH, Answer(status=status))
    with pytest.raises(DownloadError, match=f"{status} ") as caught:
        fetch(server, target)
    assert not isinstance(caught.value, MissingFileError)
    assert len(server.requests) == 1


def test_a_range_that_is_refused_begins_again(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(status=416))
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", None]


def test_redirects_are_followed_with_the_range(server, target: Path):
    server.files["/there.png"] = server.files.pop(PATH)
    server.always[PATH] = Answer(status=302, headers={"Location": "/there.png"})
    server.script("/there.png", Answer(break_after=100_000))
    fetch(server, target)
    assert_whole(target)
    assert [asked.sent for asked in server.asked("/there.png")] == [100_000, 200_000]


@pytest.mark.parametrize("location", [PATH, "ftp://127.0.0.1/x.png"])
def test_redirects_that_lead_nowhere_end(server, target: Path, location: str):
    server.always[PATH] = Answer(status=302, headers={"Location": location})
    with pytest.raises(DownloadError, match="leads to the file"):
        fetch(server, target)
    assert len(server.requests) <= 11


def test_no_server_at_all(target: Path):
    with MisbehavingServer() as server:
        url = server.url(PATH)
    waits = Waits()
    with pytest.raises(DownloadError, match="refused"):
        download_file(url, target, Patience(attempts=3, sleep=waits))
    assert len(waits) == 2


# --- pages and encodings


@pytest.mark.parametrize("kind", ["image/png", "text/html; charset=utf-8"])
def test_a_page_in_place_of_a_file_is_explained(server, target: Path, kind: str):
    server.files[PATH] = Served(QUOTA, content_type=kind)
    with pytest.raises(DownloadError, match="quota is used up"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []
    assert len(server.requests) == 1


def test_html_by_its_type_alone_is_a_page_unless_it_is_binary(server, target: Path):
    server.files[PATH] = Served(b"Please log in", content_type="text/html")
    with pytest.raises(DownloadError, match="a web page"):
        fetch(server, target)
    server.files[PATH] = Served(CONTENT, content_type="text/html")
    fetch(server, target)
    assert_whole(target)


def test_a_page_does_not_cost_what_has_arrived(server, target: Path):
    server.script(PATH, Answer(break_after=100_000), Answer(served=Served(QUOTA)))
    with pytest.raises(DownloadError, match="quota"):
        fetch(server, target)
    server.files[PATH] = Served(CONTENT, etag='"1"')
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", "bytes=100000-"]


def test_compression_that_was_not_asked_for_is_refused(server, target: Path):
    server.script(PATH, Answer(compressed=True))
    with pytest.raises(DownloadError, match=r"compressed \(gzip\)"):
        fetch(server, target)


# --- time


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_silent_server_is_left_and_the_rest_fetched(server, target: Path, after: int):
    server.script(PATH, Answer(stall_after=after))
    fetch(server, target, read_seconds=0.1)
    assert_whole(target)
    assert ranges(server) == [None, f"bytes={after}-" if after else None]


def test_a_trickle_is_left(server, target: Path):
    server.script(PATH, Answer(trickle=0.002))
    hours = iter(range(0, 10**6, 3600))
    fetch(server, target, clock=lambda: next(hours), lowest_rate=0.1)
    assert_whole(target)
    assert [asked.status for asked in server.requests] == [200, 206]
    assert server.requests[0].sent < 1000


# --- the disk


class FullDisk:
    """A file on a disk that has room for `room` more bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, block: bytes) -> None:
        written, self.room = block[: self.room], max(0, self.room - len(block))
        self.file.write(written)
        if len(written) < len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_a_full_disk_ends_it_and_what_arrived_is_continued(server, target: Path, monkeypatch):
    whole = Path.open
    monkeypatch.setattr(
        partial_file.Path,
        "open",
        lambda path, mode="r", **options: (
            FullDisk(whole(path, mode), 120_000) if mode == "ab" else whole(path, mode, **options)
        ),
    )
    with pytest.raises(StorageError, match="No space left"):
        fetch(server, target)
    assert not target.exists()
    monkeypatch.undo()
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=120000-"]


def test_a_file_larger_than_the_free_space_is_refused_at_once(server, target: Path):
    server.script(PATH, Answer(length=10**15 - 1, break_after=1000))
    with pytest.raises(LungsegError, match="free disk space"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []


def test_a_read_only_folder_is_told_before_anything_is_asked(server, target: Path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    target.parent.mkdir()
    monkeypatch.setattr(partial_file.Path, "open", refuse)
    with pytest.raises(StorageError, match=r"x\.png\.part \(Read-only"):
        fetch(server, target)
    assert server.requests == []


# --- killed


def test_a_killed_download_goes_on_where_it_stopped(server, target: Path):
    server.script(PATH, Answer(stall_after=100_000))
    call = f"download_file({server.url(PATH)!r}, {str(target)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"from lungseg_utils.acquire.transfer import *; {call}"],
        stderr=subprocess.DEVNULL,
    )
    part = target.parent / "x.png.part"
    deadline = time.monotonic() + 60
    # The last few bytes may still be in the process's own buffer.
    while not (part.is_file() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    arrived = part.stat().st_size
    assert part.read_bytes() == CONTENT[:arrived]
    assert not target.exists()
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, f"bytes={arrived}-"]
    assert server.requests[1].sent == len(CONTENT) - arrived


def test_a_record_left_beside_a_whole_file_is_removed(server, target: Path):
    fetch(server, target)
    record = target.with_name("x.png.part.json")
    record.write_text("{}")

    fetch(server, target)

    assert list(target.parent.iterdir()) == [target]
    assert len(server.requests) == 1


def test_a_part_that_was_whole_when_killed_is_not_asked_for_again(server, target: Path):
    server.script(PATH, Answer(break_after=100_000))
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    with (target.parent / "x.png.part").open("ab") as part:
        part.write(CONTENT[100_000:])
    fetch(server, target)
    assert_whole(target)
    assert len(server.requests) == 1


# --- headers


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_headers_of_any_text_are_read_or_left(text: str):
    assert (read_length({"Content-Length": text}) or 0) >= 0
    assert (read_retry_after({"Retry-After": text}) or 0) >= 0
    assert read_range({"Content-Range": text}) is None


def test_headers_by_hand():
    assert read_range({"Content-Range": "bytes 5-9/10"}) == (5, 10)
    for wrong in ("bytes 5-9/*", "bytes 9-5/10", "bytes 5-10/10", "items 5-9/10", "bytes */10"):
        assert read_range({"Content-Range": wrong}) is None
    assert Version(etag='W/"1"', last_modified="x").for_if_range == "x"
    assert Version(etag='"1"').may_equal(Version(last_modified="x", total=5))
    assert not Version(total=0).may_equal(Version(total=5))
    past = {"Retry-After": formatdate(0, usegmt=True)}
    assert read_retry_after(past) == 0
    ahead = {"Retry-After": formatdate(time.time() + 100, usegmt=True)}
    assert 95 < read_retry_after(ahead) <= 100


def test_two_files_at_once_through_one_server(server, tmp_path: Path):
    server.files["/y.png"] = Served(CHANGED)
    threads = [
        threading.Thread(target=download_file, args=(server.url(f"/{name}.png"), tmp_path / name))
        for name in "xy"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert (tmp_path / "y").read_bytes() == CHANGED
