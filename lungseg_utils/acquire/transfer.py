"""Downloads over HTTP that go on where they stopped, and never leave half a file."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm.auto import tqdm

from lungseg_utils.acquire.http_answers import (
    Version,
    read_length,
    read_range,
    read_retry_after,
    read_version,
)
from lungseg_utils.acquire.partial_file import PartialFile, remove_record
from lungseg_utils.acquire.web_pages import looks_like_web_page, web_page_error
from lungseg_utils.errors import DownloadError
from lungseg_utils.files.storage import explained, require_space

_BLOCK_BYTES = 1 << 20
# An attempt that brought this much more than any before it begins the count of failures anew.
_PROGRESS_BYTES = 1 << 16
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MISSING_STATUS = {404, 410}


@dataclass(frozen=True)
class Patience:
    """What a download puts up with.

    Args:
        attempts: Failures in a row, without progress between them, after which it gives up.
        connect_seconds: Longest wait for a connection.
        read_seconds: Longest silence of the server.
        lowest_rate: Bytes per second that must arrive on average of `rate_seconds`.
        rate_seconds: Time over which the rate is taken.
        first_wait: Seconds before the second attempt; doubled each time.
        longest_backoff: Seconds at which the doubling ends.
        longest_wait: Longest wait, in seconds, that a server may ask for (Retry-After).
        most_redirects: Redirects followed for one request.
        sleep: Waits for a number of seconds.
        clock: Seconds that only go forward.
    """

    attempts: int = 6
    connect_seconds: float = 20
    read_seconds: float = 60
    lowest_rate: float = 1000
    rate_seconds: float = 60
    first_wait: float = 1
    longest_backoff: float = 60
    longest_wait: float = 600
    most_redirects: int = 10
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic


class MissingFileError(DownloadError):
    """The server says that there is no such file."""


class _PassingError(Exception):
    """What may go well at the next attempt; `retry_after` is what the server asks to wait."""

    def __init__(self, reason: object, retry_after: float | None = None) -> None:
        super().__init__(str(reason))
        self.retry_after = retry_after


def download_file(
    url: str,
    path: Path | str,
    patience: Patience | None = None,
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
        patience: Time limits and retries; None for the usual ones.
        session: Keeps connections open over several files; None for one of its own.
        progress: Called with the number of bytes that are here already and then of each block,
            negative where the file begins again; None shows a bar. An error that it raises ends
            the download.

    Returns:
        The path.

    Raises:
        MissingFileError: The server has no such file.
        DownloadError: The server refuses, keeps failing, sends a web page, compresses what it
            should not, or does not say how long the file is.
        LungsegError: The file is larger than the free space.
        StorageError: The disk is full, read-only or gone; what has arrived is kept.
    """
    path = Path(path)
    if path.is_file():
        with explained(path):
            remove_record(path)
        return path
    patience = patience or Patience()
    with (
        nullcontext(session) if session else requests.Session() as opened,
        PartialFile(path, url) as part,
        _bar(part, hidden=progress is not None) as bar,
    ):
        opened.max_redirects = patience.most_redirects
        if progress and part.size:
            progress(part.size)
        _Download(url, part, patience, opened, bar, progress or bar.update).run()
    return path


