"""Where the X-rays come from, and how they get onto this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from lungseg_utils.acquire import combining, raw_bundles
from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.acquire.arrival import (
    Arrival,
    changed_files,
    check_bundle,
    mark_changed,
    record_arrival,
    record_path,
    recorded_hashes,
    require_whole,
    stamp_of_bundle,
    whole_hashes,
)
from lungseg_utils.acquire.combining import Part
from lungseg_utils.acquire.download import download_from_drive, download_from_kaggle
from lungseg_utils.acquire.source_request import OWN_SOURCES, describe_requests, join_requests
from lungseg_utils.bundle import find_bundle
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError, shortened
from lungseg_utils.files.records import digest_of, remove_partial, require_record, write_json
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.manifest import MANIFEST_NAME, Case, load_manifest
from lungseg_utils.workspace import Workspace

_MOUNT = "Correct the path. In Colab, run notebook 01_mount_drive first."
_FETCH_AGAIN = "Run notebook 02_download_and_pair, with the same WORKSPACE."


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
            Several, such as `kaggle+nlm`: later ones fill what earlier ones lack or have damaged.
        workspace: Bundles are put into its `raw` folder.
        location: Another data set's handle for `kaggle`; a folder's id or link, or a zip file's
            link, for `drive`; the path for `folder` and `zip`. For several sources one each,
            joined by `;`, empty for the usual one.
        overwrite: Fetch again what is there, and record it as it is now.
        **phantom_options: Arguments of `phantom.write_phantom_bundle`, for `phantom` only.

    Returns:
        The bundle: the folder that holds `CXR_png`.

    Raises:
        LungsegError: The source, the location or an option is unknown.
        MissingInputError: The folder or the zip file is not there.
        DownloadError: The source cannot be fetched, what arrived is not whole, or a file is not
            what it was at its first arrival. Of several sources: none of them.
    """
    requests = describe_requests(source, str(location), phantom_options)
    workspace.scratch.mkdir(parents=True, exist_ok=True)
    with hold(workspace.raw, "fetching X-rays"), explained(workspace.raw):
        remove_partial(workspace.downloads)
        if len(requests) > 1:
            return _fetch_several(requests, workspace, overwrite)
        [request] = requests
        if request["source"] == "folder":
            return _use_folder(request, workspace, overwrite)
        bundle = None if overwrite else raw_bundles.find_fetched(workspace.raw, request)
        if bundle is None:
            bundle = _fetch_into_raw(request, workspace, overwrite).folder
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
            _FETCH_AGAIN,
        )
    keys = ("source", "location", "options")
    rule = "The record of where the X-rays come from is whole."
    request = require_record(workspace.source_record, keys, rule, _FETCH_AGAIN)
    source, location, options = (request[key] for key in keys)
    if source == "folder":
        return find_bundle(location)
    if len(describe_requests(source, location, options)) > 1:
        # A source that could not be reached then is asked again by notebook 02 alone.
        bundle = raw_bundles.find_fetched(workspace.raw, request, whole=False)
        if bundle is not None:
            return bundle
    return fetch(source, workspace, location, **options)


# --- One source


def _use_folder(request: dict, workspace: Workspace, overwrite: bool) -> Path:
    """The bundle where it lies; read again only where its files have changed."""
    place = _own_folder(request)
    bundle = raw_bundles.find_bundle_or_none(place)
    record = {**request, "files": stamp_of_bundle(bundle)} if bundle else request
    if bundle is None or overwrite or raw_bundles.read_record(workspace.source_record) != record:
        arrival = _receive(place, request, workspace, overwrite)
        require_whole(arrival)
        write_json(workspace.source_record, record)
        return arrival.folder
    return bundle


def _own_folder(request: dict) -> Path:
    folder = Path(request["location"])
    if not folder.is_dir():
        raise MissingInputError("The folder must be there.", f"no folder {folder}", _MOUNT)
    return folder


