"""Getting a bundle onto this machine and making sure that it is whole."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lungseg_utils.data.archives import shortened, unpack_zip
from lungseg_utils.data.pairing import (
    IMAGE_FOLDER,
    LEFT_MASK_FOLDER,
    MASK_FOLDER,
    READINGS_FOLDER,
    RIGHT_MASK_FOLDER,
    find_bundle,
    list_images,
)
from lungseg_utils.errors import DownloadError, LungsegError
from lungseg_utils.records import digest_of

_DRIVE_ID = r"[-\w]{10,}"


@dataclass(frozen=True)
class BundleReport:
    """What a bundle holds; every file counted was decoded.

    Args:
        folder: The bundle.
        images: Number of X-rays.
        masks: Number of merged masks.
        lung_masks: Number of masks of a single lung.
        readings: Number of clinical readings.
    """

    folder: Path
    images: int
    masks: int
    lung_masks: int
    readings: int

    def summary(self) -> str:
        """The counts in one line."""
        single = f", {self.lung_masks} masks of single lungs" if self.lung_masks else ""
        return (
            f"{self.images} X-rays, {self.masks} lung masks{single} and {self.readings} readings; "
            f"every image decodes."
        )


def check_bundle(folder: Path | str) -> BundleReport:
    """Decode every X-ray and every mask of a bundle once.

    Args:
        folder: The bundle, or a folder that holds it. A second copy of the bundle further
            down is not looked at.

    Raises:
        MissingInputError: The folder holds no bundle.
        DownloadError: There is no X-ray, or files are damaged; the message names them.
    """
    bundle = find_bundle(folder)
    images = list_images(bundle / IMAGE_FOLDER)
    masks = list_images(bundle / MASK_FOLDER)
    lung_masks = list_images(bundle / LEFT_MASK_FOLDER) + list_images(bundle / RIGHT_MASK_FOLDER)
    if not images:
        raise DownloadError(
            "A bundle holds X-rays.",
            f"no image file in {bundle / IMAGE_FOLDER}",
            "Fetch it again, or choose another SOURCE.",
        )
    damaged = _find_damaged([*images, *masks, *lung_masks])
    if damaged:
        listed = [f"{path.relative_to(bundle)}: {reason}" for path, reason in damaged.items()]
        raise DownloadError(
            "Every X-ray and every mask of a bundle can be decoded.",
            f"{len(listed)} damaged in {bundle}\n    " + "\n    ".join(shortened(listed)),
            "Fetch the bundle again with overwriting on, or replace these files.",
        )
    readings = len(list((bundle / READINGS_FOLDER).glob("*.txt")))
    return BundleReport(bundle, len(images), len(masks), len(lung_masks), readings)


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
    for archive in sorted(folder.rglob("*.zip")):
        unpack_zip(archive, archive.with_suffix(""))
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


def _find_damaged(paths: list[Path]) -> dict[Path, str]:
    from tqdm.auto import tqdm

    # Pillow's decoders let other threads run.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        reasons = tqdm(pool.map(_decoding_error, paths), total=len(paths), desc="decode")
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
    finally:
        # An interruption by the user need not wait for the rest.
        pool.shutdown(cancel_futures=True)


def _decoding_error(path: Path) -> str:
    """Why an image cannot be decoded; empty where it can."""
    from PIL import Image

    try:
        # Checksums first: the decoder is content with a PNG whose end is cut off.
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            image.load()
    # A damaged file makes the decoders fail in any way.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).replace(str(path), path.name)}"
    return ""


def _download_drive_file(drive_id: str, downloads: Path, force: bool) -> Path:
    archive = downloads / f"drive-{drive_id}.zip"
    # Where a file is not shared, or was fetched too often, Drive answers with a web page.
    if force or not zipfile.is_zipfile(archive):
        archive.unlink(missing_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
        _gdown("download", drive_id, archive)
    return archive


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
            "Check how it is shared. gdown 5 fetches at most 50 files of a folder: put the bundle "
            "there as one zip file. Or add it to your own Drive and pass SOURCE='zip'.",
        ) from (failed if isinstance(failed, Exception) else None)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DownloadError(
            f"This source needs the package {name}.", str(error), f"Run `pip install {name}`."
        ) from error
