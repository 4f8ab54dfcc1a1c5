"""One writer a folder: a lock that says who holds it, and that no dead process keeps."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from lungseg_utils.errors import LockedError
from lungseg_utils.files.storage import explained

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
