from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from bundles import failing, png_header
from misbehaving_server import Answer, MisbehavingServer, Served

from lungseg_utils.acquire import http
from lungseg_utils.acquire.http import MissingFileError, download_file, looks_like_web_page
from lungseg_utils.errors import DownloadError, StorageError

CONTENT = np.random.default_rng(0).bytes(300_000)
CHANGED = np.random.default_rng(1).bytes(300_000)
PATH = "/x.png"
PAGE = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota\n exceeded &amp; more</title></head>"
    "<body><p>Sorry</p></body></html>"
)


@pytest.fixture
def server(monkeypatch) -> Iterator[MisbehavingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with MisbehavingServer() as server:
        server.files[PATH] = Served(CONTENT, etag='"1"')
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """What is waited for between attempts; it takes no time."""
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, time=time.time)
    monkeypatch.setattr("urllib3.util.retry.time", clock)
    return waits


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "x.png"


def fetch(server: MisbehavingServer, target: Path, path: str = PATH) -> Path:
    return download_file(server.url(path), target)


def leave_part(server: MisbehavingServer, target: Path) -> None:
    """A call whose every attempt but the first brings nothing: 100,000 bytes stay."""
    server.script(PATH, Answer(break_after=100_000), *[Answer(break_after=0)] * 5)
    with pytest.raises(DownloadError):
        fetch(server, target)
    server.requests.clear()


def assert_whole(target: Path, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def ranges(server: MisbehavingServer) -> list[str | None]:
    return [asked.headers.get("Range") for asked in server.requests]


def assert_fetched(server, target: Path, asked: list | None = None, content=CONTENT) -> None:
    """A call brings the whole file, and these ranges have been asked for by then."""
    fetch(server, target)
    assert_whole(target, content)
    assert asked is None or ranges(server) == asked


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


def test_a_file_that_is_there_is_not_asked_for_and_a_record_left_beside_it_goes(server, target):
    target.parent.mkdir()
    target.write_bytes(b"whole")
    target.with_name("x.png.part.json").write_text("{}")
    assert_fetched(server, target, content=b"whole")
    assert server.requests == []


def test_the_caller_s_session_stays_as_it_is(server, target: Path):
    with requests.Session() as session:
        before = {**vars(session), "headers": dict(session.headers)}
        download_file(server.url(PATH), target, session)
        assert {**vars(session), "headers": dict(session.headers)} == before
    assert_whole(target)


# --- breaking off


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_download_goes_on_where_it_stopped(server, target: Path, chunked: bool, waits):
    server.script(PATH, Answer(break_after=100_000, chunked=chunked), Answer(break_after=50_000))
    assert_fetched(server, target, [None, "bytes=100000-", "bytes=150000-"])
    assert [asked.status for asked in server.requests] == [200, 206, 206]
    assert [asked.sent for asked in server.requests] == [100_000, 50_000, 150_000]
    assert [asked.headers.get("If-Range") for asked in server.requests] == [None, '"1"', '"1"']


@pytest.mark.parametrize(
    ("second", "third_range"),
    [
        (Answer(ranges=False), []),  # the whole content, though a part was asked for
        (Answer(piece=50_000), ["bytes=150000-"]),
        (Answer(shift=5), [None]),  # a part that begins elsewhere is not appended
        (Answer(status=416), [None]),
    ],
)
def test_what_comes_in_place_of_the_rest(server, target: Path, second: Answer, third_range: list):
    server.script(PATH, Answer(break_after=100_000), second)
    assert_fetched(server, target, [None, "bytes=100000-", *third_range])


def test_a_server_that_breaks_forever_is_given_up_and_continued_later(server, target, waits):
    server.always[PATH] = Answer(break_after=1000)
    with pytest.raises(DownloadError, match="sends the whole file") as caught:
        fetch(server, target)
    assert "6,000 bytes are here" in caught.value.advice
    assert not target.exists()
    assert len(server.requests) == 6
    # At once, then doubled each time, and up to a second more.
    assert [int(np.log2(wait)) for wait in waits] == [1, 2, 3, 4]
    del server.always[PATH]
    assert_fetched(server, target)
    assert ranges(server)[-1] == "bytes=6000-"


def test_progress_between_failures_renews_the_patience(server, target: Path):
    server.files[PATH] = Served(CONTENT * 3, etag='"1"')
    server.always[PATH] = Answer(break_after=70_000)
    fetch(server, target)
    assert_whole(target, CONTENT * 3)
    assert len(server.requests) == 13


@pytest.mark.parametrize("validators", [{"etag": '"1"'}, {}])
def test_a_length_that_is_never_reached_ends(server, target: Path, validators: dict):
    server.files[PATH] = Served(CONTENT, **validators)
    server.always[PATH] = Answer(length=len(CONTENT) + 1000)
    with pytest.raises(DownloadError, match="sends the whole file"):
        fetch(server, target)
    assert not target.exists()
    assert len(server.requests) < 15


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_silent_server_is_left_and_the_rest_fetched(server, target, after: int, monkeypatch):
    monkeypatch.setattr(http, "_LIMITS", (1, 0.1))
    server.script(PATH, Answer(stall_after=after))
    assert_fetched(server, target, [None, f"bytes={after}-" if after else None])


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
    assert_fetched(server, target, content=second.content)
    assert ranges(server)[:2] == [None, "bytes=100000-"]


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b"\xff", b'{"url": 1, "etag": 2}', None])
def test_a_part_without_its_record_is_not_continued(server, target: Path, record: bytes | None):
    target.parent.mkdir()
    target.with_name("x.png.part").write_bytes(b"from somewhere")
    if record is not None:
        target.with_name("x.png.part.json").write_bytes(record)
    assert_fetched(server, target, [None])


