"""X-ray and mask side by side in one picture, the aligned layout that Pix2Pix tools read."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.errors import InvalidValueError, LungsegError, MissingInputError, check_known
from lungseg_utils.files.images import encode_png
from lungseg_utils.files.records import (
    check_reusable,
    digest_of,
    publish_folder,
    read_json,
    remove_partial,
    write_atomically,
)
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.manifest import LEARNING_SPLITS
from lungseg_utils.preparation.cases import Cases, index_text, read_index
from lungseg_utils.preparation.imaging import read_image

if TYPE_CHECKING:
    from lungseg_utils.workspace import Workspace

# Raised whenever the same cases would give another archive.
_VERSION = 1
# A fixed date in the archive, so that the same cases give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
INDEX_NAME = "index.csv"
RECORD_NAME = "record.json"


def stitch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put an X-ray and its mask side by side.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).

    Returns:
        uint8 (H, 2W): the X-ray on the left, the mask as {0, 255} on the right.

    Raises:
        LungsegError: The two differ in size, or a value is not allowed.
    """
    if image.shape != mask.shape or image.ndim != 2:
        raise InvalidValueError(
            "An X-ray and its mask are grey and of the same size to be stitched.",
            f"X-ray {image.shape}, mask {mask.shape}",
            "Resize both to one size first.",
        )
    if image.dtype != np.uint8 or mask.dtype != np.uint8 or mask.max(initial=0) > 1:
        raise InvalidValueError(
            "A stitched X-ray is uint8 and its mask uint8 {0, 1}.",
            f"X-ray {image.dtype}, mask {mask.dtype} up to {mask.max(initial=0)}",
            "Convert them first.",
        )
    return np.hstack([image, mask * np.uint8(255)])


