"""Where the X-rays come from, and how they get onto this machine."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path

from lungseg_utils.data.archives import unpack_zip
from lungseg_utils.data.download import (
    check_bundle,
    download_from_drive,
    download_from_kaggle,
    parse_drive_location,
    stamp_of_files,
)
from lungseg_utils.data.pairing import find_bundle
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError
from lungseg_utils.records import read_json, write_json
from lungseg_utils.workspace import Workspace

SOURCES = ("kaggle", "drive", "folder", "zip", "phantom")
KAGGLE_HANDLE = "nikhilpandey360/chest-xray-masks-and-labels"
DRIVE_FOLDER = "1NC0nT80PNzv0XpYiR5OuHaN5TM8-sF_h"
_DEFAULT_LOCATIONS = {"kaggle": KAGGLE_HANDLE, "drive": DRIVE_FOLDER}
_RECORD = "fetched.json"


def fetch(
    source: str,
    workspace: Workspace,
    location: str = "",
    overwrite: bool = False,
    **phantom_options: object,
) -> Path:
    """Bring a bundle onto this machine, unless it is there, and decode every image once.

    The source is recorded in the workspace, so that `ensure_raw` can fetch it again.

    Args:
        source: `kaggle`: the public data set, without an account. `drive`: a shared Google
            Drive folder, or a zip file there. `folder`: a bundle on this machine, used where it
            lies. `zip`: a packed bundle, such as one on the mounted Drive. `phantom`: synthetic
            X-rays.
        workspace: Bundles are put into its `raw` folder.
        location: Another data set's handle for `kaggle`; a folder's id or link, or a zip file's
            link, for `drive`; the path for `folder` and `zip`.
        overwrite: Fetch again what is there.
        **phantom_options: Arguments of `phantom.write_phantom_bundle`, for `phantom` only.

    Returns:
        The bundle: the folder that holds `CXR_png`.

    Raises:
        LungsegError: The source, the location or an option is unknown.
        MissingInputError: The folder or the zip file is not there.
        DownloadError: The source cannot be fetched, or what arrived is not whole.
    """
    request = _describe_request(source, location, phantom_options)
    if source == "folder":
        return _use_folder(request, workspace, overwrite)
    bundle = None if overwrite else _find_fetched(request, workspace)
    if bundle is None:
        bundle = _fetch_into_raw(request, workspace, overwrite)
    write_json(workspace.source_record, request)
    return bundle


def ensure_raw(workspace: Workspace) -> Path:
    """Find the bundle that was fetched; on a fresh machine, fetch it again.

    Returns:
        The bundle: the folder that holds `CXR_png`.

    Raises:
        MissingInputError: Nothing was ever fetched into this workspace, or the folder is gone.
        DownloadError: The source cannot be fetched again.
    """
    if not workspace.source_record.is_file():
        raise MissingInputError(
            "The workspace knows where its X-rays come from.",
            f"no file {workspace.source_record}",
            "Run notebook 02_download_and_pair first, with the same WORKSPACE.",
        )
    request = read_json(workspace.source_record)
    if request["source"] == "folder":
        return find_bundle(request["location"])
    return fetch(request["source"], workspace, request["location"], **request["options"])


def _describe_request(source: str, location: str, phantom_options: dict) -> dict:
    """What is asked for, as the records hold it: source, location and options."""
    if source not in SOURCES:
        raise LungsegError(
            f"SOURCE is one of {', '.join(SOURCES)}.", repr(source), "Correct the name."
        )
    if phantom_options and source != "phantom":
        raise LungsegError(
            f"SOURCE={source!r} takes no options.",
            ", ".join(phantom_options),
            "Leave them out, or choose SOURCE='phantom'.",
        )
    location = str(location) or _DEFAULT_LOCATIONS.get(source, "")
    if source in {"folder", "zip"}:
        if not location:
            raise LungsegError(
                f"SOURCE={source!r} needs a location.",
                "an empty one",
                "Pass the path of the bundle's folder or zip file.",
            )
        location = str(Path(location).expanduser().resolve())
    if source == "drive":
        parse_drive_location(location)
    options = _complete_phantom_options(phantom_options) if source == "phantom" else {}
    return {"source": source, "location": location, "options": options}


def _complete_phantom_options(options: dict) -> dict:
    """The options with the defaults filled in, so that the record says all of them."""
    from lungseg_utils.data.phantom import write_phantom_bundle

    try:
        bound = inspect.signature(write_phantom_bundle).bind("folder", **options)
    except TypeError as error:
        known = list(inspect.signature(write_phantom_bundle).parameters)[1:]
        raise LungsegError(
            f"Options of the phantom are {', '.join(known)}.", error, "Correct the name."
        ) from error
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def _use_folder(request: dict, workspace: Workspace, overwrite: bool) -> Path:
    """The bundle where it lies; decoded again only where its files have changed."""
    bundle = _find_bundle(Path(request["location"]))
    record = {**request, "files": stamp_of_files(bundle)} if bundle else request
    known = read_json(workspace.source_record) if workspace.source_record.is_file() else None
    if bundle is None or overwrite or known != record:
        bundle = _check(Path(request["location"]))
        write_json(workspace.source_record, record)
    return bundle


def _find_bundle(folder: Path) -> Path | None:
    try:
        return find_bundle(folder)
    except MissingInputError:
        return None


def _find_fetched(request: dict, workspace: Workspace) -> Path | None:
    """The bundle in `raw`, where just that was fetched and is still there."""
    place = workspace.raw / request["source"]
    if not (place / _RECORD).is_file():
        return None
    record = read_json(place / _RECORD)
    bundle = place / record.pop("bundle")
    stamp, stamp_now = record.pop("archive"), _archive_stamp(request)
    if record != request or (stamp_now and stamp_now != stamp):
        return None
    return _find_bundle(bundle)


def _fetch_into_raw(request: dict, workspace: Workspace, overwrite: bool) -> Path:
    """Fetch under a temporary name, check, and rename: what lies under the final name is whole."""
    workspace.raw.mkdir(parents=True, exist_ok=True)
    final = workspace.raw / request["source"]
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=workspace.raw) as temporary:
        content = Path(temporary) / "content"
        content.mkdir()
        stamp = _archive_stamp(request)
        filled = _FETCHERS[request["source"]](request, content, workspace, overwrite)
        bundle = _check(filled)
        # kagglehub's cache stays where it is; all else moves along with its record.
        inside = bundle.is_relative_to(content)
        name = bundle.relative_to(content).as_posix() if inside else str(bundle)
        write_json(content / _RECORD, {**request, "archive": stamp, "bundle": name})
        if final.exists():
            final.rename(Path(temporary) / "former")
        content.rename(final)
    return final / name


def _check(folder: Path) -> Path:
    try:
        report = check_bundle(folder)
    except MissingInputError as error:
        found = sorted(path.name for path in folder.iterdir())[:20] if folder.is_dir() else []
        raise DownloadError(
            "What was fetched holds a folder `CXR_png`.",
            f"{error.received}; there: {', '.join(found) or 'nothing'}",
            "Choose another SOURCE or location.",
        ) from error
    print(report.summary())
    return report.folder


def _archive_stamp(request: dict) -> list[int] | None:
    """Size and time of the zip file, which tell whether it is another one by now."""
    path = Path(request["location"])
    if request["source"] != "zip" or not path.is_file():
        return None
    return [path.stat().st_size, int(path.stat().st_mtime)]


def _from_kaggle(request: dict, content: Path, workspace: Workspace, overwrite: bool) -> Path:
    return download_from_kaggle(request["location"], force=overwrite)


def _from_drive(request: dict, content: Path, workspace: Workspace, overwrite: bool) -> Path:
    download_from_drive(request["location"], content, workspace.downloads, force=overwrite)
    return content


def _from_zip(request: dict, content: Path, workspace: Workspace, overwrite: bool) -> Path:
    archive = Path(request["location"])
    if not archive.is_file():
        raise MissingInputError(
            "The zip file must be there.",
            f"no file {archive}",
            "Correct the path. In Colab, run notebook 01_mount_drive first.",
        )
    unpack_zip(archive, content)
    return content


def _write_phantom(request: dict, content: Path, workspace: Workspace, overwrite: bool) -> Path:
    from lungseg_utils.data.phantom import write_phantom_bundle

    write_phantom_bundle(content, **request["options"])
    return content


_FETCHERS: dict[str, Callable[[dict, Path, Workspace, bool], Path]] = {
    "kaggle": _from_kaggle,
    "drive": _from_drive,
    "zip": _from_zip,
    "phantom": _write_phantom,
}
