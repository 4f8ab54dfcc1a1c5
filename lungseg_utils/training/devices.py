"""The hardware a run trains on: its GPUs, the precision that suits them, and memory that runs out.

Importing this takes no Keras, so that what only predicts is light until it does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lungseg_utils.errors import LungsegError, MemoryExhaustedError

# By name, since each backend has its own class and only one of them is installed.
_CLASSES = frozenset({"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"})
_WORDS = ("RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA out of memory")


def list_gpus() -> list[str]:
    """Names of the GPUs that Keras' backend can use; empty on a CPU."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details
        return [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if keras.backend.backend() == "jax":
        import jax

        try:
            return [device.device_kind for device in jax.devices("gpu")]
        except RuntimeError:  # no such platform, says JAX
            return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


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
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    if backend == "jax":
        import jax

        major, minor = str(jax.local_devices()[0].compute_capability).split(".")
        return int(major), int(minor)
    import torch

    return torch.cuda.get_device_capability()


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Build layers under a dtype policy and restore the former one afterwards."""
    import keras

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
    import keras

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


@contextlib.contextmanager
def explained_exhaustion(what: str, advice: str) -> Iterator[None]:
    """Turn what TensorFlow, JAX, PyTorch and Python raise when memory runs out into advice.

    Args:
        what: What did not fit, such as "A step of 16 images of 256 × 256 pixels".
        advice: Which parameters to lower, with their names.

    Raises:
        MemoryExhaustedError: In place of such an error, which is chained; any other goes through.
    """
    try:
        yield
    except LungsegError:
        raise
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        if not names & _CLASSES and not any(words in str(error) for words in _WORDS):
            raise
        # The libraries' messages list every buffer; the first line says what was asked for.
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        raise MemoryExhaustedError(
            f"{what} must fit into memory.", f"{type(error).__name__}: {first_line}", advice
        ) from error
