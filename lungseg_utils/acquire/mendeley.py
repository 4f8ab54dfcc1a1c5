"""The Montgomery and Shenzhen sets as Mendeley Data publishes them, with merged masks.

Danilov et al. 2022, "Chest X-ray dataset for lung segmentation", version 2,
doi 10.17632/8gf9vpkhgy.2, CC BY 4.0.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.acquire.transfer import download_file
from lungseg_utils.bundle import BUNDLE_SUFFIXES, IMAGE_FOLDER, MASK_FOLDER
from lungseg_utils.errors import DownloadError, compress_ranges, shortened
from lungseg_utils.manifest import Case, load_manifest

PAGE = "https://doi.org/10.17632/8gf9vpkhgy.2"
ARCHIVE_URL = "https://data.mendeley.com/public-api/zip/8gf9vpkhgy/download/2"
ARCHIVE_NAME = "mendeley-8gf9vpkhgy-2.zip"
# The third set, 6,106 X-rays whose masks include the lung behind the heart, is left packed.
_OTHER_SET = "darwin"


def download_mendeley(
    folder: Path,
    downloads: Path,
    url: str = ARCHIVE_URL,
    manifest: Sequence[Case] | None = None,
) -> list[str]:
    """Fetch the archive of the whole set; unpack Montgomery and Shenzhen in the bundle's layout.

    Files are recognised by the manifest's image ids, with or without `_mask`, and as masks by
    that or by a folder `mask`. What lies in `folder` already is not replaced.

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
    archive = _download(url, downloads / ARCHIVE_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that files are moved and not copied.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        unpacked = _unpack(archive, Path(temporary))
        found = _find_files(unpacked, cases)
        if not any(name.startswith(IMAGE_FOLDER) for name in found):
            _refuse(archive, unpacked)
        for name, path in found.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if not (folder / name).exists():
                path.replace(folder / name)
    missing = _list_missing(cases, {Path(name).with_suffix("") for name in found})
    if missing:
        stems = compress_ranges(Path(name).with_suffix("").as_posix() for name in missing)
        print(f"Not in the archive ({len(missing)}): " + ", ".join(shortened(stems)))
    return missing


def _download(url: str, archive: Path) -> Path:
    try:
        return download_file(url, archive)
    except DownloadError as error:
        raise DownloadError(
            error.rule,
            error.received,
            f"Run it again later: it goes on where it stopped. Or download all files from {PAGE} "
            f"in the browser, and put the archive there as {archive}.",
        ) from error


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive without the third set, and the archives in it, one level deep."""
    outer = folder / "archive"
    try:
        unpack_zip(archive, outer, wanted=_is_wanted)
    except DownloadError:
        # A damaged one must not be found again by the next run; a full disk is another matter.
        if not _is_sound(archive):
            archive.unlink(missing_ok=True)
        raise
    for number, inner in enumerate(sorted(outer.rglob("*.zip"))):
        # Its name is part of the path, because it may be what tells images from masks.
        unpack_zip(inner, outer / f"{number}" / inner.stem, wanted=_is_wanted)
        inner.unlink()
    return outer


def _is_wanted(name: str) -> bool:
    path = Path(name.lower())
    # A whole part of the path: the title of the data set, in the names of folders, may list sets.
    sets = {Path(part).stem for part in path.parts}
    return _OTHER_SET not in sets and path.suffix in {*BUNDLE_SUFFIXES, ".zip"}


def _is_sound(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() is None
    # A damaged archive makes zipfile fail in any way.
    except Exception:
        return False


def _find_files(unpacked: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """The bundle's files, each under the name that the manifest gives it, with its own suffix."""
    known = {case.image_id.lower(): case for case in cases}
    found: dict[str, Path] = {}
    for path in sorted(unpacked.rglob("*")):
        stem = path.stem.lower()
        case = known.get(stem.removesuffix("_mask"))
        # A "._" file beside each comes from a Mac and is none of them.
        if case is None or path.suffix.lower() not in BUNDLE_SUFFIXES or "__MACOSX" in path.parts:
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


def _refuse(archive: Path, unpacked: Path) -> None:
    names = [path.relative_to(unpacked).as_posix() for path in sorted(unpacked.rglob("*"))]
    raise DownloadError(
        "Mendeley's archive holds X-rays under the manifest's image ids.",
        f"none in {archive}; there: {', '.join(shortened(names)) or 'no images'}",
        "Its layout has changed: unpack it by hand, put the X-rays into CXR_png and the masks into "
        "masks, and pass SOURCE='folder'.",
    )
