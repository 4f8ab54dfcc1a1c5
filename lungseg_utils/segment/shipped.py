"""Weights that travel with the package, verified before they are loaded.

`python -m tools.ship_weights` puts them there. Their terms are in `weights/LICENSE`: for research,
not for commercial use, no medical device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import require_record
from lungseg_utils.models.registry import NETWORKS, build_architecture
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.weights import assign_weights, read_weights

if TYPE_CHECKING:
    import keras

# Trained on the one source alone, scored on all masks of the other.
CROSS_SET = {"unet-shenzhen": "montgomery", "unet-montgomery": "shenzhen"}
SHIPPED = (*NETWORKS, *CROSS_SET)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
INDEX = "weights.json"
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
        config = self.config
        model = build_architecture(config.model, config.size, config.model_options)
        try:
            assign_weights(predicting_part(model), self.arrays)
        except ValueError as error:
            raise LungsegError(
                f"Shipped weights fit the network that {INDEX} describes.",
                f"{self.name}: {error}",
                _INSTALL_AGAIN,
            ) from error
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
    check_shipped_name(name)
    folder = Path(folder)
    record, path = read_shipped_index(folder).get(name), folder / f"{name}.npz"
    if record is None or not path.is_file():
        raise MissingInputError(
            f"Shipped weights are a file and an entry in {INDEX}.",
            f"no {'entry for ' + name if record is None else path.name} in {folder}",
            _INSTALL_AGAIN,
        )
    try:
        arrays = read_weights(path, record["sha256"])
        config = TrainingConfig.from_dict(record["config"])
    except (ValueError, KeyError) as error:
        raise LungsegError(
            f"Shipped weights are plain numbers, as {INDEX} describes them.",
            f"{path} ({error!r})",
            _INSTALL_AGAIN,
        ) from error
    return ShippedRun(name, config, record, arrays)


def predicting_part(model: keras.Model) -> keras.Model:
    """The part of a network that makes masks: of Pix2Pix the generator, else all of it."""
    return getattr(model, "generator", model)


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
