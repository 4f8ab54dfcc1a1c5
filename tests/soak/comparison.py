"""What differs between two workspaces that the same stages filled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

# Of a process killed as it took over a dead one's lock: nothing reads it.
_TAKEN_OVER = re.compile(r"\..+\.lock\.break\..*")
_LEFT_OVER = re.compile(r"\.partial-.*|\.former-.*")


def differences(wanted: Path, found: Path) -> list[str]:
    """What differs between two workspaces, and what lies about in the second."""
    files, expected = _files(found), _files(wanted)
    lines = [f"{name} is missing" for name in sorted(expected - files)]
    lines += [f"{name} was left" for name in sorted(files - expected)]
    lines += [
        f"{path.relative_to(found)} was left"
        for path in found.rglob(".*")
        if path.is_dir() and _LEFT_OVER.fullmatch(path.name)
    ]
    for name in sorted(files & expected):
        if not _same(wanted / name, found / name):
            lines.append(f"{name} differs")
    return lines


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix()
        for path in paths
        if not _TAKEN_OVER.fullmatch(path.name)
    }


def _same(wanted: Path, found: Path) -> bool:
    if wanted.name == "last.npz":
        return _same_checkpoint(wanted, found)
    if wanted.name == "history.csv":
        return _without_last_column(wanted) == _without_last_column(found)
    if wanted.suffix == ".json":
        return _without_times_and_paths(wanted) == _without_times_and_paths(found)
    return wanted.read_bytes() == found.read_bytes()


def _same_checkpoint(wanted: Path, found: Path) -> bool:
    with np.load(wanted) as left, np.load(found) as right:
        names = set(left.files)
        return names == set(right.files) and all(
            np.array_equal(left[name], right[name]) for name in names - {"progress"}
        )


def _without_last_column(path: Path) -> list[str]:
    """The seconds of an epoch stand last."""
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def _without_times_and_paths(path: Path) -> dict:
    # And the commit, where somebody commits meanwhile.
    times = {"started", "finished", "training_seconds", "recorded", "origin", "files", "git_commit"}
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in times}
