"""Unpacking archives that may come from anywhere."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lungseg_utils.errors import DownloadError

if TYPE_CHECKING:
    from tqdm import tqdm

# The largest bundle known, Kaggle's, holds the 4.4 GB of X-rays twice.
LARGEST_UNPACKED_BYTES = 40 * 10**9
MOST_FILES = 100_000
# What zipfile lets through when bytes are wrong, and the errors of a full disk.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeDecodeError,
    EOFError,
    NotImplementedError,
    OSError,
)
_COPY_BYTES = 1 << 20
_SHOWN_NAMES = 20


def unpack_zip(archive: Path, folder: Path, largest_bytes: int = LARGEST_UNPACKED_BYTES) -> None:
    """Unpack a zip archive, trusting nothing in it.

    Args:
        archive: The zip file.
        folder: Where to; made where missing.
        largest_bytes: Refuse archives that unpack to more than this.

    Raises:
        DownloadError: It is no whole zip archive; it holds a link, a name that leads out of
            the folder, or an encrypted file; or it unpacks to more than `largest_bytes`, to more
            files than `MOST_FILES`, or to more than the disk has room for. All of that but
            damage is found before the first file is written.
    """
    from tqdm.auto import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            total = _check_members(members, archive, folder, largest_bytes)
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"unpack {archive.name}") as bar:
                for member in members:
                    _unpack_member(opened, member, folder, bar)
    except _DAMAGE as error:
        raise DownloadError(
            "The archive must be a whole zip file.",
            f"{archive} ({error})",
            "Fetch or upload it again, and check that this machine's disk is not full.",
        ) from error


def shortened(names: Iterable[str]) -> list[str]:
    """The first names, and how many more there are, for messages."""
    names = list(names)
    more = len(names) - _SHOWN_NAMES
    return [*names[:_SHOWN_NAMES], f"and {more} more"] if more > 0 else names


def _check_members(
    members: list[zipfile.ZipInfo], archive: Path, folder: Path, largest_bytes: int
) -> int:
    """Refuse an archive that is not safe to unpack.

    Returns:
        The number of bytes it unpacks to.
    """
    unsafe = [member.filename for member in members if not _is_safe(member)]
    if unsafe:
        raise DownloadError(
            "An archive holds plain files, with names that stay inside its folder.",
            f"{', '.join(map(repr, shortened(unsafe)))} in {archive}",
            "Do not use this archive; pack the bundle's folder anew.",
        )
    total = sum(member.file_size for member in members)
    room = min(largest_bytes, shutil.disk_usage(folder).free)
    if total > room or len(members) > MOST_FILES:
        raise DownloadError(
            f"An archive unpacks to at most {room:,} bytes here and {MOST_FILES:,} files.",
            f"{total:,} bytes and {len(members):,} files in {archive}",
            "Free space on the disk, or pack only CXR_png, masks, ManualMask, ClinicalReadings.",
        )
    return total


def _is_safe(member: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(member.external_attr >> 16)
    encrypted = member.flag_bits & 0x1
    path = PurePosixPath(member.filename)
    # A colon is a drive letter or an alternate stream on Windows, a backslash its separator.
    leads_out = path.is_absolute() or ".." in path.parts or re.search(r"[\\:]", member.filename)
    return bool(path.parts) and kind in {0, stat.S_IFREG} and not encrypted and not leads_out


def _unpack_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, bar: tqdm
) -> None:
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the size the archive declares, which was checked, and compares the CRC.
    with opened.open(member) as source, target.open("wb") as file:
        while block := source.read(_COPY_BYTES):
            file.write(block)
            bar.update(len(block))
