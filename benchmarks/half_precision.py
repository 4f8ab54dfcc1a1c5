"""What half precision costs: Dice of shipped weights and of the run they come from, on `val`.

Writes `half_precision.csv`. Run it where the runs are:

    python -m benchmarks.half_precision --workspace workspace/real
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.choices import EVAL_SIZE, score
from lungseg_utils import load_prepared, load_run, open_workspace
from lungseg_utils.files.records import write_atomically
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import SHIPPED, load_shipped
from lungseg_utils.segment.segmenter import Segmenter

TABLE = Path(__file__).with_name("half_precision.csv")
ALLOWED = 0.0005


def cost(full: Segmenter, half: Segmenter, cases: Cases) -> dict[str, object]:
    """Mean Dice of both, the largest difference in a case, and the number of cases."""
    before, after = score(full, cases), score(half, cases)
    return {
        "dice_float32": before.mean(),
        "dice_half": after.mean(),
        "largest_difference": np.abs(after - before).max(),
        "cases": len(cases),
    }


def write(rows: list[dict], path: Path = TABLE) -> None:
    """Write the table, figures with 5 decimals."""
    table = pd.DataFrame(rows).round(5)
    write_atomically(path, lambda target: table.to_csv(target, index=False))


def main() -> int:
    """Write the figures of each network; returns 1 where half precision costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds runs/ and prepared/512")
    workspace = open_workspace(parser.parse_args().workspace)
    val = load_prepared(workspace, EVAL_SIZE).select("val")
    rows = []
    for name in SHIPPED:
        shipped = load_shipped(name)
        full = Segmenter(load_run(workspace.run(name)))
        found = cost(full, Segmenter(shipped), val)
        rows.append({"network": name, "weights": shipped.record["sha256"][:12], **found})
        print(f"{name}: {', '.join(f'{key} {value:.5g}' for key, value in found.items())}")
    write(rows)
    return int(any(row["dice_float32"] - row["dice_half"] > ALLOWED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
