"""Networks on an external set: films with masks of the same names, at the films' own size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.bundle import list_bundle_images
from lungseg_utils.errors import ImageFileError, MissingInputError, compress_ranges
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.files.records import digest_of, file_sha256
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import read_image, read_mask, resize_image
from lungseg_utils.segment.network import ExportedRun
from lungseg_utils.segment.predict import predict_in_batches

Film = tuple[Path, Path]
"""The files of an X-ray and of its mask; their common name without suffix is the film's."""


def find_films(folder: Path | str) -> list[Film]:
    """Find the films of an external set, sorted by name.

    Args:
        folder: Holds `images/` and `masks/`, whose files have the same names.

    Raises:
        MissingInputError: A folder is missing or empty, or a name has not one film and one mask.
    """
    images, masks = (list_bundle_images(Path(folder) / name) for name in ("images", "masks"))
    counts = [Counter(path.stem for path in paths) for paths in (images, masks)]
    names = sorted({*counts[0], *counts[1]})
    alone = [name for name in names if (counts[0][name], counts[1][name]) != (1, 1)]
    if alone or not names:
        named = f"; not one of each: {', '.join(compress_ranges(alone))}" if alone else ""
        raise MissingInputError(
            "An external set is a folder with images/ and masks/: for each film one mask of the "
            "same name.",
            f"{len(images)} images and {len(masks)} masks in {folder}{named}",
            "Correct EXTERNAL, or leave it out: the recorded figures are kept then.",
        )
    by_name = (sorted(paths, key=lambda path: path.stem) for paths in (images, masks))
    return list(zip(*by_name, strict=True))


def digest_films(films: Sequence[Film]) -> str:
    """Digest of the films' names and of the bytes of films and masks."""
    return digest_of({film[0].stem: [file_sha256(path) for path in film] for film in films})


def common_size(films: Sequence[Film]) -> list[int] | None:
    """Width and height of the films; None where they differ."""
    shapes = {read_mask(film[1]).shape for film in films}
    return list(shapes.pop()[::-1]) if len(shapes) == 1 else None


def score_films(run: ExportedRun, films: Sequence[Film]) -> pd.DataFrame:
    """Rows of `score_run`, each film at its own size and as a patient of its own.

    Raises:
        ImageFileError: A file cannot be read, or a mask has another size than its film.
    """
    seen = thread_map(lambda film: _seen(film, run.config.size), films, desc="Reading films")
    probability = predict_in_batches(run, np.stack(seen))

    # Film by film, as they may differ in size.
    def score(number: int) -> pd.DataFrame:
        cases = _as_cases(films[number])
        one = probability[number : number + 1]
        return score_run(run.name, cases.ids, one, cases, workers=1, progress=False)

    tables = thread_map(score, range(len(films)), desc=f"Scoring {run.name}", unit="case")
    return pd.concat(tables, ignore_index=True)


def _seen(film: Film, size: int) -> np.ndarray:
    image, truth = read_image(film[0]), read_mask(film[1])
    if image.shape != truth.shape:
        raise ImageFileError(
            "A film and its mask have the same size.",
            f"{film[0]} is {image.shape[1]} × {image.shape[0]}, its mask "
            f"{truth.shape[1]} × {truth.shape[0]}",
            "Fetch the two files again, or take both out of the set.",
        )
    return resize_image(image, size)


def _as_cases(film: Film) -> Cases:
    """The film as the one case of a set, of which nothing but the mask is known."""
    truth = read_mask(film[1])[None]
    known = {
        "image_id": film[0].stem,
        "source": "external",
        "split": "test",
        "tuberculosis": 0,
        "sex": "",
        "age_years": np.nan,
        "questionable_mask": 0,
        "patient_group": film[0].stem,
        "has_mask": 1,
    }
    # Scoring looks at the masks alone.
    return Cases(np.zeros_like(truth), truth, pd.DataFrame([known]), digest="")
