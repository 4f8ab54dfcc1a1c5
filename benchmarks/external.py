"""The networks on an external set: films with masks of the same names, at the films' own size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from benchmarks.figures import figures_of
from lungseg_utils.bundle import list_bundle_images
from lungseg_utils.errors import ImageFileError, LungsegError, MissingInputError, compress_ranges
from lungseg_utils.evaluation.networks import Network, made_with
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.files.records import digest_of, file_sha256
from lungseg_utils.manifest import Case
from lungseg_utils.preparation.cases import Cases, index_of
from lungseg_utils.preparation.imaging import read_image, read_mask, resize_image

IMAGE_FOLDER = "images"
MASK_FOLDER = "masks"


@dataclass(frozen=True)
class Film:
    """A film and its mask.

    Args:
        name: The two files' common name, without suffix.
        image: The film's file.
        mask: The mask's file.
    """

    name: str
    image: Path
    mask: Path

    def truth(self) -> np.ndarray:
        """The mask as read, uint8 {0, 1} (H, W)."""
        return read_mask(self.mask)


def find_films(folder: Path | str) -> list[Film]:
    """Find the films of an external set, sorted by name.

    Args:
        folder: Holds `images/` and `masks/`, whose files have the same names.

    Raises:
        MissingInputError: A folder is missing or empty, or a film or a mask has no partner.
        LungsegError: Two files of a folder differ in their suffix alone.
    """
    folder = Path(folder)
    images, masks = (_by_name(folder / name) for name in (IMAGE_FOLDER, MASK_FOLDER))
    alone = sorted({*images} ^ {*masks})
    if alone or not images:
        counts = f"{len(images)} images and {len(masks)} masks in {folder}"
        named = f"; without a partner: {', '.join(compress_ranges(alone))}" if images else ""
        raise MissingInputError(
            f"An external set is a folder with {IMAGE_FOLDER}/ and {MASK_FOLDER}/, whose files "
            "have the same names.",
            counts + named if folder.is_dir() else f"no folder {folder}",
            "Correct EXTERNAL, or leave it out: the recorded figures are kept then.",
        )
    return [Film(name, images[name], masks[name]) for name in sorted(images)]


def _by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix."""
    paths = list_bundle_images(folder)
    counts = Counter(path.stem for path in paths)
    if twice := [path.name for path in paths if counts[path.stem] > 1]:
        raise LungsegError(
            "Each file of an external set has a name of its own, whatever its suffix.",
            f"{', '.join(twice)} in {folder}",
            "Keep one file of each name.",
        )
    return {path.stem: path for path in paths}


def score_external(
    films: Sequence[Film], networks: Mapping[str, Network]
) -> tuple[dict[str, object], pd.DataFrame]:
    """Score networks on an external set, each film at its own size and as a patient of its own.

    Args:
        films: From `find_films`.
        networks: Those to score.

    Returns:
        `figures`: network to region to record, as in `figures_of`, distances in the films' own
        pixels; `size`: that of the films, None where they differ; `made_with`. And the rows of
        `score_run` that they come from.

    Raises:
        ImageFileError: A file cannot be read, or a mask has another size than its film.
    """
    sizes = thread_map(_checked_size, films, desc="Checking films", unit="case")
    scores = pd.concat([_score(network, films) for network in networks.values()], ignore_index=True)
    digests = {film.name: [file_sha256(film.image), file_sha256(film.mask)] for film in films}
    part = {
        "figures": {name: groups["all"] for name, groups in figures_of(scores).items()},
        "size": list(sizes[0]) if len(set(sizes)) == 1 else None,
        "made_with": made_with(networks, digest_of(digests)),
    }
    return part, scores


def _checked_size(film: Film) -> tuple[int, int]:
    """Width and height, the same of film and mask."""
    image, truth = read_image(film.image), film.truth()
    if image.shape != truth.shape:
        raise ImageFileError(
            "A film and its mask have the same size.",
            f"{film.image} is {image.shape[1]} × {image.shape[0]}, its mask "
            f"{truth.shape[1]} × {truth.shape[0]}",
            "Fetch the two files again, or take both out of the set.",
        )
    return image.shape[1], image.shape[0]


def _score(network: Network, films: Sequence[Film]) -> pd.DataFrame:
    images = np.stack([resize_image(read_image(film.image), network.size) for film in films])
    probability = network.predict(images)

    # Film by film, as they may differ in size.
    def score(number: int) -> pd.DataFrame:
        film = _as_cases(films[number])
        one = probability[number : number + 1]
        return score_run(network.run.name, film.ids, one, film, workers=1, progress=False)

    tables = thread_map(score, range(len(films)), desc=f"Scoring {network.run.name}", unit="case")
    return pd.concat(tables, ignore_index=True)


def _as_cases(film: Film) -> Cases:
    """The film as the one case of a set, of which nothing but the mask is known."""
    truth = film.truth()
    height, width = truth.shape
    case = Case(
        image_id=film.name,
        source="external",
        image_file=film.image.name,
        mask_file=film.mask.name,
        tuberculosis=False,
        sex="",
        age_years=None,
        original_width=width,
        original_height=height,
        patient_group=film.name,
        same_patient_evidence="",
        questionable_mask=False,
        published_split="",
        split="test",
    )
    # Scoring looks at the masks alone.
    blank = np.broadcast_to(np.uint8(0), (1, height, width))
    return Cases(blank, truth[None], index_of([case], [True]), digest="")
