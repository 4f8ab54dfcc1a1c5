from __future__ import annotations

import keras
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.training import devices


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
