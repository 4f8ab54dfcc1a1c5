"""The networks on the two sets: the test images, and each set by a network of the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.figures import differences_of, figures_of
from lungseg_utils.bundle import Pairing, pair_bundle
from lungseg_utils.errors import LungsegError, compress_ranges
from lungseg_utils.evaluation.networks import Network, made_with
from lungseg_utils.preparation.arrays import data_digest, prepare
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.shipped import CROSS_SET, NETWORKS
from lungseg_utils.workspace import Workspace

SCORED_SIZE = 512
REFERENCE = "unet"


def pair_whole_bundle(folder: Path | str) -> Pairing:
    """Pair a bundle that holds every case with a mask.

    Raises:
        MissingInputError: There is no bundle in the folder.
        LungsegError: An X-ray or a mask is missing, so that the figures would be of other cases.
    """
    pairing = pair_bundle(folder)
    missing = sorted(pairing.missing_images + pairing.missing_masks)
    if missing:
        raise LungsegError(
            "A benchmark needs every X-ray of the manifest, and every mask it names.",
            f"{len(missing)} missing in {folder}: {', '.join(compress_ranges(missing))}",
            "Fetch the whole bundle: the folder with CXR_png and masks.",
        )
    return pairing


def score_bundle(
    pairing: Pairing, workspace: Workspace, networks: Mapping[str, Network]
) -> tuple[dict[str, object], pd.DataFrame]:
    """Score the networks on the bundle.

    Args:
        pairing: From `pair_whole_bundle`.
        workspace: Holds the prepared arrays; those of other files are replaced.
        networks: `NETWORKS` and those of `CROSS_SET`.

    Returns:
        `figures`: `test` and `cross` as of `figures_of`, `differences` as of `differences_of`;
        `made_with`. And the rows of `score_run` that they come from.
    """
    sizes = sorted({SCORED_SIZE, *(network.size for network in networks.values())})
    prepared = {size: prepare(pairing, workspace, size, overwrite=True) for size in sizes}
    _check_complete(pairing, prepared)
    test = np.flatnonzero(prepared[SCORED_SIZE].index["split"] == "test")
    scores = pd.concat([_score(networks[name], prepared, test) for name in NETWORKS])
    cross = {
        name: _score(networks[name], prepared, _masked(prepared, source))
        for name, source in CROSS_SET.items()
    }
    figures = {
        "test": figures_of(scores),
        "differences": differences_of(scores, REFERENCE),
        "cross": {name: {"all": figures_of(rows)[name]["all"]} for name, rows in cross.items()},
    }
    part = {
        "figures": figures,
        "made_with": made_with(networks, data_digest(workspace, SCORED_SIZE)),
    }
    return part, pd.concat([scores, *cross.values()], ignore_index=True)


def _check_complete(pairing: Pairing, prepared: Mapping[int, Cases]) -> None:
    wanted = {pair.case.image_id for pair in (*pairing.pairs, *pairing.unlabelled)}
    lacking = sorted(wanted - set.intersection(*(set(cases.ids) for cases in prepared.values())))
    if lacking:
        raise LungsegError(
            "A benchmark scores every case of the bundle.",
            f"{len(lacking)} left out while preparing: {', '.join(compress_ranges(lacking))}",
            "Fetch their X-rays and masks again; what is wrong with each is printed above.",
        )


def _score(network: Network, prepared: Mapping[int, Cases], rows: np.ndarray) -> pd.DataFrame:
    # All sizes are of the same pairing, so that a row is the same case in each.
    return network.score(prepared[network.size].images[rows], prepared[SCORED_SIZE].take(rows))


def _masked(prepared: Mapping[int, Cases], source: str) -> np.ndarray:
    index = prepared[SCORED_SIZE].index
    return np.flatnonzero((index["source"] == source) & (index["has_mask"] == 1))
