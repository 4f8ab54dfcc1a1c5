"""The three networks train, are loaded and predict on Keras' other backends.

A process has one backend, so each is tried in a process of its own: here JAX, and those that
LUNGSEG_BACKENDS names (`make backends` names PyTorch).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BACKENDS = os.environ.get("LUNGSEG_BACKENDS", "jax").split(",")
SCRIPT = """
import sys
from pathlib import Path

import keras
import numpy as np

from lungseg_utils import load_predictions, load_run, predict_split, train
from lungseg_utils.preparation.augmentation import Augmentation
from tests.tiny import TINY, tiny_cases, tiny_config

cases, val = tiny_cases(4), tiny_cases(2, seed=1, split="val")
for name in TINY:
    folder = Path(sys.argv[1]) / name
    for epochs in (1, 2) if name == "unet" else (1,):
        config = tiny_config(name, batch_size=2, epochs=epochs, augmentation=Augmentation())
        run = train(config, cases, val, folder)
    assert len(run.history) == epochs and np.isfinite(run.history["loss"]).all()
    predict_split(run, val, "val")
    x = val.images[..., None] / np.float32(255)
    expected = keras.ops.convert_to_numpy(load_run(folder).load_model()(x, training=False))
    np.testing.assert_allclose(load_predictions(folder, "val")[1], expected[..., 0], atol=1e-3)
    print(keras.backend.backend(), run.record["backend"], name)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_network_trains_is_loaded_and_predicts(tmp_path, backend):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(backend)]
    assert said == [f"{backend} {backend} {name}" for name in ("unet", "unetpp", "pix2pix")]
