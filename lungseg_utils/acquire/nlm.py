"""The original X-rays from the National Library of Medicine, file by file."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from shutil import copyfile

import requests
from tqdm.auto import tqdm

from lungseg_utils.acquire import download
from lungseg_utils.acquire.transfer import MissingFileError, Patience, download_file
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
    patience: Patience | None = None,
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
        patience: Time limits and retries of the downloads; None for the usual ones.

    Returns:
        Files that the servers do not have, relative to the folder; they are printed too.

    Raises:
        DownloadError: A server refuses or keeps failing, or has none of a set's X-rays. What
            has arrived stays.
        LungsegError: The disk has not enough room.
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
    expected_bytes = sum(sizes.get(name, 0) for name in wanted)
    require_space(folder, expected_bytes, "The download from NLM")
    missing += _fetch_all(wanted, folder, expected_bytes, patience)
    _check_addresses(cases, missing, urls)
    if missing:
        print(f"Not on the server ({len(missing)}): " + ", ".join(_shorten(missing)))
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
    cache = download.download_from_kaggle(SHENZHEN_MASKS)
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


def _fetch_all(
    wanted: Mapping[str, str], folder: Path, expected_bytes: int, patience: Patience | None
) -> list[str]:
    """Fetch files, several at a time, under one bar; the names of those that are not there."""
    missing = []
    with tqdm(total=expected_bytes, unit="B", unit_scale=True, desc="NLM") as bar:
        with (
            closing(_Fetchers(folder, bar, patience)) as fetchers,
            ThreadPoolExecutor(FILES_AT_A_TIME) as pool,
        ):
            futures = {pool.submit(fetchers.fetch, url, name): name for name, url in wanted.items()}
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    if not future.result():
                        missing.append(futures[future])
                    bar.set_postfix_str(f"{done:,} of {len(futures):,} files", refresh=False)
            except BaseException:
                # An interruption by the user or a server that is gone: the others need not wait.
                fetchers.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        # The number of bytes was an estimate.
        bar.total = bar.n
    return sorted(missing)


class _Fetchers:
    """What the threads share: open connections, the bar, and whether to stop.

    Args:
        folder: Where the files go.
        bar: Counts bytes.
        patience: None for the usual one, whose waits end when it is told to stop.
    """

    def __init__(self, folder: Path, bar: tqdm, patience: Patience | None) -> None:
        self.stopped = threading.Event()
        self._folder, self._bar, self._lock = folder, bar, threading.Lock()
        self._patience = patience or Patience(sleep=self.stopped.wait)
        # A session is no thing for two threads at once.
        self._sessions: SimpleQueue[requests.Session] = SimpleQueue()
        for _ in range(FILES_AT_A_TIME):
            self._sessions.put(requests.Session())

    def fetch(self, url: str, name: str) -> bool:
        """Fetch one file; whether the server has it."""
        session = self._sessions.get()
        try:
            download_file(url, self._folder / name, self._patience, session, self._count)
        except MissingFileError:
            return False
        finally:
            self._sessions.put(session)
        return True

    def close(self) -> None:
        """Close the connections, once no thread uses them any more."""
        while not self._sessions.empty():
            self._sessions.get().close()

    def _count(self, count: int) -> None:
        if self.stopped.is_set():
            raise InterruptedError
        with self._lock:
            self._bar.update(count)


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


def _shorten(names: list[str]) -> list[str]:
    stems = (Path(name).with_suffix("").as_posix() for name in names)
    return shortened(compress_ranges(stems))
