"""What a server's answer says: which content it offers, which part of it, when to come again."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Version:
    """What tells one content of an address from another.

    Args:
        etag: The entity tag, empty where the server sends none.
        last_modified: The time of the last change as the server writes it, or empty.
        total: Length of the whole content in bytes, None where it is not known.
    """

    etag: str = ""
    last_modified: str = ""
    total: int | None = None

    @property
    def for_if_range(self) -> str:
        """What may stand in an If-Range header: a strong tag, else the time, else nothing."""
        return self.last_modified if self.etag.startswith("W/") or not self.etag else self.etag

    def may_equal(self, other: Version) -> bool:
        """Whether nothing that both of them state differs."""
        mine, others = asdict(self), asdict(other)
        return all(
            mine[name] == others[name]
            for name in mine
            if mine[name] not in {"", None} and others[name] not in {"", None}
        )


def read_version(headers: Mapping[str, str], total: int | None) -> Version:
    """The version an answer belongs to.

    Args:
        headers: The answer's headers.
        total: Length of the whole content in bytes, where it is known.
    """
    return Version(headers.get("ETag", ""), headers.get("Last-Modified", ""), total)


def read_length(headers: Mapping[str, str]) -> int | None:
    """The Content-Length in bytes; None where there is none, or no number."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def read_range(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """First byte of the part that an answer 206 brings, and the length of the whole.

    Returns:
        None where the header is missing, leaves the length open or is none of HTTP's.
    """
    text = headers.get("Content-Range", "")
    found = re.fullmatch(r"\s*bytes\s+([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})\s*", text)
    if not found:
        return None
    first, last, total = map(int, found.groups())
    return (first, total) if first <= last < total else None


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds the server asks to wait; None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", text):
        return float(text)
    later = _seconds(text)
    if later is None:
        return None
    # The server's own clock, where it tells it: this machine's may be wrong.
    now = _seconds(headers.get("Date", ""))
    return max(0.0, later - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    """A date of HTTP as seconds since 1970; None where it is none."""
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
