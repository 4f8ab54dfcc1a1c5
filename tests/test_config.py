from __future__ import annotations

import json

import keras
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.training import devices
from lungseg_utils.training.config import TrainingConfig


def test_configuration_survives_json():
    config = TrainingConfig(
        model="unetpp",
        model_options={"base_filters": 8},
        augmentation=Augmentation(rotation=3.0),
        preprocessing=Preprocessing(clahe=True, normalise="percentile"),
    )

    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mixup", 0.2),
        ("model", "vnet"),
        ("loss", "Dice"),
        ("optimizer", "sgd"),
        ("schedule", "step"),
        ("precision", "float64"),
        ("distribute", "all"),
        ("epochs", 0),
        ("half_size_epochs", -1),
        ("batch_size", 2.0),
        ("patience", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("half_size_learning_rate", float("nan")),
        ("weight_decay", -1e-4),
        ("beta_1", 1.0),
    ],
)
def test_an_unknown_name_or_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(LungsegError, match=name):
        TrainingConfig.from_dict({name: value})


def test_an_odd_size_has_no_half():
    with pytest.raises(LungsegError, match="size 255 with half_size_epochs 3"):
        TrainingConfig(size=255, half_size_epochs=3)


@pytest.fixture
def gpu(monkeypatch):
    def pretend(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(devices, "list_gpus", lambda: ["a GPU"])
        monkeypatch.setattr(devices, "_compute_capability", lambda: capability)

    return pretend


@pytest.mark.parametrize(
    ("capability", "policy"),
    [((7, 5), "mixed_float16"), ((8, 0), "mixed_bfloat16"), ((9, 0), "mixed_bfloat16")],
    ids=["T4", "A100", "H100"],
)
def test_precision_follows_what_the_gpu_has_natively(gpu, capability, policy):
    gpu(capability)

    assert devices.resolve_precision("auto") == policy
    assert devices.resolve_precision("float32") == "float32"


def test_without_a_gpu_it_says_so_and_stays_exact(monkeypatch):
    monkeypatch.setattr(devices, "list_gpus", list)

    assert devices.resolve_precision("auto") == "float32"
    assert "No GPU found" in devices.describe_device()
    assert "T4" in devices.describe_device()


def test_dtype_policy_is_restored_after_an_error():
    with pytest.raises(RuntimeError), devices.dtype_policy("mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise RuntimeError

    assert keras.config.dtype_policy().name == "float32"


def test_mirrored_training_needs_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    with pytest.raises(LungsegError, match="jax"):
        devices.distribution_scope("mirrored")
