"""Pix2Pix (Isola, Zhu, Zhou and Efros 2017, arXiv 1611.07004): the mask as a translated X-ray."""

from __future__ import annotations

import os
from typing import Any

import keras
from keras import ops

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.models import blocks
from lungseg_utils.models.efficientnet import lite0_levels

# The generator halves its input at least this often: three blocks with dropout lie above the last.
FEWEST_LEVELS = 4


def build_generator(
    size: int = 256,
    base_filters: int = 64,
    depth: int | None = None,
    encoder: str = "plain",
    encoder_weights: str | os.PathLike | None = None,
) -> keras.Model:
    """Build the U-Net generator, by default as deep as its input allows: 8 levels at 256.

    Down: 4x4 convolutions of stride 2, instance normalisation, leaky ReLU of slope 0.2. Up: 4x4
    transposed convolutions of stride 2, instance normalisation, dropout of 0.5 in the first three
    blocks, ReLU. The filters double up to 8 times the base: 54.4 million parameters at 256. The
    first block is not normalised, and nor is a bottleneck of 1x1, which would become zero.

    Dropout is the paper's source of noise and stays on there when predicting. Here it is off then,
    a deviation: one X-ray gets one mask, and the same at every batch size.

    Args:
        size: Height and width in pixels, a multiple of 2**depth.
        base_filters: Filters of the first block.
        depth: How often the input is halved, at least 4; None halves it as long as it is even, and
            five times, the most there is, with the encoder "efficientnet-lite0".
        encoder: "plain", or "efficientnet-lite0", which takes the place of the way down.
        encoder_weights: As in `build_unet`.

    Returns:
        A model: float32 (N, size, size, 1) in [-1, 1] to float32 (N, size, size, 1) in [-1, 1].

    Raises:
        InvalidValueError: A parameter is out of its range.
    """
    blocks.check_size(size, 2**FEWEST_LEVELS)
    blocks.check_count("base_filters", base_filters)
    levels = _levels(size, depth, encoder)
    known = ("plain", "efficientnet-lite0")
    blocks.check_encoder(encoder, known, encoder_weights, levels - 1, patch_size=2)
    filters = [base_filters * min(2**level, 8) for level in range(levels)]
    inputs = keras.Input((size, size, 1), name="image")
    if encoder == "plain":
        tensor, skips = inputs, []
        for level in range(levels):
            is_point = size >> (level + 1) == 1
            normalised = level > 0 and not is_point
            tensor = _down(tensor, filters[level], 2, normalised, f"down{level}")
            skips.append(tensor)
    else:
        unsigned = keras.layers.Rescaling(0.5, 0.5, dtype="float32", name="unsigned")(inputs)
        skips = lite0_levels(unsigned, levels - 1, encoder_weights)
        tensor = skips[-1]
    for level in reversed(range(levels - 1)):
        dropout = 0.5 if levels - 2 - level < 3 else 0.0
        tensor = _up(tensor, filters[level], dropout, f"up{level}")
        tensor = keras.layers.Concatenate(name=f"skip{level}")([tensor, skips[level]])
    tensor = keras.layers.Conv2DTranspose(
        1, 4, strides=2, padding="same", kernel_initializer=_initializer(), name="output"
    )(tensor)
    output = keras.layers.Activation("tanh", dtype="float32", name="mask")(tensor)
    return keras.Model(inputs, output, name="generator")


def _levels(size: int, depth: int | None, encoder: str) -> int:
    """How often the generator halves its input."""
    most = (size & -size).bit_length() - 1  # the power of two in the size
    if encoder != "plain":
        most = min(most, blocks.DEEPEST_TRAINED + 1)
    if depth is None:
        return most
    blocks.check_count("depth", depth)
    if depth not in range(FEWEST_LEVELS, most + 1):
        raise InvalidValueError(
            f"The generator's depth at {size} pixels is from {FEWEST_LEVELS} to {most}.",
            repr(depth),
            "Choose such a depth, or another size.",
        )
    return depth


