"""Records beside every output: what made it, and whether it may be used again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from lungseg_utils.errors import LungsegError, StaleOutputError, StorageError, shortened
from lungseg_utils.files.storage import explained, flush_to_disk, retry_passing

_ABSENT = "(absent)"
_PARTIAL = ".partial-"


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Once, before there are threads: to be read, it has to be changed for a moment.
_UMASK = _read_umask()


def write_atomically(
    path: Path | str, write: Callable[[Path], None], make_folder: bool = True
) -> Path:
    """Write a file under a temporary name and rename it, so that it is whole or absent.

    What a network drive fails at in passing is tried again for a quarter of a minute.

    Args:
        path: Final name.
        write: Called with the temporary path, which has the final name's suffixes.
        make_folder: Make the folder where missing. Without, a folder whose drive was unmounted
            is not made anew on the disk below it.

    Returns:
        The final path.

    Raises:
        StorageError: The disk is full, read-only or gone; what was there before is as it was.
    """
    path = Path(path)
    with explained(path):
        try:
            retry_passing(lambda: _write_once(path, write, make_folder))
        except FileNotFoundError as error:
            if path.parent.is_dir():
                raise
            raise StorageError(
                "The folder must be there as long as it is written to.",
                f"no {path.parent}",
                "Mount Drive again with notebook 01_mount_drive and run this again.",
            ) from error
    return path


def remove_partial(path: Path | str) -> None:
    """Remove what processes left that were killed while they wrote a file.

    Args:
        path: The file, or a folder for all files in it. Nobody else may be writing there.
    """
    path = Path(path)
    folder, name = (path, "*") if path.is_dir() else (path.parent, path.name)
    for left in folder.glob(f"{_PARTIAL}*-{name}"):
        if left.is_file():
            with explained(left):
                left.unlink(missing_ok=True)


def publish_folder(finished: Path, folder: Path) -> None:
    """Give a finished folder its final name, in place of what has it now.

    Args:
        finished: On the same disk as `folder`.
        folder: The final name; whenever the process is killed, it is whole or absent.
    """
    former = _set_aside(folder)
    finished.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def discard_folder(folder: Path) -> None:
    """Remove a folder; whenever the process is killed, it is whole or absent."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    former = folder.with_name(f".former-{folder.name}")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    return former


def _write_once(path: Path, write: Callable[[Path], None], make_folder: bool) -> None:
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PARTIAL, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files private; a result is as readable as any file of the user's.
        temporary.chmod(0o666 & ~_UMASK)
        flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        # On a drive that is gone this fails too, and the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path | str, data: dict, make_folder: bool = True) -> Path:
    """Write a dictionary as readable JSON; the rest is as for `write_atomically`."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8"), make_folder
    )


def read_json(path: Path | str) -> dict:
    """Read a JSON file written by `write_json`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def require_record(path: Path | str, keys: Collection[str], rule: str, advice: str) -> dict:
    """Read a JSON file that may have been damaged since it was written.

    Args:
        path: The file, which is there.
        keys: What it must hold.
        rule: What must hold of the file, for the message.
        advice: What the user can do where it is damaged.

    Raises:
        LungsegError: It is no JSON, or lacks a key.
    """
    try:
        record = read_json(path)
    except ValueError as error:
        reason = f"{type(error).__name__}: {error}"
        raise LungsegError(rule, f"{path} ({reason})", advice) from error
    missing = sorted(set(keys) - set(record)) if isinstance(record, dict) else sorted(keys)
    if missing:
        raise LungsegError(rule, f"{path} (it lacks {', '.join(missing)})", advice)
    return record


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(values: object) -> str:
    """SHA-256 of a value's canonical JSON: the same for equal values on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def differing(old: dict, new: dict) -> dict[str, tuple[object, object]]:
    """List what differs between two records, nested keys joined by dots.

    Returns:
        For each differing key its old and its new value.
    """
    flat_old, flat_new = _flatten(old), _flatten(new)
    keys = [*flat_old, *(key for key in flat_new if key not in flat_old)]
    return {
        key: (flat_old.get(key, _ABSENT), flat_new.get(key, _ABSENT))
        for key in keys
        if flat_old.get(key, _ABSENT) != flat_new.get(key, _ABSENT)
    }


def check_reusable(
    record: dict, wanted: dict, what: str, advice: str, ignore: Collection[str] = ()
) -> None:
    """Refuse to reuse an output whose record differs from what is wanted now.

    Args:
        record: What the existing output was made with.
        wanted: What is asked for now.
        what: The output's name for the message, such as `prepared/256`.
        advice: What the user can do: another name, or overwriting.
        ignore: Flattened keys that may differ.

    Raises:
        StaleOutputError: The two differ; the message names each differing value.
    """
    # A round trip through JSON makes tuples and lists compare equal.
    changes = differing(record, json.loads(json.dumps(wanted)))
    changes = {key: values for key, values in changes.items() if key not in ignore}
    if changes:
        listed = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in changes.items()]
        raise StaleOutputError(
            f"{what} can only be continued with the parameters and inputs it was made from.",
            "; ".join(shortened(listed)),
            advice,
        )


def _flatten(values: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, name + "."))
        else:
            flat[name] = value
    return flat
