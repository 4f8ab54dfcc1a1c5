from __future__ import annotations

import keras
import numpy as np
import pytest

from lungseg_utils.models.unet import build_unet
from tests.networks import check_probability, predict, tiny_arrays


def tiny(**options) -> keras.Model:
    return build_unet(**{"size": 32, "base_filters": 4, "depth": 2, **options})


def names_of(model: keras.Model, kind: type) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, kind)]


def parameters_of_the_paper(filters: list[int]) -> int:
    """Kernels and biases of figure 1 of the paper, for one grey channel and one class."""
    encoder = list(zip([1, *filters[:-1]], filters, strict=True))
    decoder = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
    blocks = [(9 * a + 1) * b + (9 * b + 1) * b for a, b in encoder + decoder]
    up = [(4 * a + 1) * b for a, b in decoder]
    return sum(blocks) + sum(up) + filters[0] + 1


def test_parameters_of_the_paper():
    smaller = build_unet(32, base_filters=3, depth=2)
    assert smaller.count_params() == parameters_of_the_paper([3, 6, 12])
    model = build_unet(256)
    assert model.count_params() == parameters_of_the_paper([64, 128, 256, 512, 1024])
    assert model.count_params() == pytest.approx(31.0e6, rel=0.005)
    assert model.get_layer("encoder4_relu2").output.shape == (None, 16, 16, 1024)


def test_parameters_of_patches_by_hand():
    parts = {
        "patches of 2, kernel 4x4, 1 to 2 channels": 16 * 2 + 2,
        "encoder0, 2 to 2 to 2": 2 * (9 * 2 * 2 + 2),
        "encoder1, 2 to 4 to 4": (9 * 2 * 4 + 4) + (9 * 4 * 4 + 4),
        "up, kernel 2x2, 4 to 2": 4 * 4 * 2 + 2,
        "decoder, 4 to 2 to 2": (9 * 4 * 2 + 2) + (9 * 2 * 2 + 2),
        "probability, kernel 4x4, 2 to 1": 16 * 2 + 1,
    }
    model = build_unet(16, base_filters=2, depth=1, patch_size=2)
    assert model.count_params() == sum(parts.values()) == 513


@pytest.mark.parametrize("patch_size", [2, 3, 4])
def test_patches_are_worked_on_and_pixels_come_out(patch_size):
    model = tiny(size=24 * patch_size, patch_size=patch_size)
    assert model.get_layer("patches").output.shape == (None, 24, 24, 4)
    assert model.get_layer("encoder0_relu2").output.shape == (None, 24, 24, 4)
    assert model.get_layer("probability").dtype_policy.name == "float32"
    check_probability(model, 24 * patch_size)


@pytest.mark.parametrize(
    ("normalisation", "layer"),
    [("batch", keras.layers.BatchNormalization), ("instance", keras.layers.GroupNormalization)],
)
def test_normalisation_follows_every_convolution_in_place_of_its_bias(normalisation, layer):
    model = tiny(normalisation=normalisation, batch_momentum=0.7)
    convolutions = [name for name in names_of(model, keras.layers.Conv2D) if "conv" in name]
    assert len(convolutions) == len(names_of(model, layer)) == 10
    assert not any(model.get_layer(name).use_bias for name in convolutions)
    if normalisation == "batch":
        assert {model.get_layer(name).momentum for name in names_of(model, layer)} == {0.7}


def test_dropout_lies_at_the_end_of_the_contracting_path_and_is_off_when_predicting():
    keras.utils.set_random_seed(0)
    model = tiny(dropout=0.5)
    assert names_of(model, keras.layers.Dropout) == ["dropout1", "dropout2"]
    assert names_of(tiny(), keras.layers.Dropout) == []
    x = tiny_arrays(1)[0]
    np.testing.assert_array_equal(predict(model, x), predict(model, x))
    first, second = (keras.ops.convert_to_numpy(model(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
