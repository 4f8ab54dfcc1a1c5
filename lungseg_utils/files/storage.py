"""Writing to a disk or drive: one process at a time; faults tried again, or explained."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

try:
    from filelock import SoftFileLease, Timeout
except ImportError as error:
    error.add_note("filelock must have version 3.30 or newer: `pip install -U filelock`.")
    raise

from lungseg_utils.errors import LockedError, StorageError

_Result = TypeVar("_Result")

# Seconds between attempts: a mounted Drive comes back within these, or not by itself.
DELAYS = (1.0, 2.0, 4.0, 8.0)
_FREE_SOME = "Free some space, or choose another disk (WORKSPACE in the notebooks)."

# Longer than a lock of another machine lasts without a sign of life: whoever comes back on a
# fresh Colab machine waits for the lock of the lost one instead of failing.
WAIT_SECONDS = 240.0
STALE_SECONDS = 180.0
_BEAT_SECONDS = 30.0
_POLL_SECONDS = 0.2
# What this process really holds: a lock that it could not remove, because the drive was gone, is
# on the drive again when that comes back.
_HELD: set[Path] = set()
_ATTEMPT = threading.Lock()


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
def hold(path: Path | str, what: str, wait: float | None = None) -> Iterator[None]:
    """Be the only process that writes a file or folder.

    The lock is a file beside it, `.<name>.lock`, that names its holder and is touched while that
    lives. Two machines on one Google Drive see each other's locks only as fast as Drive passes
    them on, seconds as a rule.

    Args:
        path: What is written; need not exist, and may be replaced meanwhile.
        what: What is to be done with it, for whoever waits, such as "training".
        wait: Seconds to wait for another holder; None for four minutes.

    Raises:
        LockedError: Another process still holds it.
        StorageError: The lock cannot be written.
    """
    path = Path(path).resolve()
    place = path.with_name(f".{path.name}.lock")
    lease = SoftFileLease(place, lease_duration=STALE_SECONDS, heartbeat_interval=_BEAT_SECONDS)
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, path, what, WAIT_SECONDS if wait is None else wait)
    try:
        yield
    finally:
        _HELD.discard(place)
        # Where the drive is gone, the lock is gone with it, or grows stale.
        with contextlib.suppress(OSError):
            lease.release()


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
            "Free some space (on Google Drive, empty the bin too), or choose another disk "
            "(WORKSPACE in the notebooks). What was there before is as it was.",
        )
    if error.errno in _NOT_ALLOWED:
        return StorageError(
            "The folder must be one that can be written to.",
            received,
            "Make it writable, or choose another (WORKSPACE in the notebooks).",
        )
    if error.errno in _PASSING:
        return StorageError(
            "The disk or drive must answer.",
            received,
            "Mount Drive again with notebook 01_mount_drive and run this again.",
        )
    return None


def _acquire(lease: SoftFileLease, path: Path, what: str, wait: float) -> None:
    deadline, told = time.monotonic() + wait, False
    while not _claim(lease):
        owner = lease.owner
        # Behind the question mark, the library tells containers of one name apart.
        holder = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else ""
        holder = f"held by {holder or 'a process that left no name'}"
        if time.monotonic() >= deadline:
            raise LockedError(
                f"One process at a time writes {path.name} in {path.parent}.",
                f"{holder}, at the start of {what}",
                "Wait until it has ended, or stop it. Nothing need be deleted: the lock of a "
                "process that was killed does not count, that of a machine that is gone not "
                f"after {STALE_SECONDS / 60:.0f} minutes.",
            )
        if not told:
            print(
                f"Waiting up to {wait:.0f} s to begin {what} in {path.name}, {holder}.", flush=True
            )
            told = True


def _claim(lease: SoftFileLease) -> bool:
    """Take the lock if it is free; a dead process of this machine the library finds itself."""
    place = Path(lease.lock_file)
    # A thread of this process must not take for lost what another has just taken.
    with _ATTEMPT:
        lost = lease.is_lock_held_by_us and place not in _HELD
        if lost or _is_silent(place):
            shutil.rmtree(place) if place.is_dir() else lease.force_break()
        if place.is_dir():
            return False
        try:
            lease.acquire(timeout=_POLL_SECONDS)
        except Timeout:
            return False
        _HELD.add(place)
    return True


def _is_silent(place: Path) -> bool:
    """Whether nobody has touched a lock for long, by the clock: the library would watch it anew.

    Nor could it lift one on a drive that cannot exchange two files' names. A lock of this package
    as it was before is a folder, whose one file is touched.
    """
    with contextlib.suppress(FileNotFoundError):
        seen = max(file.stat().st_mtime for file in (place, *place.glob("*.json")))
        return time.time() - seen > STALE_SECONDS
    return False
