"""What half precision costs: Dice of shipped weights and of the run they come from, on `val`.

Run it where the runs are: python benchmarks/half_precision.py --workspace workspace/real
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lungseg_utils import dice, load_prepared, load_run, open_workspace
from lungseg_utils.data.cases import Cases
from lungseg_utils.segmenter import Segmenter
from lungseg_utils.shipped import SHIPPED, load_shipped

ALLOWED = 0.0005
EVAL_SIZE = 512


def mean_dice(segmenter: Segmenter, cases: Cases) -> float:
    """Mean Dice over cases at their own size, post-processed."""
    pairs = zip(cases.images, cases.masks, strict=True)
    return float(np.mean([dice(segmenter.segment(image).mask, mask) for image, mask in pairs]))


def main() -> int:
    """Print both figures for each network; returns 1 where half precision costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds runs/ and prepared/512")
    workspace = open_workspace(parser.parse_args().workspace)
    val = load_prepared(workspace, EVAL_SIZE).select("val")
    missed = 0
    for name in SHIPPED:
        full = mean_dice(Segmenter(load_run(workspace.run(name))), val)
        half = mean_dice(Segmenter(load_shipped(name)), val)
        missed += full - half > ALLOWED
        print(f"{name}: {full:.5f} in float32, {half:.5f} as shipped, {half - full:+.5f}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
