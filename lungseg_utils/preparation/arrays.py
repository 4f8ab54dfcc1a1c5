"""Pairs of a bundle to arrays of one size: in parallel, resumable, never stale."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
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
from lungseg_utils.files.records import (
    check_reusable,
    digest_of,
    publish_folder,
    require_record,
    write_json,
)
from lungseg_utils.files.storage import explained, hold, require_space
from lungseg_utils.preparation.cases import (
    Cases,
    index_of,
    index_text,
    read_index,
    read_pair,
    row_texts,
)
from lungseg_utils.preparation.imaging import decode_image, resize_image, resize_mask
from lungseg_utils.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lungseg_utils.bundle import Pair, Pairing

# Raised whenever the same files would give other arrays.
_VERSION = 1
_KEYS = ("version", "size", "cases", "digest")
_WHOLE = "Prepared X-rays are whole, as they were written."
# What a record says of cases; absent where there are none.
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
        workers: Threads; None for a few more than there are processors.
        overwrite: Make the folder anew, whatever lies there.

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
    folder = workspace.prepared(size)
    # In Colab, several workspaces share one scratch.
    partial = workspace.scratch / "partial" / f"prepared-{size}-{digest_of(str(folder))[:16]}"
    with hold(folder, "preparation"), hold(partial, "preparation"), explained(folder):
        if (folder / "record.json").is_file() and not overwrite:
            _check_same(_read_whole_record(folder), _record_of(pairs, size, workers), folder)
        else:
            _make(pairs, workspace, size, partial, workers)
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
    digests = thread_map(
        lambda pair, row: _digest(row, _contents(pair)),
        pairs,
        row_texts(_index_of(pairs)),
        desc="Checking files",
        unit="case",
        max_workers=workers,
    )
    return _record(pairs, digests, size)


def _record(pairs: list[Pair], digests: list[str], size: int) -> dict:
    """What the arrays depend on: version, size and, for each case, its files and manifest row."""
    cases = {pair.case.image_id: digest for pair, digest in zip(pairs, digests, strict=True)}
    record = {"version": _VERSION, "size": size, "cases": cases}
    return record | {"digest": digest_of(record)}


def _contents(pair: Pair) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (pair.image, *pair.masks)}


def _digest(row: dict[str, str], contents: dict[Path, bytes]) -> str:
    files = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    return digest_of({"row": row, "files": files})


def _index_of(pairs: list[Pair]) -> pd.DataFrame:
    return index_of([pair.case for pair in pairs], [bool(pair.masks) for pair in pairs])


def _tell(record: dict) -> None:
    """Print which cases were left out or repaired, on every call: no figure is of all cases."""
    for key, title in _FINDINGS.items():
        if found := record.get(key):
            print(f"{len(found)} {title}:")
            print("\n".join(f"  {image_id}: {text}" for image_id, text in found.items()))


def _check_same(old: dict, new: dict, folder: Path) -> None:
    def brief(record: dict) -> dict:
        cases = {name: digest[:12] for name, digest in record["cases"].items()}
        return {"version": record["version"], "number of cases": len(cases), "case": cases}

    advice = "Set OVERWRITE to make it anew, or choose another WORKSPACE."
    check_reusable(brief(old), brief(new), f"prepared/{folder.name}", advice)


def _make(
    pairs: list[Pair], workspace: Workspace, size: int, partial: Path, workers: int | None
) -> None:
    for place in (workspace.scratch, workspace.root):
        place.mkdir(parents=True, exist_ok=True)
        require_space(place, 2 * len(pairs) * size**2, f"Preparing {size} × {size}")
    with explained(partial):
        partial.mkdir(parents=True, exist_ok=True)
        shape = (len(pairs), size, size)
        images = _open_array(partial / "images.npy", shape, np.uint8)
        masks = _open_array(partial / "masks.npy", shape, np.uint8)
        # A checksum and not a flag: after a power cut a flag may be on disk before its row is.
        done = _open_array(partial / "done.npy", (len(pairs),), np.uint64)
        record = _fill(images, masks, done, pairs, workers)
    _publish(images, masks, pairs, record, workspace.prepared(size))
    shutil.rmtree(partial, ignore_errors=True)


def _fill(
    images: np.ndarray, masks: np.ndarray, done: np.ndarray, pairs: list[Pair], workers: int | None
) -> dict:
    """Write the arrays row by row; rows that an interrupted call finished are kept.

    Each file is read once, for its digest and its pixels.

    Returns:
        The record, with what was found in some cases.
    """
    size, texts = images.shape[-1], row_texts(_index_of(pairs))
    findings: dict[str, dict[str, str]] = {key: {} for key in _FINDINGS}

    def write_row(row: int) -> str:
        image_id, contents = pairs[row].case.image_id, _contents(pairs[row])
        digest = _digest(texts[row], contents)
        if done[row] == _checksum(digest, images[row], masks[row]):
            return digest
        try:
            images[row], masks[row], repaired = _prepare_pair(pairs[row], contents, size)
        except UnusableMaskError as error:
            findings["left_out"][image_id] = str(error.received)
            return digest
        if repaired:
            # Not marked as done: a later call would not know what to tell.
            findings["repaired"][image_id] = repaired
        else:
            done[row] = _checksum(digest, images[row], masks[row])
        return digest

    title = f"Preparing {size} × {size}"
    rows = range(len(pairs))
    digests = thread_map(write_row, rows, desc=title, unit="case", max_workers=workers)
    found = {key: dict(sorted(texts.items())) for key, texts in findings.items() if texts}
    return _record(pairs, digests, size) | found


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


def _checksum(digest: str, image: np.ndarray, mask: np.ndarray) -> int:
    """64 bits of what a row was made from and holds."""
    content = hashlib.sha256(digest.encode())
    content.update(np.ascontiguousarray(image))
    content.update(np.ascontiguousarray(mask))
    return int.from_bytes(content.digest()[:8], "little")


def _prepare_pair(
    pair: Pair, contents: dict[Path, bytes], size: int
) -> tuple[np.ndarray, np.ndarray, str]:
    if not pair.masks:
        image = decode_image(pair.image, contents[pair.image])
        return resize_image(image, size), np.zeros((size, size), np.uint8), ""
    image, mask, repaired = read_pair(pair.image, pair.masks, contents)
    return resize_image(image, size), resize_mask(mask, size), repaired


def _publish(
    images: np.ndarray, masks: np.ndarray, pairs: list[Pair], record: dict, folder: Path
) -> None:
    """Write the usable rows to a folder beside the final one, then give it that one's name."""
    left_out = record.get("left_out", {})
    rows = [row for row, pair in enumerate(pairs) if pair.case.image_id not in left_out]
    if not rows:
        raise LungsegError(
            "A preparation needs at least one usable pair.",
            next(iter(left_out.values())),
            "Check the masks of the bundle.",
        )
    index = index_text(_index_of([pairs[row] for row in rows])).encode("utf-8")
    staging = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        hashes = {
            "images.npy": _write(staging / "images.npy", _array_file(images, rows)),
            "masks.npy": _write(staging / "masks.npy", _array_file(masks, rows)),
            "index.csv": _write(staging / "index.csv", [index]),
        }
        write_json(staging / "record.json", record | {"sha256": hashes})
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    publish_folder(staging, folder)


def _array_file(array: np.ndarray, rows: list[int]) -> Iterator[bytes]:
    """Some rows of an array as the content of a `.npy` file, which never lies in memory whole."""
    header = np.lib.format.header_data_from_array_1_0(array[:0])
    file = io.BytesIO()
    shape = (len(rows), *array.shape[1:])
    np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
    yield file.getvalue()
    for row in rows:
        yield array[row].tobytes()


def _write(path: Path, blocks: Iterable[bytes]) -> str:
    """Write a file; returns the SHA-256 of what it should hold, by which damage is found later."""
    content = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
            content.update(block)
    return content.hexdigest()
