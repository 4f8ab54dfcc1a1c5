"""Where the X-rays come from, and how they get onto this machine."""

from __future__ import annotations

import datetime
import inspect
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.acquire.arrival import (
    OWN_HOSTS,
    Arrival,
    arrival_record,
    check_bundle,
    find_fetched,
    read_arrival,
    read_request,
    require_whole,
    stamp_of_bundle,
    stamp_origins,
)
from lungseg_utils.acquire.gaps import collect_parts, put_together
from lungseg_utils.acquire.hosts import (
    ARCHIVE_NAME,
    download_from_drive,
    download_from_kaggle,
    download_mendeley,
    parse_drive_location,
)
from lungseg_utils.acquire.nlm import download_nlm
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError, shortened
from lungseg_utils.files.records import publish_folder, remove_partial, write_json
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.manifest import Case
from lungseg_utils.workspace import Workspace

KAGGLE_HANDLE = "nikhilpandey360/chest-xray-masks-and-labels"
DRIVE_FOLDER = "1NC0nT80PNzv0XpYiR5OuHaN5TM8-sF_h"
# Every source and its usual location; None where it has one place and takes none.
HOSTS = {
    "kaggle": KAGGLE_HANDLE,
    "drive": DRIVE_FOLDER,
    "nlm": None,
    "mendeley": None,
    "folder": "",
    "zip": "",
    "phantom": "",
}
# What came of hundreds of files is worth keeping when the connection breaks.
_RESUMED = "nlm"


def fetch(
    source: str,
    workspace: Workspace,
    location: str = "",
    overwrite: bool = False,
    **phantom_options: object,
) -> Path:
    """Bring a bundle onto this machine, unless it is there, and read every file once.

    Every image is decoded and its size compared with the manifest's. The SHA-256 of each file is
    recorded at its first arrival, and compared when the same is fetched again. The source is
    recorded in the workspace, so that `ensure_raw` can fetch it again.

    Args:
        source: `kaggle`: the public data set, without an account. `drive`: a shared Google
            Drive folder, or a zip file there. `nlm`: the originals, file by file. `mendeley`:
            the set of Mendeley Data. `folder`: a bundle on this machine, used where it lies.
            `zip`: a packed bundle, such as one on the mounted Drive. `phantom`: synthetic X-rays.
            Several, such as `kaggle+nlm`: later ones give the cases that earlier ones lack or
            have damaged.
        workspace: Bundles are put into its `raw` folder.
        location: Another data set's handle for `kaggle`; a folder's id or link, or a zip file's
            link, for `drive`; the path for `folder` and `zip`. For several sources one each,
            joined by `;`, empty for the usual one.
        overwrite: Fetch again what is there, and record it as it is now.
        **phantom_options: Arguments of `phantom.write_phantom_bundle`, for `phantom` only.

    Returns:
        The bundle: the folder that holds `CXR_png`.

    Raises:
        LungsegError: The source, the location or an option is unknown, or a record is damaged.
        MissingInputError: The folder or the zip file is not there.
        DownloadError: The source cannot be fetched, what arrived is not whole, or a file is not
            what it was at its first arrival. Of several sources: none of them.
    """
    requests = _describe_requests(source, str(location), phantom_options)
    request = _join(requests)
    workspace.scratch.mkdir(parents=True, exist_ok=True)
    with hold(workspace.raw, "fetching X-rays"), explained(workspace.raw):
        remove_partial(workspace.downloads)
        bundle = None if overwrite else find_fetched(workspace, request)
        if bundle is None:
            try:
                if len(requests) > 1:
                    bundle = _fetch_several(requests, workspace, overwrite)
                else:
                    bundle = _fetch_one(request, workspace, overwrite)
            finally:
                _remove_partial_bundles(workspace.raw)
        write_json(workspace.source_record, request)
        return bundle


def ensure_raw(workspace: Workspace) -> Path:
    """Find the bundle that was fetched; on a fresh machine, fetch it again.

    Returns:
        The bundle: the folder that holds `CXR_png`.

    Raises:
        MissingInputError: Nothing was ever fetched into this workspace, or the folder is gone.
        LungsegError: The record of what was fetched is damaged.
        DownloadError: The source cannot be fetched again.
    """
    if not workspace.source_record.is_file():
        raise MissingInputError(
            "The workspace knows where its X-rays come from.",
            f"no file {workspace.source_record}",
            "Run notebook 02_download_and_pair, with the same WORKSPACE.",
        )
    request = read_request(workspace)
    # Of several sources, one that could not be reached then is asked again by notebook 02 alone.
    bundle = find_fetched(workspace, request, complete=False)
    if bundle is not None:
        return bundle
    return fetch(request["source"], workspace, request["location"], **request["options"])


