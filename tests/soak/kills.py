"""Processes killed at random points of every stage, and what is there in the end.

Half of the kills come after a random time, uniform over what the stage takes undisturbed; the
other half before a random one of its changes of a file. A killed stage is started again, until it
finishes; then all files are compared with those of an undisturbed run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from soak.comparison import differences
from soak.runner import Stages, failure_of, undisturbed
from soak.stages import STAGES

_KILLS_A_STAGE = 3


def run(kills: int, folder: Path, seed: int = 0, names: Sequence[str] = STAGES) -> dict:
    """Kill processes until so many kills were survived.

    Args:
        kills: At least so many; they are spread over the stages.
        folder: Workspaces are made in it.
        seed: Of the random points.
        names: The stages, from the first one on.

    Returns:
        `kills` (a count a stage), `rounds` (finished series that were compared) and `lost`: a
        line for everything that was lost, differed, failed, hung or was left lying about.
    """
    rng = np.random.default_rng(seed)
    survived: Counter[str] = Counter()
    lost, rounds = [], 0
    with undisturbed(folder, names) as (stages, taken):
        while survived.total() < kills and not lost:
            share = min(_KILLS_A_STAGE, -(-(kills - survived.total()) // len(names)))
            for stage in names:
                hits, failure = _survive(stages, stage, folder, share, taken[stage], rng)
                survived[stage] += hits
                lost += [f"round {rounds}, {stage}: {failure}"] if failure else []
            found = differences(folder / "undisturbed", folder / "workspace")
            lost += [f"round {rounds}: {line}" for line in found]
            if not lost:
                shutil.rmtree(folder / "workspace")
            rounds += 1
    return {"kills": dict(survived), "rounds": rounds, "lost": lost}


def _survive(
    stages: Stages, stage: str, folder: Path, kills: int, taken: dict, rng: np.random.Generator
) -> tuple[int, str]:
    """Kill a stage so many times, or until it is done; returns the kills, and what went wrong."""
    for hits in range(kills + 1):
        kill = {}
        if hits < kills and rng.random() < 0.5:
            kill["seconds"] = rng.uniform(0, taken["seconds"])
        elif hits < kills:
            kill["operation"] = int(rng.integers(1, taken["operations"] + 1))
        outcome = stages.run(stage, folder / "workspace", **kill)
        if failure := failure_of(outcome) or outcome["refused"]:
            return hits, failure
        if not outcome["killed"]:
            return hits, ""
    raise AssertionError("the last attempt is not killed")
