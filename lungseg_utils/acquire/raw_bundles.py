"""What lies in the workspace's `raw`: bundles that were fetched, each whole and with a record."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lungseg_utils.acquire.arrival import list_files, stamp_of_bundle
from lungseg_utils.acquire.combining import link_or_copy
from lungseg_utils.acquire.source_request import places_of
from lungseg_utils.bundle import find_bundle
from lungseg_utils.errors import MissingInputError
from lungseg_utils.files.records import digest_of, publish_folder, read_json, write_json
from lungseg_utils.files.storage import explained

RECORD = "fetched.json"


def find_fetched(
    raw: Path, request: dict, have: Collection[str] = (), whole: bool = True
) -> Path | None:
    """Find the bundle of a request, unless its files or what it was unpacked from changed.

    Args:
        raw: Where to look.
        request: What is asked for.
        have: Files that were not asked for, since other sources brought them.
        whole: Refuse a bundle with damaged files, or one of several sources of which some failed.
    """
    place = raw / request["source"]
    record = read_record(place / RECORD)
    if not record or any(record.get(key) != value for key, value in request.items()):
        return None
    if record.get("have") != digest_of(sorted(have)) or (whole and record.get("wanting")):
        return None
    then, now = record.get("origin", []), origin_stamps(request)
    # What was unpacked outlives its archive.
    if [old if new is None else new for old, new in zip(then, now, strict=False)] != then:
        return None
    bundle = find_bundle_or_none(place / record["bundle"])
    return bundle if bundle and stamp_of_bundle(bundle) == record.get("files") else None


def publish(partial: Path, final: Path, bundle: Path, record: dict) -> Path:
    """Give a fetched folder its final name; what lies under that name is whole.

    Args:
        partial: The folder, beside `final`.
        final: Its place; a former folder is replaced.
        bundle: The bundle in `partial`, or elsewhere, such as in kagglehub's cache.
        record: Written beside, with the state of the files.

    Returns:
        The bundle, where it lies now.
    """
    inside = bundle.is_relative_to(partial)
    name = bundle.relative_to(partial).as_posix() if inside else str(bundle)
    with explained(final):
        write_json(partial / RECORD, {**record, "files": stamp_of_bundle(bundle), "bundle": name})
        publish_folder(partial, final)
    return final / name


def reuse_files(final: Path, partial: Path, request: dict) -> None:
    """Take along what the same request brought before, but for damaged files."""
    record = read_record(final / RECORD)
    if not record or any(record.get(key) != value for key, value in request.items()):
        return
    bundle = find_bundle_or_none(final / record["bundle"])
    for name in list_files(bundle) if bundle else []:
        if name not in record["wanting"] and not (partial / name).exists():
            link_or_copy(bundle / name, partial / name)


def origin_stamps(request: dict) -> list:
    """State of the folder or zip file that each source is read from; None for other sources."""
    return [_origin_stamp(source, Path(place)) for source, place in places_of(request)]


def find_bundle_or_none(folder: Path) -> Path | None:
    """The bundle in a folder, if there is one."""
    try:
        return find_bundle(folder)
    except MissingInputError:
        return None


def read_record(path: Path) -> dict | None:
    """A record, or None where it is absent or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _origin_stamp(source: str, place: Path) -> str | list[int] | None:
    if source == "zip" and place.is_file():
        return [place.stat().st_size, int(place.stat().st_mtime)]
    if source == "folder" and (bundle := find_bundle_or_none(place)):
        return stamp_of_bundle(bundle)
    return None
