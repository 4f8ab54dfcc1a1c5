"""What the tests of the three networks share: tiny images, and checks that all must pass."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from lungseg_utils.training.devices import dtype_policy
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


def check_trains_in_half_precision(build: Callable[[], keras.Model], loss, policy: str) -> None:
    x, y = tiny_arrays(2)
    with dtype_policy(policy):
        model = build()
        assert policy.removeprefix("mixed_") in {
            layer.compute_dtype for layer in model._flatten_layers()
        }
        # Step by step: compiling a graph takes longer than these few steps.
        model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=True)
        before = model.get_weights()
        # In float16 the first steps only find a scale at which no gradient overflows.
        losses = [model.train_on_batch(x, y) for _ in range(8 if policy == "mixed_float16" else 2)]
    assert np.isfinite(losses).all()
    assert all(weight.dtype == "float32" for weight in model.weights)
    for weight, old in zip(model.get_weights(), before, strict=True):
        assert np.isfinite(weight).all()
        assert np.abs(weight - old).max() > 0
    check_probability(model, 32)


def check_weights_survive(build: Callable[[], keras.Model], loss, path) -> None:
    """Train, save, load into a fresh model: the same prediction."""
    x, y = tiny_arrays(2)
    model = build()
    model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=True)
    model.train_on_batch(x, y)
    model.save_weights(path)
    other = build()
    assert np.abs(predict(other, x) - predict(model, x)).max() > 1e-4
    other.load_weights(path)
    np.testing.assert_array_equal(predict(other, x), predict(model, x))


def dice_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    found, truth = predict(model, x) > 0.5, y > 0.5
    return 2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth))
