"""Downloads over HTTP that go on where they stopped, and never leave half a file."""

from __future__ import annotations

import html
import re
from contextlib import nullcontext
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError
from urllib3.util import Retry

from lungseg_utils.errors import DownloadError
from lungseg_utils.files.records import read_json, write_json
from lungseg_utils.files.storage import explained, flush_to_disk, require_space

_BLOCK_BYTES = 1 << 20
# Longest wait for a connection, and longest silence of a server, in seconds.
_LIMITS = (20, 60)
# Longest wait that a server may ask for, in seconds.
_LONGEST_WAIT = 600
# An attempt that brought this much more than any before it begins the count of failures anew.
_PROGRESS_BYTES = 1 << 16
_HEAD_BYTES = 1 << 16
_LONGEST_TITLE = 120
# Before a page's first tag may stand a byte order mark, an XML declaration and comments.
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<\?xml.*?\?>|<!--.*?-->)*+"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script)\b",
    re.DOTALL | re.IGNORECASE,
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)


class _Retries(Retry):
    """urllib3's retries, which end where a server asks to wait for longer than anyone would."""

    def increment(
        self, *asked: object, response: BaseHTTPResponse | None = None, **rest: object
    ) -> Retry:
        if response is not None and (self.get_retry_after(response) or 0) > _LONGEST_WAIT:
            raise MaxRetryError(None, "")
        return super().increment(*asked, response=response, **rest)


# Several downloads that failed together do not come back together: hence the jitter.
_RETRIES = _Retries(
    total=5,
    backoff_factor=1,
    backoff_max=60,
    backoff_jitter=1,
    status_forcelist={408, 425, 429, 500, 502, 503, 504},
    raise_on_status=False,
)


class MissingFileError(DownloadError):
    """The server says that there is no such file."""


def open_session() -> requests.Session:
    """Connections that stay open over several files, and requests that are tried six times."""
    session = requests.Session()
    session.max_redirects = 10
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))
    return session


def download_file(
    url: str, path: Path | str, session: requests.Session | None = None, bar: tqdm | None = None
) -> Path:
    """Download a file; a file that lies there is whole, and is kept.

    What has arrived is kept in `<name>.part` beside the target until it is whole, and is
    continued by the next attempt or the next call, unless the server offers another content by
    then (entity tag, time of the last change or length).

    Args:
        url: The file's address.
        path: The file's final name; its folder is made where missing.
        session: From `open_session`; None for one of its own.
        bar: Shows the bytes; None for one of its own.

    Returns:
        The path.

    Raises:
        MissingFileError: The server has no such file.
        DownloadError: The server refuses, keeps failing, sends a web page, compresses what it
            should not, or does not say how long the file is.
        StorageError: The file is larger than the free space; or the disk is full, read-only or
            gone. What has arrived is kept.
    """
    path = Path(path)
    with explained(path):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with (
                nullcontext(session) if session else open_session() as opened,
                # A bar whose end is not known yet is neither true nor false.
                nullcontext(bar) if bar is not None else _bar(path.name) as shown,
            ):
                part = _Download(url, path, opened, shown).run()
            flush_to_disk(part)
            part.replace(path)
        _record_of(path).unlink(missing_ok=True)
    return path


def looks_like_web_page(content: bytes) -> bool:
    """Whether a file is HTML, judged by its first 64 KiB and not by its name."""
    return bool(_PAGE.match(content[:_HEAD_BYTES]))


def web_page_error(content: bytes, what: str) -> DownloadError:
    """The error to raise for a web page in place of a file, with the page's title.

    Args:
        content: The page, as for `looks_like_web_page`.
        what: Where it came from, or the file it stands in for; for the message.
    """
    title = _TITLE.search(content[:_HEAD_BYTES].decode(errors="replace"))
    text = " ".join(html.unescape(title[1]).split()) if title else ""
    shown = f", titled {text[:_LONGEST_TITLE]!r}" if text else ""
    return DownloadError(
        "A download brings the file itself.",
        f"a web page{shown}, in place of {what}",
        "Open it in the browser to see what the page says: it may ask for a login, say that it is "
        "not shared, or that the download quota is used up (Google Drive opens a file again after "
        "about a day). Download it there and pass SOURCE='zip' or 'folder', or choose another "
        "SOURCE.",
    )


def _bar(name: str) -> tqdm:
    return tqdm(desc=name, unit="B", unit_scale=True)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