# --- What is asked for


def _describe_requests(source: str, location: str, options: dict) -> list[dict]:
    """Check what is asked for; a request a source, as the records hold it."""
    names = [name.strip() for name in source.split("+")]
    mixed = len(names) > 1 and "phantom" in names
    if mixed or not HOSTS.keys() >= set(names) or len({*names}) < len(names):
        raise LungsegError(
            f"SOURCE is one of {', '.join(HOSTS)}, or several joined by '+': different ones, and "
            "without 'phantom', because synthetic X-rays stay apart from real ones.",
            repr(source),
            "Correct the name.",
        )
    places = location.split(";", len(names) - 1)
    places += [""] * (len(names) - len(places))
    return [
        {
            "source": name,
            "location": _complete_location(name, place.strip()),
            "options": _complete_options(name, options),
        }
        for name, place in zip(names, places, strict=True)
    ]


def _complete_location(source: str, location: str) -> str:
    usual = HOSTS[source]
    if usual is None and location:
        raise LungsegError(
            f"SOURCE={source!r} has one place, and takes no location.",
            repr(location),
            "Leave LOCATION empty.",
        )
    if source in OWN_HOSTS and not location:
        raise LungsegError(
            f"SOURCE={source!r} needs a location.",
            "an empty one",
            "Pass the path of the bundle's folder or zip file.",
        )
    location = location or usual or ""
    if source == "drive":
        parse_drive_location(location)
    return str(Path(location).expanduser().resolve()) if source in OWN_HOSTS else location


def _complete_options(source: str, options: dict) -> dict:
    """The phantom's options with the defaults filled in, so that the record says all of them."""
    known = {}
    if source == "phantom":
        from lungseg_utils.phantom.sets import write_phantom_bundle

        _, *parameters = inspect.signature(write_phantom_bundle).parameters.values()
        known = {each.name: each.default for each in parameters}
    if unknown := options.keys() - known.keys():
        raise LungsegError(
            f"Options of SOURCE={source!r} are {', '.join(known) or 'none'}.",
            ", ".join(sorted(unknown)),
            "Leave them out or correct them; only SOURCE='phantom' takes options.",
        )
    return known | options


def _join(requests: Sequence[dict]) -> dict:
    """One request for all; `_describe_requests` takes it apart again."""
    return {
        "source": "+".join(request["source"] for request in requests),
        "location": ";".join(request["location"] for request in requests),
        "options": requests[0]["options"],
    }


# --- One source


def _publish(workspace: Workspace, request: dict, folder: Path, facts: dict) -> Path:
    """Give a bundle that was fetched its final place, and record it; returns that place."""
    partial, place = _partial_of(workspace, request["source"]), str(folder)
    if folder.is_relative_to(partial):
        place = (Path(request["source"]) / folder.relative_to(partial)).as_posix()
        publish_folder(partial, workspace.raw / request["source"])
    bundle = workspace.raw / place
    state = {"bundle": place, "files": stamp_of_bundle(bundle), "failed": []}
    _record(workspace, request, state | facts)
    return bundle


def _record(workspace: Workspace, request: dict, facts: dict) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(arrival_record(workspace, request), {**facts, "request": request, "recorded": now})


def _partial_of(workspace: Workspace, source: str) -> Path:
    return workspace.raw / f".partial-{source}"


def _fetch_one(request: dict, workspace: Workspace, overwrite: bool) -> Path:
    source = request["source"]
    known = {} if overwrite else read_arrival(arrival_record(workspace, request)).get("sha256", {})
    final, partial = workspace.raw / source, _partial_of(workspace, source)
    if source == _RESUMED and final.is_dir() and not (overwrite or partial.exists()):
        # Not as it was recorded: what is sound in it need not be asked for again.
        final.rename(partial)
    origin = stamp_origins(request)
    arrival = _receive(_download(request, workspace, overwrite), request, known)
    gone = sorted(set(known) - set(arrival.files))
    if gone and source not in OWN_HOSTS:
        raise DownloadError(
            "A source brings what it brought the first time.",
            f"{len(gone)} files gone: {', '.join(shortened(gone))}",
            "Set OVERWRITE to take it as it is; or fetch again later, or from another SOURCE.",
        )
    require_whole(arrival)
    facts = {"origin": origin, "sha256": arrival.hashes}
    return _publish(workspace, request, arrival.folder, facts)


