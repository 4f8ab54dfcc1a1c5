"""Networks as ONNX files, which ONNX Runtime runs without Keras.

Some travel with the package, and are verified before they are loaded;
`python -m tools.ship_weights` puts them there. Their terms are in `weights/LICENSE`: for research,
not for commercial use, no medical device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import require_record, write_atomically
from lungseg_utils.models.registry import NETWORKS
from lungseg_utils.preparation.imaging import to_model_input
from lungseg_utils.segment.quality import Quality
from lungseg_utils.training.config import TrainingConfig

if TYPE_CHECKING:
    import keras
    import onnxruntime

    from lungseg_utils.training.runs import Run

# float32 (N, size, size, 1) in [0, 1] to a probability of the same shape.
Predictor = Callable[[np.ndarray], np.ndarray]

# Trained on the one source alone, scored on all masks of the other; in a checkout only.
CROSS_SET = {"unet-shenzhen": "montgomery", "unet-montgomery": "shenzhen"}
SHIPPED = (*NETWORKS, *CROSS_SET)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
INDEX = "weights.json"
QUALITY = "quality.npz"
_INSTALL_AGAIN = "Install lungseg_utils again, or restore its folder `weights` from the repository."
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


def load_shipped(name: str, folder: Path | str = WEIGHTS) -> ExportedRun:
    """Read a shipped network, once its SHA-256 is that of `weights.json`.

    Args:
        name: One of `SHIPPED`.
        folder: Where `weights.json` and the files it names lie.

    Raises:
        MissingInputError: No weights of this name are there.
        LungsegError: The name is unknown, or the file is truncated or altered.
    """
    check_shipped_name(name)
    folder = Path(folder)
    record, path = read_shipped_index(folder).get(name), folder / f"{name}.onnx"
    if record is None or not path.is_file():
        raise MissingInputError(
            f"Shipped weights are a file and an entry in {INDEX}.",
            f"no {'entry for ' + name if record is None else path.name} in {folder}",
            "This network is part of a checkout only." if name in CROSS_SET else _INSTALL_AGAIN,
        )
    # What is verified is what is used: the file is read only once.
    content = path.read_bytes()
    try:
        if (found := hashlib.sha256(content).hexdigest()) != record["sha256"]:
            raise ValueError(f"SHA-256 {found} of {len(content):,} bytes, not {record['sha256']}")
        return ExportedRun(name, TrainingConfig.from_dict(record["config"]), record, content)
    except (ValueError, KeyError) as error:
        raise LungsegError(
            f"Shipped weights are those that {INDEX} describes.",
            f"{path} ({error!r})",
            _INSTALL_AGAIN,
        ) from error


def load_quality(folder: Path | str = WEIGHTS) -> Quality:
    """Read what tells how far masks of the shipped networks can be trusted.

    Raises:
        MissingInputError: It is not there.
        LungsegError: It is damaged, or was fitted for other weights than those beside it.
    """
    path = Path(folder) / QUALITY
    rule = f"{QUALITY} is whole, and was fitted for the networks that {INDEX} describes."
    if not path.is_file():
        raise MissingInputError(rule, f"no {path}", _INSTALL_AGAIN)
    try:
        quality = Quality.from_bytes(path.read_bytes())
    except ValueError as error:
        raise LungsegError(rule, f"{path} ({error})", _INSTALL_AGAIN) from error
    index = read_shipped_index(Path(folder))
    if quality.networks != {name: index[name]["sha256"] for name in NETWORKS}:
        advice = "Run `python -m benchmarks.quality --fit` after other weights were shipped."
        raise LungsegError(rule, f"{path} is for others", advice)
    return quality


def read_shipped_index(folder: Path) -> dict[str, dict]:
    """The entries of `weights.json` by name; none where the folder has no such file.

    Raises:
        LungsegError: It is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    return require_record(path, (), f"{INDEX} is whole, as it was shipped.", _INSTALL_AGAIN)


def check_shipped_name(name: str) -> None:
    """Refuse a name that is not one of `SHIPPED`."""
    if name not in SHIPPED:
        raise LungsegError(
            f"Shipped weights are {', '.join(SHIPPED)}.",
            repr(name),
            "Correct the name; a network of yours is loaded by its run's folder.",
        )


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
