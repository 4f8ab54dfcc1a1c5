"""XLA, which Keras turns on by itself on a GPU and off on a CPU, keeps the GPU's path honest."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from lungseg_utils.models.losses import DiceCoefficient, bce_dice_loss
from lungseg_utils.models.registry import build_model
from tests.networks import tiny_arrays

OPTIONS = {
    "unet": {"base_filters": 2, "depth": 1, "normalisation": "batch"},
    "unetpp": {"base_filters": 2, "depth": 2, "normalisation": "none"},
    "pix2pix": {"base_filters": 2, "discriminator_filters": 2, "depth": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_compiled_by_xla_is_the_step_without(name):
    x, y = tiny_arrays(2)
    losses = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        model = build_model(name, 32, OPTIONS[name])
        model.compile(
            keras.optimizers.Adam(1e-3),
            None if name == "pix2pix" else bce_dice_loss,
            metrics=[DiceCoefficient()],
            jit_compile=jit_compile,
            run_eagerly=not jit_compile,
        )
        losses.append([model.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(2)])
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
