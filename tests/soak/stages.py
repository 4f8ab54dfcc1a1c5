"""The stages of the series on tiny phantoms, each in a process of its own that may be disturbed.

`python tests/soak/stages.py FOLDER STAGE…` reads a request a line and answers with a line, both
JSON. It forks for each request: TensorFlow is imported once, and no process that is killed has
served before.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

SIZE = 32
EPOCHS = 4
# Each stage, and the folders of the workspace that it fills.
RESULTS = {
    "download": ("downloads", "scratch/raw"),
    "preparation": ("prepared",),
    "stitching": ("stitched", "scratch/stitched"),
    "training": ("runs",),
}
STAGES = tuple(RESULTS)
HUNG_SECONDS = 300
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def download(workspace, url: str) -> None:
    from tqdm import tqdm

    from lungseg_utils.acquire.http import download_file
    from lungseg_utils.acquire.sources import fetch

    class Slow(tqdm):
        """Keeps the loopback from being too fast to be hit in the middle."""

        def update(self, count: int = 1) -> None:
            time.sleep(0.01)
            super().update(count)

    archive = workspace.downloads / "bundle.zip"
    download_file(url, archive, bar=Slow())
    fetch("zip", workspace, location=str(archive))


def preparation(workspace, url: str) -> None:
    from lungseg_utils.acquire.sources import ensure_raw
    from lungseg_utils.bundle import pair_bundle
    from lungseg_utils.preparation.arrays import prepare

    prepare(pair_bundle(ensure_raw(workspace)), workspace, SIZE)


def stitching(workspace, url: str) -> None:
    from lungseg_utils.preparation.arrays import load_prepared
    from lungseg_utils.preparation.stitching import load_stitched, write_stitched

    write_stitched(load_prepared(workspace, SIZE), workspace)
    load_stitched(workspace, SIZE, "train")


def training(workspace, url: str) -> None:
    import tensorflow as tf

    from lungseg_utils.preparation.arrays import load_prepared
    from lungseg_utils.training import callbacks
    from lungseg_utils.training.config import TrainingConfig
    from lungseg_utils.training.train import train

    # The same bits every time, on the CPU; users may do likewise before they call train().
    tf.config.experimental.enable_op_determinism()
    callbacks.CHECKPOINT_SECONDS = 0
    options = {"base_filters": 2, "depth": 1, "dropout": 0.2}
    config = TrainingConfig(
        size=SIZE, model_options=options, batch_size=2, epochs=EPOCHS, schedule="cosine"
    )
    cases = load_prepared(workspace, SIZE)
    train(config, cases.select("train"), cases.select("val"), workspace.run("unet"))


def serve(folder: Path, stages: list[str]) -> None:
    """Answer requests until the input ends.

    A request names `stage`, `workspace` and `url`, and one disturbance at most: kill after so many
    `seconds`, or before the change of a file number `operation`; with `fault`, an error number,
    let that change fail and, if it is `lasting`, all later ones; or run with so many bytes of
    `room` on a disk.
    """
    if "training" in stages:  # so that no child need import TensorFlow
        importlib.import_module("lungseg_utils.training.train")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), folder / "log.txt")), flush=True)


def _run(request: dict, log: Path) -> dict:
    """Run a stage in a child, and say how it ended."""
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        _be_child(request, log, writing)
    os.close(writing)
    limit = request.get("seconds")
    deadline = started + (HUNG_SECONDS if limit is None else limit)
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    seconds = time.monotonic() - started
    with os.fdopen(reading) as pipe:
        said = json.loads(pipe.read() or "{}")
    code = os.waitstatus_to_exitcode(status[1])
    killed = code == -signal.SIGKILL
    return {
        "killed": killed,
        "hung": killed and limit is None and seconds >= HUNG_SECONDS,
        "failed": "" if killed or not code else f"status {code}: {log.read_text()[-3000:]}",
        "seconds": seconds,
        "operations": 0,
        "refused": "",
        "unable": "",
        **said,
    }


def _be_child(request: dict, log: Path, pipe: int) -> None:
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.write(pipe, json.dumps(_run_disturbed(request)).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without the exit handlers of the process that was forked.
        os._exit(code)


def _run_disturbed(request: dict) -> dict:
    folder = Path(request["workspace"])
    if "room" in request:
        return _run_on_small_disk(request, folder)
    count = count_operations(folder, _disturber(request))
    refused = _refusal(request)
    return {"operations": count(), "refused": refused}


def _refusal(request: dict) -> str:
    """Run a stage; what it said when it refused, with an error of ours that has all its parts."""
    from lungseg_utils.errors import LungsegError
    from lungseg_utils.files import storage
    from lungseg_utils.workspace import open_workspace

    storage.DELAYS = (0,) * len(storage.DELAYS)
    try:
        globals()[request["stage"]](open_workspace(request["workspace"]), request["url"])
    except LungsegError as error:
        if error.rule and str(error.received) and error.advice:
            return str(error)
        raise
    return ""


def _disturber(request: dict) -> Callable[[int, str], None]:
    wanted, fault = request.get("operation"), request.get("fault")

    def disturb(number: int, event: str) -> None:
        if fault is None and number == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is None or number < wanted or (number > wanted and not request["lasting"]):
            return
        # On a full disk, files can still be removed.
        if fault not in (errno.ENOSPC, errno.EDQUOT) or event in ("open", "os.mkdir"):
            raise OSError(fault, os.strerror(fault))

    return disturb


def count_operations(folder: Path, before: Callable[[int, str], None]) -> Callable[[], int]:
    """Call `before` with a running number and its kind ahead of each change of a file in a folder.

    Returns:
        A function that tells how many there were. There is no way to stop counting.
    """
    place, seen = str(folder.resolve()), []

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = bool(set(mode) & set("wax+")) if mode else flags & _WRITING
        else:
            path, changes = (arguments or [None])[0], event in _CHANGES
        named = changes and isinstance(path, str | bytes | os.PathLike)
        if named and os.path.abspath(os.fsdecode(path)).startswith(place):  # noqa: PTH100
            seen.append(event)
            before(len(seen), event)

    sys.addaudithook(hook)
    return lambda: len(seen)


def _run_on_small_disk(request: dict, folder: Path) -> dict:
    """Run the stage on a disk in memory with little room, and copy back what it left there."""
    copy = folder.with_name("copy")
    try:
        os.unshare(os.CLONE_NEWNS | (os.CLONE_NEWUSER if os.getuid() else 0))
        _mount(folder, 0, "size=256m", first=copy)
    except (AttributeError, OSError) as error:
        return {"unable": f"this system mounts none ({error})"}
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))
    _mount(folder, _REMOUNT, f"size={used + request['room']}")
    refused = _refusal(request)
    _mount(folder, _REMOUNT, "size=256m")
    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    return {"refused": refused}


def _mount(folder: Path, flags: int, options: str, first: Path | None = None) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if first:
        # What is mounted here is not to be seen by other processes.
        libc.mount(b"none", b"/", None, _PRIVATE, None)
        shutil.copytree(folder, first)
    path = str(folder).encode()
    if libc.mount(b"tmpfs", path, b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if first:
        shutil.copytree(first, folder, dirs_exist_ok=True)


_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"})
_REMOUNT, _PRIVATE = 0x20, 0x44000  # MS_REMOUNT; MS_PRIVATE and MS_REC

if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
