from __future__ import annotations

import contextlib
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
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving_server import Answer, MisbehavingServer, Served

from lungseg_utils.acquire import http
from lungseg_utils.acquire.http import (
    MissingFileError,
    download_file,
    looks_like_web_page,
    open_session,
    web_page_error,
)
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


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """What was waited for: sleeping takes no time here."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def fetch(server: MisbehavingServer, target: Path) -> Path:
    return download_file(server.url(PATH), target)


def break_off(server: MisbehavingServer, target: Path, monkeypatch) -> None:
    """A first call that brings 100,000 bytes and gives up."""
    server.script(PATH, Answer(break_after=100_000))
    with monkeypatch.context() as patch, pytest.raises(DownloadError):
        patch.setattr(http, "ATTEMPTS", 1)
        fetch(server, target)


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
    download_file(server.url(PATH), target, progress=counted.append)
    assert sum(counted) == len(CONTENT)
    assert -100_000 in counted


@pytest.mark.parametrize("keep_record", [True, False])
def test_progress_counts_what_an_earlier_call_brought(server, target, monkeypatch, keep_record):
    break_off(server, target, monkeypatch)
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
def test_a_broken_download_goes_on_where_it_stopped(server, target, waits, chunked: bool):
    server.script(
        PATH, Answer(break_after=100_000, chunked=chunked), Answer(break_after=50_000), Answer()
    )
    fetch(server, target)
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


def test_a_server_that_breaks_forever_is_given_up_and_continued_later(server, target, waits):
    server.always[PATH] = Answer(break_after=1000)
    with pytest.raises(DownloadError, match="6 attempts") as caught:
        fetch(server, target)
    assert "6,000 bytes are here" in caught.value.advice
    assert not target.exists()
    assert waits == [1, 2, 4, 8, 16]
    del server.always[PATH]
    fetch(server, target)
    assert_whole(target)
    assert ranges(server)[-1] == "bytes=6000-"


def test_progress_between_failures_renews_the_patience(server, target: Path, monkeypatch):
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    server.always[PATH] = Answer(break_after=70_000)
    fetch(server, target)
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
    with pytest.raises(DownloadError, match="no length"):
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


def test_content_changed_between_two_calls_is_not_mixed(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    server.files[PATH] = Served(CHANGED, etag='"2"')
    fetch(server, target)
    assert_whole(target, CHANGED)


def test_a_part_from_another_address_is_not_continued(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
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
def test_the_server_s_wait_is_honoured_up_to_ten_minutes(server, target, waits, status: int):
    soon = formatdate(time.time() + 120, usegmt=True)
    asked = ("77", soon, "7200", "soon")
    server.script(PATH, *(Answer(status=status, headers={"Retry-After": text}) for text in asked))
    fetch(server, target)
    assert_whole(target)
    assert waits[0] == 77 and 110 < waits[1] <= 120 and waits[2] == 600
    # One that says nothing is asked again after a time that doubles.
    assert 8 <= waits[3] <= 8.5


def test_a_server_that_stays_busy_is_given_up(server, target: Path):
    server.always[PATH] = Answer(status=503)
    with pytest.raises(DownloadError, match="503 Service Unavailable; after 6 attempts"):
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
    with pytest.raises(DownloadError, match="refused"):
        download_file(url, target)
    assert not target.exists()


def test_a_session_of_the_caller_s_is_left_as_it_was(server, target: Path):
    with open_session() as session:
        before = session.max_redirects, dict(session.adapters), dict(session.headers)
        download_file(server.url(PATH), target, session)
        assert (session.max_redirects, dict(session.adapters), dict(session.headers)) == before
    assert_whole(target)


# --- pages and encodings


@pytest.mark.parametrize("kind", ["image/png", "text/html; charset=utf-8"])
def test_a_page_in_place_of_a_file_is_explained(server, target: Path, kind: str):
    server.files[PATH] = Served(QUOTA, content_type=kind)
    with pytest.raises(DownloadError, match="a web page, titled 'Quota exceeded'"):
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
    with pytest.raises(DownloadError, match="Quota"):
        fetch(server, target)
    server.files[PATH] = Served(CONTENT, etag='"1"')
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, "bytes=100000-", "bytes=100000-"]


def test_compression_that_was_not_asked_for_is_refused(server, target: Path):
    server.script(PATH, Answer(compressed=True))
    with pytest.raises(DownloadError, match=r"compressed \(gzip\)"):
        fetch(server, target)


@pytest.mark.parametrize(
    "page",
    [
        QUOTA.decode(),
        "\n\n   <HTML><BODY>",
        "\ufeff<!-- served by x --><!doctype  html>",
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
        "<script>location.href='/login'</script>",
    ],
)
def test_pages_are_recognised(page: str):
    assert looks_like_web_page(page.encode())


@given(st.binary(max_size=200))
def test_files_are_not_taken_for_pages(content: bytes):
    for text in ("male 45yrs\nnormal", "<svg>", "<?xml version='1.0'?><svg/>", "<headline>", "< 5"):
        assert not looks_like_web_page(text.encode())
    assert not looks_like_web_page(b"\x89PNG" + content)
    assert "x.png" in str(web_page_error(content, "x.png"))


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_silent_server_is_left_and_the_rest_fetched(server, target, monkeypatch, after: int):
    monkeypatch.setattr(http, "_TIMEOUTS", (20, 0.1))
    server.script(PATH, Answer(stall_after=after))
    fetch(server, target)
    assert_whole(target)
    assert ranges(server) == [None, f"bytes={after}-" if after else None]


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

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def test_a_full_disk_ends_it_and_what_arrived_is_continued(server, target: Path, monkeypatch):
    whole = Path.open
    monkeypatch.setattr(
        http.Path,
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
    monkeypatch.setattr(http.Path, "open", refuse)
    with pytest.raises(StorageError, match=r"x\.png\.part \(Read-only"):
        fetch(server, target)
    assert server.requests == []


# --- killed


def test_a_killed_download_goes_on_where_it_stopped(server, target: Path):
    server.script(PATH, Answer(stall_after=100_000))
    call = f"download_file({server.url(PATH)!r}, {str(target)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"from lungseg_utils.acquire.http import *; {call}"],
        stderr=subprocess.DEVNULL,
    )
    part = target.parent / "x.png.part"
    deadline = time.monotonic() + 60
    # The last few bytes may still be in the process's own buffer.
    while not (part.is_file() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
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


def test_a_part_that_was_whole_when_killed_is_not_asked_for_again(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    with (target.parent / "x.png.part").open("ab") as part:
        part.write(CONTENT[100_000:])
    fetch(server, target)
    assert_whole(target)
    assert len(server.requests) == 1


@given(st.text(max_size=40))
def test_headers_of_any_text_are_read_or_refused(text: str):
    for status, name in ((200, "Content-Length"), (206, "Content-Range")):
        answer = SimpleNamespace(status_code=status, url="x", headers={name: text})
        with contextlib.suppress(DownloadError):
            start, version = http._describe(answer)
            assert start in (None, -1) and (version["total"] or 0) >= 0


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
