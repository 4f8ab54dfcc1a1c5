"""Ship a finished run's best weights with the package.

    python -m tools.ship_weights RUN_FOLDER NAME

The terms of the weights are in `lungseg_utils/weights/LICENSE`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_atomically, write_json
from lungseg_utils.segment.network import (
    INDEX,
    SHIPPED,
    WEIGHTS,
    check_shipped_name,
    onnx_content,
    predicting_part,
    read_shipped_index,
)
from lungseg_utils.training.runs import RECORD, Run, load_run

LIMIT = 10_000_000  # bytes a file
# What a run's record says about where the weights come from.
_ORIGIN = (
    "data",
    "sources",
    "best_epoch",
    "epochs_run",
    "best_val_dice",
    "training_seconds",
    "versions",
    "backend",
    "dtype_policy",
    "git_commit",
)
# A first stage, and epochs added after the training had ended.
_IF_ANY = ("half_size", "epochs_raised_after")


def ship(run: Run, name: str, folder: Path | str = WEIGHTS, limit: int = LIMIT) -> Path:
    """Export a finished run's best weights, replacing those of the same name.

    The file is that of `export_onnx`.

    Args:
        run: A finished run of the network that the name begins with.
        name: One of `SHIPPED`.
        folder: Gets `<name>.onnx`, and the entry of this name in `weights.json`.
        limit: The most bytes that the file may have.

    Returns:
        `<name>.onnx`.

    Raises:
        LungsegError: The name is unknown or of another network, the run is not finished, or its
            weights do not fit into half precision or into the limit. Nothing is written then.
    """
    check_shipped_name(name)
    _check_run(run, name)
    content = onnx_content(run)
    if len(content) > limit:
        raise LungsegError(
            f"A file of shipped weights has at most {limit:,} bytes.",
            f"{len(content):,} bytes for {name}",
            "Train a smaller network, with fewer BASE_FILTERS or less DEPTH.",
        )
    path = Path(folder) / f"{name}.onnx"
    entry = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "parameters": predicting_part(run.load_model()).count_params(),
        "config": run.config.to_dict(),
        **{key: run.record[key] for key in (*_ORIGIN, *_IF_ANY) if key in run.record},
    }
    index = read_shipped_index(path.parent) | {name: entry}
    # The index comes last: weights that it does not name yet are refused, never taken for others.
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    write_json(path.parent / INDEX, {key: index[key] for key in SHIPPED if key in index})
    return path


def _check_run(run: Run, name: str) -> None:
    model = name.partition("-")[0]
    if run.config.model != model:
        raise LungsegError(
            f"The weights called {name} are of a {model}.",
            f"{run.folder}, a {run.config.model}",
            "Choose the name that begins with the run's network.",
        )
    if missing := [key for key in _ORIGIN if key not in run.record]:
        raise LungsegError(
            "Only a finished run is shipped, as its record must say how it was made.",
            f"{run.folder / RECORD} without {', '.join(missing)}",
            "Let the training end first.",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, or 2 when the run was refused.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.ship_weights", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", metavar="RUN_FOLDER", help="runs/<name> of a workspace")
    parser.add_argument("name", metavar="NAME", help=", ".join(SHIPPED))
    options = parser.parse_args(arguments)
    try:
        path = ship(load_run(options.run), options.name)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
