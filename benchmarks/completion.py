"""What it is worth that a lung which the network cuts off is completed by the shape of lungs.

    python -m benchmarks.completion --workspace W [--external JSRT]

On the validation cases, sound, corrupted and hard, on which its limits were chosen; then on the
test cases and an external set, sound. Writes `completion.csv`. A network takes three minutes.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from benchmarks.choices import EVAL_SIZE
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.figures import spread_columns
from benchmarks.hard import HARD
from benchmarks.quality import external_cases, made_bad
from lungseg_utils import load_prepared, open_workspace
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.records import write_atomically
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import NETWORKS
from lungseg_utils.segment.postprocess import clean_mask, to_mask
from lungseg_utils.segment.segmenter import COMPLETED, Segmenter

TABLE = Path(__file__).with_name("completion.csv")


def compare(segmenter: Segmenter, cases: Cases) -> np.ndarray:
    """Of each film the Dice of the network's mask, that of the whole one, and whether they differ.

    Args:
        segmenter: Of shipped weights.
        cases: At the networks' size.

    Returns:
        float64 (N, 3).
    """

    def of_film(row: int) -> tuple[float, float, bool]:
        truth = np.asarray(cases.masks[row])
        found = segmenter.segment(np.asarray(cases.images[row]))
        alone = clean_mask(to_mask(found.coarse))
        return dice(alone, truth), dice(found.mask, truth), COMPLETED in found.doubts

    workers = {"max_workers": os.cpu_count(), "disable": True}
    return np.array(thread_map(of_film, range(len(cases)), **workers), float)


def figures(films: np.ndarray) -> dict[str, float]:
    """Films and completed ones; the spread of Dice before and after; what it changes for these."""
    before, after, completed = films.T
    changed = (after - before)[completed > 0]
    found = {"films": len(films), "completed": int(completed.sum())}
    found |= spread_columns("alone", before) | spread_columns("whole", after)
    if len(changed):
        found |= {"change": changed.mean(), "worst": changed.min(), "best": changed.max()}
    return found


def main() -> None:
    """Score and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds prepared X-rays at 512")
    parser.add_argument("--external", help="a folder with images/ and masks/")
    arguments = parser.parse_args()
    cases = load_prepared(open_workspace(arguments.workspace), EVAL_SIZE)
    segmenters = {name: Segmenter.load(name, fast=True) for name in NETWORKS}
    groups = dict.fromkeys(CORRUPTIONS, "corrupted") | dict.fromkeys(HARD, "hard")
    found = defaultdict(list)
    for condition, films in made_bad(cases.select("val"), hard=True):
        print(condition, flush=True)
        group = "validation" + (f", {groups[condition]}" if condition in groups else "")
        for name, segmenter in segmenters.items():
            found[group, name].append(compare(segmenter, films))
    if arguments.external:
        external = Path(arguments.external)
        for group, films in (
            ("test", cases.select("test")),
            (external.name, external_cases(external)),
        ):
            for name, segmenter in segmenters.items():
                found[group, name].append(compare(segmenter, films))
    rows = [
        {"set": group, "network": name, **figures(np.concatenate(parts))}
        for (group, name), parts in found.items()
    ]
    table = pd.DataFrame(rows).round(4)
    weights = {name: one.run.record["sha256"][:12] for name, one in segmenters.items()}
    table.insert(2, "weights", table["network"].map(weights))
    write_atomically(TABLE, lambda path: table.to_csv(path, index=False))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
