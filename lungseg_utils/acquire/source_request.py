"""What is asked for when X-rays are fetched: sources, places and options, checked."""

from __future__ import annotations

import inspect
from pathlib import Path

from lungseg_utils.acquire.download import parse_drive_location
from lungseg_utils.errors import LungsegError

SOURCES = ("kaggle", "drive", "nlm", "mendeley", "folder", "zip", "phantom")
KAGGLE_HANDLE = "nikhilpandey360/chest-xray-masks-and-labels"
DRIVE_FOLDER = "1NC0nT80PNzv0XpYiR5OuHaN5TM8-sF_h"
# The user's own files may change; what others publish should not.
OWN_SOURCES = ("folder", "zip")
_JOINT, _LOCATION_JOINT = "+", ";"
_DEFAULT_LOCATIONS = {"kaggle": KAGGLE_HANDLE, "drive": DRIVE_FOLDER}


def describe_requests(source: str, location: str, phantom_options: dict) -> list[dict]:
    """Check what is asked for.

    Args:
        source: One of `SOURCES`, or several joined by `+`.
        location: The source's place, or one each joined by `;`; empty for the usual one.
        phantom_options: For `phantom` only.

    Returns:
        A request a source, as the records hold it: `source`, `location` and `options`.

    Raises:
        LungsegError: The source, the location or an option is unknown.
    """
    names = [name.strip() for name in source.split(_JOINT)]
    if unknown := [name for name in names if name not in SOURCES]:
        raise LungsegError(
            f"SOURCE is one of {', '.join(SOURCES)}, or several joined by '{_JOINT}'.",
            ", ".join(map(repr, unknown)),
            "Correct the name.",
        )
    if len(names) > 1 and ("phantom" in names or len({*names}) < len(names)):
        raise LungsegError(
            "Several sources are different ones, and synthetic X-rays stay apart from real ones.",
            repr(source),
            "Name each source once, and 'phantom' only alone.",
        )
    locations = location.split(_LOCATION_JOINT) if len(names) > 1 else [location]
    if len(locations) > len(names):
        raise LungsegError(
            f"Several sources take one location each, joined by '{_LOCATION_JOINT}'.",
            f"{len(locations)} locations for {source}",
            "Leave the place of a source without a location of its own empty.",
        )
    locations += [""] * (len(names) - len(locations))
    return [
        _describe_request(name, place.strip(), phantom_options)
        for name, place in zip(names, locations, strict=True)
    ]


def join_requests(requests: list[dict]) -> dict:
    """One request for several sources; `describe_requests` takes it apart again."""
    return {
        "source": _JOINT.join(request["source"] for request in requests),
        "location": _LOCATION_JOINT.join(request["location"] for request in requests),
        "options": {},
    }


def places_of(request: dict) -> list[tuple[str, str]]:
    """Source and location, of each source where they are several."""
    sources = request["source"].split(_JOINT)
    several = len(sources) > 1
    places = request["location"].split(_LOCATION_JOINT) if several else [request["location"]]
    return list(zip(sources, places, strict=True))


def _describe_request(source: str, location: str, phantom_options: dict) -> dict:
    """One source's request, as the records hold it: source, location and options."""
    if phantom_options and source != "phantom":
        raise LungsegError(
            f"SOURCE={source!r} takes no options.",
            ", ".join(phantom_options),
            "Leave them out, or choose SOURCE='phantom'.",
        )
    location = location or _DEFAULT_LOCATIONS.get(source, "")
    if source in OWN_SOURCES:
        if not location:
            raise LungsegError(
                f"SOURCE={source!r} needs a location.",
                "an empty one",
                "Pass the path of the bundle's folder or zip file.",
            )
        location = str(Path(location).expanduser().resolve())
    if source in {"nlm", "mendeley"} and location:
        raise LungsegError(
            f"SOURCE={source!r} has one place, and takes no location.",
            repr(location),
            "Leave LOCATION empty.",
        )
    if source == "drive":
        parse_drive_location(location)
    options = _complete_phantom_options(phantom_options) if source == "phantom" else {}
    return {"source": source, "location": location, "options": options}


def _complete_phantom_options(options: dict) -> dict:
    """The options with the defaults filled in, so that the record says all of them."""
    from lungseg_utils.phantom.sets import write_phantom_bundle

    try:
        bound = inspect.signature(write_phantom_bundle).bind("folder", **options)
    except TypeError as error:
        known = list(inspect.signature(write_phantom_bundle).parameters)[1:]
        raise LungsegError(
            f"Options of the phantom are {', '.join(known)}.", error, "Correct the name."
        ) from error
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])
