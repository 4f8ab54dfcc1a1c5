"""Tiny cases that networks learn in seconds, and a network that need not learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.training.config import TrainingConfig

TINY = {
    "unet": {"base_filters": 4, "depth": 1, "normalisation": "batch", "dropout": 0.2},
    "unetpp": {"base_filters": 2, "depth": 1},
    "pix2pix": {"base_filters": 1, "discriminator_filters": 1, "depth": 4},
}


def tiny_cases(count: int = 8, size: int = 32, seed: int = 0, split: str = "train") -> Cases:
    """Two bright ellipses, and their mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    images, masks = [], []
    for _ in range(count):
        y, spread = rng.uniform(0.4, 0.6), rng.uniform(0.2, 0.26)
        lungs = [
            ((rows - y) / 0.35) ** 2 + ((columns - 0.5 - side * spread) / 0.14) ** 2 < 1
            for side in (-1, 1)
        ]
        mask = (lungs[0] | lungs[1]).astype(np.uint8)
        images.append((40 + 150 * mask + rng.normal(0, 12, mask.shape)).clip(0, 255))
        masks.append(mask)
    index = pd.DataFrame(
        {
            "image_id": [f"{split.upper()}_{number:04d}_0" for number in range(count)],
            "source": ["montgomery", "shenzhen"] * (count // 2) + ["shenzhen"] * (count % 2),
            "split": split,
            "has_mask": 1,
        }
    )
    return Cases(np.array(images, np.uint8), np.array(masks), index, f"{seed}-{split}-{size}")


def tiny_config(model: str = "unet", **changes) -> TrainingConfig:
    """A training of seconds on cases of 32 pixels."""
    values = {
        "size": 32,
        "model_options": TINY[model],
        "learning_rate": 0.01,
        "batch_size": 4,
        "epochs": 1,
        "augmentation": NONE,
    }
    return TrainingConfig(model, **values | changes)


class Darkness:
    """A run and its network in one: the darker a pixel, the more it is lung."""

    name = "darkness"
    config = SimpleNamespace(size=64, preprocessing=Preprocessing(), augmentation=NONE)

    def __init__(self, weight: float = 0) -> None:
        self.weights_sha256 = f"{weight:064}"  # tells it from others, and does nothing

    def load_predictor(self, threads: int = 0):
        return lambda images: 1 - images


@contextmanager
def step_by_step() -> Iterator[None]:
    """Train without graphs: tracing one takes longer than the few steps of a tiny training."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
