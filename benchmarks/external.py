"""Networks on an external set: films with masks of the same names, at the films' own size.

Readers draw by one of two conventions: lung behind the heart is left `out` of the masks, as in
this project's, or is `in`. From masks of the second kind and masks of the hearts the first follow;
the other way there is none, as a heart also covers what is no lung.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from benchmarks.figures import figures_of
from lungseg_utils.bundle import list_bundle_images
from lungseg_utils.errors import (
    ImageFileError,
    LungsegError,
    MissingInputError,
    check_known,
    compress_ranges,
)
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.evaluation.summaries import headline_table, summarise
from lungseg_utils.files.records import digest_of, file_sha256
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import read_image, read_mask, resize_image
from lungseg_utils.segment.network import ExportedRun
from lungseg_utils.segment.predict import predict_in_batches

CONVENTIONS = {
    "in": "masks with the lung behind the heart, which these networks leave out",
    "out": "masks without the lung behind the heart",
}
"""What masks do with lung behind the heart, and how that is called."""
HEARTS = "hearts"
MINUS_HEART = "minus_heart"


class Film(NamedTuple):
    """The files of an X-ray and its masks; their common name without suffix is the film's."""

    image: Path
    mask: Path
    heart: Path | None = None


def find_films(folder: Path | str, heart: str = "out") -> list[Film]:
    """Find the films of an external set, sorted by name.

    Args:
        folder: Holds `images/` and `masks/`, whose files have the same names; and `hearts/`, if
            there is one.
        heart: One of `CONVENTIONS`: what the masks do. Hearts are used with `in` alone; a printed
            line says so.

    Raises:
        MissingInputError: A folder is missing or empty, or a name has not one film, one mask and,
            where hearts are used, one heart.
    """
    check_known(heart, CONVENTIONS, "What masks do with lung behind the heart")
    kinds = ["images", "masks"]
    if (Path(folder) / HEARTS).is_dir():
        if heart == "in":
            kinds.append(HEARTS)
        else:
            print(
                f"{HEARTS}/ is not used: it does not say where there is lung behind a heart. "
                "Where the masks include that lung, say --heart in."
            )
    found = {kind: list_bundle_images(Path(folder) / kind) for kind in kinds}
    counts = [Counter(path.stem for path in paths) for paths in found.values()]
    names = sorted(set().union(*counts))
    alone = [name for name in names if any(count[name] != 1 for count in counts)]
    if alone or not names:
        named = f"; not one of each: {', '.join(compress_ranges(alone))}" if alone else ""
        raise MissingInputError(
            f"An external set is a folder with {'/, '.join(kinds)}/: for each film one file of "
            "the same name in each.",
            f"{' and '.join(f'{len(paths)} {kind}' for kind, paths in found.items())} in "
            f"{folder}{named}",
            "Correct EXTERNAL, or leave it out: the recorded figures are kept then.",
        )
    by_name = (sorted(paths, key=lambda path: path.stem) for paths in found.values())
    return [Film(*paths) for paths in zip(*by_name, strict=True)]


def digest_films(films: Sequence[Film], heart: str) -> str:
    """Digest of the films' names, of all their bytes, and of what the masks are said to do."""
    content = {film.image.stem: [file_sha256(path) for path in film if path] for film in films}
    # What was recorded before masks had a convention was `out`, and keeps its digest.
    return digest_of(content if heart == "out" else {heart: content})


def common_size(films: Sequence[Film]) -> list[int] | None:
    """Width and height of the films; None where they differ."""
    shapes = {read_mask(film.mask).shape for film in films}
    return list(shapes.pop()[::-1]) if len(shapes) == 1 else None


def score_films(run: ExportedRun, films: Sequence[Film], heart: str = "out") -> pd.DataFrame:
    """Rows of `score_run`, each film at its own size and as a patient of its own.

    Args:
        run: Predicts each film once.
        films: From `find_films`.
        heart: What the masks do, as for `find_films`.

    Returns:
        With a column `convention`: `heart` for the masks as they are drawn and, of films with a
        heart, `out` for the masks minus the hearts. All that a network finds inside the heart is
        wrong then.

    Raises:
        ImageFileError: A file cannot be read, or a mask has another size than its film.
        LungsegError: A heart covers the whole mask.
    """
    seen = thread_map(lambda film: _seen(film, run.config.size), films, desc="Reading films")
    probability = predict_in_batches(run, np.stack(seen))

    # Film by film, as they may differ in size.
    def score(number: int) -> pd.DataFrame:
        one, tables = probability[number : number + 1], []
        for convention, truth in _truths(films[number], heart).items():
            cases = _as_cases(films[number].image.stem, truth)
            table = score_run(run.name, cases.ids, one, cases, workers=1, progress=False)
            tables.append(table.assign(convention=convention))
        return pd.concat(tables)

    tables = thread_map(score, range(len(films)), desc=f"Scoring {run.name}", unit="case")
    return pd.concat(tables, ignore_index=True)


def figures_of_films(scores: pd.DataFrame, heart: str) -> dict[str, dict]:
    """The figures to record: network to region to record, for the masks as they are drawn.

    Args:
        scores: From `score_films`, of one or several networks.
        heart: What the masks do.

    Returns:
        With the same for the masks minus the hearts, where there are, under `MINUS_HEART`.
    """
    figures = {
        convention: {name: groups["all"] for name, groups in figures_of(rows).items()}
        for convention, rows in scores.groupby("convention")
    }
    drawn = figures.pop(heart)
    return drawn | ({MINUS_HEART: figures["out"]} if figures else {})


def print_headlines(part: str, scores: pd.DataFrame) -> None:
    """Print a table of the networks, one for each convention by which the set was scored."""
    if "convention" not in scores:
        scores = scores.assign(convention="out")
    for convention, rows in scores.groupby("convention"):
        print(f"{part.upper()}, {CONVENTIONS[convention]}:")
        print(headline_table(summarise(rows)).to_string())


def _seen(film: Film, size: int) -> np.ndarray:
    image = read_image(film.image)
    for path in filter(None, film[1:]):
        mask = read_mask(path)
        if image.shape != mask.shape:
            raise ImageFileError(
                "A film and its masks have the same size.",
                f"{film.image} is {image.shape[1]} × {image.shape[0]}, {path} "
                f"{mask.shape[1]} × {mask.shape[0]}",
                "Fetch the two files again, or take the film and its masks out of the set.",
            )
    return resize_image(image, size)


def _truths(film: Film, heart: str) -> dict[str, np.ndarray]:
    """The mask by each convention that is known: as it is drawn, and minus the heart."""
    drawn = read_mask(film.mask)
    if film.heart is None:
        return {heart: drawn}
    without = drawn * (1 - read_mask(film.heart))
    if not without.any():
        raise LungsegError(
            "A mask minus the heart is what is left of the lungs.",
            f"nothing is left of {film.mask} minus {film.heart}",
            f"Correct the two, or take the folder {HEARTS} out of the set.",
        )
    return {heart: drawn, "out": without}


def _as_cases(name: str, truth: np.ndarray) -> Cases:
    """A film as the one case of a set, of which nothing but the mask is known."""
    known = {
        "image_id": name,
        "source": "external",
        "split": "test",
        "tuberculosis": 0,
        "sex": "",
        "age_years": np.nan,
        "questionable_mask": 0,
        "patient_group": name,
        "has_mask": 1,
    }
    # Scoring looks at the masks alone.
    masks = truth[None]
    return Cases(np.zeros_like(masks), masks, pd.DataFrame([known]), digest="")