def build_discriminator(size: int = 256, base_filters: int = 64) -> keras.Model:
    """Build the PatchGAN discriminator: one verdict for each patch of 70x70 pixels.

    C64-C128-C256-C512 and a last convolution, all 4x4, the first three of stride 2; 2.8 million
    parameters, and 30x30 verdicts at 256. Normalised per instance, except in the first block.

    Args:
        size: Height and width in pixels, a multiple of 8, at least 32.
        base_filters: Filters of the first block.

    Returns:
        A model: [X-ray, mask], both float32 (N, size, size, 1) in [-1, 1], to logits, float32
        (N, size/8 - 2, size/8 - 2, 1), positive where the mask seems to be a true one.

    Raises:
        InvalidValueError: A parameter is out of its range.
    """
    blocks.check_size(size, 8, smallest=32)
    blocks.check_count("base_filters", base_filters)
    # Its layers' names are its own, as weights are stored by their variables' paths.
    inputs = [keras.Input((size, size, 1), name=name) for name in ("image", "candidate")]
    tensor = keras.layers.Concatenate(name="pair")(inputs)
    for level in range(3):
        tensor = _down(tensor, base_filters * 2**level, 2, level > 0, f"discriminator{level}")
    tensor = keras.layers.ZeroPadding2D(name="pad3")(tensor)
    tensor = _down(tensor, base_filters * 8, 1, True, "discriminator3")
    tensor = keras.layers.ZeroPadding2D(name="pad4")(tensor)
    tensor = keras.layers.Conv2D(
        1, 4, kernel_initializer=_initializer(), name="discriminator4_conv"
    )(tensor)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(tensor)
    return keras.Model(inputs, logits, name="discriminator")


@keras.saving.register_keras_serializable(package="lungseg_utils")
class Pix2Pix(keras.Model):
    """A generator of masks that trains against a discriminator.

    Takes X-rays, float32 (N, H, W, 1) in [0, 1], and returns the probability of lung, float32
    (N, H, W, 1) in [0, 1]; both networks inside work on [-1, 1], and so does the L1 distance.

    Compile it with one optimizer, the paper's being Adam(2e-4, beta_1=0.5), and without a loss.
    As Adam keeps its state per variable, and no variable gets gradients from both networks'
    losses, this equals the paper's two optimizers. (Clipping by the global norm would tie the two
    together.) The logs' "loss" is the sum of both, which says little: watch a metric.

    Args:
        generator: From `build_generator`.
        discriminator: From `build_discriminator`, for the same size.
        l1_weight: Weight of the L1 distance against the adversarial loss; the paper's lambda.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        l1_weight: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(l1_weight, bool) or not isinstance(l1_weight, int | float) or l1_weight < 0:
            raise InvalidValueError(
                "l1_weight must be a number of at least 0.", repr(l1_weight), "The paper's is 100."
            )
        self.generator = generator
        self.discriminator = discriminator
        self.l1_weight = float(l1_weight)
        self.adversarial_tracker = keras.metrics.Mean(name="generator_adversarial")
        self.l1_tracker = keras.metrics.Mean(name="l1")
        self.discriminator_tracker = keras.metrics.Mean(name="discriminator")
        self._batch_mean = _BatchMean(name="batch_mean")
        self.built = True  # as both networks are: weights can be saved and loaded at once

    def call(self, inputs: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        """Return the probability of lung; dropout is on in training only."""
        return (self.generator(_to_signed(inputs), training=training) + 1.0) / 2.0

    def compute_loss(
        self,
        x: keras.KerasTensor = None,
        y: keras.KerasTensor = None,
        y_pred: keras.KerasTensor = None,
        sample_weight: keras.KerasTensor | None = None,
        training: bool = True,
    ) -> keras.KerasTensor:
        """Return the sum of the generator's and the discriminator's loss.

        The discriminator's term cannot reach the generator, which made the mask it sees; the
        generator's term cannot reach the discriminator, whose variables are held constant.

        Raises:
            InvalidValueError: The model was compiled with a loss.
        """
        if getattr(self, "loss", None) is not None:
            raise InvalidValueError(
                "Pix2Pix has its own loss.",
                f"loss={self.loss!r}",
                "Compile it without a loss, and set l1_weight instead.",
            )
        image, truth, made = _to_signed(x), _to_signed(y), _to_signed(y_pred)
        verdict_on_truth = self.discriminator([image, truth], training=training)
        verdict_on_made = self.discriminator([image, ops.stop_gradient(made)], training=training)
        # Halved in the paper, to slow the discriminator down against the generator.
        discriminator = 0.5 * (
            _cross_entropy(verdict_on_truth, True) + _cross_entropy(verdict_on_made, False)
        )
        adversarial = _cross_entropy(self._fixed_verdict(image, made, training), True)
        l1 = ops.mean(ops.abs(truth - made), axis=(1, 2, 3))
        self.adversarial_tracker.update_state(adversarial, sample_weight)
        self.l1_tracker.update_state(l1, sample_weight)
        self.discriminator_tracker.update_state(discriminator, sample_weight)
        total = adversarial + self.l1_weight * l1 + discriminator
        return self._batch_mean(total, total, sample_weight)

    def get_config(self) -> dict:
        """Return the constructor's arguments, both networks serialised."""
        return {
            **super().get_config(),
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "l1_weight": self.l1_weight,
        }

    @classmethod
    def from_config(cls, config: dict) -> Pix2Pix:
        """Rebuild a model from what `get_config` returned."""
        networks = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("generator", "discriminator")
        }
        return cls(**{**config, **networks})

    def _fixed_verdict(
        self, image: keras.KerasTensor, candidate: keras.KerasTensor, training: bool
    ) -> keras.KerasTensor:
        constants = [ops.stop_gradient(v.value) for v in self.discriminator.trainable_variables]
        state = [v.value for v in self.discriminator.non_trainable_variables]
        verdict, _ = self.discriminator.stateless_call(
            constants, state, [image, candidate], training=training
        )
        return verdict


