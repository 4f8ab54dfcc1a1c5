"""What a disk or a drive does to a write: passing faults tried again, lasting ones explained."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lungseg_utils.errors import StorageError

_Result = TypeVar("_Result")

# Seconds between attempts: a mounted Drive comes back within these, or not by itself.
DELAYS = (1.0, 2.0, 4.0, 8.0)
_FREE_SOME = "Free some space, or choose a WORKSPACE on another disk."


def _numbers(*names: str) -> frozenset[int]:
    # Not every system knows every name.
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_NO_ROOM = _numbers("ENOSPC", "EDQUOT", "EFBIG")
_NOT_ALLOWED = _numbers("EROFS", "EACCES", "EPERM")
# What network drives raise when the connection is lost: "Transport endpoint is not connected".
_PASSING = _numbers(
    "EIO", "ENOTCONN", "ECONNABORTED", "ECONNRESET", "ETIMEDOUT", "ESTALE", "EREMOTEIO", "EHOSTDOWN"
)
_NO_FSYNC = _numbers("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")


@contextlib.contextmanager
def explained(place: Path | str) -> Iterator[None]:
    """Turn what a full, read-only or lost disk raises into an error that says what to do.

    Args:
        place: What is being written, for the message.

    Raises:
        StorageError: In place of such an `OSError`; any other goes through.
    """
    try:
        yield
    except OSError as error:
        found = _explanation(error, Path(place))
        if found is None:
            raise
        raise found from error


def retry_passing(action: Callable[[], _Result]) -> _Result:
    """Call `action`, and again after a while where a drive failed in passing.

    Args:
        action: Without arguments; may be called five times, so it starts from the beginning.

    Returns:
        What it returned.
    """
    for delay in DELAYS:
        try:
            return action()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(delay)
    return action()


def require_space(folder: Path, needed: int, what: str, advice: str = _FREE_SOME) -> None:
    """Refuse to start writing what the disk cannot hold.

    Args:
        folder: An existing folder on that disk.
        needed: Bytes.
        what: What is to be written, for the message.
        advice: What the user can do.

    Raises:
        StorageError: Less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{what} needs {needed / 1e6:.1f} MB of free disk space.",
            f"{free / 1e6:.1f} MB free at {folder}",
            advice,
        )


def flush_to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk; a full drive is told here at the latest."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise


def _explanation(error: OSError, place: Path) -> StorageError | None:
    received = f"{place} ({os.strerror(error.errno)})" if error.errno else str(place)
    if error.errno in _NO_ROOM:
        return StorageError(
            "The disk must have room for what is written.",
            received,
            "Free some space (on Google Drive, empty the bin too), or choose a WORKSPACE on "
            "another disk. What was there before is as it was.",
        )
    if error.errno in _NOT_ALLOWED:
        return StorageError(
            "The folder must be one that can be written to.",
            received,
            "Make it writable, or choose another WORKSPACE.",
        )
    if error.errno in _PASSING:
        return StorageError(
            "The disk or drive must answer.",
            received,
            "Mount Drive again with notebook 01_mount_drive and run this again.",
        )
    return None
