"""What networks score on the validation cases, sound, corrupted and hard: what choices rest on.

Without folders of runs, the shipped weights are scored and written to `validation.csv`. Test cases
are never read.

    python -m benchmarks.validation --workspace workspace/real [RUN_FOLDER ...]

The workspace holds the prepared X-rays of notebook 03 at 512. A network takes some minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.choices import EVAL_SIZE, figures
from lungseg_utils import load_prepared, load_run, open_workspace
from lungseg_utils.files.records import write_atomically
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import NETWORKS, ExportedRun, load_shipped
from lungseg_utils.training.runs import Run

TABLE = Path(__file__).with_name("validation.csv")


def scored(runs: list[Run | ExportedRun], val: Cases) -> pd.DataFrame:
    """Dice of each run, as of `choices.figures`: a row a run."""
    table = pd.DataFrame(figures(runs, val)).round(4)
    table.insert(0, "network", [run.name for run in runs])
    return table


def main() -> None:
    """Print the figures of runs, or write those of the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds prepared X-rays at 512")
    parser.add_argument("runs", nargs="*", metavar="RUN_FOLDER", help="instead of the shipped ones")
    arguments = parser.parse_args()
    val = load_prepared(open_workspace(arguments.workspace), EVAL_SIZE).select("val")
    if arguments.runs:
        print(scored([load_run(folder) for folder in arguments.runs], val).to_string(index=False))
        return
    runs = [load_shipped(name) for name in NETWORKS]
    table = scored(runs, val)
    table.insert(1, "weights", [run.record["sha256"][:12] for run in runs])
    write_atomically(TABLE, lambda path: table.to_csv(path, index=False))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
