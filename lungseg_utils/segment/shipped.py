"""Weights that travel with the package: exported from a run, verified before they are loaded.

`python -m lungseg_utils.segment.shipped RUN_FOLDER NAME` exports a finished run. The terms of the
weights are in `weights/LICENSE`: for research, not for commercial use, no medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import differing, read_json, write_atomically, write_json
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import RECORD, Run, load_run

if TYPE_CHECKING:
    import keras

NETWORKS = ("unet", "unetpp", "pix2pix")
# Trained on the one source alone, scored on all masks of the other.
CROSS_SET = {"unet-shenzhen": "montgomery", "unet-montgomery": "shenzhen"}
SHIPPED = (*NETWORKS, *CROSS_SET)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
INDEX = "weights.json"
LIMIT = 10_000_000  # bytes a file
# What a run's record says about where the weights come from.
_ORIGIN = (
    "data",
    "sources",
    "best_epoch",
    "epochs_run",
    "best_val_dice",
    "training_seconds",
    "versions",
    "backend",
    "dtype_policy",
    "git_commit",
)
_LARGEST_RATIO = 100  # of unpacked to packed: weights hardly get smaller
# A first stage, and epochs added after the training had ended.
_IF_ANY = ("half_size", "epochs_raised_after")
_INSTALL_AGAIN = "Install lungseg_utils again, or restore its folder `weights` from the repository."


@dataclass(frozen=True)
class ShippedRun:
    """A run of which only the weights are left; stands in for `Run` where masks are predicted.

    Args:
        name: One of `SHIPPED`.
        config: What the run was trained with.
        record: The run's entry in `weights.json`.
        arrays: The weights by their variables' paths, float16 or float32.
    """

    name: str
    config: TrainingConfig
    record: dict
    arrays: Mapping[str, np.ndarray] = field(repr=False, compare=False)

    def load_model(self) -> keras.Model:
        """Build the run's network and give it the weights.

        Returns:
            A model: float32 `(N, size, size, 1)` in [0, 1] to a probability of the same shape.
            Of Pix2Pix only the generator is trained; the discriminator predicts nothing.

        Raises:
            LungsegError: The weights are of another architecture; names the first that differs.
        """
        from lungseg_utils.models.registry import build_architecture

        config = self.config
        model = build_architecture(config.model, config.size, config.model_options)
        variables = {variable.path: variable for variable in _predicting(model).weights}
        stored = {path: list(array.shape) for path, array in self.arrays.items()}
        wanted = {path: list(variable.shape) for path, variable in variables.items()}
        for path, (found, expected) in differing(stored, wanted).items():
            raise LungsegError(
                f"Shipped weights fit the network that {INDEX} describes.",
                f"{self.name}: {path} is {found} in the file, {expected} in the network",
                _INSTALL_AGAIN,
            )
        for path, variable in variables.items():
            variable.assign(self.arrays[path].astype(np.float32))
        return model


def load_shipped(name: str, folder: Path | str = WEIGHTS) -> ShippedRun:
    """Read shipped weights, once their SHA-256 is that of `weights.json`.

    Args:
        name: One of `SHIPPED`.
        folder: Where `weights.json` and the files it names lie.

    Raises:
        MissingInputError: No weights of this name are there.
        LungsegError: The name is unknown, or the file is truncated, altered or no plain arrays.
    """
    _check_name(name)
    folder = Path(folder)
    record, path = _read_index(folder).get(name), _file(name, folder)
    if record is None or not path.is_file():
        raise MissingInputError(
            f"Shipped weights are a file and an entry in {INDEX}.",
            f"no {'entry for ' + name if record is None else path.name} in {folder}",
            _INSTALL_AGAIN,
        )
    # What is verified is what is read: the file is opened only once.
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != record["sha256"]:
        raise LungsegError(
            f"Shipped weights have the SHA-256 that {INDEX} names.",
            f"{path}: {found} of {len(content)} bytes, not {record['sha256']} of {record['bytes']}",
            _INSTALL_AGAIN,
        )
    return ShippedRun(
        name, TrainingConfig.from_dict(record["config"]), record, _unpack(content, path)
    )


def ship(run: Run, name: str, folder: Path | str = WEIGHTS, limit: int = LIMIT) -> Path:
    """Export a finished run's best weights, replacing those of the same name.

    Kernels are kept in half precision; biases and what normalisations learnt stay in float32. Of
    Pix2Pix only the generator is kept.

    Args:
        run: A finished run of the network that the name begins with.
        name: One of `SHIPPED`.
        folder: Gets `<name>.npz`, and the entry of this name in `weights.json`.
        limit: The most bytes that the file may have.

    Returns:
        `<name>.npz`.

    Raises:
        LungsegError: The name is unknown or of another network, the run is not finished, or its
            weights do not fit into half precision or into the limit. Nothing is written then.
    """
    _check_name(name)
    _check_run(run, name)
    arrays = _stored_arrays(_predicting(run.load_model()), name)
    content = _pack(arrays)
    if len(content) > limit:
        raise LungsegError(
            f"A file of shipped weights has at most {limit:,} bytes.",
            f"{len(content):,} bytes for {name}",
            "Train a smaller network, with fewer BASE_FILTERS or less DEPTH.",
        )
    path = _file(name, Path(folder))
    entry = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "parameters": sum(array.size for array in arrays.values()),
        "config": run.config.to_dict(),
        **{key: run.record[key] for key in (*_ORIGIN, *_IF_ANY) if key in run.record},
    }
    index = _read_index(path.parent) | {name: entry}
    # The index comes last: weights that it does not name yet are refused, never taken for others.
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    write_json(path.parent / INDEX, {key: index[key] for key in SHIPPED if key in index})
    return path


def _predicting(model: keras.Model) -> keras.Model:
    """The part of a network that makes masks: of Pix2Pix the generator, else all of it."""
    return getattr(model, "generator", model)


def _stored_arrays(model: keras.Model, name: str) -> dict[str, np.ndarray]:
    import keras

    arrays = {}
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable).astype(np.float32)
        with np.errstate(over="ignore"):
            kept = value if value.ndim < 2 else value.astype(np.float16)
        if not np.isfinite(kept).all():
            raise LungsegError(
                "Shipped weights are finite in half precision, which ends at 65,504.",
                f"{name}: {variable.path} reaches {np.abs(value).max()}",
                "Train the network again; weights so large are no result.",
            )
        arrays[variable.path] = kept
    return arrays


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(content: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        # Without pickles: a file of arrays runs no code.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            size = sum(entry.file_size for entry in arrays.zip.infolist())
            if size > _LARGEST_RATIO * len(content):
                raise ValueError(f"it would unpack to {size:,} bytes")
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise LungsegError(
            "Shipped weights are a whole .npz file of plain arrays.",
            f"{path} ({error})",
            _INSTALL_AGAIN,
        ) from error


def _read_index(folder: Path) -> dict:
    path = folder / INDEX
    try:
        index = read_json(path) if path.is_file() else {}
        _check_index(index)
    except (ValueError, TypeError, AttributeError) as error:
        raise LungsegError(
            f"{INDEX} is whole, as `ship` wrote it.", f"{path} ({error})", _INSTALL_AGAIN
        ) from error
    return index


def _check_index(index: dict) -> None:
    for name, entry in index.items():
        if missing := {"sha256", "bytes", "config"} - set(entry):
            raise ValueError(f"{name} without {', '.join(sorted(missing))}")


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name}.npz"


def _check_name(name: str) -> None:
    if name not in SHIPPED:
        raise LungsegError(
            f"Shipped weights are {', '.join(SHIPPED)}.",
            repr(name),
            "Correct the name; a network of yours is loaded by its run's folder.",
        )


def _check_run(run: Run, name: str) -> None:
    model = name.partition("-")[0]
    if run.config.model != model:
        raise LungsegError(
            f"The weights called {name} are of a {model}.",
            f"{run.folder}, a {run.config.model}",
            "Choose the name that begins with the run's network.",
        )
    if missing := [key for key in _ORIGIN if key not in run.record]:
        raise LungsegError(
            "Only a finished run is shipped, as its record must say how it was made.",
            f"{run.folder / RECORD} without {', '.join(missing)}",
            "Let the training end first.",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, or 2 when the run was refused.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lungseg_utils.segment.shipped",
        description="Ship a finished run's best weights.",
    )
    parser.add_argument("run", metavar="RUN_FOLDER", help="runs/<name> of a workspace")
    parser.add_argument("name", metavar="NAME", help=", ".join(SHIPPED))
    options = parser.parse_args(arguments)
    try:
        path = ship(load_run(options.run), options.name)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
