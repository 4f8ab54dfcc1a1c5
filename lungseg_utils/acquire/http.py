"""Downloads over HTTP that go on where they stopped, and never leave half a file."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, TooManyRedirects
from tqdm.auto import tqdm
from urllib3.util import Retry

from lungseg_utils.errors import DownloadError
from lungseg_utils.files.records import read_json, write_json
from lungseg_utils.files.storage import explained, flush_to_disk, require_space

ATTEMPTS = 6  # in a row without progress
_CONNECTIONS = 8
_LONGEST_BACKOFF = 60.0
_LONGEST_WAIT = 600.0  # that a server may ask for
_TIMEOUTS = (20, 60)  # seconds for a connection, and of silence
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_BLOCK_BYTES = 1 << 20
# An attempt that brought this much more than any before it begins the count of failures anew.
_PROGRESS_BYTES = 1 << 16
_RANGE = re.compile(r"\s*bytes\s+(\d{1,15})-\d{1,15}/(\d{1,15})\s*", re.ASCII)
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s+|<\?xml.*?\?>|<!--.*?-->)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script)\b",
    re.DOTALL | re.IGNORECASE,
)
_TITLE = re.compile(r"<title[^>]*>\s*(.{0,120})[^<]*</title", re.DOTALL | re.IGNORECASE)


class MissingFileError(DownloadError):
    """The server says that there is no such file."""


class _BrokenOffError(Exception):
    """An answer that may be whole, or continued, at the next attempt."""


class _PoliteRetry(Retry):
    """Waits as long as a server asks, up to a limit."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        with contextlib.suppress(urllib3.exceptions.InvalidHeader):
            asked = super().get_retry_after(response)
            return asked and min(asked, _LONGEST_WAIT)
        return None


def open_session() -> requests.Session:
    """A session that asks a busy or silent server again; may be shared by a few threads."""
    session = requests.Session()
    session.max_redirects = 10
    retries = _PoliteRetry(
        total=ATTEMPTS - 1,
        status_forcelist=_BUSY,
        backoff_factor=1,
        backoff_max=_LONGEST_BACKOFF,
        backoff_jitter=0.5,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS, max_retries=retries))
    return session


