"""What the tests of the three networks share: tiny images, and checks that all must pass."""

from __future__ import annotations

import keras
import numpy as np

from tests.tiny import tiny_cases


def tiny_arrays(count: int = 4, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    cases = tiny_cases(count, size, seed)
    x = cases.images[..., None].astype("float32") / 255
    return x, cases.masks[..., None].astype("float32")


def predict(model: keras.Model, x: np.ndarray, batch_size: int = 8) -> np.ndarray:
    return np.concatenate(
        [
            keras.ops.convert_to_numpy(model(x[start : start + batch_size], training=False))
            for start in range(0, len(x), batch_size)
        ]
    )


def check_probability(model: keras.Model, size: int) -> None:
    probability = predict(model, tiny_arrays(2, size)[0])
    assert probability.shape == (2, size, size, 1)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1


def dice_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    found, truth = predict(model, x) > 0.5, y > 0.5
    return 2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth))
