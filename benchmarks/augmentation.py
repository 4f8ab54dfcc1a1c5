"""Images a second through augmentation and batching, on synthetic arrays.

Run it on a quiet machine: python -m benchmarks.augmentation
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
import pandas as pd

from lungseg_utils.preparation.augmentation import MILD, STRONG, Augmentation
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import Preprocessing

# Augmentation, size of the squares, batch size, and the images a second promised on 2 cores.
GOALS = (
    ("mild", MILD, 256, 16, 300),
    ("mild", MILD, 512, 2, 80),
    ("strong", STRONG, 256, 16, 300),
    ("strong", STRONG, 512, 2, 80),
)


def synthetic_cases(count: int, size: int) -> Cases:
    """Noise with a smooth ground, and two ellipses as lungs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    y, x = np.mgrid[:size, :size] / size
    lungs = np.minimum((x - 0.3) ** 2, (x - 0.7) ** 2) / 0.15**2 + (y - 0.5) ** 2 / 0.35**2 < 1
    masks = np.broadcast_to(lungs.astype(np.uint8), images.shape)
    index = pd.DataFrame({"image_id": [str(i) for i in range(count)], "has_mask": 1})
    return Cases(images, masks, index, digest="")


def images_per_second(
    augmentation: Augmentation, size: int, batch_size: int, seconds: float
) -> float:
    """The best epoch's rate, of as many epochs as fit into the time."""
    cases = synthetic_cases(64, size)
    batches = CaseBatches(cases, batch_size, augmentation, Preprocessing(), seed=0)
    best, start, epoch = 0.0, time.perf_counter(), 0
    while epoch < 2 or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        for index in range(len(batches)):
            batches.batch(epoch, index)
        best = max(best, len(cases) / (time.perf_counter() - began))
        epoch += 1
    return best


def main() -> int:
    """Print the rates; returns 1 where one is below its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="time for each size")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, best epoch")
    missed = 0
    for name, augmentation, size, batch_size, goal in GOALS:
        rate = images_per_second(augmentation, size, batch_size, arguments.seconds)
        missed += rate < goal
        case = f"{name}, {size} × {size}, batches of {batch_size}"
        print(f"{case}: {rate:.0f} images/s (goal {goal})")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
