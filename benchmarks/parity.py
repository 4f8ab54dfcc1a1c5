"""Whether ONNX Runtime finds with the shipped weights what Keras finds with the same.

No mask of the data is read, so that nothing is scored:

    python -m benchmarks.parity --data BUNDLE
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from benchmarks.film_levels import films_of, read_films
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.segment.network import (
    NETWORKS,
    ExportedRun,
    Predictor,
    load_shipped,
    predict_images,
)
from lungseg_utils.segment.postprocess import clean_mask, to_mask

LARGEST_DIFFERENCE = 1e-3
SMALLEST_DICE = 0.9995
_BATCH = 8


def compare(
    run: ExportedRun, one: Predictor, other: Predictor, images: np.ndarray
) -> tuple[float, float]:
    """How far two predictors are apart.

    Args:
        run: Gives name and preprocessing.
        one: The first.
        other: The second, of the same network.
        images: uint8 `(N, size, size)` grey, at the run's size.

    Returns:
        The largest difference in probability, and the smallest Dice of an image's two masks.
    """
    difference, agreement = 0.0, 1.0
    for start in tqdm(range(0, len(images), _BATCH), run.name, unit="batch"):
        batch = images[start : start + _BATCH]
        found = [predict_images(run, predictor, batch) for predictor in (one, other)]
        masks = [[clean_mask(to_mask(each)) for each in probability] for probability in found]
        difference = max(difference, float(np.abs(found[0] - found[1]).max()))
        agreement = min(agreement, *map(dice, *masks))
    return difference, agreement


def keras_predictor(run: ExportedRun) -> Predictor:
    """The run's network in Keras: float32 `(N, size, size, 1)` to a probability."""
    import keras

    model = run.load_model()
    return lambda inputs: keras.ops.convert_to_numpy(model(inputs, training=False))


def main() -> int:
    """Print the figures of each network; returns 1 where one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the bundle, with CXR_png")
    films = films_of(parser.parse_args().data, "test")
    rows = []
    for run in map(load_shipped, NETWORKS):
        images = read_films(films, run.config.size)
        difference, agreement = compare(run, run.load_predictor(), keras_predictor(run), images)
        kept = difference <= LARGEST_DIFFERENCE and agreement >= SMALLEST_DICE
        rows.append([run.name, len(images), difference, agreement, "yes" if kept else "no"])
    columns = ["network", "films", "largest difference", "smallest Dice", "kept"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="{:.6g}".format))
    print(f"Limits: a difference of {LARGEST_DIFFERENCE} in probability, a Dice of {SMALLEST_DICE}")
    return int(any(row[-1] == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
