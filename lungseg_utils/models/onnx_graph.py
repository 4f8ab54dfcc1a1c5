"""A network as an ONNX graph that gives the same probabilities, with its weights under their names.

Keras' own export goes through TensorFlow and loses the names, from which the Keras weights can be
had again here. Only what the networks of this package are made of is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from lungseg_utils.errors import InvalidValueError

if TYPE_CHECKING:
    import onnx

# The oldest that has all that is needed, so that old runtimes and browsers read it.
_OPSET, _IR_VERSION = 17, 8
_ACTIVATIONS = {"linear": "Identity", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_ARITHMETIC = {
    "Multiply": "Mul",
    "Add": "Add",
    "Subtract": "Sub",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Maximum": "Max",
}
# Kernels lie as (H, W, in, out) in Keras, of transposed convolutions as (H, W, out, in), and the
# other way round in ONNX.
_TO_ONNX, _TO_KERAS = (3, 2, 0, 1), (2, 3, 1, 0)


def to_onnx(model: keras.Model, size: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Describe a network as an ONNX graph.

    Convolution kernels are stored in half precision and widened when the graph is loaded; all else
    is float32, and so is every computation.

    Args:
        model: A network of this package, built and loaded in float32.
        size: Height and width of its input in pixels.
        metadata: Kept in the file.

    Returns:
        `image` float32 (N, size, size, 1) in [0, 1] to `probability` float32 of the same shape.

    Raises:
        InvalidValueError: The network holds something that is not known here, or a kernel that is
            not finite in half precision.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    inputs = keras.Input((size, size, 1), name="image")
    flat = keras.Model(inputs, model.call(inputs, training=False))
    graph.transpose("image", "input", (0, 3, 1, 2))
    output = graph.add_model(flat, "input")
    graph.transpose(output, "probability", (0, 2, 3, 1))
    shape = ("N", size, size, 1)
    described = helper.make_graph(
        graph.nodes,
        model.name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        graph.initializers,
    )
    opset = [helper.make_opsetid("", _OPSET)]
    made = helper.make_model(
        described, opset_imports=opset, ir_version=_IR_VERSION, producer_name="lungseg_utils"
    )
    helper.set_model_props(made, dict(metadata))
    return made


def keras_weights(content: bytes) -> dict[str, np.ndarray]:
    """The weights in an ONNX file that `to_onnx` described, as Keras has them.

    Args:
        content: The file's bytes.

    Returns:
        Arrays by their variables' paths, float16 or float32.

    Raises:
        ValueError: The file is no ONNX file.
    """
    import onnx

    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # protobuf's own, which is no ValueError
        raise ValueError(f"no whole ONNX file: {error}") from error
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    # Without a slash: constants of the graph.
    return {
        path: array.transpose(_TO_KERAS) if array.ndim == 4 else array
        for path, array in arrays.items()
        if "/" in path
    }


class _Graph:
    """Nodes and weights, gathered as a Keras network's layers are gone through in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        # What a Keras tensor is called here; the tensors are kept, or their ids would be reused.
        self._names: dict[int, str] = {}
        self._kept: list[keras.KerasTensor] = []
        self._count = 0

    def add_model(self, model: keras.Model, name: str) -> str:
        """Add a functional network that reads the value `name`; returns its output's name."""
        stand_in = keras.Input(model.inputs[0].shape[1:])
        self._remember(stand_in, name)
        layers = {layer.name: layer for layer in model.layers}

        def call(operation: keras.Operation, *args: object, **kwargs: object) -> object:
            original = layers.get(operation.name, operation)
            output = operation(*args, **kwargs)
            values = keras.tree.flatten(args) + [
                value for key, value in kwargs.items() if key not in ("training", "mask")
            ]
            self._remember(output, self._add(original, values))
            return output

        cloned = keras.models.clone_model(model, input_tensors=stand_in, call_function=call)
        return self._names[id(cloned.outputs[0])]

    def transpose(self, source: str, target: str, axes: tuple[int, ...]) -> None:
        """Add the node that changes the order of axes."""
        self._node("Transpose", [source], target, perm=axes)

    def _remember(self, tensor: keras.KerasTensor, name: str) -> None:
        self._names[id(tensor)] = name
        self._kept.append(tensor)

    def _add(self, operation: keras.Operation, values: list[object]) -> str:
        kind = type(operation).__name__
        if isinstance(operation, keras.Model):
            return self.add_model(operation, self._names[id(values[0])])
        if kind in _ARITHMETIC:
            return self._node(_ARITHMETIC[kind], [self._operand(value) for value in values])
        inputs = [self._names[id(value)] for value in values if id(value) in self._names]
        adders: dict[str, Callable[..., str]] = {
            "Conv2D": self._convolution,
            "Conv2DTranspose": self._convolution,
            "DepthwiseConv2D": self._convolution,
            "BatchNormalization": self._normalisation,
            "GroupNormalization": self._normalisation,
            "Rescaling": self._rescaling,
            "Mean": lambda operation, name: self._node("ReduceMean", [name], axes=[1], keepdims=1),
            "MaxPooling2D": lambda operation, name: self._node(
                "MaxPool", [name], kernel_shape=operation.pool_size, strides=operation.strides
            ),
            "ReLU": self._relu,
            "Activation": lambda operation, name: self._activation(operation, name),
            "Concatenate": lambda operation, *names: self._node("Concat", names, axis=1),
            # None of these changes a prediction in float32.
            "Dropout": lambda operation, name: name,
            "Cast": lambda operation, name: name,
            "ConvertToTensor": lambda operation, name: name,
        }
        if kind not in adders:
            raise InvalidValueError(
                f"A network for export is made of {', '.join([*adders, *_ARITHMETIC])}.",
                f"{kind} ({operation.name})",
                "Export a network that this package has built.",
            )
        return adders[kind](operation, *inputs)

    def _convolution(self, layer: keras.layers.Layer, name: str) -> str:
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        kernel, groups = self._kernel(layer.kernel), 1
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            # Stored as every kernel, so that it is read back as every kernel.
            kernel, groups = (
                self._node("Transpose", [kernel], perm=(1, 0, 2, 3)),
                layer.input.shape[-1],
            )
        inputs = [name, kernel]
        if layer.use_bias:
            inputs.append(self._weight(layer.bias))
        made = self._node(
            "ConvTranspose" if transposed else "Conv",
            inputs,
            strides=layer.strides,
            group=groups,
            pads=_padding(layer, transposed),
        )
        return self._activation(layer, made)

    def _normalisation(self, layer: keras.layers.Layer, name: str) -> str:
        inputs = [name, self._weight(layer.gamma), self._weight(layer.beta)]
        if isinstance(layer, keras.layers.GroupNormalization):
            return self._node("InstanceNormalization", inputs, epsilon=layer.epsilon)
        inputs += [self._weight(layer.moving_mean), self._weight(layer.moving_variance)]
        return self._node("BatchNormalization", inputs, epsilon=layer.epsilon)

    def _rescaling(self, layer: keras.layers.Layer, name: str) -> str:
        scaled = self._node("Mul", [name, self._operand(layer.scale)])
        return self._node("Add", [scaled, self._operand(np.reshape(layer.offset, (-1, 1, 1)))])

    def _relu(self, layer: keras.layers.Layer, name: str) -> str:
        if layer.max_value is None:
            return self._node("Relu", [name])
        return self._node("Clip", [name, self._operand(0), self._operand(layer.max_value)])

    def _activation(self, layer: keras.layers.Layer, name: str) -> str:
        kind = _ACTIVATIONS[layer.activation.__name__]
        return name if kind == "Identity" else self._node(kind, [name])

    def _operand(self, value: object) -> str:
        if id(value) in self._names:
            return self._names[id(value)]
        return self._initializer(f"constant{len(self.initializers)}", np.float32(value))

    def _kernel(self, variable: keras.Variable) -> str:
        value = keras.ops.convert_to_numpy(variable).transpose(_TO_ONNX)
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise InvalidValueError(
                "Kernels are finite in half precision, which ends at 65,504.",
                f"{variable.path} reaches {np.abs(value).max()}",
                "Train the network again; weights so large are no result.",
            )
        stored = self._initializer(variable.path, half)
        return self._node("Cast", [stored], to=1)

    def _weight(self, variable: keras.Variable) -> str:
        return self._initializer(variable.path, keras.ops.convert_to_numpy(variable))

    def _initializer(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        from onnx import helper

        self._count += 1
        output = output or f"{kind}{self._count}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _padding(layer: keras.layers.Layer, transposed: bool) -> list[int]:
    """Zeros around the input, as TensorFlow's "same" adds them: the odd one at the end."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    height, width = (layer.output if transposed else layer.input).shape[1:3]
    before, after = [], []
    for length, kernel, stride in zip(
        (height, width), layer.kernel_size, layer.strides, strict=True
    ):
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]