def _fetch_into_raw(
    request: dict,
    workspace: Workspace,
    overwrite: bool,
    have: Collection[str] | None = None,
    cases: Sequence[Case] | None = None,
) -> Arrival:
    """Fetch under a temporary name, check, and rename.

    Args:
        request: What to fetch.
        workspace: Where to.
        overwrite: Fetch again what is there.
        have: None where this is the only source and its bundle has to be whole; else the files
            that earlier sources have brought.
        cases: The manifest; None for the bundle's own, else the project's.
    """
    final = workspace.raw / request["source"]
    partial = workspace.raw / f".partial-{request['source']}"
    # What came of hundreds of files is worth keeping when the connection breaks.
    resumes = request["source"] == "nlm"
    if overwrite or not resumes:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if resumes and not overwrite:
            raw_bundles.reuse_files(final, partial, request)
        stamps = raw_bundles.origin_stamps(request)
        filled = _FETCHERS[request["source"]](request, partial, workspace, overwrite, have or ())
        arrival = _receive(filled, request, workspace, overwrite, have is not None, cases)
        if have is None:
            _remove_damaged(arrival, resumes)
            require_whole(arrival)
    except BaseException:
        if not resumes:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    record = {
        **request,
        "origin": stamps,
        "have": digest_of(sorted(have or ())),
        "wanting": sorted(arrival.damaged),
    }
    return replace(arrival, folder=raw_bundles.publish(partial, final, arrival.folder, record))


def _remove_damaged(arrival: Arrival, resumes: bool) -> None:
    """Make room for another attempt at the damaged files of a source that resumes."""
    for name in arrival.damaged if resumes else ():
        (arrival.folder / name).unlink(missing_ok=True)


def _receive(
    folder: Path,
    request: dict,
    workspace: Workspace,
    overwrite: bool,
    some: bool = False,
    cases: Sequence[Case] | None = None,
) -> Arrival:
    """Read every file once, compare with the first arrival, record and say what came.

    Args:
        folder: Holds the bundle.
        request: What was asked for.
        workspace: Its `downloads` hold the records.
        overwrite: Take the files as they are now.
        some: Whether other sources may have what is not there.
        cases: As for `check_bundle`.

    Returns:
        The bundle; a published file that is another than the first time counts as damaged.
    """
    arrival = _check(folder, cases)
    path = record_path(workspace.downloads, request)
    known = {} if overwrite else recorded_hashes(path)
    changed = changed_files(arrival, known)
    gone = [] if some else [name for name in known if name not in arrival.files]
    if request["source"] in OWN_SOURCES:
        if changed or gone:
            names = shortened([*changed, *(f"{name} (gone)" for name in gone)])
            print(f"Not as they arrived first ({len(changed) + len(gone)}): {', '.join(names)}")
        known = {}
    elif gone:
        raise DownloadError(
            "A source brings what it brought the first time.",
            f"{len(gone)} files gone: {', '.join(shortened(gone))}",
            "Fetch it again later, or from another SOURCE; or set OVERWRITE to take it as it is.",
        )
    else:
        arrival = mark_changed(arrival, changed)
    record_arrival(path, request, whole_hashes(arrival) | known)
    print(arrival.summary())
    return arrival


def _check(folder: Path, cases: Sequence[Case] | None) -> Arrival:
    try:
        return check_bundle(folder, cases)
    except MissingInputError as error:
        found = sorted(path.name for path in folder.iterdir())[:20] if folder.is_dir() else []
        raise DownloadError(
            "What was fetched holds a folder `CXR_png`.",
            f"{error.received}; there: {', '.join(found) or 'nothing'}",
            "Choose another SOURCE or location.",
        ) from error


# --- Several sources


def _fetch_several(requests: list[dict], workspace: Workspace, overwrite: bool) -> Path:
    """Fetch source after source until no case is lacking; put the chosen files together."""
    request = join_requests(requests)
    bundle = None if overwrite else raw_bundles.find_fetched(workspace.raw, request)
    if bundle is None:
        parts, failed = _fetch_parts(requests, workspace, overwrite)
        bundle = _put_together(parts, failed, request, workspace)
    write_json(workspace.source_record, request)
    return bundle


