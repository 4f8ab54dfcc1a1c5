"""Pairs of a bundle to arrays of one size: in parallel, resumable, never stale."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.errors import (
    InvalidValueError,
    LungsegError,
    MissingInputError,
    UnusableMaskError,
)
from lungseg_utils.files.locks import hold
from lungseg_utils.files.records import (
    check_reusable,
    digest_of,
    file_sha256,
    publish_folder,
    require_record,
    write_json,
)
from lungseg_utils.files.storage import explained, require_space
from lungseg_utils.manifest import to_row
from lungseg_utils.preparation.cases import Cases, index_of, index_text, read_index
from lungseg_utils.preparation.imaging import read_image, resize_image, resize_mask
from lungseg_utils.preparation.pair_files import read_pair
from lungseg_utils.workspace import Workspace

if TYPE_CHECKING:
    from lungseg_utils.bundle import Pair, Pairing

# Raised whenever the same files would give other arrays.
_VERSION = 1
_NAMED_CASES = 5
_KEYS = ("version", "size", "cases", "digest")
_WHOLE = "Prepared X-rays are whole, as they were written."
# What a record holds besides what the arrays were made from: SHA-256 of the files, by which
# damage is found later; and findings, absent where there are none.
_HASHES = "sha256"
_FILES = ("images.npy", "masks.npy", "index.csv")
_PUBLISHED = (*_FILES, "record.json", "done.npy")  # the last stays until all are in place
_FINDINGS = {"left_out": "cases left out", "repaired": "masks repaired"}


def prepare(
    pairing: Pairing,
    workspace: Workspace,
    size: int,
    workers: int | None = None,
    overwrite: bool = False,
) -> Cases:
    """Resize all X-rays and masks of a bundle and write them to `prepared/<size>`.

    Nothing is done where the folder was made from the same files, manifest rows and size. An
    interrupted preparation continues; the folder appears only when it is whole. Memory holds as
    many X-rays as there are workers.

    A pair that cannot be an X-ray and its lungs is left out, and what was repaired in others is
    told: both are printed by name, and recorded in `record.json`.

    Args:
        pairing: The bundle's pairs; unlabelled cases are prepared with an empty mask.
        workspace: Where to write; work in progress lies in its scratch.
        size: Side of the square, in pixels.
        workers: Threads; None for one a processor, at most 8.
        overwrite: Replace a folder that was made from something else.

    Returns:
        The prepared cases, sorted by image id, on disk as in `load_prepared`.

    Raises:
        StaleOutputError: The folder was made from something else, and `overwrite` is off.
        ImageFileError: A file cannot be read.
        LungsegError: There is no case, or no usable one, or what lies there is damaged.
        StorageError: The disk is full or read-only; an earlier folder is as it was.
        LockedError: Another process prepares this size.
    """
    pairs = sorted([*pairing.pairs, *pairing.unlabelled], key=lambda pair: pair.case.image_id)
    if not pairs:
        raise InvalidValueError(
            "A preparation needs at least one X-ray of the manifest.",
            "a pairing without cases",
            "Check with notebook 02_download_and_pair what the bundle holds.",
        )
    record = _record_of(pairs, size, workers)
    folder = workspace.prepared(size)
    partial = workspace.scratch / "partial" / f"prepared-{size}-{record['digest'][:16]}"
    # In Colab, several workspaces share one scratch.
    with hold(folder, "preparation"), hold(partial, "preparation"), explained(folder):
        existing = _read_made_from(folder)
        if existing is not None and not overwrite:
            _check_same(existing, record, folder)
        if existing != record:
            _make(pairs, workspace, size, record, partial, workers)
    _tell(_read_whole_record(folder))
    return load_prepared(workspace, size)


def load_prepared(workspace: Workspace, size: int) -> Cases:
    """Open prepared cases; arrays stay on disk until they are used (`Cases.select` copies).

    Args:
        workspace: Where to look.
        size: Side of the square, in pixels.

    Raises:
        MissingInputError: That size was not prepared.
        LungsegError: What was prepared is damaged.
    """
    folder, record = workspace.prepared(size), _read_record(workspace, size)
    try:
        return Cases(
            images=np.load(folder / "images.npy", mmap_mode="r"),
            masks=np.load(folder / "masks.npy", mmap_mode="r"),
            index=read_index(folder / "index.csv"),
            digest=record["digest"],
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = getattr(error, "received", error)
        raise LungsegError(_WHOLE, f"{folder} ({reason})", _prepare_again(folder)) from error


def data_digest(workspace: Workspace, size: int) -> str:
    """Digest of the files and manifest rows that a size was prepared from, whatever the size.

    Args:
        workspace: Where to look.
        size: Side of the square, in pixels.

    Raises:
        MissingInputError: That size was not prepared.
        LungsegError: The record is damaged.
    """
    return digest_of(_read_record(workspace, size)["cases"])


def _read_record(workspace: Workspace, size: int) -> dict:
    path = workspace.prepared(size) / "record.json"
    if not path.is_file():
        raise MissingInputError(
            f"The X-rays must be prepared at {size} × {size} first.",
            f"no {path.parent}",
            f"Run notebook 03_preprocess_and_stitch with SIZE = {size}.",
        )
    return _read_whole_record(path.parent)


def _read_whole_record(folder: Path) -> dict:
    return require_record(folder / "record.json", _KEYS, _WHOLE, _prepare_again(folder))


def _prepare_again(folder: Path) -> str:
    return f"Delete the folder {folder} and run notebook 03_preprocess_and_stitch again."


def _record_of(pairs: list[Pair], size: int, workers: int | None) -> dict:
    """What the arrays depend on: version, size and, for each case, its files and manifest row."""

    def digest(pair: Pair) -> str:
        files = [_digest_of_file(path) for path in (pair.image, *pair.masks)]
        return digest_of({"row": to_row(pair.case), "files": files})

    digests = thread_map(digest, pairs, desc="Checking files", unit="case", max_workers=workers)
    record = {
        "version": _VERSION,
        "size": size,
        "cases": {pair.case.image_id: digest for pair, digest in zip(pairs, digests, strict=True)},
    }
    return record | {"digest": digest_of(record)}


def _digest_of_file(path: Path) -> str:
    """SHA-256 of a file; read once a process, whatever number of sizes it is prepared at."""
    state = path.stat()
    return _digest_of_unchanged_file(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.cache
def _digest_of_unchanged_file(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def _read_made_from(folder: Path) -> dict | None:
    """What an existing folder was made from; None where there is none."""
    if not (folder / "record.json").is_file():
        return None
    beside = {_HASHES, *_FINDINGS}
    record = _read_whole_record(folder)
    return {key: value for key, value in record.items() if key not in beside}


def _tell(record: dict) -> None:
    """Print which cases were left out or repaired, on every call: no figure is of all cases."""
    for key, title in _FINDINGS.items():
        if found := record.get(key):
            print(f"{len(found)} {title}:")
            print("\n".join(f"  {image_id}: {text}" for image_id, text in found.items()))


def _check_same(old: dict, new: dict, folder: Path) -> None:
    changed = [
        image_id
        for image_id in sorted({*old["cases"], *new["cases"]})
        if old["cases"].get(image_id) != new["cases"].get(image_id)
    ]
    named = changed[:_NAMED_CASES]

    def brief(record: dict) -> dict:
        kept = {key: record[key] for key in ("version", "size")}
        cases = {name: record["cases"].get(name, "absent")[:12] for name in named}
        return kept | {"number of cases": len(record["cases"]), "case": cases}

    advice = "Set OVERWRITE to make it anew, or choose another WORKSPACE."
    if more := len(changed) - len(named):
        advice += f" ({more} more cases differ.)"
    check_reusable(brief(old), brief(new), f"prepared/{folder.name}", advice)


def _make(
    pairs: list[Pair],
    workspace: Workspace,
    size: int,
    record: dict,
    partial: Path,
    workers: int | None,
) -> None:
    for place in (workspace.scratch, workspace.root):
        place.mkdir(parents=True, exist_ok=True)
        require_space(place, 2 * len(pairs) * size**2, f"Preparing {size} × {size}")
    with explained(partial):
        kept, findings = _fill(partial, pairs, size, workers)
        index = index_of([pair.case for pair in kept], [bool(pair.masks) for pair in kept])
        (partial / "index.csv").write_text(index_text(index), encoding="utf-8")
        hashes = {_HASHES: {name: file_sha256(partial / name) for name in _FILES}}
        write_json(partial / "record.json", record | findings | hashes)
        for left in set(partial.iterdir()) - {partial / name for name in _PUBLISHED}:
            left.unlink()  # of a call that was killed while it wrote
    _publish(partial, workspace.prepared(size))


def _fill(
    partial: Path, pairs: list[Pair], size: int, workers: int | None
) -> tuple[list[Pair], dict[str, dict[str, str]]]:
    """Write the arrays row by row; rows that an interrupted call finished are kept.

    Returns:
        The pairs that have a row, and what was found in the others and in repaired ones.
    """
    partial.mkdir(parents=True, exist_ok=True)
    shape = (len(pairs), size, size)
    images = _open_array(partial / "images.npy", shape, np.uint8)
    masks = _open_array(partial / "masks.npy", shape, np.uint8)
    # A checksum and not a flag: after a power cut a flag may be on disk before its row is.
    done = _open_array(partial / "done.npy", (len(pairs),), np.int64)
    findings: dict[str, dict[str, str]] = {key: {} for key in _FINDINGS}

    def write_row(row: int) -> None:
        if done[row] == _checksum(images[row], masks[row]):
            return
        image_id = pairs[row].case.image_id
        try:
            images[row], masks[row], repaired = _prepare_pair(pairs[row], size)
        except UnusableMaskError as error:
            findings["left_out"][image_id] = str(error.received)
            return
        if repaired:
            # Not marked as done: a later call would not know what to tell.
            findings["repaired"][image_id] = repaired
        else:
            done[row] = _checksum(images[row], masks[row])

    thread_map(
        write_row,
        range(len(pairs)),
        desc=f"Preparing {size} × {size}",
        unit="case",
        max_workers=workers,
    )
    kept = [row for row, pair in enumerate(pairs) if pair.case.image_id not in findings["left_out"]]
    if not kept:
        raise LungsegError(
            "A preparation needs at least one usable pair.",
            next(iter(findings["left_out"].values())),
            "Check the masks of the bundle.",
        )
    for array, name in ((images, "images.npy"), (masks, "masks.npy")):
        array.flush()
        if len(kept) < len(pairs):
            _keep_rows(array, kept, partial / name)
    found = {key: dict(sorted(texts.items())) for key, texts in findings.items() if texts}
    return [pairs[row] for row in kept], found


def _keep_rows(array: np.ndarray, rows: list[int], path: Path) -> None:
    """Write some rows of an array in its place."""
    shorter = path.with_name(f"kept-{path.name}")
    kept = _open_array(shorter, (len(rows), *array.shape[1:]), array.dtype)
    for new, row in enumerate(rows):
        kept[new] = array[row]
    kept.flush()
    shorter.replace(path)


def _open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> np.memmap:
    array = None
    # Absent, or cut off while it was made.
    with contextlib.suppress(FileNotFoundError, ValueError):
        array = np.lib.format.open_memmap(path, mode="r+")
    if array is None or array.shape != shape:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A memory map without room on the disk kills the process where it should raise.
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _checksum(image: np.ndarray, mask: np.ndarray) -> int:
    """Never 0, which marks a row that was not written."""
    return 1 + zlib.crc32(mask, zlib.crc32(image))


def _prepare_pair(pair: Pair, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    if not pair.masks:
        return resize_image(read_image(pair.image), size), np.zeros((size, size), np.uint8), ""
    image, mask, repaired = read_pair(pair.image, pair.masks)
    return resize_image(image, size), resize_mask(mask, size), repaired


def _publish(partial: Path, folder: Path) -> None:
    """Move the finished folder into place; across disks by way of a copy beside its place."""
    staging = folder.with_name(f".partial-{folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        partial.rename(staging)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(partial, staging)
    (staging / "done.npy").unlink()
    publish_folder(staging, folder)
    shutil.rmtree(partial, ignore_errors=True)


def _copy(partial: Path, staging: Path) -> None:
    staging.mkdir()
    try:
        for file in partial.iterdir():
            # File by file: `copytree` gathers its errors into one that does not say what failed.
            shutil.copyfile(file, staging / file.name)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
