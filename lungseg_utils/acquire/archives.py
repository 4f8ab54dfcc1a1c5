"""Unpacking archives that may come from anywhere."""

from __future__ import annotations

import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lungseg_utils.errors import DownloadError, LungsegError, shortened
from lungseg_utils.files.storage import explained

if TYPE_CHECKING:
    from tqdm import tqdm

# The largest bundle known, Kaggle's, holds the 4.4 GB of X-rays twice.
LARGEST_UNPACKED_BYTES = 40 * 10**9
MOST_FILES = 100_000
# X-rays are compressed already; a bundle of bare bitmaps stays far below this, a bomb far above.
LARGEST_RATIO = 100
# Below this, whatever it came from, nothing can be filled up.
_HARMLESS_BYTES = 50 * 10**6
# What file systems take for one name; and no path so long that a folder around it is too much.
_LONGEST_NAME = 255
_LONGEST_PATH = 1024
# Of the others zipfile unpacks a block in one piece, however large that gets.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile lets through when bytes are wrong.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    UnicodeDecodeError,
    EOFError,
    NotImplementedError,
    OSError,
)
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
            holds a link, an encrypted file, a name that leads out of the folder, that two files
            share, or that no disk takes; or it unpacks to more than `largest_bytes`, to more than
            `LARGEST_RATIO` times its own size, to more files than `MOST_FILES`, or to more than
            the disk has room for. Nothing is left in the folder then.
        StorageError: The disk is full or read-only. Nothing is left either.
    """
    _check_empty(folder)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with explained(folder):
            partial.mkdir(parents=True)
        total = _unpack_into(archive, partial, largest_bytes, wanted)
        with explained(folder):
            partial.replace(folder)
    except LungsegError:
        raise
    except _DAMAGE as error:
        raise DownloadError(
            "The archive must be a whole zip file.",
            f"{archive} ({error})",
            "Fetch or upload it again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return total


def _check_empty(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        found = "a link or a file"
    elif folder.is_dir() and any(folder.iterdir()):
        found = "a folder with files"
    else:
        return
    raise DownloadError(
        "An archive is unpacked to where nothing lies, so that it overwrites nothing.",
        f"{found}: {folder}",
        "Move it away, or unpack to another folder.",
    )


def _unpack_into(
    archive: Path, folder: Path, largest_bytes: int, wanted: Callable[[str], bool] | None
) -> int:
    from tqdm.auto import tqdm

    with zipfile.ZipFile(archive) as opened:
        # By the name as it stands there: zipfile cuts it at a NUL.
        members = [each for each in opened.infolist() if not each.orig_filename.endswith("/")]
        _check_names(members, archive)
        members = [member for member in members if wanted is None or wanted(member.filename)]
        total = _check_size(members, archive, folder, largest_bytes)
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"unpack {archive.name}") as bar:
            for member in members:
                _unpack_member(opened, member, folder, bar)
    return total


def _check_names(members: Sequence[zipfile.ZipInfo], archive: Path) -> None:
    if unsafe := [member.orig_filename for member in members if not _is_safe(member)]:
        raise DownloadError(
            "An archive holds plain files, with names that stay inside its folder.",
            f"{', '.join(map(repr, shortened(unsafe)))} in {archive}",
            "Do not use this archive; pack the bundle's folder anew, as an ordinary zip file.",
        )
    if clashing := _find_clashes([member.filename for member in members]):
        raise DownloadError(
            "Each file of an archive has a name of its own, whatever the case of its letters.",
            f"{', '.join(map(repr, shortened(clashing)))} in {archive}",
            "Do not use this archive; pack the bundle's folder anew.",
        )


def _is_safe(member: zipfile.ZipInfo) -> bool:
    name = member.orig_filename
    path = PurePosixPath(name)
    plain = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
    encrypted = member.flag_bits & 0x1
    # A colon is a drive letter or an alternate stream on Windows, a backslash its separator.
    leads_out = path.is_absolute() or ".." in path.parts or re.search(r"[\\:\x00-\x1f]", name)
    too_long = len(name.encode()) > _LONGEST_PATH or any(
        len(part.encode()) > _LONGEST_NAME for part in path.parts
    )
    readable = plain and not encrypted and member.compress_type in _METHODS
    return bool(path.parts) and readable and not leads_out and not too_long


def _find_clashes(names: Sequence[str]) -> list[str]:
    """Names that some disk would take for another's: as a file, or as a folder on its path."""
    by_key: dict[PurePosixPath, str] = {}
    clashing = []
    for name in names:
        key = PurePosixPath(unicodedata.normalize("NFC", name).casefold())
        if key in by_key:
            clashing.append(name)
        by_key[key] = name
    folders = {parent for key in by_key for parent in key.parents}
    return clashing + [name for key, name in by_key.items() if key in folders]


def _check_size(
    members: Sequence[zipfile.ZipInfo], archive: Path, folder: Path, largest_bytes: int
) -> int:
    """Refuse an archive that would fill the disk; returns the number of bytes it unpacks to."""
    total = sum(member.file_size for member in members)
    room = min(largest_bytes, shutil.disk_usage(folder).free)
    if total > room or len(members) > MOST_FILES:
        raise DownloadError(
            f"An archive unpacks to at most {room:,} bytes here and {MOST_FILES:,} files.",
            f"{total:,} bytes and {len(members):,} files in {archive}",
            "Free space on the disk, or pack only CXR_png, masks, ManualMask, ClinicalReadings.",
        )
    # By the archive's own size: what its parts declare may count the same bytes many times.
    packed = archive.stat().st_size
    if total > max(_HARMLESS_BYTES, LARGEST_RATIO * packed):
        raise DownloadError(
            f"An archive of X-rays unpacks to at most {LARGEST_RATIO} times its own size.",
            f"{total:,} bytes out of {packed:,} in {archive}",
            "Do not use this archive: it is made to fill disks.",
        )
    return total


def _unpack_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, bar: tqdm
) -> None:
    target = folder / member.filename
    with explained(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Mode "x": nothing is ever written over.
        file = target.open("xb")
    # zipfile stops at the size the archive declares, which was checked, and compares the CRC.
    with file, opened.open(member) as source:
        while block := source.read(_COPY_BYTES):
            with explained(target):
                file.write(block)
            bar.update(len(block))
