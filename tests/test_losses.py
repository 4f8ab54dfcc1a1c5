from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungseg_utils.models.losses import (
    LOSSES,
    DiceCoefficient,
    bce_dice_loss,
    bce_loss,
    dice_loss,
    get_loss,
    hard_dice,
)

# Two images of 2x2 pixels, worked out by hand below.
TRUTH = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], "float32").reshape(2, 2, 2, 1)
PROBABILITY = np.array([[0.5, 1.0, 0.25, 0.25], [0.6, 0.7, 0.2, 0.5]], "float32").reshape(
    2, 2, 2, 1
)


def values(tensor) -> np.ndarray:
    array = keras.ops.convert_to_numpy(tensor)
    assert array.dtype == np.float32
    return array


def test_dice_loss_by_hand():
    # Overlap 1.5 of 2 + 2 pixels; overlap 0.6 of 1 + 2 pixels; one pixel of smoothing.
    expected = [1 - (2 * 1.5 + 1) / (4 + 1), 1 - (2 * 0.6 + 1) / (3 + 1)]
    np.testing.assert_allclose(values(dice_loss(TRUTH, PROBABILITY)), expected, rtol=1e-6)


def test_bce_loss_by_hand():
    second = -(np.log(0.6) + np.log(0.3) + np.log(0.8) + np.log(0.5)) / 4
    first = -(np.log(0.5) + np.log(1.0) + 2 * np.log(0.75)) / 4
    np.testing.assert_allclose(values(bce_loss(TRUTH, PROBABILITY)), [first, second], rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_two_empty_masks_lose_nothing(loss):
    empty = np.zeros((2, 8, 8, 1), "float32")
    np.testing.assert_allclose(values(loss(empty, empty)), 0, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_false_prediction_on_an_empty_mask_loses_more_the_larger_it_is(loss):
    truth = np.zeros((3, 8, 8, 1), "float32")
    prediction = np.zeros_like(truth)
    prediction[0, :2, :2], prediction[1, :4, :4], prediction[2] = 0.9, 0.9, 0.9
    losses = values(loss(truth, prediction))
    assert 0 < losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_losses_of_half_precision_are_taken_in_float32(loss, dtype):
    # 512x512 ones sum up to more than float16 can hold.
    ones = np.ones((1, 512, 512, 1), "float32")
    half = keras.ops.cast(keras.ops.convert_to_tensor(ones), dtype)
    np.testing.assert_allclose(values(loss(ones, half)), 0, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_keras_averages_the_images(loss):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Activation("sigmoid")])
    model.compile(loss=loss)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 4, 1)).astype("float32")
    y = (rng.random((5, 4, 4, 1)) > 0.5).astype("float32")
    per_image = values(loss(y, model.predict(x, verbose=0)))
    assert model.evaluate(x, y, batch_size=2, verbose=0) == pytest.approx(per_image.mean(), 1e-5)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.booleans(), min_size=16, max_size=16),
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), min_size=16, max_size=16),
)
def test_hard_dice_against_counted_pixels(truth, probability):
    a = {i for i, inside in enumerate(truth) if inside}
    b = {i for i, value in enumerate(probability) if value > 0.5}
    expected = 1.0 if not a and not b else 2 * len(a & b) / (len(a) + len(b))
    shape = (1, 4, 4, 1)
    found = hard_dice(
        np.array(truth, "float32").reshape(shape), np.array(probability, "float32").reshape(shape)
    )
    assert values(found)[0] == pytest.approx(expected, abs=1e-6)


def test_dice_coefficient_is_the_mean_over_images_not_batches():
    metric = DiceCoefficient()
    full, empty = np.ones((3, 4, 4, 1), "float32"), np.zeros((1, 4, 4, 1), "float32")
    metric.update_state(full, full)  # three images at 1
    metric.update_state(np.ones_like(empty), empty)  # one at 0
    assert float(metric.result()) == pytest.approx(0.75)
    metric.reset_state()
    metric.update_state(empty, empty)
    assert float(metric.result()) == 1.0
    assert metric.name == "dice"


def test_get_loss():
    assert get_loss("dice") is dice_loss
    assert get_loss("bce") is bce_loss
    assert get_loss("bce_dice") is bce_dice_loss
