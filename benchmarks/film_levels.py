"""Grey levels of the films that the networks were trained on, which those of DICOM are fitted to.

Run it after the split has changed, and put what it prints into `files/dicom_greys.py`:

    python -m benchmarks.film_levels --data BUNDLE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.bundle import IMAGE_FOLDER, find_bundle, list_bundle_images, pair_bundle
from lungseg_utils.errors import MissingInputError, compress_ranges
from lungseg_utils.files.dicom_greys import _FILM_DEVIATIONS, _FILM_LEVELS, _PERCENTS
from lungseg_utils.manifest import load_manifest
from lungseg_utils.preparation.imaging import read_image, read_mask, resize_image
from lungseg_utils.segment.lungs import edge_contact, label_lungs
from lungseg_utils.segment.postprocess import clean_mask

SIZE = 512
TOLERANCE = 0.1


def films_of(data: Path | str, split: str) -> list[Path]:
    """X-rays of a split by the project's manifest, sorted by image id; no mask is looked for.

    Args:
        data: The bundle, with `CXR_png`.
        split: `train`, `val` or `test`.

    Raises:
        MissingInputError: One is not in the bundle.
    """
    folder = find_bundle(data) / IMAGE_FOLDER
    found = {path.stem: path for path in list_bundle_images(folder)}
    wanted = [case.image_id for case in load_manifest(splits=split)]
    if lacking := [name for name in wanted if name not in found]:
        raise MissingInputError(
            f"Figures are of all films of the split {split}.",
            f"{len(lacking)} missing in {folder}: {', '.join(compress_ranges(lacking))}",
            "Fetch the bundle again.",
        )
    return [found[name] for name in wanted]


def read_films(films: Sequence[Path], size: int = SIZE) -> np.ndarray:
    """Films as networks see them.

    Returns:
        uint8 `(N, size, size)`.
    """
    read = thread_map(lambda path: resize_image(read_image(path), size), films, desc="Reading")
    return np.stack(read)


def levels_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over the images of each image's percentiles.

    Args:
        images: uint8 `(N, H, W)`.

    Returns:
        Twice float64, a number for each of `_PERCENTS`.
    """
    levels = np.array([np.percentile(image, _PERCENTS) for image in images])
    return levels.mean(0), levels.std(0)


def lungs_of(data: Path | str) -> dict[str, np.ndarray]:
    """What `segment/lungs.py` holds for usual, of each training and validation mask."""
    pairs = [pair for pair in pair_bundle(data).pairs if pair.case.split in ("train", "val")]
    read = thread_map(lambda pair: label_lungs(clean_mask(read_mask(*pair.masks))), pairs)
    right, left = (np.array([(labels == side).mean() for labels in read]) for side in (1, 2))
    contact = np.array([edge_contact((labels > 0).astype(np.uint8)) for labels in read])
    return {"share of the film": right + left, "left to right": left / right, "contact": contact}


def main() -> int:
    """Print the levels; returns 1 where they are not those of the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the bundle, with CXR_png and masks")
    data = parser.parse_args().data
    images = read_films(films_of(data, "train"))
    found, kept = levels_of(images), (_FILM_LEVELS, _FILM_DEVIATIONS)
    same = bool(np.allclose(found, kept, rtol=0, atol=TOLERANCE))
    print(f"{len(images)} training films, percentiles {', '.join(map(str, _PERCENTS))}")
    for name, values in zip(("mean", "deviation"), found, strict=True):
        print(f"{name}: {', '.join(f'{value:.1f}' for value in values)}")
    print(f"These are {'' if same else 'NOT '}the constants of lungseg_utils/files/dicom_greys.py.")
    for name, values in lungs_of(data).items():
        lowest, highest = np.sort(values)[:4].round(3), np.sort(values)[-4:].round(3)
        print(f"{name}: lowest {lowest}, highest {highest} of {len(values)} masks")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
