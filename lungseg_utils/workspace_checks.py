"""What can be wrong with each thing in a workspace, and how it is mended.

Each check yields a `Damage` for what it finds, and passes over what it cannot judge.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from lungseg_utils.acquire.arrival import list_files, record_path, recorded_hashes
from lungseg_utils.acquire.raw_bundles import RECORD as FETCHED
from lungseg_utils.acquire.raw_bundles import find_bundle_or_none, read_record
from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import digest_of, file_sha256, read_json

_AGAIN_02 = (
    "Run notebook 02_download_and_pair with OVERWRITE; with SOURCE 'folder' or 'zip', put the "
    "file back first."
)
_AGAIN_03 = "Delete it and run notebook 03_preprocess_and_stitch again."
_REQUEST = ("source", "location", "options")


@dataclass(frozen=True)
class Damage:
    """Something in a workspace that is not as it should be.

    Args:
        path: The file or folder.
        reason: What is wrong with it.
        remedy: How to mend it.
    """

    path: Path
    reason: str
    remedy: str


def check_raw(place: Path, downloads: Path) -> Iterator[Damage]:
    """Compare the files of a folder in `raw` with the SHA-256 of their first arrival.

    Args:
        place: The folder, with its `fetched.json`.
        downloads: Holds the records of first arrival.
    """
    record = read_record(place / FETCHED)
    if record is None or not {*_REQUEST, "bundle"} <= set(record):
        yield Damage(place / FETCHED, "absent or damaged", "Run notebook 02_download_and_pair.")
        return
    request = {key: record[key] for key in _REQUEST}
    # Of a source that only filled gaps, some files were never asked for.
    asked_for_all = record.get("have") == digest_of([])
    yield from _compare_hashes(
        place / record["bundle"], request, downloads, record.get("wanting", []), asked_for_all
    )


def check_source(source_record: Path) -> Iterator[Damage]:
    """Check the workspace's record of its source; of a bundle used where it lies, the files too."""
    request = read_record(source_record)
    if request is None or not set(_REQUEST) <= set(request):
        yield Damage(source_record, "damaged", "Run notebook 02_download_and_pair again.")
    elif request["source"] == "folder":
        bundle = find_bundle_or_none(Path(request["location"]))
        if bundle is None:
            advice = "Mount its drive or put it back, or choose another SOURCE in notebook 02."
            yield Damage(Path(request["location"]), "no bundle there", advice)
            return
        request = {key: request[key] for key in _REQUEST}
        yield from _compare_hashes(bundle, request, source_record.parent, [], True)


def check_archive(path: Path, remedy: str, required: tuple[str, ...] = ()) -> Iterator[Damage]:
    """Read a zip archive through, comparing the checksum of each file in it.

    Args:
        path: The archive.
        remedy: How to mend it.
        required: Files that it must hold.
    """

    def read() -> str:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                return f"{bad} in it is damaged"
            missing = sorted({*required} - set(archive.namelist()))
            return f"it lacks {', '.join(missing)}" if missing else ""

    yield from _try(path, read, remedy)


def check_stitched(path: Path) -> Iterator[Damage]:
    """Check an archive of stitched pairs."""
    yield from check_archive(path, _AGAIN_03, ("index.csv", "record.json"))


def check_prepared(folder: Path) -> Iterator[Damage]:
    """Check prepared arrays: their form, their index, and the SHA-256 in their record."""

    def read() -> str:
        import numpy as np

        from lungseg_utils.preparation.cases import read_index

        record = read_json(folder / "record.json")
        made_from = {key: record[key] for key in ("version", "size", "cases")}
        if digest_of(made_from) != record["digest"]:
            return "record.json does not have the digest of its own content"
        for name, sha256 in record.get("sha256", {}).items():
            if file_sha256(folder / name) != sha256:
                return f"{name} is not as it was written (SHA-256)"
        images, masks = (np.load(folder / f"{name}.npy", "r") for name in ("images", "masks"))
        ids = read_index(folder / "index.csv")["image_id"].tolist()
        shape = (len(ids), record["size"], record["size"])
        if not (images.shape == masks.shape == shape and images.dtype == masks.dtype == np.uint8):
            return f"arrays {images.shape} and {masks.shape} of {images.dtype}, not uint8 {shape}"
        expected = set(record["cases"]) - set(record.get("left_out", {}))
        if set(ids) != expected:
            return "index.csv does not list the cases of record.json"
        return "masks.npy holds more than 0 and 1" if masks.max(initial=0) > 1 else ""

    yield from _try(folder, read, _AGAIN_03)


