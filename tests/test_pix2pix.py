from __future__ import annotations

import keras
import numpy as np
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.models.losses import DiceCoefficient
from lungseg_utils.models.pix2pix import (
    Pix2Pix,
    build_discriminator,
    build_generator,
    build_pix2pix,
)
from tests.networks import check_probability, predict, tiny_arrays


def tiny(size: int = 32, **options) -> Pix2Pix:
    return build_pix2pix(size, **{"base_filters": 4, "discriminator_filters": 4, **options})


def paper_adam(rate: float = 2e-4) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(rate, beta_1=0.5)


def layers_of(model: keras.Model, kind: type) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def numpy(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def test_parameters_of_the_paper():
    generator, discriminator = build_generator(256), build_discriminator(256)
    assert generator.count_params() == pytest.approx(54.4e6, rel=0.002)
    # Kernels of C64-C128-C256-C512-1 on two channels, gamma and beta, and the outer biases.
    kernels = [(2, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    normalised = 2 * (128 + 256 + 512)
    expected = sum(16 * a * b for a, b in kernels) + normalised + 64 + 1
    assert discriminator.count_params() == expected
    assert discriminator.count_params() == pytest.approx(2.8e6, rel=0.02)
    assert discriminator.output_shape == (None, 30, 30, 1)
    assert generator.get_layer("down7_conv").output.shape == (None, 1, 1, 512)


@pytest.mark.parametrize(
    ("size", "levels", "bottleneck"), [(16, 4, 1), (64, 6, 1), (48, 4, 3), (96, 5, 3)]
)
def test_depth_follows_the_size(size, levels, bottleneck):
    model = build_generator(size, base_filters=2)
    down = [layer for layer in model.layers if layer.name.startswith("down")]
    convolutions = [layer for layer in down if layer.name.endswith("conv")]
    assert len(convolutions) == levels
    assert convolutions[-1].output.shape[1] == bottleneck
    # No normalisation follows the first, nor one whose output is a single pixel.
    normalised = sum(layer.name.endswith("norm") for layer in down)
    assert normalised == levels - 1 - (bottleneck == 1)


def test_generator_follows_the_paper():
    model = build_generator(64, base_filters=8)
    assert [layer.name for layer in layers_of(model, keras.layers.Dropout)] == [
        "up4_dropout",
        "up3_dropout",
        "up2_dropout",
    ]
    assert {layer.rate for layer in layers_of(model, keras.layers.Dropout)} == {0.5}
    for layer in layers_of(model, keras.layers.Conv2D):
        assert layer.kernel_size == (4, 4)
        assert layer.strides == (2, 2)
    for level in range(5):
        up, down = model.get_layer(f"skip{level}").input
        assert up is model.get_layer(f"up{level}_relu").output
        assert up.shape == down.shape
    features = keras.Model(
        model.input, [model.get_layer(n).output for n in ("down0_conv", "up0_norm")]
    )
    before, normalised = (numpy(t) for t in features(2 * tiny_arrays(2, 64)[0] - 1))
    assert before.min() < 0
    np.testing.assert_allclose(normalised.mean(axis=(1, 2)), 0, atol=1e-4)
    skip = keras.Model(model.input, model.get_layer("skip0").output)
    leaky = predict(skip, 2 * tiny_arrays(2, 64)[0] - 1)[..., 8:]
    np.testing.assert_allclose(leaky, np.where(before > 0, before, 0.2 * before), atol=1e-6)


def test_weights_start_as_in_the_paper():
    model = tiny(64, base_filters=16, discriminator_filters=16)
    for network in (model.generator, model.discriminator):
        kernels = [w.numpy().ravel() for w in network.weights if w.name == "kernel"]
        everything = np.concatenate(kernels)
        assert everything.mean() == pytest.approx(0, abs=2e-4)
        assert everything.std() == pytest.approx(0.02, rel=0.01)
        firsts = {float(kernel[0]) for kernel in kernels}
        assert len(firsts) == len(kernels), "two layers share their random numbers"


def test_discriminator_sees_patches_of_70_pixels():
    model = build_discriminator(128, base_filters=2)
    field = 1
    for layer in reversed(layers_of(model, keras.layers.Conv2D)):
        field = field * layer.strides[0] + layer.kernel_size[0] - layer.strides[0]
    assert field == 70


def test_loss_and_logs_are_the_papers():
    model = tiny(l1_weight=10.0)
    check_probability(model, 32)
    model.compile(paper_adam(), metrics=[DiceCoefficient()])
    x, y = tiny_arrays(3)
    logs = model.evaluate(x, y, batch_size=2, return_dict=True, verbose=0)
    made = predict(model, x)
    signed = [2 * array - 1 for array in (x, y, made)]
    real = numpy(model.discriminator([signed[0], signed[1]]))
    fake = numpy(model.discriminator([signed[0], signed[2]]))
    true_mask, false_mask = (1 / (1 + np.exp(-logits)) for logits in (real, fake))
    adversarial = -np.log(false_mask).mean()
    discriminator = 0.5 * (-np.log(true_mask).mean() - np.log(1 - false_mask).mean())
    l1 = np.abs(signed[1] - signed[2]).mean()
    assert logs["generator_adversarial"] == pytest.approx(adversarial, rel=1e-4)
    assert logs["discriminator"] == pytest.approx(discriminator, rel=1e-4)
    assert logs["l1"] == pytest.approx(l1, rel=1e-4)
    assert logs["loss"] == pytest.approx(adversarial + 10 * l1 + discriminator, rel=1e-4)
    assert 0 <= logs["dice"] <= 1


def step_with_two_optimizers(model: Pix2Pix, optimizers: tuple, x, y) -> None:
    """Train one step as the paper does: one pass, two losses, two tapes, two optimizers."""
    tf = pytest.importorskip("tensorflow")
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    image, truth = tf.constant(2 * x - 1), tf.constant(2 * y - 1)
    with tf.GradientTape() as generator_tape, tf.GradientTape() as discriminator_tape:
        made = model.generator(image, training=True)
        real = model.discriminator([image, truth], training=True)
        fake = model.discriminator([image, made], training=True)
        generator_loss = cross_entropy(tf.ones_like(fake), fake)
        generator_loss += model.l1_weight * tf.reduce_mean(tf.abs(truth - made))
        discriminator_loss = cross_entropy(tf.ones_like(real), real)
        discriminator_loss += cross_entropy(tf.zeros_like(fake), fake)
        discriminator_loss *= 0.5
    steps = [
        (generator_tape, generator_loss, model.generator, optimizers[0]),
        (discriminator_tape, discriminator_loss, model.discriminator, optimizers[1]),
    ]
    for tape, loss, network, optimizer in steps:
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the reference needs its tapes")
def test_one_optimizer_equals_two():
    models = []
    for _ in range(2):  # the same weights, and the same seeds of dropout
        keras.utils.set_random_seed(3)
        models.append(tiny(base_filters=8, discriminator_filters=8))
    ours, reference = models
    start = ours.get_weights()
    ours.compile(paper_adam(), run_eagerly=True)
    optimizers = (paper_adam(), paper_adam())
    x, y = tiny_arrays(2)
    for _ in range(4):
        ours.train_on_batch(x, y)
        step_with_two_optimizers(reference, optimizers, x, y)
    for found, expected, before in zip(
        ours.get_weights(), reference.get_weights(), start, strict=True
    ):
        assert np.abs(expected - before).max() > 1e-4  # four steps of 2e-4 were taken
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_loss_of_ones_own_is_refused():
    model = tiny()
    model.compile(paper_adam(), loss="mse")
    with pytest.raises(LungsegError, match="l1_weight"):
        model.evaluate(*tiny_arrays(1), verbose=0)