def _fetch_parts(
    requests: list[dict], workspace: Workspace, overwrite: bool
) -> tuple[list[Part], list[str]]:
    """What the sources bring, up to the one that leaves nothing lacking; and which failed."""
    parts: list[Part] = []
    errors: dict[str, LungsegError] = {}
    for request in requests:
        source, have, cases = request["source"], set(), None
        if parts:
            cases = _cases_of(parts)
            choices = combining.choose_files(parts, cases)
            if not combining.lacking_cases(choices, cases):
                print(f"Nothing is lacking: {source} is not asked.")
                break
            have = combining.files_of_complete(choices)
        print(f"{source}:")
        try:
            parts.append(Part(source, _fetch_part(request, workspace, overwrite, have, cases)))
        except (DownloadError, MissingInputError) as error:
            print(f"{source} is left out. {error}")
            errors[source] = error
    if not parts:
        raise next(iter(errors.values()))
    return parts, list(errors)


def _fetch_part(
    request: dict,
    workspace: Workspace,
    overwrite: bool,
    have: Collection[str],
    cases: Sequence[Case] | None,
) -> Arrival:
    """One of several sources: what is damaged is marked and does not end the fetching."""
    if request["source"] == "folder":
        return _receive(_own_folder(request), request, workspace, overwrite, True, cases)
    # Of the others, a part cannot be asked for.
    have = have if request["source"] == "nlm" else ()
    raw = workspace.raw
    bundle = None if overwrite else raw_bundles.find_fetched(raw, request, have, whole=False)
    if bundle is not None:
        return _receive(bundle, request, workspace, overwrite, True, cases)
    return _fetch_into_raw(request, workspace, overwrite, have, cases)


def _put_together(
    parts: Sequence[Part], failed: list[str], request: dict, workspace: Workspace
) -> Path:
    final = workspace.raw / request["source"]
    partial = workspace.raw / f".partial-{request['source']}"
    shutil.rmtree(partial, ignore_errors=True)
    cases = _cases_of(parts)
    choices = combining.choose_files(parts, cases)
    hashes = combining.link_bundle(parts, choices, partial)
    print(combining.describe(parts, choices, combining.lacking_cases(choices, cases)))
    origins = combining.origins_of(choices)
    record_arrival(record_path(workspace.downloads, request), request, hashes, origins)
    stamps = raw_bundles.origin_stamps(request)
    record = {**request, "origin": stamps, "have": digest_of([]), "wanting": failed}
    return raw_bundles.publish(partial, final, partial, {**record, "origins": origins})


def _cases_of(parts: Sequence[Part]) -> list[Case]:
    """The cases of the first source's own manifest where it has one, else the project's."""
    own = parts[0].arrival.folder / MANIFEST_NAME
    return load_manifest(own if own.is_file() else None)


# --- How each source is fetched


def _from_kaggle(request: dict, folder: Path, workspace: Workspace, force: bool, _) -> Path:
    return download_from_kaggle(request["location"], force)


def _from_drive(request: dict, folder: Path, workspace: Workspace, force: bool, _) -> Path:
    download_from_drive(request["location"], folder, workspace.downloads, force)
    return folder


def _from_nlm(
    request: dict, folder: Path, workspace: Workspace, force: bool, have: Collection[str]
) -> Path:
    from lungseg_utils.acquire.nlm import download_nlm

    download_nlm(folder, have)
    return folder


def _from_mendeley(request: dict, folder: Path, workspace: Workspace, force: bool, _) -> Path:
    from lungseg_utils.acquire.mendeley import ARCHIVE_NAME, download_mendeley

    if force:
        (workspace.downloads / ARCHIVE_NAME).unlink(missing_ok=True)
    download_mendeley(folder, workspace.downloads)
    return folder


def _from_zip(request: dict, folder: Path, workspace: Workspace, force: bool, _) -> Path:
    archive = Path(request["location"])
    if not archive.is_file():
        raise MissingInputError("The zip file must be there.", f"no file {archive}", _MOUNT)
    unpack_zip(archive, folder)
    return folder


def _write_phantom(request: dict, folder: Path, workspace: Workspace, force: bool, _) -> Path:
    from lungseg_utils.phantom.sets import write_phantom_bundle

    return write_phantom_bundle(folder, **request["options"])


_FETCHERS: dict[str, Callable[[dict, Path, Workspace, bool, Collection[str]], Path]] = {
    "kaggle": _from_kaggle,
    "drive": _from_drive,
    "nlm": _from_nlm,
    "mendeley": _from_mendeley,
    "zip": _from_zip,
    "phantom": _write_phantom,
}
