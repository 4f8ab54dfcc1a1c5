"""Unpacking archives that may come from anywhere."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from lungseg_utils.errors import DownloadError, LungsegError, shortened
from lungseg_utils.files.storage import explained, require_space

# The largest bundle known, Kaggle's, holds the 4.4 GB of X-rays twice.
LARGEST_UNPACKED_BYTES = 40 * 10**9
# X-rays are compressed already; a bundle of bare bitmaps stays far below this, a bomb far above.
LARGEST_RATIO = 100
# Below this, whatever it came from, nothing can be filled up.
_HARMLESS_BYTES = 50 * 10**6
# Of the others zipfile unpacks a block in one piece, however large that gets.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_COPY_BYTES = 1 << 20


def unpack_zip(
    archive: Path,
    folder: Path,
    largest_bytes: int = LARGEST_UNPACKED_BYTES,
    wanted: Callable[[str], bool] | None = None,
) -> int:
    """Unpack a zip archive, trusting nothing in it.

    The files take their place when all of them are whole. Archives inside are left packed.

    Args:
        archive: The zip file.
        folder: Where to; absent or empty.
        largest_bytes: Refuse archives that unpack to more than this.
        wanted: Called with each file's name in the archive; others stay packed. None for all.

    Returns:
        The number of bytes unpacked.

    Raises:
        DownloadError: The folder holds something already. Or the archive is no whole zip file;
            holds a link, an encrypted file, the same file twice or a name that leads out of the
            folder; or it unpacks to more than `largest_bytes`, or to more than `LARGEST_RATIO`
            times its own size. Nothing is left in the folder then.
        StorageError: The disk is full or read-only. Nothing is left either.
    """
    if folder.is_symlink() or (folder.exists() and (folder.is_file() or any(folder.iterdir()))):
        raise DownloadError(
            "An archive is unpacked to where nothing lies, so that it overwrites nothing.",
            folder,
            "Move what is there away, or unpack to another folder.",
        )
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with explained(folder):
            partial.mkdir(parents=True)
            total = _unpack_into(archive, partial, largest_bytes, wanted)
            partial.replace(folder)
    except LungsegError:
        raise
    # A damaged archive makes zipfile fail in any way.
    except Exception as error:
        raise DownloadError(
            "The archive must be a whole zip file.",
            f"{archive} ({type(error).__name__}: {error})",
            "Fetch or upload it again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return total


def _unpack_into(
    archive: Path, folder: Path, largest_bytes: int, wanted: Callable[[str], bool] | None
) -> int:
    with zipfile.ZipFile(archive) as opened:
        # By the name as it stands there: zipfile cuts it at a NUL.
        members = [each for each in opened.infolist() if not each.orig_filename.endswith("/")]
        if unsafe := [member.orig_filename for member in members if not _is_safe(member)]:
            raise DownloadError(
                "An archive holds plain files, with names that stay inside its folder.",
                f"{', '.join(map(repr, shortened(unsafe)))} in {archive}",
                "Do not use this archive; pack the bundle's folder anew, as an ordinary zip file.",
            )
        members = [member for member in members if wanted is None or wanted(member.filename)]
        total = _check_size(members, archive, largest_bytes)
        require_space(folder, total, f"Unpacking {archive.name}")
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"unpack {archive.name}") as bar:
            for member in members:
                _unpack_member(opened, member, folder / member.filename, bar)
    return total


def _is_safe(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.orig_filename)
    plain = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
    readable = plain and not member.flag_bits & 0x1 and member.compress_type in _METHODS
    # A colon is a drive letter or an alternate stream on Windows, a backslash its separator.
    odd = re.search(r"[\\:\x00-\x1f]", member.orig_filename)
    return bool(path.parts) and readable and not (path.is_absolute() or ".." in path.parts or odd)


def _check_size(members: Sequence[zipfile.ZipInfo], archive: Path, largest_bytes: int) -> int:
    """Refuse an archive made to fill the disk; returns the number of bytes it unpacks to."""
    total = sum(member.file_size for member in members)
    # By the archive's own size: what its parts declare may count the same bytes many times.
    largest = min(largest_bytes, max(_HARMLESS_BYTES, LARGEST_RATIO * archive.stat().st_size))
    if total > largest:
        raise DownloadError(
            f"An archive of X-rays unpacks to at most {largest:,} bytes, {LARGEST_RATIO} times "
            "its own size.",
            f"{total:,} bytes in {archive}",
            "Do not use it, or pack only CXR_png, masks, ManualMask and ClinicalReadings.",
        )
    return total


def _unpack_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, bar: tqdm
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Mode "x": nothing is ever written over. zipfile stops at the size that the archive declares,
    # which was checked, and compares the checksum.
    with target.open("xb") as file, opened.open(member) as source:
        while block := source.read(_COPY_BYTES):
            file.write(block)
            bar.update(len(block))
