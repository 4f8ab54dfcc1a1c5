"""The original X-rays from the National Library of Medicine, file by file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from shutil import copyfile

from tqdm.auto import tqdm
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.acquire.hosts import download_from_kaggle
from lungseg_utils.acquire.http import MissingFileError, download_file, open_session
from lungseg_utils.bundle import (
    IMAGE_FOLDER,
    LEFT_MASK_FOLDER,
    MASK_FOLDER,
    READINGS_FOLDER,
    RIGHT_MASK_FOLDER,
)
from lungseg_utils.errors import DownloadError, compress_ranges, shortened
from lungseg_utils.files.records import write_atomically
from lungseg_utils.files.storage import require_space
from lungseg_utils.manifest import Case, load_manifest

_ROOT = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets"
SET_URLS = {
    "montgomery": f"{_ROOT}/Montgomery-County-CXR-Set/MontgomerySet",
    "shenzhen": f"{_ROOT}/Shenzhen-Hospital-CXR-Set",
}
SHENZHEN_MASKS = "yoctoman/shcxr-lung-mask"
FILES_AT_A_TIME = 4
# Mean of the published X-rays: 614,034,765 bytes / 138 and 3,772,099,214 bytes / 662.
_XRAY_BYTES = {"montgomery": 4_450_000, "shenzhen": 5_700_000}


def download_nlm(
    folder: Path,
    have: Collection[str] = (),
    urls: Mapping[str, str] = SET_URLS,
    manifest: Sequence[Case] | None = None,
) -> list[str]:
    """Fetch the Montgomery and Shenzhen sets into a folder, in the bundle's layout.

    The sets are asked for file by file, under the manifest's names. Montgomery's masks come as
    the left and the right lung; Shenzhen's come from Kaggle (Stirenko et al. 2018), because NLM
    has none.

    Args:
        folder: Filled with `CXR_png`, `ManualMask/leftMask`, `ManualMask/rightMask`,
            `ClinicalReadings` and, for Shenzhen, `masks`. What lies there is not fetched again,
            and what was interrupted goes on where it stopped.
        have: Files not to fetch, relative to the bundle, such as `CXR_png/MCUCXR_0001_0.png`;
            a merged `masks/MCUCXR_0001_0.png` stands for the left and the right mask.
        urls: Each set's address; a set that is not named is left out.
        manifest: The cases; None for the project's own.

    Returns:
        Files that the servers do not have, relative to the folder; they are printed too.

    Raises:
        DownloadError: A server refuses or keeps failing, or has none of a set's X-rays. What
            has arrived stays.
        StorageError: The disk has not enough room.
    """
    cases = [
        case for case in (load_manifest() if manifest is None else manifest) if case.source in urls
    ]
    folder.mkdir(parents=True, exist_ok=True)
    # First what is quick: it must not fail after gigabytes.
    missing = _fetch_kaggle_masks(cases, folder, have)
    wanted = {
        name: url
        for case in cases
        for name, url in _list_files(case, urls[case.source], have).items()
        if not (folder / name).is_file()
    }
    sizes = {f"{IMAGE_FOLDER}/{case.image_file}": _XRAY_BYTES[case.source] for case in cases}
    require_space(folder, sum(sizes.get(name, 0) for name in wanted), "The download from NLM")
    missing += _fetch_all(wanted, folder)
    _check_addresses(cases, missing, urls)
    if missing:
        stems = compress_ranges(Path(name).with_suffix("").as_posix() for name in missing)
        print(f"Not on the server ({len(missing)}): " + ", ".join(shortened(stems)))
    return missing


def _list_files(case: Case, url: str, have: Collection[str]) -> dict[str, str]:
    """A case's files at NLM that are wanted: place in the bundle to address."""
    names = [
        f"{IMAGE_FOLDER}/{case.image_file}",
        f"{READINGS_FOLDER}/{Path(case.image_file).stem}.txt",
    ]
    if case.source == "montgomery" and f"{MASK_FOLDER}/{case.mask_file}" not in have:
        names += [f"{side}/{case.image_file}" for side in (LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)]
    return {name: f"{url}/{name}" for name in names if name not in have}


def _fetch_kaggle_masks(cases: list[Case], folder: Path, have: Collection[str]) -> list[str]:
    """Copy Shenzhen's masks from the Kaggle set; the names of those that it does not hold."""
    names = [
        f"{MASK_FOLDER}/{case.mask_file}"
        for case in cases
        if case.source == "shenzhen" and case.mask_file
    ]
    wanted = [name for name in names if name not in have and not (folder / name).is_file()]
    if not wanted:
        return []
    cache = download_from_kaggle(SHENZHEN_MASKS)
    # The set holds them in mask/mask; a later version may not.
    found = {path.name: path for path in sorted(cache.rglob("*.png"), reverse=True)}
    missing = []
    for name in wanted:
        source = found.get(Path(name).name)
        if source is None:
            missing.append(name)
        else:
            write_atomically(folder / name, lambda target, source=source: copyfile(source, target))
    return missing


def _fetch_all(wanted: Mapping[str, str], folder: Path) -> list[str]:
    """Fetch files, several at a time; the names of those that are not there."""
    with open_session() as session:

        def fetch(name: str) -> bool:
            try:
                download_file(wanted[name], folder / name, session, tqdm(disable=True))
            except MissingFileError:
                return False
            return True

        # After the first that fails, those that wait are not begun.
        came = thread_map(fetch, wanted, max_workers=FILES_AT_A_TIME, desc="NLM", unit="file")
    return sorted(name for name, there in zip(wanted, came, strict=True) if not there)


def _check_addresses(cases: list[Case], missing: list[str], urls: Mapping[str, str]) -> None:
    """Refuse a set of which not one X-ray is there: then its address is another by now."""
    lost = set(missing)
    for source, url in urls.items():
        names = [f"{IMAGE_FOLDER}/{case.image_file}" for case in cases if case.source == source]
        if names and lost.issuperset(names):
            raise DownloadError(
                f"NLM has the X-rays of {source} at its address.",
                f"none of {len(names)} is at {url}/{IMAGE_FOLDER}",
                "Look on lhncbc.nlm.nih.gov where the set is now, or choose another SOURCE.",
            )
