"""Several sources to one bundle: later ones fill the gaps of earlier ones, by whole cases."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungseg_utils.acquire.arrival import Arrival
from lungseg_utils.bundle import READINGS_FOLDER, load_cases, pair_bundle
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError, compress_ranges
from lungseg_utils.manifest import MANIFEST_NAME, Case


@dataclass(frozen=True)
class Part:
    """What one source brought.

    Args:
        source: Its name.
        arrival: Its bundle, damaged files marked.
        whole: By image id, the files of each case whose X-ray and mask (if the manifest names
            one) are there and can be used; its reading among them.
    """

    source: str
    arrival: Arrival
    whole: dict[str, list[str]]

    def has_as_expected(self, image_id: str) -> bool:
        """Whether a case is whole here, and of the size that is expected."""
        names = self.whole.get(image_id, [])
        return bool(names) and not self.arrival.odd_sizes.keys() & names


def collect_parts(
    requests: Sequence[dict],
    bring: Callable[[dict, Collection[str], Sequence[Case] | None], Arrival],
) -> tuple[list[Part], list[Case], list[str]]:
    """Ask source after source, until one leaves nothing lacking.

    Args:
        requests: A request a source.
        bring: Fetches a request; given the files that earlier sources have brought, and the
            cases, which are None for the first source.

    Returns:
        What the sources brought; the cases, of the first source's own manifest where it has one,
        else of the project's; and the sources that failed.

    Raises:
        LungsegError: All of them failed; the first one's error.
    """
    parts: list[Part] = []
    cases: list[Case] | None = None
    errors: dict[str, LungsegError] = {}
    for request in requests:
        source = request["source"]
        lacking = _list_lacking(parts, cases) if parts else None
        if lacking == []:
            print(f"Nothing is lacking: {source} is not asked.")
            break
        print(f"{source}:")
        try:
            arrival = bring(request, _files_but_of(lacking or [], parts, cases or []), cases)
            cases = load_cases(arrival.folder) if cases is None else cases
            parts.append(_part_of(source, arrival, cases))
        except (DownloadError, MissingInputError) as error:
            print(f"{source} is left out. {error}")
            errors[source] = error
    if not parts:
        raise next(iter(errors.values()))
    return parts, cases, list(errors)


def put_together(
    parts: Sequence[Part], cases: Sequence[Case], folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Put the cases into one bundle, by hard links, or by copies across disks; say what came.

    Each case comes from the first source that has it whole; in an odd size only where no other
    has it. A case that no source has whole is left out. The first source's own manifest, if it
    has one, comes along.

    Returns:
        SHA-256 of each file, by its name in the bundle; and, by image id, which source gave it.

    Raises:
        DownloadError: No source has a whole case.
    """
    chosen = {}
    for image_id in (case.image_id for case in cases):
        holders = [part for part in parts if image_id in part.whole]
        expected = [part for part in holders if part.has_as_expected(image_id)]
        if holders:
            chosen[image_id] = (expected or holders)[0]
    if not chosen:
        raise DownloadError(
            "Of some case of the manifest, a source has X-ray and mask.",
            f"none in {', '.join(part.source for part in parts)}",
            "Choose other sources, or put the cases' own data_manifest.csv beside CXR_png.",
        )
    taken = {name: part for each, part in chosen.items() for name in part.whole[each]}
    if MANIFEST_NAME in parts[0].arrival.hashes:
        taken[MANIFEST_NAME] = parts[0]
    for name, part in taken.items():
        _link_or_copy(part.arrival.folder / name, folder / name)
    origins = {image_id: part.source for image_id, part in chosen.items()}
    _tell(parts, Counter(origins.values()), _list_lacking(parts, cases))
    return {name: part.arrival.files[name].sha256 for name, part in taken.items()}, origins


def _list_lacking(parts: Sequence[Part], cases: Sequence[Case]) -> list[str]:
    """Ids of the cases that another source could still fill in or improve."""
    ids = [case.image_id for case in cases]
    return [each for each in ids if not any(part.has_as_expected(each) for part in parts)]


def _tell(parts: Sequence[Part], counts: Counter[str], lacking: Sequence[str]) -> None:
    """Print how many cases came from where, and by name what no source has."""
    for part in parts:
        resized = part.arrival.resized and f", a copy resized to {part.arrival.resized}"
        print(f"From {part.source}{resized}: {counts[part.source]} cases.")
    if lacking:
        listed = ", ".join(compress_ranges(lacking))
        print(f"Whole and of the expected size in no source ({len(lacking)}): {listed}.")


def _part_of(source: str, arrival: Arrival, cases: Sequence[Case]) -> Part:
    """Find the whole cases of what a source brought."""
    usable, whole = arrival.hashes, {}
    pairing = pair_bundle(arrival.folder, list(cases))
    for pair in [*pairing.pairs, *pairing.unlabelled]:
        paths = (pair.image, *pair.masks)
        names = [path.relative_to(arrival.folder).as_posix() for path in paths]
        if usable.keys() >= set(names):
            reading = _reading_of(pair.case)
            whole[pair.case.image_id] = names + [reading] * (reading in usable)
    return Part(source, arrival, whole)


def _files_but_of(lacking: list[str], parts: Sequence[Part], cases: Sequence[Case]) -> set[str]:
    """Names of the files that need not be asked for."""
    names = {_reading_of(case) for case in cases if case.image_id not in lacking}
    for part in parts:
        names.update(*(files for each, files in part.whole.items() if each not in lacking))
    return names


def _reading_of(case: Case) -> str:
    return f"{READINGS_FOLDER}/{case.image_id}.txt"


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    # Across disks, and on drives without hard links.
    except OSError:
        shutil.copy2(source, target)
