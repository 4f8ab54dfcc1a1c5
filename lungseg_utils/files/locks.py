"""One writer a folder: a lock that says who holds it, and that no dead process keeps.

The library `filelock` would not do: its locks are the system's own, which Google Drive does not
carry from one Colab machine to another, or bare files without a sign of life, which a machine
that was taken away leaves behind for ever.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
_HELD: set[str] = set()


@contextlib.contextmanager
def hold(path: Path | str, what: str, wait: float | None = None) -> Iterator[None]:
    """Be the only process that writes a file or folder.

    The lock is a folder beside it, `.<name>.lock`, that holds one file named by its holder's
    token. It comes into being whole, by a rename; and because the token is in the name, removing
    the file of a dead holder can never remove that of the next one. Two machines on one Google
    Drive see each other's locks only as fast as Drive passes them on, seconds as a rule.

    Args:
        path: What is written; need not exist, and may be replaced meanwhile.
        what: What is done with it, for whoever waits, such as "training".
        wait: Seconds to wait for another holder; None for four minutes.

    Raises:
        LockedError: Another process still holds it.
        StorageError: The lock cannot be written.
    """
    path = Path(path).resolve()
    place = path.with_name(f".{path.name}.lock")
    token = uuid.uuid4().hex
    mine, ended = place / f"{token}.json", threading.Event()
    _HELD.add(token)
    try:
        with explained(place):
            _acquire(place, token, what, WAIT_SECONDS if wait is None else wait)
        threading.Thread(target=_beat, args=(mine, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        _HELD.discard(token)
        # Where the drive is gone, the lock is gone with it, or grows stale.
        with contextlib.suppress(OSError):
            mine.unlink()
            place.rmdir()


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock, as its file says."""

    file: Path
    seen: float
    values: dict

    def __str__(self) -> str:
        value = {"what": "work", "pid": "?", "host": "?", "since": "?"} | self.values
        seen = max(0, round(time.time() - self.seen))
        return (
            f"{value['what']} by process {value['pid']} on {value['host']} since {value['since']}, "
            f"last sign of life {seen} s ago"
        )

    @property
    def is_dead(self) -> bool:
        """Known at once on this machine; of another, only that it has been silent for long."""
        machine = {key: self.values.get(key) for key in ("host", "boot")}
        if machine["boot"] and machine == _this_machine():
            if _start_of(self.values["pid"]) != self.values["start"]:
                return True
            return self.values["pid"] == os.getpid() and self.file.stem not in _HELD
        return time.time() - self.seen > STALE_SECONDS


def _acquire(place: Path, token: str, what: str, wait: float) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    ready = place.with_name(f"{place.name}-{token}")
    ready.mkdir()
    mine = ready / f"{token}.json"
    mine.write_text(json.dumps(_describe(what)), encoding="utf-8")
    deadline, told = time.monotonic() + wait, False
    try:
        while not _claim(ready, place):
            holder = _holder_of(place)
            if (holder is None or holder.is_dead) and _lift(place, holder):
                continue
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"One process at a time writes {place.name[1:-5]} in {place.parent}.",
                    holder or f"{place}, which names nobody",
                    "Wait until it has ended, or stop it. Nothing need be deleted: the lock of a "
                    "process that was killed does not count, that of a machine that is gone not "
                    f"after {STALE_SECONDS / 60:.0f} minutes.",
                )
            if not told:
                name = place.name[1:-5]
                print(f"Waiting up to {wait:.0f} s for {name}: {holder or place}.", flush=True)
                told = True
            time.sleep(_POLL_SECONDS)
            os.utime(mine)
    finally:
        shutil.rmtree(ready, ignore_errors=True)
    _sweep(place)


def _claim(ready: Path, place: Path) -> bool:
    """Rename the prepared folder to the lock's name, which fails where a lock with a file lies."""
    try:
        ready.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) or place.exists():
            return False
        raise
    return True


def _holder_of(place: Path) -> _Holder | None:
    for file in place.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            seen, text = file.stat().st_mtime, file.read_bytes()
            try:
                return _Holder(file, seen, dict(json.loads(text)))
            except (ValueError, TypeError):  # damaged: its age alone counts
                return _Holder(file, seen, {})
    return None


def _lift(place: Path, holder: _Holder | None) -> bool:
    """Remove a dead holder's file by its own name, then the folder if nobody has refilled it."""
    with contextlib.suppress(FileNotFoundError):
        if holder is not None:
            holder.file.unlink()
    with contextlib.suppress(OSError):
        place.rmdir()
    return not place.exists()


def _sweep(place: Path) -> None:
    """Remove what processes left that were killed while they waited."""
    for left in place.parent.glob(f"{place.name}-*"):
        with contextlib.suppress(OSError):
            holder = _holder_of(left)
            silent = time.time() - left.stat().st_mtime > STALE_SECONDS
            if holder.is_dead if holder else silent:
                shutil.rmtree(left, ignore_errors=True)


def _beat(mine: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(mine)


def _describe(what: str) -> dict:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = {"pid": os.getpid(), "start": _start_of(os.getpid())}
    return {"what": what, **own, **_this_machine(), "since": now}


def _this_machine() -> dict[str, str]:
    """Host, boot and process namespace, in which process numbers mean the same."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        boot += f" {Path('/proc/self/ns/pid').readlink()}"
    return {"host": platform.node(), "boot": boot}


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is none of that number."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
