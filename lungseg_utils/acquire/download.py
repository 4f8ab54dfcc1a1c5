"""Fetching bundles with kagglehub and gdown, which do their own transport."""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path
from types import ModuleType

from lungseg_utils.acquire.archives import LARGEST_UNPACKED_BYTES, unpack_zip
from lungseg_utils.acquire.web_pages import looks_like_web_page, web_page_error
from lungseg_utils.errors import DownloadError, LungsegError
from lungseg_utils.files.records import digest_of

_DRIVE_ID = r"[-\w]{10,}"


def stamp_of_files(path: Path | str) -> str:
    """Digest of names, sizes and times of all files below a folder, or of one file.

    It tells, without reading them, whether files were added, replaced or taken away.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    states = [(file.relative_to(path).as_posix(), file.stat()) for file in files]
    return digest_of([[name, state.st_size, state.st_mtime_ns] for name, state in states])


def download_from_kaggle(handle: str, force: bool = False) -> Path:
    """Fetch a public data set with kagglehub, which needs no account for it and resumes.

    Args:
        handle: `<owner>/<data set>`.
        force: Fetch again what is in kagglehub's cache.

    Returns:
        The folder in kagglehub's cache; read-only in Colab, to be used where it lies.

    Raises:
        DownloadError: kagglehub is missing or fails.
    """
    kagglehub = _import("kagglehub")
    try:
        return Path(kagglehub.dataset_download(handle, force_download=force))
    # kagglehub passes on the errors of every library below it.
    except Exception as error:
        raise DownloadError(
            "The Kaggle data set must be reachable.",
            f"{handle}: {type(error).__name__}: {error}",
            "Try again later; or download it in the browser and pass SOURCE='folder' or 'zip'.",
        ) from error


def download_from_drive(location: str, folder: Path, downloads: Path, force: bool = False) -> None:
    """Fetch a shared Google Drive folder, or a shared zip file, with gdown 5 or 6.

    Args:
        location: A folder's id or link, or the link of a zip file.
        folder: Filled with the folder's content, archives in it unpacked.
        downloads: Where a zip file is kept as it came.
        force: Fetch a zip file again that is there already.

    Raises:
        LungsegError: The location is neither an id nor a link of Google Drive.
        DownloadError: gdown is missing or fails, or what arrived is no whole zip file.
    """
    kind, drive_id = parse_drive_location(location)
    if kind == "file":
        unpack_zip(_download_drive_file(drive_id, downloads, force), folder)
        return
    _gdown("download_folder", drive_id, folder)
    # Listed before the first is unpacked: an archive inside another stays packed.
    archives = sorted(folder.rglob("*.zip"))
    room = LARGEST_UNPACKED_BYTES
    for archive in archives:
        _refuse_web_page(archive)
        room -= unpack_zip(archive, archive.with_suffix(""), room)
        archive.unlink()


def parse_drive_location(location: str) -> tuple[str, str]:
    """Tell whether a Google Drive location is a `folder` or a `file`, and its id.

    Raises:
        LungsegError: It is neither an id nor a link of Google Drive.
    """
    if re.fullmatch(_DRIVE_ID, location):
        return "folder", location
    if re.match(r"https://(drive|docs)\.google\.com/", location):
        in_folder = re.search(rf"/folders/({_DRIVE_ID})", location)
        in_file = re.search(rf"(?:/file/(?:u/\d+/)?d/|[?&]id=)({_DRIVE_ID})", location)
        if in_folder:
            return "folder", in_folder[1]
        if in_file:
            return "file", in_file[1]
    raise LungsegError(
        "A Drive location is a folder's id, a folder's link or a zip file's link.",
        repr(location),
        "Copy the link with 'Share' in Google Drive, open to anyone who has it.",
    )


def _download_drive_file(drive_id: str, downloads: Path, force: bool) -> Path:
    archive = downloads / f"drive-{drive_id}.zip"
    if force or not zipfile.is_zipfile(archive):
        downloads.mkdir(parents=True, exist_ok=True)
        partial = archive.with_name(f".partial-{archive.name}")
        partial.unlink(missing_ok=True)
        _gdown("download", drive_id, partial)
        _refuse_web_page(partial)
        partial.replace(archive)
    return archive


def _refuse_web_page(archive: Path) -> None:
    """Where a file is not shared, or was fetched too often, Drive answers with a web page."""
    if not zipfile.is_zipfile(archive) and looks_like_web_page(archive):
        error = web_page_error(archive, archive.name.removeprefix(".partial-"))
        archive.unlink()
        raise error


def _gdown(function: str, drive_id: str, output: Path) -> None:
    """Call gdown with what its versions 5 and 6 have in common."""
    gdown = _import("gdown")
    try:
        # Version 5 returns None where it fails, version 6 raises.
        failed = getattr(gdown, function)(id=drive_id, output=str(output)) is None
        reason = "gdown could not fetch it"
    # gdown passes on the errors of every library below it.
    except Exception as error:
        failed, reason = error, f"{type(error).__name__}: {error}"
    if failed:
        raise DownloadError(
            "The Drive folder or file must be shared with anyone who has the link.",
            f"{drive_id}: {reason}",
            _gdown_advice(reason),
        ) from (failed if isinstance(failed, Exception) else None)


def _gdown_advice(reason: str) -> str:
    """What to do, by the words of gdown's error."""
    if re.search(r"MaximumLimit|\b50 files", reason):
        return (
            "gdown 5, which Colab has, fetches at most 50 files of a folder. Run `pip install "
            "--upgrade gdown` (version 6 has no such limit) and restart; or put the bundle there "
            "as one zip file and pass its link; or choose another SOURCE."
        )
    if re.search(r"quota|too many|many accesses", reason, re.IGNORECASE):
        return (
            "Its download quota is used up: wait, Drive opens it again after about a day. Or add "
            "it to your own Drive, mount that, and pass SOURCE='zip' or 'folder'; or choose "
            "another SOURCE."
        )
    return (
        "Check how it is shared. Or add it to your own Drive, mount that, and pass SOURCE='zip' "
        "or 'folder'; or choose another SOURCE."
    )


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DownloadError(
            f"This source needs the package {name}.", str(error), f"Run `pip install {name}`."
        ) from error
