from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest

from lungseg_utils.errors import DownloadError, LungsegError
from lungseg_utils.models.losses import DiceCoefficient, bce_dice_loss, hard_dice
from lungseg_utils.models.unetpp import build_unetpp
from tests.networks import check_probability, predict, tiny_arrays


def tiny(**options) -> keras.Model:
    return build_unetpp(**{"size": 32, "base_filters": 4, "depth": 2, **options})


def write_published_vgg16(path, seed: int) -> dict[str, list[np.ndarray]]:
    """Write random weights as `vgg16_..._notop.h5` is laid out: one group a layer, two arrays.

    The published file also lists the layers that have no weights, as this one does.
    """
    rng, weights = np.random.default_rng(seed), {}
    with h5py.File(path, "w") as file:
        layers = keras.applications.VGG16(include_top=False, weights=None).layers
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group, arrays = file.create_group(layer.name), {}
            for key, variable in zip(("W", "b"), layer.weights, strict=False):
                scale = (2 / np.prod(variable.shape[:3])) ** 0.5 if key == "W" else 0.1
                array = rng.normal(0, scale, variable.shape).astype("float32")
                group[f"{layer.name}_{key}_1:0"] = arrays[key] = array
            group.attrs["weight_names"] = [f"{layer.name}_{key}_1:0".encode() for key in arrays]
            if arrays:
                weights[layer.name] = list(arrays.values())
    return weights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16_notop.h5"
    return path, write_published_vgg16(path, seed=7)


def parameters_of_the_paper(filters: list[int]) -> int:
    """Kernels and biases of the grid of nodes, the upsamplings and one head, one grey channel."""

    def node(channels: int, level: int) -> int:
        return (9 * channels + 1) * filters[level] + (9 * filters[level] + 1) * filters[level]

    depth = len(filters) - 1
    total = sum(node(filters[level - 1] if level else 1, level) for level in range(depth + 1))
    for step in range(1, depth + 1):
        for level in range(depth + 1 - step):
            total += (4 * filters[level + 1] + 1) * filters[level]
            total += node((step + 1) * filters[level], level)
    return total + filters[0] + 1


def test_parameters_of_the_paper():
    filters = [32, 64, 128, 256, 512]
    plain = build_unetpp(normalisation="none", deep_supervision=False)
    assert plain.count_params() == parameters_of_the_paper(filters)
    assert plain.count_params() == pytest.approx(9.04e6, rel=0.001)
    # As built by default: three more heads, and batch normalisation in the place of biases.
    assert build_unetpp().count_params() == pytest.approx(9.04e6, rel=0.002)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_patches_are_worked_on_and_pixels_come_out(deep_supervision):
    model = tiny(size=48, patch_size=4, deep_supervision=deep_supervision)
    assert model.get_layer("patches").output.shape == (None, 12, 12, 4)
    assert model.get_layer("node0_2_relu2").output.shape == (None, 12, 12, 4)
    check_probability(model, 48)


def test_node_reads_all_nodes_before_it_at_its_level():
    model = tiny(depth=3)
    for level, step in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)]:
        *earlier, raised = model.get_layer(f"skip{level}_{step}").input
        assert earlier == [
            model.get_layer(f"node{level}_{before}_relu2").output for before in range(step)
        ]
        below = model.get_layer(f"node{level + 1}_{step - 1}_relu2").output
        upsampling = model.get_layer(f"up{level}_{step}")
        assert upsampling.input is below
        assert raised is upsampling.output


def test_heads_in_training_and_their_mean_otherwise():
    model = tiny(normalisation="none", depth=3)
    x = tiny_arrays(2)[0]
    heads = keras.ops.convert_to_numpy(model(x, training=True))
    assert heads.shape == (2, 32, 32, 3)
    assert heads.dtype == np.float32
    assert np.abs(heads[..., 0] - heads[..., 2]).max() > 1e-4
    np.testing.assert_allclose(predict(model, x), heads.mean(-1, keepdims=True), atol=1e-6)
    for number in (1, 2, 3):
        head = keras.Model(model.input, model.get_layer(f"head{number}").output)
        np.testing.assert_allclose(predict(head, x)[..., 0], heads[..., number - 1], atol=1e-6)


def test_loss_is_the_mean_over_the_heads_and_the_metric_that_of_their_mean():
    model = tiny(normalisation="none")
    model.compile(keras.optimizers.SGD(0.0), bce_dice_loss, metrics=[DiceCoefficient()])
    x, y = tiny_arrays(3)
    heads = keras.ops.convert_to_numpy(model(x, training=True))
    losses = [np.mean(bce_dice_loss(y, heads[..., [number]])) for number in range(2)]
    mean = heads.mean(-1, keepdims=True)
    dice = pytest.approx(float(np.mean(hard_dice(y, mean))), abs=1e-5)
    trained = model.train_on_batch(x, y, return_dict=True)
    assert trained["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert trained["dice"] == dice
    model.reset_metrics()
    tested = model.test_on_batch(x, y, return_dict=True)
    assert tested["loss"] == pytest.approx(float(np.mean(bce_dice_loss(y, mean))), abs=1e-5)
    assert tested["dice"] == dice


def test_vgg16_reads_the_published_layout_and_sees_what_it_was_trained_on(published):
    path, weights = published
    model = tiny(encoder="vgg16", encoder_weights=path, depth=4)
    for name, arrays in weights.items():
        for found, expected in zip(model.get_layer(name).get_weights(), arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    # Against Keras' own preprocessing, and VGG16 filled by hand.
    vgg16 = keras.applications.VGG16(include_top=False, weights=None)
    for name, arrays in weights.items():
        vgg16.get_layer(name).set_weights(arrays)
    x = tiny_arrays(2)[0]
    colour = keras.applications.vgg16.preprocess_input(255 * x.repeat(3, axis=-1))
    for name in ("block1_conv2", "block3_conv3", "block5_conv3"):
        ours = predict(keras.Model(model.input, model.get_layer(name).output), x)
        expected = predict(keras.Model(vgg16.input, vgg16.get_layer(name).output), colour)
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [1, 4])
def test_vgg16_takes_the_place_of_the_encoder(depth):
    model = tiny(encoder="vgg16", depth=depth)
    check_probability(model, 32)
    lowest = model.get_layer(f"up{depth - 1}_1").input
    assert lowest is model.get_layer(["block2_conv2", "block5_conv3"][depth == 4]).output
    assert not any(layer.name.startswith("node0_0") for layer in model.layers)
    assert model.get_layer("block1_conv1").trainable


def test_a_file_of_other_weights_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "text.h5").write_text("not weights")
    for name in ("other.weights.h5", "text.h5"):
        with pytest.raises(LungsegError, match=name):
            tiny(encoder="vgg16", encoder_weights=tmp_path / name)


def test_imagenet_without_a_connection(monkeypatch):
    def unreachable(**options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG16", unreachable)
    with pytest.raises(DownloadError, match="encoder_weights"):
        tiny(encoder="vgg16", encoder_weights="imagenet")