class _Download:
    """One file's way here.

    The record of the content is written while the part is empty, so whatever moment a process
    dies at, bytes and record fit together.
    """

    def __init__(self, url: str, path: Path, session: requests.Session, bar: tqdm) -> None:
        self.url, self.session, self.bar = url, session, bar
        self.part = path.with_name(path.name + ".part")
        self.record = _record_of(path)
        self.version = self._read_version()
        if not any(self.version.values()):
            self._discard()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self) -> Path:
        """Ask until all bytes are here; returns the part, which is whole."""
        retries, most = _RETRIES, self.size
        try:
            while not self.part.is_file() or self.size != self.version.get("total"):
                try:
                    self._attempt()
                    break
                except HTTPError as problem:
                    # Against the most that ever arrived: else a file that begins again and again
                    # would be asked for without end.
                    retries = _RETRIES if self.size >= most + _PROGRESS_BYTES else retries
                    most = max(most, self.size)
                    retries = retries.increment("GET", self.url, error=problem)
                    retries.sleep()
        except (requests.RequestException, MaxRetryError) as error:
            raise DownloadError(
                "The server sends the whole file.",
                f"{getattr(error, 'reason', error)}: {self.url}",
                f"Run it again later: {self.size:,} bytes are here and are not fetched twice. Or "
                "try another SOURCE. A network that asks for a login may redirect without end.",
            ) from error
        return self.part

    def _attempt(self) -> None:
        """Ask for what is missing and receive it.

        Raises:
            HTTPError: It broke off, or another content is offered: worth another attempt.
            DownloadError: Another attempt would end alike.
        """
        asked = self._headers()
        with self.session.get(self.url, headers=asked, stream=True, timeout=_LIMITS) as answer:
            self._check(answer)
            first, offered = _read_offer(answer)
            if first and (first != self.size or not self._fits(offered)):
                self._discard()
                raise ProtocolError("the content has changed since the download began")
            block = _read(answer)
            if not first:
                self._begin(block, answer, offered)
            self.bar.reset(offered["total"])
            self.bar.update(first)
            with self.part.open("ab") as file:
                while block:
                    file.write(block)
                    self.bar.update(len(block))
                    block = _read(answer)
        if offered["total"] not in {None, self.size}:
            raise ProtocolError(f"{self.size:,} of {offered['total']:,} bytes arrived")

    def _headers(self) -> dict[str, str]:
        # Compressed, the bytes of a range would not be the file's.
        headers = {"Accept-Encoding": "identity"}
        if self.size and any(self.version.values()):
            headers["Range"] = f"bytes={self.size}-"
            tag = self.version["etag"]
            # A weak tag must not stand there.
            condition = tag if tag and not tag.startswith("W/") else self.version["last_modified"]
            headers |= {"If-Range": condition} if condition else {}
        return headers

    def _check(self, answer: requests.Response) -> None:
        """Refuse an answer that brings no file."""
        code, encoding = answer.status_code, answer.headers.get("Content-Encoding", "identity")
        if code == 416:
            self._discard()
            raise ProtocolError("the server has nothing to continue with")
        if code not in {200, 206} or encoding.lower() != "identity":
            wait = answer.headers.get("Retry-After", "")
            shown = f", to be asked again after {wait}" if wait else ""
            raise (MissingFileError if code in {404, 410} else DownloadError)(
                "The server hands the file out, as it is.",
                f"{code} {answer.reason}, encoding {encoding}{shown}: {self.url}",
                "Run it again later: it goes on where it stopped. Or open the address in the "
                "browser to see whether it asks for a login or refuses programs, download it "
                "there and pass SOURCE='zip' or 'folder'; or try another network or SOURCE.",
            )

    def _fits(self, offered: dict) -> bool:
        """Whether nothing that is known of both contents differs."""
        known = [key for key in offered if offered[key] and self.version[key]]
        return all(offered[key] == self.version[key] for key in known)

    def _begin(self, block: bytes, answer: requests.Response, offered: dict) -> None:
        """Begin with the first byte, and record of which content it is."""
        if offered["total"] is None and not answer.raw.chunked:
            raise DownloadError(
                "The server says how long a file is.",
                f"no length: {self.url}",
                "Without it a file that broke off cannot be told from a whole one. Try another "
                "SOURCE, or download it in the browser and pass SOURCE='zip' or 'folder'.",
            )
        # Judged before anything here is given up: a page must not cost what has arrived.
        is_html = "html" in answer.headers.get("Content-Type", "").lower()
        if looks_like_web_page(block) or (is_html and b"\0" not in block):
            raise web_page_error(block, self.url)
        self._discard()
        require_space(self.part.parent, offered["total"] or 0, self.part.stem)
        write_json(self.record, {"url": self.url, **offered})
        self.version = offered

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version = {}

    def _read_version(self) -> dict:
        """The recorded version; an empty one where there is none that can be continued."""
        try:
            version = read_json(self.record)
            return version if version.pop("url") == self.url else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}


def _read(answer: requests.Response) -> bytes:
    # What is there, not a full block: what came before a break would be lost with it.
    return answer.raw.read1(_BLOCK_BYTES, decode_content=False)


def _read_offer(answer: requests.Response) -> tuple[int, dict]:
    """First byte of what is sent (-1: unknown), and what tells the content from others."""
    first, total = 0, answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        place = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", place)
        first, total = (int(found[1]), found[2]) if found else (-1, "")
    return first, {
        "etag": answer.headers.get("ETag", ""),
        "last_modified": answer.headers.get("Last-Modified", ""),
        "total": int(total) if re.fullmatch(r"\d{1,15}", total) else None,
    }
