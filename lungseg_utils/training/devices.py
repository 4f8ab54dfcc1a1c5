"""The hardware a run trains on: which GPUs there are and which precision suits them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from lungseg_utils.errors import LungsegError


def list_gpus() -> list[str]:
    """Names of the GPUs that Keras' backend can use; empty on a CPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(device) for device in devices]
        return [
            detail.get("device_name", device.name)
            for device, detail in zip(devices, details, strict=True)
        ]
    return keras.distribution.list_devices("gpu")


def describe_device() -> str:
    """One line for people: the GPU in use, or that there is none and what that means."""
    gpus = list_gpus()
    if gpus:
        return f"Training on {len(gpus)} GPU(s): {', '.join(gpus)}."
    return (
        "No GPU found: going on with the CPU, which is many times slower. "
        "In Colab: Runtime > Change runtime type > T4 GPU."
    )


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy for a requested precision.

    Args:
        precision: `auto` or the name of a policy. The T4 and older GPUs (compute capability
            under 8.0) have no native bfloat16 and get `mixed_float16`.
    """
    if precision != "auto":
        return precision
    if not list_gpus():
        return "float32"
    return "mixed_bfloat16" if _compute_capability() >= (8, 0) else "mixed_float16"


def _compute_capability() -> tuple[int, int]:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        device = tf.config.list_physical_devices("GPU")[0]
        details = tf.config.experimental.get_device_details(device)
        return tuple(details.get("compute_capability", (0, 0)))
    if backend == "jax":
        import jax

        major, minor = str(jax.local_devices()[0].compute_capability).split(".")
        return int(major), int(minor)
    import torch

    return torch.cuda.get_device_capability()


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Build layers under a dtype policy and restore the former one afterwards."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def distribution_scope(distribute: str) -> contextlib.AbstractContextManager:
    """The scope to build and compile a model in.

    Args:
        distribute: `none`, or `mirrored` for a copy of the model on each GPU.

    Raises:
        LungsegError: `mirrored` with a backend other than TensorFlow.
    """
    if distribute == "none":
        return contextlib.nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise LungsegError(
            "DISTRIBUTE='mirrored' is TensorFlow's MirroredStrategy.",
            f"the Keras backend {keras.backend.backend()}",
            "Use the TensorFlow backend, or DISTRIBUTE='none'.",
        )
    import tensorflow as tf

    # Two logical CPU devices stand in for GPUs where there are none, so that it can be tried.
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices=names).scope()