def unstitch(stitched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take a stitched picture apart.

    Args:
        stitched: uint8 (H, 2W), as made by `stitch`.

    Returns:
        The X-ray uint8 (H, W) and the mask uint8 {0, 1} (H, W).

    Raises:
        LungsegError: The width is odd, or the right half is not {0, 255}.
    """
    if stitched.ndim != 2 or stitched.shape[1] % 2:
        raise InvalidValueError(
            "A stitched picture is grey and of even width.",
            f"shape {stitched.shape}",
            "Pass a picture made by stitch().",
        )
    image, mask = np.split(stitched, 2, axis=1)
    if not np.isin(mask, (0, 255)).all():
        raise InvalidValueError(
            "The right half of a stitched picture holds 0 and 255 only.",
            f"{len(np.unique(mask))} different values",
            "Keep stitched pictures as PNG at their own size: JPEG and resizing blur the mask.",
        )
    return image.copy(), (mask > 0).astype(np.uint8)


def write_stitched(cases: Cases, workspace: Workspace, overwrite: bool = False) -> Path:
    """Write the stitched training, validation and test cases as one archive.

    The archive holds `{train,val,test}/<image_id>.png`, `index.csv` and `record.json`. Nothing is
    done where it was made from the same cases.

    Args:
        cases: Prepared cases; those of other splits or without mask are left out.
        workspace: Where to write: `stitched/<size>.zip`.
        overwrite: Replace an archive that was made from other cases.

    Returns:
        The archive.

    Raises:
        StaleOutputError: The archive was made from other cases, and `overwrite` is off.
        LungsegError: There is no case to stitch, or the archive there is damaged.
        StorageError: The disk is full or read-only; an earlier archive is as it was.
        LockedError: Another process stitches this size.
    """
    known = (cases.index["has_mask"] == 1).to_numpy()
    rows = np.flatnonzero(cases.index["split"].isin(LEARNING_SPLITS).to_numpy() & known)
    if not len(rows):
        raise InvalidValueError(
            "Stitching needs training, validation or test cases with a mask.",
            f"{len(cases)} cases, none of them such",
            "Check the bundle with notebook 02_download_and_pair.",
        )
    with hold(workspace.stitched(cases.size), "stitching"):
        return _write_unless_there(cases, rows, workspace.stitched(cases.size), overwrite)


def _write_unless_there(cases: Cases, rows: np.ndarray, path: Path, overwrite: bool) -> Path:
    remove_partial(path)
    record = {
        "version": _VERSION,
        "size": cases.size,
        "cases": len(rows),
        "prepared": cases.digest,
        "ids": digest_of([cases.ids[row] for row in rows]),
    }
    if path.is_file() and not overwrite:
        advice = "Set OVERWRITE to make it anew, or choose another WORKSPACE."
        check_reusable(_read_record(path), record, f"stitched/{path.name}", advice)
        return path
    return write_atomically(path, lambda temporary: _write_archive(temporary, cases, rows, record))


def load_stitched(workspace: Workspace, size: int, split: str | Sequence[str]) -> Cases:
    """Read stitched cases back; the archive is unpacked to the local disk once.

    Args:
        workspace: Where to look.
        size: Height of the stitched pictures, in pixels.
        split: `train`, `val` or `test`, or several of them.

    Returns:
        The cases in memory; the digest is the archive's.

    Raises:
        MissingInputError: There is no archive of that size.
        LungsegError: The split is none of the three, or the archive is damaged.
    """
    wanted = [split] if isinstance(split, str) else list(split)
    check_known(wanted, LEARNING_SPLITS, "A split of stitched cases")
    archive = workspace.stitched(size)
    if not archive.is_file():
        raise MissingInputError(
            f"The stitched pairs of size {size} must be made first.",
            f"no {archive}",
            f"Run notebook 03_preprocess_and_stitch with STITCH_SIZE = {size}.",
        )
    folder = workspace.scratch / "stitched" / str(size)
    with hold(folder, "unpacking"), explained(folder):
        record = _unpack(archive, folder)
    index = read_index(folder / INDEX_NAME)
    index = index[index["split"].isin(wanted)].reset_index(drop=True)
    names = (index["split"] + "/" + index["image_id"] + ".png").tolist()

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        return unstitch(read_image(folder / name))

    pairs = thread_map(read, names, desc=f"Reading {', '.join(wanted)}", unit="case")
    arrays = np.array(pairs, dtype=np.uint8).reshape(len(names), 2, size, size)
    return Cases(arrays[:, 0].copy(), arrays[:, 1].copy(), index, digest_of(record))


def _write_archive(path: Path, cases: Cases, rows: np.ndarray, record: dict) -> None:
    from tqdm.auto import tqdm

    index = cases.index.iloc[rows]
    # Stored as they are: a PNG is compressed already.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for row, image_id, split in tqdm(
            list(zip(rows, index["image_id"], index["split"], strict=True)),
            desc=f"Stitching {cases.size} × {2 * cases.size}",
            unit="case",
        ):
            picture = stitch(cases.images[row], cases.masks[row])
            _add(archive, f"{split}/{image_id}.png", encode_png(picture))
        _add(archive, INDEX_NAME, index_text(index).encode("utf-8"))
        _add(archive, RECORD_NAME, json.dumps(record, indent=2).encode("utf-8"))


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def _unpack(archive: Path, folder: Path) -> dict:
    """Unpack an archive unless that was done before; returns its record."""
    from tqdm.auto import tqdm

    record = _read_record(archive)
    # The folder takes its name only when it is whole.
    if (folder / RECORD_NAME).is_file() and read_json(folder / RECORD_NAME) == record:
        return record
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with _open(archive) as opened:
        for name in tqdm(opened.namelist(), desc="Unpacking", unit="file"):
            opened.extract(name, partial)
    publish_folder(partial, folder)
    return record


def _read_record(archive: Path) -> dict:
    with _open(archive) as opened:
        return json.loads(opened.read(RECORD_NAME))


@contextmanager
def _open(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
        raise LungsegError(
            "The stitched pairs are a whole zip archive made by write_stitched().",
            f"{archive}: {error}",
            "Delete it and run notebook 03_preprocess_and_stitch again.",
        ) from error