def _download(
    request: dict, workspace: Workspace, overwrite: bool, have: Collection[str] = ()
) -> Path:
    """Fetch one source, but for files that others have brought where it can be asked so.

    Returns:
        A folder that holds the bundle: the source's partial one, or where it is used.
    """
    source, location = request["source"], request["location"]
    folder = _partial_of(workspace, source)
    if overwrite or source != _RESUMED:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    match source:
        case "kaggle":
            return download_from_kaggle(location, overwrite)
        case "folder":
            return _require_place(location)
        case "zip":
            unpack_zip(_require_place(location), folder)
        case "drive":
            download_from_drive(location, folder, workspace.downloads, overwrite)
        case "nlm":
            download_nlm(folder, have)
        case "mendeley":
            if overwrite:
                (workspace.downloads / ARCHIVE_NAME).unlink(missing_ok=True)
            download_mendeley(folder, workspace.downloads)
        case "phantom":
            from lungseg_utils.phantom.sets import write_phantom_bundle

            write_phantom_bundle(folder, **request["options"])
    return folder


def _require_place(location: str) -> Path:
    if not Path(location).exists():
        raise MissingInputError(
            "The folder or zip file must be there.",
            f"no file {location}",
            "Correct the path. In Colab, `lungseg_utils.mount_drive()` mounts Drive.",
        )
    return Path(location)


def _receive(
    place: Path, request: dict, known: dict[str, str], cases: Sequence[Case] | None = None
) -> Arrival:
    """Read every file once, compare with the first arrival, and say what came.

    Returns:
        The bundle; a published file that is another than the first time counts as damaged.
    """
    arrival = check_bundle(place, cases)
    files = arrival.files
    changed = [name for name in known if name in files and files[name].sha256 != known[name]]
    if request["source"] not in OWN_HOSTS:
        arrival = arrival.without(changed)
    elif not files.keys() >= known.keys() or changed:
        names = changed + [f"{name} (gone)" for name in known if name not in files]
        print(f"Not as they arrived first ({len(names)}): {', '.join(shortened(names))}")
    print(arrival.summary())
    if request["source"] == _RESUMED:
        for name in arrival.damaged:
            (arrival.folder / name).unlink(missing_ok=True)  # to be asked for again
    return arrival


# --- Several sources


def _fetch_several(requests: Sequence[dict], workspace: Workspace, overwrite: bool) -> Path:
    """Fetch source after source until no case is lacking; put the chosen cases together."""

    def bring(part: dict, have: Collection[str], cases: Sequence[Case] | None) -> Arrival:
        record = {} if overwrite else read_arrival(arrival_record(workspace, part))
        known = record.get("sha256", {})
        there = None if overwrite else find_fetched(workspace, part)
        place = there or _download(part, workspace, overwrite, have)
        arrival = _receive(place, part, known, cases)
        kept = {} if part["source"] in OWN_HOSTS else known
        _record(workspace, part, (record if there else {}) | {"sha256": arrival.hashes | kept})
        return arrival

    request = _join(requests)
    origin, partial = stamp_origins(request), _partial_of(workspace, request["source"])
    parts, cases, failed = collect_parts(requests, bring)
    shutil.rmtree(partial, ignore_errors=True)
    hashes, origins = put_together(parts, cases, partial)
    if any(part.source == _RESUMED for part in parts):
        shutil.rmtree(_partial_of(workspace, _RESUMED), ignore_errors=True)
    facts = {"origin": origin, "failed": failed, "origins": origins, "sha256": hashes}
    return _publish(workspace, request, partial, facts)


def _remove_partial_bundles(raw: Path) -> None:
    for partial in raw.glob(".partial-*"):
        if partial.name != f".partial-{_RESUMED}":
            shutil.rmtree(partial, ignore_errors=True)
