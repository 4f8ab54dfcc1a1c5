"""Networks as ONNX files, which ONNX Runtime runs without Keras."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import write_atomically
from lungseg_utils.preparation.imaging import to_model_input
from lungseg_utils.training.config import TrainingConfig

if TYPE_CHECKING:
    import keras
    import onnxruntime

    from lungseg_utils.training.runs import Run

# float32 (N, size, size, 1) in [0, 1] to a probability of the same shape.
Predictor = Callable[[np.ndarray], np.ndarray]

_CONFIG = "training_config"
_WHOLE = "A network's file is whole, as export_onnx wrote it."
_EXPORT_AGAIN = "Export it again from its run, with export_onnx."


@dataclass(frozen=True)
class ExportedRun:
    """A run of which only the network is left; stands in for `Run` where masks are predicted.

    Args:
        name: The run's, or one of `SHIPPED`.
        config: What the run was trained with.
        record: What is known of the training; for shipped weights, their entry in `weights.json`.
        content: The bytes of the ONNX file.
    """

    name: str
    config: TrainingConfig
    record: dict
    content: bytes = field(repr=False, compare=False)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by their Keras variables' paths, float16 or float32; needs `onnx`."""
        from lungseg_utils.models.onnx_graph import keras_weights

        return keras_weights(self.content)

    def load_model(self) -> keras.Model:
        """Build the run's Keras network and give it the weights, to train it on or look inside.

        Returns:
            A model: float32 `(N, size, size, 1)` in [0, 1] to a probability of the same shape.
            Of Pix2Pix only the generator is trained; the discriminator predicts nothing.

        Raises:
            LungsegError: The weights are of another architecture; names the first that differs.
        """
        from lungseg_utils.models.registry import build_architecture
        from lungseg_utils.training.weights import assign_weights

        config = self.config
        model = build_architecture(config.model, config.size, config.model_options)
        try:
            assign_weights(predicting_part(model), self.arrays)
        except ValueError as error:
            raise LungsegError(_WHOLE, f"{self.name}: {error}", _EXPORT_AGAIN) from error
        return model

    def load_predictor(self, threads: int = 0) -> Predictor:
        """Open the network in ONNX Runtime, on a GPU where its package for GPUs is installed.

        Args:
            threads: Of one call; 0 for all cores. Calls may come from several threads.

        Raises:
            LungsegError: The file is damaged.
        """
        session = _open(self.content, self.name, threads)
        return lambda inputs: session.run(None, {"image": inputs})[0]


def export_onnx(run: Run, path: Path | str) -> Path:
    """Write a run's best weights as an ONNX file, which `Segmenter.load` opens without Keras.

    Kernels are kept in half precision. Of Pix2Pix only the generator is in it.

    Args:
        run: A trained run, from `load_run`.
        path: The `.onnx` file: `image` float32 `(N, size, size, 1)` in [0, 1] to `probability` of
            the same shape, for any program that runs ONNX.

    Returns:
        The path.

    Raises:
        LungsegError: The run's weights are damaged, or not finite in half precision.
        StorageError: The disk is full or read-only.
    """
    content = onnx_content(run)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def onnx_content(run: Run) -> bytes:
    """The bytes of the file that `export_onnx` writes."""
    from lungseg_utils.models.onnx_graph import to_onnx

    described = {_CONFIG: json.dumps(run.config.to_dict(), sort_keys=True)}
    return to_onnx(run.load_model(), run.config.size, described).SerializeToString()


def load_onnx(path: Path | str) -> ExportedRun:
    """Open a network that `export_onnx` wrote.

    Raises:
        MissingInputError: There is no such file.
        LungsegError: It is damaged, or was written by something else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError("A network is a file.", f"no {path}", "Correct the path.")
    content = path.read_bytes()
    described = _open(content, str(path), 1).get_modelmeta().custom_metadata_map
    try:
        config = TrainingConfig.from_dict(json.loads(described[_CONFIG]))
    except (ValueError, KeyError, TypeError) as error:
        raise LungsegError(_WHOLE, f"{path} ({error!r})", _EXPORT_AGAIN) from error
    return ExportedRun(path.stem, config, {}, content)


def predict_images(run: Run | ExportedRun, predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """Probabilities of a batch of images at the run's size.

    Args:
        run: Gives the preprocessing.
        predictor: What `run.load_predictor()` returned.
        images: uint8 `(N, size, size)` grey.

    Returns:
        float32 `(N, size, size)` in [0, 1].

    Raises:
        MemoryExhaustedError: The batch does not fit; says what to lower.
    """
    return predictor(to_model_input(run.config.preprocessing.apply_all(np.asarray(images))))[..., 0]


def predicting_part(model: keras.Model) -> keras.Model:
    """The part of a network that makes masks: of Pix2Pix the generator, else all of it."""
    return getattr(model, "generator", model)


def _open(content: bytes, name: str, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        error.add_note("Networks are run by ONNX Runtime: `pip install onnxruntime`.")
        raise
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers: list[object] = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # TensorFloat-32 would keep 10 bits of a number.
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    try:
        return onnxruntime.InferenceSession(content, options, providers)
    except Exception as error:  # ONNX Runtime has a dozen of its own
        reason = str(error).splitlines()[0][:200]
        raise LungsegError(_WHOLE, f"{name} ({reason})", _EXPORT_AGAIN) from error