def check_run(folder: Path) -> Iterator[Damage]:
    """Check a run: `run.json`, history, weights, checkpoint, predictions, and its first stage."""
    from lungseg_utils.training.runs import BEST, RECORD, train_again

    again = train_again(folder)
    record = {}

    def read_run() -> str:
        record.update(read_json(folder / RECORD))
        return "" if {"config", "data"} <= set(record) else "it lacks `config` or `data`"

    yield from _try(folder / RECORD, read_run, again)
    history = folder / "history.csv"
    if history.is_file():
        yield from _try(history, lambda: _history_fault(history, record), again)
    if (folder / BEST).is_file():
        yield from _try(folder / BEST, lambda: _weights_fault(folder / BEST, record), again)
    elif history.is_file():
        yield Damage(folder / BEST, "absent, though epochs were trained", again)
    for path in sorted(folder.glob("[!.]*.npz")):
        advice = "Delete it." if record.get("finished") else "Delete it to start this run anew."
        yield from check_archive(path, advice)
    for path in sorted((folder / "predictions").glob("[!.]*.npz")):
        remedy = "Delete it and run the notebook that trained the run: it predicts again."
        damages = list(check_archive(path, remedy))
        made_by = _try(path, lambda path=path: _prediction_fault(path, folder / BEST), remedy)
        yield from damages or made_by
    for path in sorted(folder.glob(f"*/{RECORD}")):
        yield from check_run(path.parent)


def _compare_hashes(
    bundle: Path, request: dict, downloads: Path, wanting: list[str], all_asked: bool
) -> Iterator[Damage]:
    path = record_path(downloads, request)
    try:
        hashes = recorded_hashes(path)
    except LungsegError as error:
        yield Damage(path, str(error.received), "Delete it: the files will be recorded anew.")
        return
    there = set(list_files(bundle)) if bundle.is_dir() else set()
    names = sorted(set(hashes) - set(wanting))

    def fault(name: str) -> str:
        if name not in there:
            return "gone" if all_asked else ""
        try:
            found = file_sha256(bundle / name)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return "" if found == hashes[name] else "not the file that arrived first (SHA-256)"

    faults = thread_map(fault, names, desc=f"Verifying {request['source']}", unit="file")
    for name, found in zip(names, faults, strict=True):
        if found:
            yield Damage(bundle / name, found, _AGAIN_02)
    if unrecorded := sorted(there - set(hashes) - set(wanting)):
        found = f"not recorded at first arrival, as {len(unrecorded)} files here"
        yield Damage(bundle / unrecorded[0], found, _AGAIN_02)


def _history_fault(path: Path, record: dict) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    if epochs != list(range(1, len(epochs) + 1)):
        return f"epochs {epochs[:3]} …, not 1 to {len(epochs)}"
    trained = record.get("epochs_run", len(epochs))
    finished = bool(record.get("finished"))
    return f"{len(epochs)} epochs of {trained}" if finished and trained != len(epochs) else ""


def _prediction_fault(path: Path, weights: Path) -> str:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        made_by = str(arrays["digest"]).partition(" ")[0]
    if weights.is_file() and made_by != file_sha256(weights):
        return f"not made by {weights.name} as it is: the run went on since, or it was damaged"
    return ""


def _weights_fault(path: Path, record: dict) -> str:
    import h5py
    import numpy as np

    from lungseg_utils.training.runs import check_best

    faults = []

    def read(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        values = item[()]
        if np.issubdtype(item.dtype, np.floating) and not np.isfinite(values).all():
            faults.append(f"{name} is not finite")

    with h5py.File(path, "r") as file:
        if not file:
            return "it holds no weights"
        file.visititems(read)
    if not faults:
        check_best(record, path)
    return faults[0] if faults else ""


def _try(path: Path, read: Callable[[], str], remedy: str) -> Iterator[Damage]:
    """Damage where `read` returns a reason, or fails in whatever way damaged files make it."""
    try:
        reason = read()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        yield Damage(path, reason, remedy)
