"""Fetching bundles from Kaggle, Google Drive and Mendeley Data."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.acquire.http import download_file, looks_like_web_page, web_page_error
from lungseg_utils.bundle import BUNDLE_SUFFIXES, IMAGE_FOLDER, MASK_FOLDER
from lungseg_utils.errors import DownloadError, InvalidValueError, compress_ranges, shortened
from lungseg_utils.manifest import Case, load_manifest

ARCHIVE_NAME = "mendeley-8gf9vpkhgy-2.zip"
_MENDELEY_PAGE = "https://doi.org/10.17632/8gf9vpkhgy.2"
_MENDELEY_URL = "https://data.mendeley.com/public-api/zip/8gf9vpkhgy/download/2"
# The third set, 6,106 X-rays whose masks include the lung behind the heart, is left packed.
_OTHER_SET = "darwin"
_DRIVE_ID = r"[-\w]{10,}"
_OWN_DRIVE = (
    "Or add it to your own Drive, mount that, and pass SOURCE='zip' or 'folder'; or choose "
    "another SOURCE."
)


# --- Kaggle and Google Drive, by packages that do their own transport


def download_from_kaggle(handle: str, force: bool = False) -> Path:
    """Fetch a public data set with kagglehub, which needs no account for it and resumes.

    Args:
        handle: `<owner>/<data set>`.
        force: Fetch again what is in kagglehub's cache.

    Returns:
        The folder in kagglehub's cache; read-only in Colab, to be used where it lies.

    Raises:
        DownloadError: kagglehub is missing or fails; the message says which.
    """
    try:
        import kagglehub

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
        InvalidValueError: The location is neither an id nor a link of Google Drive.
        DownloadError: gdown is missing or fails, or what arrived is no whole zip file.
    """
    kind, drive_id = parse_drive_location(location)
    if kind == "file":
        unpack_zip(_download_drive_file(drive_id, downloads, force), folder)
        return
    _gdown("download_folder", drive_id, folder)
    # Listed before the first is unpacked: an archive inside another stays packed.
    for archive in sorted(folder.rglob("*.zip")):
        _refuse_web_page(archive)
        unpack_zip(archive, archive.with_suffix(""))
        archive.unlink()


def parse_drive_location(location: str) -> tuple[str, str]:
    """Tell whether a Google Drive location is a `folder` or a `file`, and its id.

    Raises:
        InvalidValueError: It is neither an id nor a link of Google Drive.
    """
    if re.fullmatch(_DRIVE_ID, location):
        return "folder", location
    if re.match(r"https://(drive|docs)\.google\.com/", location):
        if found := re.search(rf"/folders/({_DRIVE_ID})", location):
            return "folder", found[1]
        if found := re.search(rf"(?:/file/(?:u/\d+/)?d/|[?&]id=)({_DRIVE_ID})", location):
            return "file", found[1]
    raise InvalidValueError(
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
    if zipfile.is_zipfile(archive):
        return
    with archive.open("rb") as file:
        head = file.read(1 << 16)
    if looks_like_web_page(head):
        archive.unlink()
        raise web_page_error(head, archive.name.removeprefix(".partial-"))


def _gdown(function: str, drive_id: str, output: Path) -> None:
    """Call gdown with what its versions 5 and 6 have in common."""
    try:
        import gdown

        # Version 5 returns None where it fails, version 6 raises.
        if getattr(gdown, function)(id=drive_id, output=str(output)) is None:
            raise RuntimeError("gdown could not fetch it")
    # gdown passes on the errors of every library below it.
    except Exception as error:
        raise DownloadError(
            "The Drive folder or file must be shared with anyone who has the link.",
            f"{drive_id}: {type(error).__name__}: {error}",
            _gdown_advice(f"{type(error).__name__}: {error}"),
        ) from error


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
            "Its download quota is used up: wait, Drive opens it again after about a day. "
            f"{_OWN_DRIVE}"
        )
    return f"Check how it is shared. {_OWN_DRIVE}"


# --- Mendeley Data: Danilov et al. 2022, "Chest X-ray dataset for lung segmentation", version 2,
# doi 10.17632/8gf9vpkhgy.2, CC BY 4.0


