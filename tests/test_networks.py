"""What all three networks must do: give probabilities, learn, train in half precision, refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.models.blocks import BatchNormalization
from lungseg_utils.models.losses import DiceCoefficient, bce_dice_loss
from lungseg_utils.models.registry import NETWORKS, build_model
from lungseg_utils.training.devices import dtype_policy
from tests.networks import check_probability, dice_of, predict, tiny_arrays

SMALL = {
    "unet": {"base_filters": 4, "depth": 2, "normalisation": "batch"},
    "unetpp": {"base_filters": 4, "depth": 2, "normalisation": "none"},
    "pix2pix": {"base_filters": 8, "discriminator_filters": 4},
}


def tiny(name: str, size: int = 32, **options) -> keras.Model:
    return build_model(name, size, SMALL[name] | options)


def compiled(model: keras.Model, rate: float, **options) -> keras.Model:
    loss = None if model.name == "pix2pix" else bce_dice_loss
    beta_1 = 0.5 if model.name == "pix2pix" else 0.9
    model.compile(keras.optimizers.Adam(rate, beta_1=beta_1), loss, **options)
    return model


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("unet", 0.01, {"patch_size": 2}),
        ("unetpp", 0.01, {}),
        ("unetpp", 0.01, {"encoder": "efficientnet-lite0", "patch_size": 2}),
        ("pix2pix", 0.002, {}),
    ],
)
def test_learns_one_image_by_heart(name, rate, options):
    keras.utils.set_random_seed(0)
    x, y = tiny_arrays(1)
    model = compiled(tiny(name, **options), rate)
    model.fit(x.repeat(60, 0), y.repeat(60, 0), batch_size=1, verbose=0)
    assert dice_of(model, x, y) > 0.95


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_compiled_by_xla_is_the_step_without(name):
    """Keras turns XLA on by itself on a GPU and off on a CPU: this keeps the GPU's path honest."""
    losses = []
    for options in ({"jit_compile": True}, {"jit_compile": False, "run_eagerly": True}):
        keras.utils.set_random_seed(0)
        model = tiny(name, base_filters=2, **{"depth": 1} if name == "unet" else {})
        compiled(model, 1e-3, metrics=[DiceCoefficient()], **options)
        steps = [model.train_on_batch(*tiny_arrays(2), return_dict=True) for _ in range(2)]
        losses.append([step["loss"] for step in steps])
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(name, policy):
    x, y = tiny_arrays(2)
    with dtype_policy(policy):
        model = tiny(name)
        assert policy.removeprefix("mixed_") in {
            layer.compute_dtype for layer in model._flatten_layers()
        }
        # Step by step: compiling a graph takes longer than these few steps.
        compiled(model, 1e-3, run_eagerly=True)
        before = model.get_weights()
        # In float16 the first steps only find a scale at which no gradient overflows.
        losses = [model.train_on_batch(x, y) for _ in range(8 if policy == "mixed_float16" else 2)]
    assert np.isfinite(losses).all()
    assert all(weight.dtype == "float32" for weight in model.weights)
    for weight, old in zip(model.get_weights(), before, strict=True):
        assert np.isfinite(weight).all()
        assert np.abs(weight - old).max() > 0
    check_probability(model, 32)


@pytest.mark.parametrize("name", ["unetpp", "pix2pix"])
def test_a_network_of_its_own_class_survives_whole(tmp_path, name):
    model, x = tiny(name), tiny_arrays(1)[0]
    model.save(tmp_path / "model.keras")
    other = keras.saving.load_model(tmp_path / "model.keras")
    assert type(other) is type(model)
    assert getattr(other, "l1_weight", 0) == getattr(model, "l1_weight", 0)
    np.testing.assert_array_equal(predict(other, x), predict(model, x))


@pytest.mark.parametrize("normalisation", ["none", "batch", "instance"])
@pytest.mark.parametrize("options", [{}, {"deep_supervision": False}])
def test_probability_has_the_size_of_the_input(normalisation, options):
    check_probability(tiny("unetpp" if options else "unet", 24, normalisation=normalisation), 24)
    check_probability(tiny("unetpp", 24, normalisation=normalisation, **options), 24)


