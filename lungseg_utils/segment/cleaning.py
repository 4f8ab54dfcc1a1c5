"""Cleaning of an unlabelled image set: the object of each picture, cut from its background.

The classical chain: resize, grey, Gaussian denoising, Otsu's threshold, inversion where the
background is the lighter part, and a bitwise mask over the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.files.images import write_png
from lungseg_utils.files.records import check_reusable
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.preparation.imaging import decode_image, resize_image, to_grey
from lungseg_utils.segment.folders import ResultFolder
from lungseg_utils.segment.inputs import list_images, read_file

if TYPE_CHECKING:
    import pandas

_FIGURES = {
    "width": "Int64",
    "height": "Int64",
    "background": "object",
    "threshold": "Int64",
    "foreground_fraction": "Float64",
}
_PLACES = {"images": "images/{}.png", "masks": "masks/{}.png"}
_ADVICE = "Choose another output folder, or pass overwrite=True (OVERWRITE in the notebook)."


@dataclass(frozen=True)
class Cleaned:
    """One picture, step by step; all arrays are (size, size).

    Args:
        original_grey: uint8, resized and grey.
        denoised: uint8, after the Gaussian filter.
        mask: uint8 {0, 1}, 1 on the object.
        masked: uint8, `original_grey` on the object and 0 elsewhere.
        inverted: Whether the background was the lighter part.
        threshold: Otsu's, in grey levels; the dark part is at or below it.
    """

    original_grey: np.ndarray
    denoised: np.ndarray
    mask: np.ndarray
    masked: np.ndarray
    inverted: bool
    threshold: int


def clean_image(
    image: np.ndarray, size: int = 256, sigma: float = 1.0, smallest_part: float = 0.002
) -> Cleaned:
    """Cut the object of one picture from its background.

    The background is what most of the picture's border belongs to. Holes in the object, such as
    highlights, are filled.

    Args:
        image: uint8 grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4).
        size: Side of the square it is resized to, in pixels.
        sigma: Deviation of the Gaussian filter in pixels; 0 for none.
        smallest_part: Parts of the object below this fraction of the picture are dust.

    Returns:
        The steps and the mask, which is empty for a picture of a single grey level.

    Raises:
        InvalidValueError: The array is no image, or a parameter is out of its range.

    References:
        Otsu, A threshold selection method from gray-level histograms, 1979,
        doi 10.1109/TSMC.1979.4310076.
    """
    import cv2

    _check_parameters(size, sigma, smallest_part)
    grey = resize_image(to_grey(image), size)
    denoised = cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey
    level, light = cv2.threshold(denoised, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    border = np.concatenate([light[0], light[-1], light[1:-1, 0], light[1:-1, -1]])
    inverted = bool(border.mean() > 0.5)
    mask = _solid_parts(1 - light if inverted else light, smallest_part * grey.size)
    masked = cv2.bitwise_and(grey, grey, mask=mask)
    return Cleaned(grey, denoised, mask, masked, inverted, int(level))


def _check_parameters(size: int, sigma: float, smallest_part: float) -> None:
    if size < 8 or size != int(size) or not 0 <= sigma <= size or not 0 <= smallest_part < 1:
        raise InvalidValueError(
            "Cleaning needs a whole size of at least 8, sigma from 0 to size, and smallest_part "
            "from 0 to below 1.",
            f"size {size!r}, sigma {sigma!r}, smallest_part {smallest_part!r}",
            "Start from the usual size=256, sigma=1.0, smallest_part=0.002.",
        )


def _solid_parts(mask: np.ndarray, smallest_area: float) -> np.ndarray:
    """Keep the parts of at least that many pixels, and fill their holes."""
    import cv2

    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    solid = np.zeros_like(mask)
    for outline in outlines:
        part = cv2.drawContours(np.zeros_like(mask), [outline], -1, 1, cv2.FILLED)
        if part.sum() >= smallest_area:
            solid |= part
    return solid


def clean_folder(
    folder: Path | str,
    out: Path | str,
    size: int = 256,
    sigma: float = 1.0,
    smallest_part: float = 0.002,
    overwrite: bool = False,
) -> pandas.DataFrame:
    """Clean every image of a folder and of the folders in it.

    Writes `images/` (grey, background black), `masks/` (0 and 255), both PNG, and `cleaned.csv`.
    What an earlier call cleaned from the same file with the same parameters is kept, also where
    that call was interrupted or killed. A file that cannot be read is named in the table's column
    `error`, and the rest goes on.

    Args:
        folder: The pictures.
        out: Output folder.
        size: As in `clean_image`.
        sigma: As in `clean_image`.
        smallest_part: As in `clean_image`.
        overwrite: Clean everything again; what an earlier call wrote to `out` is removed first.

    Returns:
        A row a file: file (relative to `folder`), width and height in pixels, background
        (`light` or `dark`), threshold (grey level), foreground_fraction (0 to 1), error.

    Raises:
        InvalidValueError: A parameter is out of its range.
        MissingInputError: There is no image in the folder.
        StaleOutputError: `out` was made with other parameters.
        LungsegError: The record in `out` is damaged; `overwrite` replaces it.
        StorageError: The disk is full or read-only; what was cleaned is kept.
        LockedError: Another process writes there.
    """
    _check_parameters(size, sigma, smallest_part)
    out = Path(out)
    results = ResultFolder(out, _PLACES, "cleaned.csv", _FIGURES)
    root = Path(folder).parent if Path(folder).is_file() else Path(folder)
    images = {
        path.relative_to(root).as_posix(): partial(read_file, path)
        for path in list_images(folder, "**/*", results.files_and_folders)
    }
    parameters = {"size": size, "sigma": sigma, "smallest_part": smallest_part}
    with hold(out / results.table, "cleaning"), explained(out):
        if overwrite:
            results.discard()
        elif made_with := results.read_record()["parameters"]:
            check_reusable(made_with, parameters, f"{out} (cleaned images)", _ADVICE)
        rows = results.fill(images, parameters, partial(_clean_file, parameters), "Cleaning")
    return results.to_frame(rows).fillna({"background": ""})


def _clean_file(
    parameters: dict[str, object], file: str, content: bytes, paths: dict[str, Path]
) -> dict[str, object]:
    """Clean one file; returns its figures for the table."""
    grey = decode_image(Path(file), content)
    cleaned = clean_image(grey, **parameters)
    write_png(paths["images"], cleaned.masked)
    write_png(paths["masks"], cleaned.mask * 255)
    height, width = grey.shape
    return {
        "width": width,
        "height": height,
        "background": "light" if cleaned.inverted else "dark",
        "threshold": cleaned.threshold,
        "foreground_fraction": round(float(cleaned.mask.mean()), 4),
    }
