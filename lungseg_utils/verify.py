"""Check all that a workspace holds: `python -m lungseg_utils.verify [WORKSPACE]`.

Files are compared with the SHA-256 that the stage which wrote them recorded, archives with the
checksums in them. Nothing is changed. Exit code 1 where something is damaged.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from lungseg_utils.acquire.arrival import arrival_record, read_arrival, read_request
from lungseg_utils.bundle import list_files
from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.files.records import file_sha256, read_json
from lungseg_utils.training.runs import BEST, HISTORY, RECORD, train_again
from lungseg_utils.workspace import Workspace, locate_workspace

_AGAIN_02 = (
    "Run notebook 02_download_and_pair with OVERWRITE; with SOURCE 'folder' or 'zip', put the "
    "file back first, or mount its drive."
)
_AGAIN_03 = "Delete it and run notebook 03_preprocess_and_stitch again."
_PREDICT_AGAIN = "Delete it and run the notebook that trained the run: it predicts again."
# A place, how to read what its files are compared with, and what mends them.
_Check = tuple[Path, Callable[[], dict[Path, str]], str]
# In place of a SHA-256: an archive has checksums of its own; or nothing is known of a file.
_CHECKSUMS, _UNRECORDED = "checksums", "not recorded when it arrived"


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


@dataclass(frozen=True)
class Verification:
    """What a check of a workspace found.

    Args:
        checked: What was checked, such as `prepared/256`; `downloads/source.json` stands for the
            raw files too.
        damaged: What is not as it should be.
    """

    checked: list[str] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)

    def summary(self) -> str:
        """A readable report: what was checked, and for each damage what, why and the remedy."""
        lines = [f"Checked: {', '.join(self.checked) or 'nothing; the workspace is empty'}."]
        for damage in self.damaged:
            lines += [f"{damage.path}: {damage.reason}", f"  What to do: {damage.remedy}"]
        found = f"{len(self.damaged)} damaged." if self.damaged else "Nothing is damaged."
        return "\n".join([*lines, found])


def verify_workspace(workspace: Workspace | Path | str) -> Verification:
    """Check raw files, downloads, prepared arrays, stitched archives and runs of a workspace.

    Args:
        workspace: The workspace, or its folder; empty for the usual one.

    Returns:
        What was checked, and what is damaged.

    Raises:
        MissingInputError: There is no such folder.
    """
    if not isinstance(workspace, Workspace):
        workspace = locate_workspace(workspace)
    if not workspace.root.is_dir():
        raise MissingInputError(
            "The workspace must be there to be verified.",
            f"no folder {workspace.root}",
            "Check the path. In Colab, run notebook 01_mount_drive first.",
        )
    result, files = Verification(), []
    for place, read, remedy in _list_checks(workspace):
        result.checked.append(place.relative_to(workspace.root).as_posix())
        try:
            expected = read()
        except Exception as error:  # damaged records make readers fail in any way
            expected = {place: error}
        files += [(path, known, remedy) for path, known in expected.items()]
    faults = thread_map(lambda file: _find_fault(*file[:2]), files, desc="Verifying", unit="file")
    for (path, _, remedy), fault in zip(files, faults, strict=True):
        if fault:
            result.damaged.append(Damage(path, fault, remedy))
    return result


def _find_fault(path: Path, expected: str | Exception) -> str:
    """What is wrong with a file, given its SHA-256 or what else is known of it."""
    try:
        if isinstance(expected, Exception):
            raise expected
        if not path.exists():
            return "gone"
        if expected == _UNRECORDED:
            return _UNRECORDED
        if expected == _CHECKSUMS:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            return f"{bad} in it is damaged" if bad else ""
        return "" if file_sha256(path) == expected else "not as it was written (SHA-256)"
    except Exception as error:  # so do damaged archives
        return f"{type(error).__name__}: {error}"


# --- What each stage recorded


def _list_checks(workspace: Workspace) -> Iterator[_Check]:
    if workspace.source_record.is_file():
        yield workspace.source_record, lambda: _raw_files(workspace), _AGAIN_02
    for path in sorted(workspace.downloads.glob("[!.]*.zip")):
        yield _archive(path, "Delete it and run notebook 02_download_and_pair again.")
    for path in sorted((workspace.root / "prepared").glob("[!.]*/")):
        yield path, lambda path=path: _prepared_files(path), _AGAIN_03
    for path in sorted((workspace.root / "stitched").glob("[!.]*.zip")):
        yield _archive(path, _AGAIN_03)
    for path in sorted(workspace.runs.glob("[!.]*/")):
        yield from _list_run_checks(path)


def _archive(path: Path, remedy: str) -> _Check:
    return path, lambda: {path: _CHECKSUMS}, remedy


def _raw_files(workspace: Workspace) -> dict[Path, str]:
    request = read_request(workspace)
    record = read_arrival(arrival_record(workspace, request))
    if "bundle" not in record:
        return {}
    bundle = workspace.raw / record["bundle"]
    if not bundle.is_dir():
        # A fresh machine fetches again what is not the user's own folder.
        return {bundle: _CHECKSUMS} if request["source"] == "folder" else {}
    names = dict.fromkeys(list_files(bundle), _UNRECORDED) | record["sha256"]
    return {bundle / name: sha256 for name, sha256 in names.items()}


def _prepared_files(folder: Path) -> dict[Path, str]:
    hashes = read_json(folder / "record.json")["sha256"]
    return {folder / name: sha256 for name, sha256 in hashes.items()}


def _list_run_checks(folder: Path) -> Iterator[_Check]:
    yield folder / RECORD, lambda: _run_files(folder), train_again(folder)
    for path in sorted(set(folder.glob("[!.]*.npz")) - {folder / BEST}):
        yield _archive(path, "Delete it; a run that is not finished then begins anew.")
    for path in sorted((folder / "predictions").glob("[!.]*.npz")):
        yield path, lambda path=path: _prediction(path, folder / BEST), _PREDICT_AGAIN
    # A first stage at half the size is a run of its own.
    for path in sorted(folder.glob(f"*/{RECORD}")):
        yield from _list_run_checks(path.parent)


def _run_files(folder: Path) -> dict[Path, str]:
    record, best = read_json(folder / RECORD), folder / BEST
    if not record.get("finished"):
        return {best: _CHECKSUMS} if best.is_file() else {}
    epochs = len((folder / HISTORY).read_text(encoding="utf-8").splitlines()) - 1
    if epochs != record.get("epochs_run", epochs):
        raise ValueError(f"{HISTORY} has {epochs} epochs of {record['epochs_run']}")
    return {best: record["best_weights_sha256"]} if "best_weights_sha256" in record else {}


def _prediction(predictions: Path, weights: Path) -> dict[Path, str]:
    import numpy as np

    with np.load(predictions, allow_pickle=False) as arrays:
        made_by = str(arrays["digest"]).partition(" ")[0]
    if weights.is_file() and made_by != file_sha256(weights):
        raise ValueError(f"not made by {weights.name} as it is: it is of another time, or damaged")
    return {predictions: _CHECKSUMS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 where something is damaged, 2 where there is no workspace.
    """
    parser = argparse.ArgumentParser(prog="python -m lungseg_utils.verify", description=__doc__)
    parser.add_argument("workspace", nargs="?", default="", help="default: as in the notebooks")
    folder = parser.parse_args(arguments).workspace
    try:
        result = verify_workspace(folder)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(result.summary())
    return 1 if result.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
