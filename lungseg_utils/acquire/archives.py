"""Unpacking archives that may come from anywhere."""

from __future__ import annotations

import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from lungseg_utils.errors import DownloadError, LungsegError, shortened
from lungseg_utils.files.storage import explained, require_space

# X-rays are compressed already; a bundle of bare bitmaps stays far below this, a bomb far above.
_LARGEST_RATIO = 100
# Below this, whatever it came from, nothing can be filled up.
_HARMLESS_BYTES = 50 * 10**6
# Of the others zipfile unpacks a block in one piece, however large that gets.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack_zip(archive: Path, folder: Path, wanted: Callable[[str], bool] | None = None) -> None:
    """Unpack a zip archive, trusting nothing in it.

    The files take their place when all of them are whole. Archives inside are left packed.

    Args:
        archive: The zip file.
        folder: Where to; absent or empty.
        wanted: Called with each file's name in the archive; others stay packed. None for all.

    Raises:
        DownloadError: The folder holds something already. Or the archive is no whole zip file;
            holds a link, an encrypted file, a name that leads out of the folder, that two files
            share, or that no disk takes; or it unpacks to 100 times its own size. Nothing is
            left in the folder then.
        StorageError: The disk is full or read-only, or has not enough room. Nothing is left either.
    """
    _check_empty(folder)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with explained(folder), zipfile.ZipFile(archive) as opened:
            members = _list_members(opened, wanted)
            partial.mkdir(parents=True)
            size = _check_size(members, archive)
            require_space(partial, size, f"What {archive.name} holds")
            for member in tqdm(members, desc=f"unpack {archive.name}", unit="file"):
                # zipfile stops at the size the archive declares, and compares the checksum.
                opened.extract(member, partial)
            partial.replace(folder)
    except LungsegError:
        raise
    # A damaged archive makes zipfile fail in any way.
    except Exception as error:
        raise DownloadError(
            "The archive must be a whole zip file.",
            f"{archive} ({error})",
            "Fetch or upload it again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_empty(folder: Path) -> None:
    full = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if full or folder.is_symlink():
        raise DownloadError(
            "An archive is unpacked to where nothing lies, so that it overwrites nothing.",
            f"a link, a file or a folder with files: {folder}",
            "Move it away, or unpack to another folder.",
        )


def _list_members(
    opened: zipfile.ZipFile, wanted: Callable[[str], bool] | None
) -> list[zipfile.ZipInfo]:
    """The wanted files, once all names in the archive are known to be harmless."""
    # By the name as it stands there: zipfile cuts it at a NUL.
    members = [each for each in opened.infolist() if not each.orig_filename.endswith("/")]
    names = [member.orig_filename for member in members]
    unsafe = [member.orig_filename for member in members if not _is_safe(member)]
    if unsafe or (unsafe := _find_clashes(names)):
        raise DownloadError(
            "An archive holds plain files with names that stay inside its folder, each a name of "
            "its own whatever the case of its letters.",
            f"{', '.join(map(repr, shortened(unsafe)))} in {opened.filename}",
            "Do not use this archive; pack the bundle's folder anew, as an ordinary zip file.",
        )
    return [member for member in members if wanted is None or wanted(member.filename)]


def _is_safe(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.orig_filename)
    plain = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
    # A colon is a drive letter or an alternate stream on Windows, a backslash its separator.
    strange = re.search(r"[\\:\x00-\x1f]", member.orig_filename)
    leads_out = path.is_absolute() or ".." in path.parts or not path.parts
    return plain and member.compress_type in _METHODS and not strange and not leads_out


def _find_clashes(names: Sequence[str]) -> list[str]:
    """Names that some disk would take for another's: as a file, or as a folder on its path."""
    keys = [PurePosixPath(unicodedata.normalize("NFC", name).casefold()) for name in names]
    taken = {parent for key in keys for parent in key.parents}
    clashing = []
    for name, key in zip(names, keys, strict=True):
        if key in taken:
            clashing.append(name)
        taken.add(key)
    return clashing


def _check_size(members: Sequence[zipfile.ZipInfo], archive: Path) -> int:
    """Refuse an archive made to fill disks; returns the number of bytes it unpacks to."""
    total = sum(member.file_size for member in members)
    # By the archive's own size: what its parts declare may count the same bytes many times.
    packed = archive.stat().st_size
    if total > max(_HARMLESS_BYTES, _LARGEST_RATIO * packed):
        raise DownloadError(
            f"An archive of X-rays unpacks to at most {_LARGEST_RATIO} times its own size.",
            f"{total:,} bytes out of {packed:,} in {archive}",
            "Do not use this archive: it is made to fill disks.",
        )
    return total
