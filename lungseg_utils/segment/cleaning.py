"""Cleaning of an unlabelled image set: the object of each picture, cut from its background.

The classical chain: resize, grey, Gaussian denoising, Otsu's threshold, inversion where the
background is the lighter part, and a bitwise mask over the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import ImageFileError, LungsegError, MissingInputError
from lungseg_utils.files.images import SUFFIXES, write_png
from lungseg_utils.files.records import (
    check_reusable,
    discard_folder,
    file_sha256,
    require_record,
    write_atomically,
    write_json,
)
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.preparation.imaging import read_image, resize_image, to_grey
from lungseg_utils.segment.output_names import name_outputs

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "file",
    "width",
    "height",
    "background",
    "threshold",
    "foreground_fraction",
    "error",
)
_RECORD = "record.json"
_TABLE = "cleaned.csv"
_SAVE_EVERY = 50  # images between two records: what an interruption can cost


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
        LungsegError: The array is no image, or a parameter is out of its range.

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
        raise LungsegError(
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
    What an earlier call cleaned from the same file with the same parameters is kept. A file that
    cannot be read is named in the table's column `error`, and the rest goes on.

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
        LungsegError: A parameter is out of its range.
        MissingInputError: There is no image in the folder.
        StaleOutputError: `out` was made with other parameters.
        LungsegError: The record in `out` is damaged; `overwrite` replaces it.
        StorageError: The disk is full or read-only; what was cleaned is kept.
        LockedError: Another process writes there.
    """
    _check_parameters(size, sigma, smallest_part)
    folder, out = Path(folder), Path(out)
    names = _output_names(_list_images(folder, out))
    parameters = {"size": size, "sigma": sigma, "smallest_part": smallest_part}
    with hold(out / _TABLE, "cleaning"), explained(out):
        if overwrite:
            _discard(out)
        done = {} if overwrite else _load_done(out, parameters)
        # Before the first file: none of these may be taken for one of other parameters later.
        _save(out, parameters, done)
        return _clean_all(folder, out, names, parameters, done)


def _discard(out: Path) -> None:
    """Remove what an earlier call left, the table that lists it first."""
    (out / _TABLE).unlink(missing_ok=True)
    for kind in ("images", "masks"):
        discard_folder(out / kind)


def _clean_all(
    folder: Path, out: Path, names: dict[str, str], parameters: dict[str, object], done: dict
) -> pandas.DataFrame:
    entries = {}
    try:
        for count, (file, name) in enumerate(_with_progress(names), start=1):
            digest = file_sha256(folder / file)
            entry = done.get(file)
            if not _is_current(entry, name, digest, out):
                row = _clean_file(folder / file, file, out, name, parameters)
                entry = {"sha256": digest, "output": name, "row": row}
            entries[file] = entry
            if count % _SAVE_EVERY == 0:
                _save(out, parameters, {**done, **entries})
    finally:
        # Also after an interruption, so that the next call continues from here.
        _save(out, parameters, {**done, **entries})
    _drop_vanished(out, done, names)
    _save(out, parameters, entries)
    return _write_table(out, [entry["row"] for entry in entries.values()])


def _list_images(folder: Path, out: Path) -> list[Path]:
    files = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and out.resolve() not in path.resolve().parents
    ]
    if not files:
        raise MissingInputError(
            "Cleaning needs a folder with at least one image.",
            f"{folder} ({'no image in it' if folder.is_dir() else 'there is no such folder'})",
            f"Check the path; images end in {', '.join(sorted(SUFFIXES))}.",
        )
    return files


def _output_names(files: list[Path]) -> dict[str, str]:
    names = zip(files, name_outputs(files), strict=True)
    return {file.as_posix(): f"{name}.png" for file, name in names}


def _with_progress(names: dict[str, str]):
    from tqdm.auto import tqdm

    return tqdm(names.items(), desc="Cleaning", unit="image")


def _load_done(out: Path, parameters: dict[str, object]) -> dict[str, dict]:
    if not (out / _RECORD).is_file():
        return {}
    advice = "Choose another output folder, or pass overwrite=True (OVERWRITE in the notebook)."
    rule = "The record of cleaned images is whole, as it was written."
    record = require_record(out / _RECORD, ("parameters", "files"), rule, advice)
    check_reusable(record["parameters"], parameters, f"{out} (cleaned images)", advice)
    return record["files"]


def _is_current(entry: dict | None, name: str, digest: str, out: Path) -> bool:
    if entry is None or entry["sha256"] != digest or entry["output"] != name:
        return False
    written = all((out / kind / name).is_file() for kind in ("images", "masks"))
    return written or bool(entry["row"]["error"])


def _clean_file(
    path: Path, file: str, out: Path, name: str, parameters: dict[str, object]
) -> dict[str, object]:
    """Clean one file; returns its row of the table."""
    row: dict[str, object] = {**dict.fromkeys(COLUMNS), "file": file, "background": "", "error": ""}
    for kind in ("images", "masks"):
        (out / kind / name).unlink(missing_ok=True)
    try:
        grey = read_image(path)
    except ImageFileError as error:
        return {**row, "error": str(error.received).removeprefix(f"{path}: ")}
    cleaned = clean_image(grey, **parameters)
    write_png(out / "images" / name, cleaned.masked)
    write_png(out / "masks" / name, cleaned.mask * 255)
    row["height"], row["width"] = grey.shape
    row["background"] = "light" if cleaned.inverted else "dark"
    row["threshold"] = cleaned.threshold
    row["foreground_fraction"] = round(float(cleaned.mask.mean()), 4)
    return row


def _save(out: Path, parameters: dict[str, object], entries: dict[str, dict]) -> None:
    write_json(out / _RECORD, {"parameters": parameters, "files": entries})


def _drop_vanished(out: Path, done: dict[str, dict], names: dict[str, str]) -> None:
    """Remove the outputs of files that are no longer there."""
    kept = set(names.values())
    for entry in done.values():
        if entry["output"] not in kept:
            for kind in ("images", "masks"):
                (out / kind / entry["output"]).unlink(missing_ok=True)


def _write_table(out: Path, rows: list[dict[str, object]]) -> pandas.DataFrame:
    import pandas

    whole = dict.fromkeys(("width", "height", "threshold"), "Int64")
    table = pandas.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype({**whole, "foreground_fraction": "Float64"})
    write_atomically(out / _TABLE, lambda path: table.to_csv(path, index=False))
    return table
