"""Disks that fail at random points of every stage: a clear error at once, and nothing lost.

The fault comes at one of the stage's changes of a file: from then on the disk is full, read-only or
gone, or it fails once in passing. Or the stage runs on a disk that really is too small, where the
system lets this process mount one. Then the disk is well again, the stage is run once more, and all
files are compared with those of an undisturbed run.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from soak.comparison import differences
from soak.runner import Stages, failure_of, undisturbed
from soak.stages import RESULTS, STAGES

LASTING = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "ENOTCONN")
PASSING = ("EIO", "ENOTCONN")


def run(count: int, folder: Path, seed: int = 0) -> dict:
    """Inject faults.

    Args:
        count: How many; spread evenly over stages and kinds.
        folder: Empty; workspaces are made in it.
        seed: Of the random points.

    Returns:
        `faults` (a count a kind), `refused` and `finished` (how the stages took them), `notes`
        (what could not be tried) and `lost`: a line for everything that was lost, differed or
        failed with another error than ours.
    """
    rng = np.random.default_rng(seed)
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    lost, notes = [], set()
    with undisturbed(folder) as (stages, taken):
        for number in range(count):
            stage = STAGES[number % len(STAGES)]
            kind, fault = _draw(rng, taken[stage]["operations"])
            first, failures = _try(stages, stage, folder, fault)
            if first["unable"]:
                notes.add(f"{kind}: {first['unable']}")
                continue
            faults[kind] += 1
            outcomes["refused" if first["refused"] else "finished"] += 1
            lost += [f"{number}, {stage}, {kind}, {fault}: {line}" for line in failures]
    return {"faults": dict(faults), **outcomes, "notes": sorted(notes), "lost": lost}


def _draw(rng: np.random.Generator, operations: int) -> tuple[str, dict]:
    kind = rng.choice(["lasting", "passing", "small disk"], p=[0.6, 0.2, 0.2])
    if kind == "small disk":
        return "a disk too small", {"room": int(2 ** rng.uniform(12, 20))}
    name = str(rng.choice(LASTING if kind == "lasting" else PASSING))
    fault = {"operation": int(rng.integers(1, operations + 1)), "fault": getattr(errno, name)}
    return f"{name}, {kind}", fault | {"lasting": bool(kind == "lasting")}


def _try(stages: Stages, stage: str, folder: Path, fault: dict) -> tuple[dict, list[str]]:
    """Run a stage with a fault and then without; what other stages made lies there already."""
    workspace, wanted = folder / "workspace", folder / "undisturbed"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(wanted, workspace)
    for name in RESULTS[stage]:
        shutil.rmtree(workspace / name)
    first = stages.run(stage, workspace, **fault)
    if (folder / "copy").exists():
        shutil.rmtree(workspace)
        (folder / "copy").rename(workspace)
    if first["unable"] or failure_of(first):
        return first, [failure_of(first)] if failure_of(first) else []
    again = stages.run(stage, workspace)
    if failure := failure_of(again) or again["refused"]:
        return first, [f"afterwards: {failure}"]
    return first, differences(wanted, workspace)
