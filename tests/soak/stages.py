"""The stages of the series on tiny phantoms, each in a process of its own that may be killed.

`python tests/soak/stages.py WORKSPACE` reads a request a line and answers with a line, both JSON.
It forks for each request: TensorFlow is imported once, and no process that is killed has served
before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

SIZE = 32
EPOCHS = 4
STAGES = ("download", "preparation", "stitching", "training")
HUNG_SECONDS = 300
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def download(workspace, url: str) -> None:
    from lungseg_utils.data.sources import fetch
    from lungseg_utils.data.transfer import Patience, download_file

    def slowly(count: int) -> None:
        time.sleep(0.01)  # the loopback is too fast to be hit in the middle

    archive = workspace.downloads / "bundle.zip"
    download_file(url, archive, Patience(first_wait=0.01), progress=slowly)
    fetch("zip", workspace, location=str(archive))


def preparation(workspace, url: str) -> None:
    from lungseg_utils.data.pairing import pair_bundle
    from lungseg_utils.data.prepare import prepare
    from lungseg_utils.data.sources import ensure_raw

    prepare(pair_bundle(ensure_raw(workspace)), workspace, SIZE)


def stitching(workspace, url: str) -> None:
    from lungseg_utils.data.prepare import load_prepared
    from lungseg_utils.data.stitching import load_stitched, write_stitched

    write_stitched(load_prepared(workspace, SIZE), workspace)
    load_stitched(workspace, SIZE, "train")


def training(workspace, url: str) -> None:
    import tensorflow as tf

    from lungseg_utils import callbacks
    from lungseg_utils.config import TrainingConfig
    from lungseg_utils.data.prepare import load_prepared
    from lungseg_utils.training import train

    # The same bits every time, on the CPU; users may do likewise before they call train().
    tf.config.experimental.enable_op_determinism()
    callbacks.CHECKPOINT_SECONDS = 0
    options = {"base_filters": 2, "depth": 1, "dropout": 0.2}
    config = TrainingConfig(
        size=SIZE, model_options=options, batch_size=2, epochs=EPOCHS, schedule="cosine"
    )
    cases = load_prepared(workspace, SIZE)
    train(config, cases.select("train"), cases.select("val"), workspace.run("unet"))


def serve(folder: Path) -> None:
    """Answer requests `{stage, url, workspace, seconds, operation}` until the input ends."""
    import lungseg_utils.training  # noqa: F401  (so that no child need import TensorFlow)

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), folder / "log.txt")), flush=True)


def _run(request: dict, log: Path) -> dict:
    """Run a stage in a child; kill it after some seconds, or before its n-th change of a file."""
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
    with os.fdopen(reading) as pipe:
        operations = pipe.read()
    code = os.waitstatus_to_exitcode(status[1])
    failed = code not in (0, -signal.SIGKILL)
    return {
        "killed": code == -signal.SIGKILL,
        "hung": code == -signal.SIGKILL and limit is None and not request.get("operation"),
        "failed": log.read_text()[-3000:] if failed else "",
        "seconds": time.monotonic() - started,
        "operations": int(operations or 0),
    }


def _be_child(request: dict, log: Path, pipe: int) -> None:
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from lungseg_utils.workspace import open_workspace

        workspace = open_workspace(request["workspace"])
        count = count_operations(Path(request["workspace"]), _killer(request.get("operation")))
        globals()[request["stage"]](workspace, request["url"])
        os.write(pipe, str(count()).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without the exit handlers of the process that was forked.
        os._exit(code)


def _killer(operation: int | None) -> Callable[[int], None]:
    def kill(number: int) -> None:
        if number == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def count_operations(folder: Path, before: Callable[[int], None]) -> Callable[[], int]:
    """Call `before` with a running number ahead of each change of a file below a folder.

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
            before(len(seen))

    sys.addaudithook(hook)
    return lambda: len(seen)


_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"})

if __name__ == "__main__":
    serve(Path(sys.argv[1]))