def download_file(
    url: str,
    path: Path | str,
    session: requests.Session | None = None,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Download a file; a file that lies there is whole, and is kept.

    What has arrived is kept in `<name>.part` beside the target until it is whole, and is
    continued by the next attempt or the next call, unless the server offers another content by
    then (entity tag, time of the last change or length).

    Args:
        url: The file's address.
        path: The file's final name; its folder is made where missing.
        session: From `open_session`, to keep connections over several files; None for its own.
        progress: Called with the number of bytes that are here already and then of each block,
            negative where the file begins again; None shows a bar. An error that it raises ends
            the download.

    Returns:
        The path.

    Raises:
        MissingFileError: The server has no such file.
        DownloadError: The server refuses, keeps failing, sends a web page or compressed data, or
            does not say how long the file is.
        StorageError: The disk is full, read-only or gone; what has arrived is kept.
    """
    part = _Part(Path(path), url)
    if part.target.is_file():
        part.forget()
        return part.target
    part.open()
    with (
        contextlib.nullcontext(session) if session else open_session() as opened,
        tqdm(
            desc=part.target.name,
            initial=part.size,
            unit="B",
            unit_scale=True,
            disable=progress is not None,
        ) as bar,
    ):
        if progress and part.size:
            progress(part.size)
        try:
            _receive_whole(opened, part, progress or bar.update)
        except BaseException:
            if not part.size:
                part.forget()
            raise
    part.finish()
    return part.target


class _Part:
    """Bytes on their way to a file, and the record of the content that they belong to.

    The record is written while the part is empty, so the two fit whenever a process dies.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path = target.with_name(f"{target.name}.part")
        self.record = target.with_name(f"{target.name}.part.json")
        self.version: dict[str, object] = {}

    def open(self) -> None:
        """Find out whether what lies there can be continued; else begin with nothing."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            record = read_json(self.record)
            same = record.pop("url") == self.url and self.path.is_file()
            self.version = record if same else {}
        with explained(self.path):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
        if not self.version:
            self.begin({})

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def is_whole(self) -> bool:
        return self.size == self.version.get("total")

    def begin(self, version: dict[str, object]) -> None:
        with explained(self.path):
            self.path.open("wb").close()
            self.record.unlink(missing_ok=True)
            if version:
                write_json(self.record, {"url": self.url, **version})
        self.version = version

    def finish(self) -> None:
        with explained(self.path):
            flush_to_disk(self.path)
            self.path.replace(self.target)
        self.forget()

    def forget(self) -> None:
        """Remove what a download of this file may have left beside it."""
        for path in (self.path, self.record):
            with contextlib.suppress(OSError):  # gone with its drive
                path.unlink(missing_ok=True)


def _receive_whole(session: requests.Session, part: _Part, report: Callable[[int], object]) -> None:
    failures, most = 0, part.size
    while not part.is_whole:
        try:
            return _attempt(session, part, report)
        except _BrokenOffError as problem:
            # Against the most that ever arrived: a file that begins again and again must end.
            failures = 0 if part.size >= most + _PROGRESS_BYTES else failures
            failures, most = failures + 1, max(most, part.size)
            if failures == ATTEMPTS:
                raise _giving_up(part, problem) from problem
        time.sleep(min(2.0 ** (failures - 1), _LONGEST_BACKOFF))
    return None


def _attempt(session: requests.Session, part: _Part, report: Callable[[int], object]) -> None:
    """Ask for what is missing and receive it.

    Raises:
        _BrokenOffError: Another attempt may bring the rest.
    """
    with _ask(session, part) as response:
        if response.status_code == 416:
            _restart(part, {}, report)
            raise _BrokenOffError("416: nothing to continue")
        if response.status_code not in {200, 206}:
            raise _refusal(response, part)
        start, version = _describe(response)
        head = b""
        if start is None:
            head = _read(response)
            _refuse_page(head, response)
        elif start != part.size or not _agree(version, part.version):
            _restart(part, {}, report)
            raise _BrokenOffError("the content has changed since the download began")
        if not start:
            _restart(part, version, report)
        total = version["total"]
        if total is not None:
            require_space(part.target.parent, total - part.size, part.target.name)
        with explained(part.path), part.path.open("ab") as file:
            while block := head or _read(response):
                head = b""
                file.write(block)
                report(len(block))
    if total is not None and part.size != total:
        raise _BrokenOffError(f"{part.size:,} of {total:,} bytes arrived")


def _restart(part: _Part, version: dict[str, object], report: Callable[[int], object]) -> None:
    if part.size:
        report(-part.size)
    part.begin(version)


def _ask(session: requests.Session, part: _Part) -> requests.Response:
    # Compressed, the bytes of a range would not be the file's.
    headers = {"Accept-Encoding": "identity"}
    if part.size and any(part.version.values()):
        headers["Range"] = f"bytes={part.size}-"
        tag = str(part.version.get("etag") or "")
        if condition := part.version.get("modified") if tag[:2] in ("", "W/") else tag:
            headers["If-Range"] = str(condition)
    try:
        return session.get(part.url, headers=headers, stream=True, timeout=_TIMEOUTS)
    except (TooManyRedirects, InvalidURL, InvalidSchema, MissingSchema) as error:
        raise DownloadError(
            "The address leads to the file.",
            f"{part.url}: {error}",
            "Correct the address, or try another SOURCE; a network that asks for a login may "
            "redirect without end.",
        ) from error
    except requests.RequestException as error:
        raise _giving_up(part, error) from error


def _refusal(response: requests.Response, part: _Part) -> DownloadError:
    """What to raise for an answer that brings no file."""
    status = f"{response.status_code} {response.reason}".strip()
    if response.status_code in _BUSY:
        return _giving_up(part, status)
    if response.status_code in {404, 410}:
        return MissingFileError(
            "The server has the file.", f"{status}: {part.url}", "Try another SOURCE."
        )
    return DownloadError(
        "The server hands the file out.",
        f"{status}: {part.url}",
        "Open the address in the browser to see whether it asks for a login or refuses "
        "programs; download it there and pass SOURCE='zip' or 'folder', or try another SOURCE.",
    )


def _describe(response: requests.Response) -> tuple[int | None, dict[str, object]]:
    """First byte of the part that is sent, None for the whole content; and which content it is.

    Raises:
        DownloadError: The file's own length cannot be told.
    """
    headers = response.headers
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if response.status_code == 206:
        start, total = (int(found[1]), int(found[2])) if found else (-1, None)
    else:
        start, length = None, headers.get("Content-Length", "").strip()
        total = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
    packed = headers.get("Content-Encoding", "identity").lower()
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if packed != "identity" or (total is None and not chunked):
        raise DownloadError(
            "The server says how long the file is, and sends it as it is.",
            f"{'no length' if packed == 'identity' else f'compressed ({packed})'}: {response.url}",
            "Try another network or SOURCE; or download it in the browser and pass SOURCE='zip' "
            "or 'folder'.",
        )
    version = {"etag": headers.get("ETag", ""), "modified": headers.get("Last-Modified", "")}
    return start, version | {"total": total}


def _agree(one: dict[str, object], other: dict[str, object]) -> bool:
    """Whether nothing that both versions state differs."""
    return all(one[name] == other[name] for name in one if one[name] and other.get(name))


def _read(response: requests.Response) -> bytes:
    try:
        # What is there, not a full block: it is kept when the connection breaks.
        return response.raw.read1(_BLOCK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _BrokenOffError(error) from error


def looks_like_web_page(content: bytes) -> bool:
    """Whether the first bytes of a file are HTML: a quota, a login or a question in its place."""
    return bool(_PAGE.match(content[:_PROGRESS_BYTES]))


def web_page_error(content: bytes, origin: str) -> DownloadError:
    """The error to raise for a page in place of a file.

    Args:
        content: The page's first bytes.
        origin: Where it came from, or the file it stands in for; for the message.
    """
    title = _TITLE.search(content.decode("utf-8", errors="replace"))
    shown = f", titled {title[1].strip()!r}" if title else ""
    return DownloadError(
        "A download brings the file itself.",
        f"a web page{shown}, in place of {origin}",
        "It may say that a quota is used up, ask for a login or for proof of a human: open the "
        "address in the browser. Download it there and pass SOURCE='zip' or 'folder'; or choose "
        "another SOURCE.",
    )


def _refuse_page(head: bytes, response: requests.Response) -> None:
    kind = response.headers.get("Content-Type", "").lower()
    if looks_like_web_page(head) or ("html" in kind and b"\0" not in head):
        raise web_page_error(head, response.url)


def _giving_up(part: _Part, problem: object) -> DownloadError:
    return DownloadError(
        "The server sends the whole file.",
        f"{problem}; after {ATTEMPTS} attempts without progress: {part.url}",
        f"Run it again later: {part.size:,} bytes are here and stay. Or try another SOURCE.",
    )
