"""U-Net++ (Zhou et al. 2018, arXiv 1807.10165; 2019, arXiv 1912.05074)."""

from __future__ import annotations

import os

import keras
from keras import ops

from lungseg_utils.errors import DownloadError, InvalidValueError
from lungseg_utils.models import blocks
from lungseg_utils.models.efficientnet import lite0_levels

# The last layer of each level of VGG16 (Simonyan and Zisserman 2014, arXiv 1409.1556).
VGG16_LEVELS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
# The mean of ImageNet in VGG16's own channel order (blue, green, red), on the scale 0 to 255.
IMAGENET_MEAN = (103.939, 116.779, 123.68)


@keras.saving.register_keras_serializable(package="lungseg_utils")
class DeeplySupervised(keras.Model):
    """A network with several heads: each is trained, and their mean is the prediction.

    Made like a functional model, `DeeplySupervised(inputs, heads)`, with the heads' probabilities
    stacked on the last axis: float32 (N, H, W, heads). In training, the call returns the heads and
    the loss is the mean of the heads' losses; otherwise the call returns the heads' mean, float32
    (N, H, W, 1), and loss and metrics are those of the mean.
    """

    def call(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Return the heads in training, (N, H, W, heads), and else their mean, (N, H, W, 1)."""
        heads = super().call(inputs, training=training, mask=mask)
        return heads if training else _mean_of_heads(heads)

    def compute_output_spec(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Return the shape and dtype of what `call` returns."""
        heads = super().compute_output_spec(inputs, training=training, mask=mask)
        return heads if training else keras.KerasTensor((*heads.shape[:-1], 1), heads.dtype)

    def compute_loss(
        self,
        x: keras.KerasTensor = None,
        y: keras.KerasTensor = None,
        y_pred: keras.KerasTensor = None,
        sample_weight: keras.KerasTensor | None = None,
        training: bool = True,
    ) -> keras.KerasTensor:
        """Return the compiled loss, averaged over the heads of `y_pred`, (N, H, W, heads)."""
        losses = [
            super(DeeplySupervised, self).compute_loss(x, y, head, sample_weight, training)
            for head in ops.split(y_pred, y_pred.shape[-1], axis=-1)
        ]
        return sum(losses) / len(losses)

    def compute_metrics(
        self,
        x: keras.KerasTensor,
        y: keras.KerasTensor,
        y_pred: keras.KerasTensor,
        sample_weight: keras.KerasTensor | None = None,
    ) -> dict:
        """Return the metrics of the heads' mean."""
        return super().compute_metrics(x, y, _mean_of_heads(y_pred), sample_weight)


def build_unetpp(
    size: int = 512,
    base_filters: int = 32,
    depth: int = 4,
    normalisation: str = "batch",
    deep_supervision: bool = True,
    encoder: str = "plain",
    encoder_weights: str | os.PathLike | None = None,
    batch_momentum: float = 0.9,
    patch_size: int = 1,
) -> keras.Model:
    """Build a U-Net++: a U-Net whose skip connections are dense convolution blocks.

    Node (i, j) of the grid lies at level i, j steps from the encoder (j = 0). It reads all nodes
    before it at its level and the upsampled node (i + 1, j - 1). With 32 filters at the top, as in
    the paper, the network has 9.0 million parameters.

    Args:
        size: Height and width of the input in pixels, a multiple of patch_size * 2**depth.
        base_filters: Filters of the topmost level; every level below doubles them.
        depth: How often the input is halved; at most 4 with another encoder than "plain".
        normalisation: "none", "batch" or "instance", after every 3x3 convolution of the nodes; the
            other encoders keep what they have.
        deep_supervision: One head on every node of the topmost level, see `DeeplySupervised`;
            else one head on the last.
        encoder: "plain", or "vgg16" or "efficientnet-lite0", whose levels take the place of the
            first node of each level.
        encoder_weights: None (random), "imagenet" (for "vgg16" Keras downloads them, for
            "efficientnet-lite0" as in `build_unet`), or the path of a file: for "vgg16" in the
            layout in which Keras publishes them without the top.
        batch_momentum: How much of the running statistics each step keeps, for "batch".
        patch_size: As in `build_unet`; 1 with "vgg16", 2 with "efficientnet-lite0".

    Returns:
        A model: float32 (N, size, size, 1) in [0, 1] to probability, float32 (N, size, size, 1).

    Raises:
        InvalidValueError: A parameter is out of its range, or the file holds other weights.
        DownloadError: The ImageNet weights cannot be fetched.
    """
    blocks.check_levels(size, base_filters, depth, patch_size)
    blocks.check_normalisation(normalisation, batch_momentum)
    blocks.check_encoder(
        encoder, ("plain", *blocks.TRAINED_ENCODERS), encoder_weights, depth, patch_size
    )
    inputs = keras.Input((size, size, 1), name="image")

    def convolve(tensor: keras.KerasTensor, level: int, step: int) -> keras.KerasTensor:
        filters = base_filters * 2**level
        name = f"node{level}_{step}"
        return blocks.convolution_block(tensor, filters, normalisation, batch_momentum, name)

    if encoder == "vgg16":
        column = _vgg16_levels(inputs, depth, encoder_weights)
    elif encoder == "efficientnet-lite0":
        column = lite0_levels(inputs, depth, encoder_weights, batch_momentum)
    else:
        column = [convolve(blocks.patch_stem(inputs, base_filters, patch_size), 0, 0)]
        for level in range(1, depth + 1):
            halved = keras.layers.MaxPooling2D(name=f"down{level}")(column[-1])
            column.append(convolve(halved, level, 0))

    rows = [[node] for node in column]
    for step in range(1, depth + 1):
        for level in range(depth + 1 - step):
            below = rows[level + 1][step - 1]
            raised = blocks.upsample(below, base_filters * 2**level, f"up{level}_{step}")
            joined = keras.layers.Concatenate(name=f"skip{level}_{step}")([*rows[level], raised])
            rows[level].append(convolve(joined, level, step))

    if not deep_supervision:
        probability = blocks.probability_head(rows[0][-1], "head", patch_size)
        return keras.Model(inputs, probability, name="unetpp")
    heads = [
        blocks.probability_head(node, f"head{step}", patch_size)
        for step, node in enumerate(rows[0])
        if step
    ]
    if depth == 1:
        return DeeplySupervised(inputs, heads[0], name="unetpp")
    stacked = keras.layers.Concatenate(dtype="float32", name="heads")(heads)
    return DeeplySupervised(inputs, stacked, name="unetpp")


def _vgg16_levels(
    inputs: keras.KerasTensor, depth: int, weights: str | os.PathLike | None
) -> list[keras.KerasTensor]:
    # Grey gives three equal channels, so that turning them round to VGG16's order changes nothing.
    # In float32, as half precision would lose grey levels before the mean is taken off.
    colour = keras.layers.Concatenate(dtype="float32", name="grey_to_colour")([inputs] * 3)
    centred = keras.layers.Rescaling(
        255.0, [-mean for mean in IMAGENET_MEAN], dtype="float32", name="imagenet_mean"
    )(colour)
    vgg16 = _vgg16(centred, weights if weights is None else os.fspath(weights))
    return [vgg16.get_layer(name).output for name in VGG16_LEVELS[: depth + 1]]


def _vgg16(inputs: keras.KerasTensor, weights: str | None) -> keras.Model:
    try:
        return keras.applications.VGG16(include_top=False, weights=weights, input_tensor=inputs)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        if weights == "imagenet":
            raise DownloadError(
                "The ImageNet weights of VGG16 come from the internet.",
                error,
                "Check the connection, or pass the path of a downloaded file as encoder_weights.",
            ) from error
        if weights is None:
            raise
        raise InvalidValueError(
            "encoder_weights must be VGG16's without the top, as Keras publishes them.",
            f"{weights}: {error}",
            "Pass vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5, or 'imagenet'.",
        ) from error


def _mean_of_heads(heads: keras.KerasTensor) -> keras.KerasTensor:
    return ops.mean(heads, axis=-1, keepdims=True)