def download_mendeley(
    folder: Path,
    downloads: Path,
    url: str = _MENDELEY_URL,
    manifest: Sequence[Case] | None = None,
) -> list[str]:
    """Fetch Mendeley's archive; unpack Montgomery and Shenzhen, with merged masks, as a bundle.

    Files are recognised by the manifest's image ids, with or without `_mask`, and as masks by
    that or by a folder `mask`.

    Args:
        folder: Filled with `CXR_png` and `masks`, under the manifest's names.
        downloads: Where the archive is kept as it came; an interrupted one goes on where it
            stopped.
        url: The archive's address.
        manifest: The cases; None for the project's own.

    Returns:
        Files of the manifest's masked cases that the archive does not hold, relative to the
        folder; they are printed too. The 96 X-rays without a mask are not part of this set.

    Raises:
        DownloadError: The archive cannot be fetched, is not whole, or holds none of the X-rays.
    """
    cases = load_manifest() if manifest is None else list(manifest)
    archive = _download_archive(url, downloads / ARCHIVE_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that files are moved and not copied.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        found = _find_files(_unpack_sets(archive, Path(temporary) / "archive"), cases)
        for name, path in found.items():
            (folder / name).parent.mkdir(exist_ok=True)
            path.replace(folder / name)
    if not any(name.startswith(IMAGE_FOLDER) for name in found):
        raise DownloadError(
            "Mendeley's archive holds X-rays under the manifest's image ids.",
            f"none in {archive}; there: {', '.join(shortened(_names_in(archive)))}",
            "Its layout has changed: unpack it by hand, put the X-rays into CXR_png and the masks "
            "into masks, and pass SOURCE='folder'.",
        )
    missing = _list_missing(cases, {Path(name).with_suffix("") for name in found})
    if missing:
        stems = compress_ranges(Path(name).with_suffix("").as_posix() for name in missing)
        print(f"Not in the archive ({len(missing)}): " + ", ".join(shortened(stems)))
    return missing


def _download_archive(url: str, archive: Path) -> Path:
    try:
        return download_file(url, archive)
    except DownloadError as error:
        raise DownloadError(
            error.rule,
            error.received,
            "Run it again later: it goes on where it stopped. Or download all files from "
            f"{_MENDELEY_PAGE} in the browser, and put the archive there as {archive}.",
        ) from error


def _unpack_sets(archive: Path, folder: Path) -> Path:
    """Unpack an archive without the third set, and the archives in it, one level deep."""
    try:
        unpack_zip(archive, folder, _is_wanted)
    except DownloadError:
        # One that cannot be used must not be found again by the next run.
        archive.unlink(missing_ok=True)
        raise
    for number, inner in enumerate(sorted(folder.rglob("*.zip"))):
        # Its name is part of the path, because it may be what tells images from masks.
        unpack_zip(inner, folder / f"{number}" / inner.stem, _is_wanted)
    return folder


def _is_wanted(name: str) -> bool:
    path = Path(name.lower())
    # A whole part of the path: the title of the data set, in the names of folders, may list sets.
    sets = {Path(part).stem for part in path.parts}
    return _OTHER_SET not in sets and path.suffix in {*BUNDLE_SUFFIXES, ".zip"}


def _find_files(unpacked: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """The bundle's files, each under the name that the manifest gives it, with its own suffix."""
    known = {case.image_id.lower(): case for case in cases}
    found: dict[str, Path] = {}
    for path in sorted(unpacked.rglob("*")):
        stem = path.stem.lower()
        # A "._" file beside each comes from a Mac; its name is none of the manifest's.
        case = known.get(stem.removesuffix("_mask"))
        if case is None or path.suffix.lower() not in BUNDLE_SUFFIXES:
            continue
        above = [part.lower() for part in path.relative_to(unpacked).parts[:-1]]
        is_mask = stem.endswith("_mask") or any(part.startswith("mask") for part in above)
        name = case.mask_file if is_mask else case.image_file
        if name:
            place = Path(MASK_FOLDER if is_mask else IMAGE_FOLDER, name)
            found.setdefault(place.with_suffix(path.suffix.lower()).as_posix(), path)
    return found


def _list_missing(cases: Sequence[Case], found: set[Path]) -> list[str]:
    masked = [case for case in cases if case.mask_file]
    names = [f"{IMAGE_FOLDER}/{case.image_file}" for case in masked]
    names += [f"{MASK_FOLDER}/{case.mask_file}" for case in masked]
    return [name for name in names if Path(name).with_suffix("") not in found]


def _names_in(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()