def build_pix2pix(
    size: int = 256,
    base_filters: int = 64,
    discriminator_filters: int = 64,
    l1_weight: float = 100.0,
    depth: int | None = None,
    encoder: str = "plain",
    encoder_weights: str | os.PathLike | None = None,
) -> Pix2Pix:
    """Build Pix2Pix: a generator, and the discriminator it trains against.

    Args:
        size: Height and width of the input in pixels, a multiple of 16, at least 32.
        base_filters: Filters of the generator's first block.
        discriminator_filters: Filters of the discriminator's first block.
        l1_weight: Weight of the L1 distance in the generator's loss.
        depth: How often the generator halves its input; None: as often as it can.
        encoder: The generator's, as in `build_generator`.
        encoder_weights: As in `build_unet`.

    Returns:
        A model: float32 (N, size, size, 1) in [0, 1] to probability, float32 (N, size, size, 1).

    Raises:
        InvalidValueError: A parameter is out of its range.
    """
    blocks.check_size(size, 2**FEWEST_LEVELS, smallest=32)
    blocks.check_count("discriminator_filters", discriminator_filters)
    return Pix2Pix(
        build_generator(size, base_filters, depth, encoder, encoder_weights),
        build_discriminator(size, discriminator_filters),
        l1_weight,
        name="pix2pix",
    )


class _BatchMean(keras.losses.Loss):
    """Averages losses per image as Keras averages its own, also over several devices."""

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        del y_true
        return y_pred


def _down(
    tensor: keras.KerasTensor, filters: int, strides: int, normalised: bool, name: str
) -> keras.KerasTensor:
    tensor = keras.layers.Conv2D(
        filters,
        4,
        strides=strides,
        padding="same" if strides == 2 else "valid",
        # A bias before a normalisation would be subtracted again.
        use_bias=not normalised,
        kernel_initializer=_initializer(),
        name=f"{name}_conv",
    )(tensor)
    if normalised:
        tensor = blocks.normalisation_layer("instance", 0.0, f"{name}_norm")(tensor)
    # The leaky ReLU. As a layer, it makes TensorFlow's graph optimiser print an error on CPUs.
    return ops.maximum(tensor, 0.2 * tensor)


def _up(tensor: keras.KerasTensor, filters: int, dropout: float, name: str) -> keras.KerasTensor:
    tensor = keras.layers.Conv2DTranspose(
        filters,
        4,
        strides=2,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{name}_conv",
    )(tensor)
    tensor = blocks.normalisation_layer("instance", 0.0, f"{name}_norm")(tensor)
    if dropout:
        tensor = keras.layers.Dropout(dropout, name=f"{name}_dropout")(tensor)
    return keras.layers.ReLU(name=f"{name}_relu")(tensor)


def _initializer() -> keras.Initializer:
    # A new one for every layer: Keras gives the same numbers whenever one is used again.
    return keras.initializers.RandomNormal(0.0, 0.02)


def _to_signed(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return 2.0 * ops.cast(tensor, "float32") - 1.0


def _cross_entropy(logits: keras.KerasTensor, truth: bool) -> keras.KerasTensor:
    # -log(sigmoid(l)) is softplus(-l), and -log(1 - sigmoid(l)) is softplus(l).
    return ops.mean(ops.softplus(-logits if truth else logits), axis=(1, 2, 3))
