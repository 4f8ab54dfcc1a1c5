"""Processes killed at random points of every stage, and what is there in the end.

Half of the kills come after a random time, uniform over what the stage takes undisturbed; the
other half before a random one of its changes of a file. A killed stage is started again, until it
finishes; then all files are compared with those of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this is run by itself

from misbehaving_server import MisbehavingServer, Served
from soak.stages import STAGES

_LEFT_OVER = (".partial-", ".former-", ".lock")
_KILLS_A_STAGE = 3


class Stages:
    """The process that runs stages in children; see `stages.py`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        command = [sys.executable, str(Path(__file__).with_name("stages.py")), str(folder)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | quiet,
        )
        assert json.loads(self.process.stdout.readline()) == "ready"

    def run(self, stage: str, workspace: Path, **kill: float | int) -> dict:
        request = {"stage": stage, "url": self.url, "workspace": str(workspace), **kill}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def run(kills: int, folder: Path, seed: int = 0) -> dict:
    """Kill processes until so many kills were survived.

    Args:
        kills: At least so many; they are spread over the four stages.
        folder: Empty; workspaces are made in it.
        seed: Of the random points.

    Returns:
        `kills` (a count a stage), `rounds` (finished series that were compared) and `lost`: a
        line for everything that was lost, differed, failed, hung or was left lying about.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    archive = _pack_bundle(folder / "bundle").read_bytes()
    survived: Counter[str] = Counter()
    lost, rounds = [], 0
    with MisbehavingServer() as server:
        server.files["/bundle.zip"] = Served(archive, etag='"1"')
        stages = Stages(folder, server.url("/bundle.zip"))
        try:
            # All at one path, which some records hold.
            workspace = folder / "workspace"
            undisturbed = {stage: _must_finish(stages.run(stage, workspace)) for stage in STAGES}
            workspace.rename(folder / "undisturbed")
            while survived.total() < kills and not lost:
                share = min(_KILLS_A_STAGE, -(-(kills - survived.total()) // len(STAGES)))
                for stage in STAGES:
                    hits, error = _survive(stages, stage, workspace, share, undisturbed[stage], rng)
                    survived[stage] += hits
                    lost += [f"round {rounds}, {stage}: {error}"] if error else []
                if not lost:
                    found = differences(folder / "undisturbed", workspace)
                    lost += [f"round {rounds}: {line}" for line in found]
                if not lost:
                    shutil.rmtree(workspace)
                rounds += 1
        finally:
            stages.close()
    return {"kills": dict(survived), "rounds": rounds, "lost": lost}


def _survive(
    stages: Stages, stage: str, workspace: Path, kills: int, undisturbed: dict, rng
) -> tuple[int, str]:
    """Kill a stage so many times, or until it is done; returns the kills, and what went wrong."""
    for hits in range(kills + 1):
        kill = {}
        if hits < kills and rng.random() < 0.5:
            kill["seconds"] = rng.uniform(0, undisturbed["seconds"])
        elif hits < kills:
            kill["operation"] = int(rng.integers(1, undisturbed["operations"] + 1))
        outcome = stages.run(stage, workspace, **kill)
        if outcome["failed"] or outcome["hung"]:
            return hits, outcome["failed"] or "hung"
        if not outcome["killed"]:
            return hits, ""
    raise AssertionError("the last attempt is not killed")


def _must_finish(outcome: dict) -> dict:
    if outcome["failed"] or outcome["killed"]:
        raise RuntimeError(outcome["failed"] or "the undisturbed run hung")
    return outcome


def _pack_bundle(folder: Path) -> Path:
    """A zip of phantoms, one of them with a mask that preparation leaves out."""
    from lungseg_utils.data.phantom import write_phantom_bundle

    write_phantom_bundle(folder, count=8, size=128, unlabelled=1)
    last = sorted((folder / "masks").glob("*.png"))[-1]
    with Image.open(last) as mask:
        Image.new("L", mask.size).save(last)
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    return archive


def differences(wanted: Path, found: Path) -> list[str]:
    """What differs between two workspaces, and what lies about in the second."""
    files = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    expected = {path.relative_to(wanted).as_posix() for path in wanted.rglob("*") if path.is_file()}
    lines = [f"{name} is missing" for name in sorted(expected - files)]
    lines += [f"{name} was left" for name in sorted(files - expected)]
    lines += [
        f"{path.relative_to(found)} was left"
        for path in found.rglob(".*")
        if path.is_dir() and any(part in path.name for part in _LEFT_OVER)
    ]
    for name in sorted(files & expected):
        if not _same(wanted / name, found / name):
            lines.append(f"{name} differs")
    return lines


def _same(wanted: Path, found: Path) -> bool:
    if wanted.name == "last.npz":
        return _same_checkpoint(wanted, found)
    if wanted.name == "best.weights.h5":
        return _same_weights(wanted, found)
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


def _same_weights(wanted: Path, found: Path) -> bool:
    import h5py

    def arrays(path: Path) -> dict[str, bytes]:
        values = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    values.update({name: item[()].tobytes()})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return values

    return arrays(wanted) == arrays(found)


def _without_last_column(path: Path) -> list[str]:
    """The seconds of an epoch stand last."""
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def _without_times_and_paths(path: Path) -> dict:
    times = {"started", "finished", "training_seconds", "recorded", "origin", "files"}
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in times}
