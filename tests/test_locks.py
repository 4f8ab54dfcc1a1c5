"""Two processes at one folder: one waits or says who holds it, and no dead one blocks."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from lungseg_utils.errors import LockedError, StorageError
from lungseg_utils.files import storage
from lungseg_utils.files.storage import hold

# Holds a lock in the folder argv[1] until it is told to go on.
HOLDER = """
import sys
from pathlib import Path
from lungseg_utils.files.storage import hold
folder = Path(sys.argv[1])
with hold(folder / "shared", "training"):
    print("held", flush=True)
    sys.stdin.readline()
"""
# Adds 1 to a number in a file, slowly, as often as argv[2] says: without a lock, some get lost.
COUNTER = """
import sys, time
from pathlib import Path
from lungseg_utils.files.storage import hold
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with hold(folder / "shared", "counting"):
        number = int((folder / "number").read_text())
        time.sleep(0.002)
        (folder / "number").write_text(str(number + 1))
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `shared`."""
    process = start(HOLDER, tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_holds_it_is_said_and_waited_for(tmp_path, other, capsys):
    with pytest.raises(LockedError) as caught, hold(tmp_path / "shared", "training", wait=0.3):
        pytest.fail("two held it")
    for text in (str(caught.value), capsys.readouterr().out):
        assert f"by process {other.pid} on {platform.node()}" in text

    threading.Timer(0.3, lambda: print("go on", file=other.stdin, flush=True)).start()
    with hold(tmp_path / "shared", "training", wait=20):
        assert [path.name for path in tmp_path.iterdir()] == [".shared.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_does_not_block(tmp_path, other):
    other.kill()
    other.wait()
    with hold(tmp_path / "shared", "training", wait=0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_two_of_four_processes_hold_it_at_once_though_a_dead_lock_lies_there(tmp_path, other):
    other.kill()
    other.wait()
    (tmp_path / "number").write_text("0")
    counters = [start(COUNTER, tmp_path, 10) for _ in range(4)]
    assert [process.wait(60) for process in counters] == [0] * 4
    assert (tmp_path / "number").read_text() == "40"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def is_free(folder: Path) -> bool:
    try:
        with hold(folder / "shared", "preparation", wait=0):
            return True
    except LockedError:
        return False


@pytest.mark.parametrize(
    ("silent_for", "changes", "free"),
    [
        (0, {}, False),
        (0, {"start": "1"}, True),  # the number now belongs to another process
        (0, {"pid": "4194305"}, True),  # above the highest number that Linux gives
        (0, {"host": "lost-colab-machine"}, False),
        (storage.STALE_SECONDS + 60, {"host": "lost-colab-machine"}, True),
        (0, None, False),  # killed before it wrote its name
        (storage.STALE_SECONDS + 60, None, True),
    ],
)
def test_whose_lock_counts(tmp_path, other, silent_for, changes, free):
    place = tmp_path / ".shared.lock"
    lines = [line.partition("=") for line in place.read_text().splitlines()]
    text = [f"{key}{sign}{(changes or {}).get(key, value)}\n" for key, sign, value in lines]
    # A new file, which its holder's signs of life do not touch.
    place.unlink()
    place.write_text("" if changes is None else "".join(text))
    os.utime(place, (time.time() - silent_for,) * 2)
    assert is_free(tmp_path) == free


def test_a_drive_that_cannot_exchange_names_loses_a_silent_lock_too(tmp_path, monkeypatch, other):
    monkeypatch.setattr(SoftFileLease, "_try_break_stale_lock", lambda self: None)
    other.kill()
    assert not is_free(tmp_path)
    os.utime(tmp_path / ".shared.lock", (1, 1))
    assert is_free(tmp_path)


def test_a_lock_of_the_former_layout_blocks_until_it_is_silent(tmp_path):
    place = tmp_path / ".shared.lock"
    place.mkdir()
    (place / "0123.json").write_text('{"pid": 1}')
    assert not is_free(tmp_path)
    for path in (place / "0123.json", place):
        os.utime(path, (1, 1))
    assert is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_this_machine_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_BEAT_SECONDS", 0.01)
    with hold(tmp_path / "shared", "training"):
        file = tmp_path / ".shared.lock"
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_whoever_waits_outlasts_the_lock_of_a_machine_that_is_gone():
    assert storage.WAIT_SECONDS > storage.STALE_SECONDS + storage._BEAT_SECONDS


def test_a_lock_that_went_away_with_its_drive_does_not_block_its_own_process(tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    with hold(drive / "shared", "training"):
        assert not is_free(drive)
        # A copy, as a drive that is mounted again is no longer what was open here.
        shutil.copytree(drive, tmp_path / "away")
        shutil.rmtree(drive)
    (tmp_path / "away").rename(drive)
    assert list(drive.iterdir()) != []
    assert is_free(drive)


def test_a_lock_that_cannot_be_written_is_explained(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SoftFileLease, "_write_lock_info", full)
    with pytest.raises(StorageError, match="Free some space"), hold(tmp_path / "a", "training"):
        pytest.fail("held without a lock")
    assert list(tmp_path.iterdir()) == []
