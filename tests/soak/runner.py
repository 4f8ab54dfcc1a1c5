"""The bundle that the stages work on, and the process that runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from misbehaving_server import MisbehavingServer, Served
from PIL import Image
from soak.stages import STAGES


@contextmanager
def undisturbed(
    folder: Path, names: Sequence[str] = STAGES
) -> Iterator[tuple[Stages, dict[str, dict]]]:
    """Run stages once, and stay ready to run them again.

    Args:
        folder: Made where missing. What the stages wrote at `workspace` lies at `undisturbed`
            afterwards; others run at `workspace` too, since some records hold the path.
        names: The stages, from the first one on.

    Yields:
        The process, and the seconds and changes of files that each stage took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with MisbehavingServer() as server:
        server.files["/bundle.zip"] = Served(_pack_bundle(folder / "bundle").read_bytes(), '"1"')
        stages = Stages(folder, server.url("/bundle.zip"), names)
        try:
            taken = {}
            for stage in names:
                taken[stage] = stages.run(stage, folder / "workspace")
                if failure := failure_of(taken[stage]) or taken[stage]["refused"]:
                    raise RuntimeError(f"{stage}, undisturbed: {failure}")
            (folder / "workspace").rename(folder / "undisturbed")
            yield stages, taken
        finally:
            stages.close()


class Stages:
    """The process that runs stages in children; see `stages.py`."""

    def __init__(self, folder: Path, url: str, names: Sequence[str]) -> None:
        self.url = url
        script = Path(__file__).with_name("stages.py")
        command = [sys.executable, str(script), str(folder), *names]
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

    def run(self, stage: str, workspace: Path, **disturbance: float) -> dict:
        place = {"url": self.url, "workspace": str(workspace)}
        request = {"stage": stage, **place, **disturbance}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def failure_of(outcome: dict) -> str:
    """What a stage did that it must not; empty where it finished, refused or was killed."""
    return outcome["failed"] or ("it hung" if outcome["hung"] else "")


def _pack_bundle(folder: Path) -> Path:
    """A zip of phantoms, one of them with a mask that preparation leaves out."""
    from lungseg_utils.phantom.sets import write_phantom_bundle

    write_phantom_bundle(folder, count=8, size=128, unlabelled=1)
    last = sorted((folder / "masks").glob("*.png"))[-1]
    with Image.open(last) as mask:
        Image.new("L", mask.size).save(last)
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    return archive