@pytest.mark.parametrize(
    ("name", "size", "options", "said"),
    [
        ("resnet", 32, {}, "'resnet'"),
        ("unet", 30, {}, "size"),
        ("unet", 32.0, {}, "size"),
        ("unet", 2, {"depth": 2}, "size"),
        ("unet", 24, {"patch_size": 4}, "multiple of 16"),
        ("unet", 32, {"filters": 8}, "'filters'"),
        ("unet", 32, {"base_filters": True}, "base_filters"),
        ("unet", 32, {"depth": "4"}, "depth"),
        ("unet", 32, {"normalisation": "layer"}, "normalisation"),
        ("unet", 32, {"dropout": 1.0}, "dropout"),
        ("unet", 32, {"batch_momentum": "0.9"}, "batch_momentum"),
        ("unet", 32, {"patch_size": 2.0}, "patch_size"),
        ("unetpp", 32, {"encoder": "vgg19"}, "encoder"),
        ("unetpp", 32, {"encoder": "vgg16", "depth": 5}, "depth"),
        ("unetpp", 32, {"encoder": "vgg16", "patch_size": 2}, "patch_size is 1"),
        ("unet", 32, {"encoder": "vgg16"}, "encoder"),
        ("unet", 32, {"encoder": "efficientnet-lite0"}, "patch_size is 2"),
        ("unet", 64, {"encoder": "efficientnet-lite0", "patch_size": 2, "depth": 5}, "at most 4"),
        ("unet", 32, {"encoder_weights": "lite0.npz"}, "encoder='plain'"),
        (
            "unet",
            32,
            {"encoder": "efficientnet-lite0", "patch_size": 2, "encoder_weights": "no.npz"},
            "no.npz",
        ),
        ("unetpp", 32, {"encoder_weights": "imagenet"}, "encoder='plain'"),
        ("unetpp", 32, {"encoder": "vgg16", "encoder_weights": "no/file.h5"}, "no/file.h5"),
        ("pix2pix", 16, {}, "at least 32"),
        ("pix2pix", 40, {}, "multiple of 16"),
        ("pix2pix", 32, {"discriminator_filters": 1.5}, "discriminator_filters"),
        ("pix2pix", 32, {"l1_weight": "100"}, "l1_weight"),
        ("pix2pix", 32, {"depth": 3}, "depth at 32 pixels is from 4 to 5"),
        ("pix2pix", 32, {"depth": 4.0}, "depth must be a whole number"),
    ],
)
def test_a_parameter_out_of_its_range_is_named(name, size, options, said):
    with pytest.raises(LungsegError, match=said):
        build_model(name, size, SMALL.get(name, {}) | options)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fused_batch_normalisation_learns_as_keras_own(policy):
    tf = pytest.importorskip("tensorflow")
    arrays = tiny_arrays(4, 16)[0].repeat(3, axis=-1) * np.float32([1, 2, 0.5])
    pair = [
        kind(momentum=0.9, dtype=policy)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for layer in pair:
        layer.build(arrays.shape)
        layer.gamma.assign([1.5, -1.0, 0.5])
        layer.beta.assign([0.0, 1.0, -2.0])
    found = []
    for layer in pair:
        inputs = tf.Variable(arrays)
        with tf.GradientTape() as tape:
            outputs = tf.cast(layer(inputs, training=True), "float32")
            loss = tf.reduce_mean(tf.sin(outputs * 3))
        slopes = tape.gradient(loss, [inputs, *layer.trainable_weights])
        found.append([outputs, *slopes, layer.moving_mean, layer.moving_variance])
    for one, other in zip(*found, strict=True):
        scale = np.abs(other).max()
        # The fused kernel estimates the variance of all images, not of these: n / (n - 1).
        exact = 2e-3 if policy == "float32" else 2e-2
        np.testing.assert_allclose(one, other, atol=exact * scale)
    later = [layer(arrays, training=False) for layer in pair]
    np.testing.assert_allclose(*later, atol=1e-3 if policy == "float32" else 2e-2)