# --- refusals


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_s_wait_is_honoured(server, target: Path, status: int, waits):
    in_two_minutes = formatdate(time.time() + 120, usegmt=True)
    server.script(
        PATH,
        Answer(status=status, headers={"Retry-After": "77"}),
        Answer(status=status, headers={"Retry-After": in_two_minutes}),
        Answer(status=status),
    )
    assert_fetched(server, target)
    assert waits[0] == 77
    assert 115 < waits[1] <= 120
    assert 4 <= waits[2] <= 5


@pytest.mark.parametrize(
    ("answer", "tried", "kind", "words"),
    [
        *((Answer(status=code), 1, MissingFileError, f"{code} ") for code in (404, 410)),
        *((Answer(status=code), 1, DownloadError, f"{code} ") for code in (401, 403, 451, 204)),
        *((Answer(status=code), 6, DownloadError, f"{code} ") for code in (503, 408)),
        (Answer(status=429, headers={"Retry-After": "7200"}), 1, DownloadError, "after 7200"),
        (Answer(status=503, headers={"Retry-After": "soon"}), 1, DownloadError, "soon"),
        (Answer(status=302, headers={"Location": PATH}), 11, DownloadError, "redirects"),
        (Answer(status=302, headers={"Location": "ftp://x/y"}), 1, DownloadError, "ftp://x/y"),
        (Answer(headers={"Content-Encoding": "gzip"}), 1, DownloadError, "encoding gzip"),
        (Answer(until_closed=True, break_after=1000), 1, DownloadError, "how long a file is"),
        (Answer(headers={"Content-Length": "many"}), 1, DownloadError, "how long a file is"),
        (Answer(length=10**15 - 1, break_after=1000), 1, StorageError, "free disk space"),
    ],
)
def test_a_refusal_is_final_and_a_passing_fault_tried_six_times(
    server, target: Path, answer: Answer, tried: int, kind: type, words: str, waits
):
    server.always[PATH] = answer
    with pytest.raises(kind, match=words) as caught:
        fetch(server, target)
    assert type(caught.value) is kind
    assert (len(server.requests), len(waits)) == (tried, 4 if tried == 6 else 0)
    assert list(target.parent.iterdir()) == []


def test_no_server_at_all(target: Path, waits):
    with MisbehavingServer() as server:
        url = server.url(PATH)
    with pytest.raises(DownloadError, match="refused"):
        download_file(url, target)
    assert len(waits) == 4


# --- web pages


def test_a_page_in_place_of_a_file_is_explained_and_costs_nothing(server, target: Path):
    leave_part(server, target)
    server.script(PATH, Answer(served=Served(PAGE.encode(), content_type="image/png")))
    with pytest.raises(DownloadError, match=r"titled 'Google Drive - Quota exceeded & more'"):
        fetch(server, target)
    server.files[PATH] = Served(CONTENT, etag='"1"')
    assert_fetched(server, target, ["bytes=100000-", "bytes=100000-"])


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        "\n\n   <HTML><BODY>",
        "<!-- served by x --><!doctype  html>",
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
        "<script>location.href='/login'</script>",
        "\ufeff<title>404</title>",
    ],
)
def test_pages_are_recognised(page: str):
    assert looks_like_web_page(page.encode())


def test_files_are_not_taken_for_pages(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("index.html", PAGE)
    files = [(tmp_path / "a.zip").read_bytes(), png_header(8, 8), b"<!-- -->" * 5000]
    texts = ("male 45yrs\nnormal", "<svg>", "<?xml version='1.0'?><svg/>", "<headline>", "< 5")
    for content in files + [text.encode() for text in texts]:
        assert not looks_like_web_page(content)


# --- the disk


def test_a_full_disk_ends_it_and_what_arrived_is_continued(server, target: Path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limit[1]))
    try:
        with pytest.raises(StorageError, match="must have room"):
            fetch(server, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not target.exists()
    assert_fetched(server, target, [None, "bytes=120000-"])


def test_a_read_only_folder_is_told_before_anything_is_asked(server, target: Path, monkeypatch):
    refuse = failing(OSError(errno.EROFS, os.strerror(errno.EROFS)))
    monkeypatch.setattr(http.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"x\.png \(Read-only"):
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
    part = target.with_name("x.png.part")
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
    assert_fetched(server, target, [None, f"bytes={arrived}-"])
    assert server.requests[1].sent == len(CONTENT) - arrived


def test_a_part_that_was_whole_when_killed_is_not_asked_for_again(server, target: Path):
    leave_part(server, target)
    with target.with_name("x.png.part").open("ab") as part:
        part.write(CONTENT[100_000:])
    assert_fetched(server, target)
    assert server.requests == []
