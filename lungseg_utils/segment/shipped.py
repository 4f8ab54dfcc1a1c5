"""Networks that travel with the package, verified before they are loaded.

`python -m tools.ship_weights` puts them there. Their terms are in `weights/LICENSE`: for research,
not for commercial use, no medical device.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import require_record
from lungseg_utils.models.registry import NETWORKS
from lungseg_utils.segment.network import ExportedRun
from lungseg_utils.training.config import TrainingConfig

# Trained on the one source alone, scored on all masks of the other; in a checkout only.
CROSS_SET = {"unet-shenzhen": "montgomery", "unet-montgomery": "shenzhen"}
SHIPPED = (*NETWORKS, *CROSS_SET)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
INDEX = "weights.json"
_INSTALL_AGAIN = "Install lungseg_utils again, or restore its folder `weights` from the repository."


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