@dataclass
class _Download:
    """One file's way here."""

    url: str
    part: PartialFile
    patience: Patience
    session: requests.Session
    bar: tqdm
    progress: Callable[[int], object]

    def run(self) -> None:
        failures, most = 0, self.part.size
        while not self.part.is_whole:
            try:
                self._attempt()
                break
            except _PassingError as problem:
                # Against the most that ever arrived: else a file that begins again and again
                # would be asked for without end.
                if self.part.size >= most + _PROGRESS_BYTES:
                    failures = 0
                most = max(most, self.part.size)
                failures += 1
                if failures >= self.patience.attempts:
                    raise self._giving_up(problem, failures) from problem
                self._wait(failures, problem)
        self.part.finish()

    def _attempt(self) -> None:
        """Ask for what is missing and receive it.

        Raises:
            _PassingError: It broke off, or the server is busy: worth another attempt.
            DownloadError: Another attempt would end alike.
        """
        with self._request() as response:
            if response.status_code not in {200, 206}:
                raise self._refusal(response)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise DownloadError(
                    "The server sends the file as it is.",
                    f"{self.url}, compressed ({response.headers['Content-Encoding']})",
                    "A proxy of this network may do that: try another network or SOURCE.",
                )
            total = self._continue(response) if response.status_code == 206 else None
            if total is None:
                total = self._begin(response)
            self._receive(response)
        if total is not None and self.part.size != total:
            raise _PassingError(f"{self.part.size:,} of {total:,} bytes arrived")

    def _request(self) -> requests.Response:
        # Compressed, the bytes of a range would not be the file's.
        headers = {"Accept-Encoding": "identity"}
        if self.part.size and self.part.version != Version():
            headers["Range"] = f"bytes={self.part.size}-"
            if self.part.version.for_if_range:
                headers["If-Range"] = self.part.version.for_if_range
        limits = (self.patience.connect_seconds, self.patience.read_seconds)
        try:
            return self.session.get(self.url, headers=headers, stream=True, timeout=limits)
        except (requests.TooManyRedirects, requests.exceptions.InvalidURL) as error:
            raise self._unreachable(error) from error
        # The address, or one that a server redirects to, is not of the web.
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
            raise self._unreachable(error) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _PassingError(error) from error

    def _refusal(self, response: requests.Response) -> Exception:
        """What to raise for an answer that brings no file."""
        status = f"{response.status_code} {response.reason}".strip()
        if response.status_code == 416:
            self._discard()
            return _PassingError(f"{status}: nothing to continue")
        if response.status_code in _PASSING_STATUS:
            return _PassingError(status, read_retry_after(response.headers))
        if response.status_code in _MISSING_STATUS:
            return MissingFileError(
                "The server has the file.", f"{status}: {self.url}", "Try another SOURCE."
            )
        return DownloadError(
            "The server hands the file out.",
            f"{status}: {self.url}",
            "Open the address in the browser to see whether it asks for a login or refuses "
            "programs; download it there and pass SOURCE='zip' or 'folder', or try another SOURCE.",
        )

    def _continue(self, response: requests.Response) -> int:
        """Check that a part of the content continues what is here; its whole length in bytes."""
        place = read_range(response.headers)
        expected = self.part.size if "Range" in response.request.headers else 0
        version = read_version(response.headers, place[1] if place else None)
        if not place or place[0] != expected or not version.may_equal(self.part.version):
            self._discard()
            raise _PassingError("the content has changed since the download began")
        if not expected:
            self._discard()
            self.part.begin(version)
        self._expect(place[1])
        return place[1]

    def _begin(self, response: requests.Response) -> int | None:
        """Begin with the first byte; the content's length, None where only its end will tell."""
        total = read_length(response.headers)
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if total is None and not chunked:
            raise DownloadError(
                "The server says how long a file is.",
                f"no length: {self.url}",
                "Without it a file that broke off cannot be told from a whole one. Try another "
                "SOURCE, or download it in the browser and pass SOURCE='zip' or 'folder'.",
            )
        block = self._read(response)
        kind = response.headers.get("Content-Type", "").lower()
        # Judged before anything here is given up: a page must not cost what has arrived.
        if looks_like_web_page(block) or ("html" in kind and b"\0" not in block):
            raise web_page_error(block, self.url)
        self._discard()
        self._expect(total)
        self.part.begin(read_version(response.headers, total))
        self._append(block)
        return total

    def _receive(self, response: requests.Response) -> None:
        """Write what arrives, as long as it arrives fast enough."""
        clock, period = self.patience.clock, self.patience.rate_seconds
        begun, arrived = clock(), 0
        while block := self._read(response):
            self._append(block)
            arrived += len(block)
            if clock() - begun >= period:
                if arrived < self.patience.lowest_rate * period:
                    raise _PassingError(f"only {arrived:,} bytes in {period:g} s")
                begun, arrived = clock(), 0

    def _read(self, response: requests.Response) -> bytes:
        try:
            # What is there, not a full block: a trickle must not hold it up unnoticed.
            return response.raw.read1(_BLOCK_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _PassingError(error) from error

    def _append(self, block: bytes) -> None:
        self.part.append(block)
        self.progress(len(block))

    def _discard(self) -> None:
        if self.part.size:
            self.progress(-self.part.size)
        self.part.discard()

    def _expect(self, total: int | None) -> None:
        self.bar.total = total
        if total is not None:
            require_space(self.part.target.parent, total - self.part.size, self.part.target.name)

    def _wait(self, failures: int, problem: _PassingError) -> None:
        wait = min(self.patience.first_wait * 2 ** (failures - 1), self.patience.longest_backoff)
        # Several downloads that failed together do not come back together.
        wait *= random.uniform(0.75, 1.25)
        if problem.retry_after is not None:
            if problem.retry_after > self.patience.longest_wait:
                raise DownloadError(
                    f"A server asks to wait {self.patience.longest_wait:g} s at most.",
                    f"{problem}, wait {problem.retry_after:.0f} s: {self.url}",
                    "Run it again after that time: it goes on where it stopped. Or try another "
                    "SOURCE.",
                ) from problem
            wait = max(wait, problem.retry_after)
        self.bar.set_postfix_str(f"waiting {wait:.0f} s")
        self.patience.sleep(wait)
        self.bar.set_postfix_str("")

    def _unreachable(self, error: Exception) -> DownloadError:
        return DownloadError(
            "The address leads to the file.",
            f"{self.url}: {error}",
            "Correct the address, or try another SOURCE; a network that asks for a login may "
            "redirect without end.",
        )

    def _giving_up(self, problem: Exception, failures: int) -> DownloadError:
        return DownloadError(
            "The server sends the whole file.",
            f"{problem}; {failures} attempts in a row without progress: {self.url}",
            f"Run it again later: {self.part.size:,} bytes are here and are not fetched twice. "
            "Or try another SOURCE.",
        )


def _bar(part: PartialFile, hidden: bool) -> tqdm:
    return tqdm(
        desc=part.target.name,
        initial=part.size,
        total=part.version.total,
        unit="B",
        unit_scale=True,
        disable=hidden,
    )
