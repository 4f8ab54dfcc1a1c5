"""Two processes at one folder: one waits or says who holds it, and no dead one blocks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lungseg_utils.errors import LockedError
from lungseg_utils.files import locks
from lungseg_utils.files.locks import hold

# Holds a lock in the folder argv[1] until it is told to go on.
HOLDER = """
import sys
from pathlib import Path
from lungseg_utils.files.locks import hold
folder = Path(sys.argv[1])
with hold(folder / "shared", "training of the other notebook"):
    print("held", flush=True)
    sys.stdin.readline()
"""
# Adds 1 to a number in a file, slowly, as often as argv[2] says: without a lock, some get lost.
COUNTER = """
import sys, time
from pathlib import Path
from lungseg_utils.files.locks import hold
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
    with (
        pytest.raises(LockedError) as caught,
        hold(tmp_path / "shared", "training", wait=0.3),
    ):
        pytest.fail("two held it")
    for text in (str(caught.value), capsys.readouterr().out):
        assert f"training of the other notebook by process {other.pid}" in text
        assert platform.node() in text

    threading.Timer(0.3, lambda: other.communicate("go on\n")).start()
    with hold(tmp_path / "shared", "training", wait=20):
        assert len(list((tmp_path / ".shared.lock").iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_does_not_block(tmp_path, other):
    other.kill()  # not waited for: a process that is dead but not yet collected is dead, too

    with hold(tmp_path / "shared", "training", wait=5):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_two_of_four_processes_hold_it_at_once_though_a_dead_lock_lies_there(tmp_path, other):
    other.kill()
    (tmp_path / "number").write_text("0")
    counters = [start(COUNTER, tmp_path, 25) for _ in range(4)]
    assert [process.wait(60) for process in counters] == [0] * 4
    assert (tmp_path / "number").read_text() == "100"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def write_lock(folder: Path, silent_for: float = 0, **changes: object) -> Path:
    """A lock of the living process that started this one, save for the changes."""
    place = folder / ".shared.lock"
    place.mkdir()
    owner = {"pid": os.getppid(), "start": locks._start_of(os.getppid())}
    path = place / "0123.json"
    path.write_text(json.dumps(locks._describe("training") | owner | changes))
    os.utime(path, (time.time() - silent_for,) * 2)
    return path


def is_free(folder: Path) -> bool:
    try:
        with hold(folder / "shared", "preparation", wait=0):
            return True
    except LockedError:
        return False


@pytest.mark.parametrize(
    ("silent_for", "changes", "free"),
    [
        (1e6, {}, False),  # alive, however long ago it gave a sign
        (0, {"start": "1"}, True),  # the number now belongs to another process
        (0, {"pid": 2**22 + 1}, True),  # above the highest number that Linux gives
        (0, {"host": "lost-colab-machine"}, False),
        (locks.STALE_SECONDS + 60, {"host": "lost-colab-machine"}, True),
        (0, {"boot": "another"}, False),  # a machine of the same name, or this one before
        (locks.STALE_SECONDS + 60, {"boot": "another"}, True),
    ],
)
def test_whose_lock_counts(tmp_path, silent_for, changes, free):
    write_lock(tmp_path, silent_for, **changes)
    assert is_free(tmp_path) == free


@pytest.mark.parametrize("content", ["", "half of {", "[1]"])
def test_a_damaged_lock_blocks_until_it_is_old(tmp_path, content):
    path = write_lock(tmp_path)
    path.write_text(content)
    assert not is_free(tmp_path)
    os.utime(path, (1, 1))
    assert is_free(tmp_path)


def test_a_lock_of_this_machine_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT_SECONDS", 0.01)
    with hold(tmp_path / "shared", "training"):
        [file] = (tmp_path / ".shared.lock").iterdir()
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_whoever_waits_outlasts_the_lock_of_a_machine_that_is_gone():
    assert locks.WAIT_SECONDS > locks.STALE_SECONDS + locks._BEAT_SECONDS


def test_an_error_inside_frees_the_lock_and_what_waiters_left_is_swept(tmp_path):
    left = tmp_path / ".shared.lock-dead"
    left.mkdir()
    write_lock(tmp_path, pid=2**22 + 1).rename(left / "dead.json")
    with pytest.raises(RuntimeError), hold(tmp_path / "shared", "training"):
        assert not left.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_went_away_with_its_drive_does_not_block_its_own_process(tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    with hold(drive / "shared", "training"):
        assert not is_free(drive)
        drive.rename(tmp_path / "away")
    (tmp_path / "away").rename(drive)
    assert list(drive.iterdir()) != []
    assert is_free(drive)


def test_the_same_folder_by_another_path_is_the_same_lock(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    with hold("inner/../shared", "training"):
        assert not is_free(tmp_path)
