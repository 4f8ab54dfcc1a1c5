"""Several sources to one bundle: later ones fill what earlier ones lack or have damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

from lungseg_utils.acquire.arrival import Arrival
from lungseg_utils.bundle import (
    IMAGE_FOLDER,
    LEFT_MASK_FOLDER,
    MASK_FOLDER,
    READINGS_FOLDER,
    RIGHT_MASK_FOLDER,
)
from lungseg_utils.errors import compress_ranges
from lungseg_utils.manifest import MANIFEST_NAME, Case


@dataclass(frozen=True)
class Part:
    """What one source brought.

    Args:
        source: Its name.
        arrival: Its bundle, damaged files marked.
    """

    source: str
    arrival: Arrival


@dataclass(frozen=True)
class Choice:
    """Where the files of one case come from.

    Args:
        image: The part that gives the X-ray, and its name there.
        masks: The part that gives the mask, and its names there: one, or left and right lung;
            None where the case has no mask, or no part has a usable one.
        complete: Whether X-ray and mask (if it has one) are whole, of one part, and of the size
            that is expected.
    """

    image: tuple[Part, str]
    masks: tuple[Part, tuple[str, ...]] | None
    complete: bool

    @property
    def mixed(self) -> bool:
        """Whether X-ray and mask come from different sources."""
        return self.masks is not None and self.masks[0] is not self.image[0]


def choose_files(parts: Sequence[Part], cases: Iterable[Case]) -> dict[str, Choice]:
    """Choose each case's files, by image id; a case of which no part has the X-ray is left out.

    X-ray and mask are taken from one source, the first that has both. Only where none has both
    they are taken from two, if their sizes are the same; and an X-ray of an odd size only where
    there is no other.
    """
    indexes = [_index_of(part) for part in parts]
    choices = {case.image_id: _choose(case, parts, indexes) for case in cases}
    return {image_id: choice for image_id, choice in choices.items() if choice is not None}


def files_of_complete(choices: Mapping[str, Choice]) -> set[str]:
    """Names of the files that no other source need bring, readings among them."""
    names = set()
    for image_id, choice in choices.items():
        if choice.complete:
            names |= {choice.image[1], *(choice.masks[1] if choice.masks else ())}
            names.add(f"{READINGS_FOLDER}/{image_id}.txt")
    return names


def lacking_cases(choices: Mapping[str, Choice], cases: Iterable[Case]) -> list[str]:
    """Ids of the cases that another source could still complete."""
    ids = [case.image_id for case in cases]
    return [name for name in ids if name not in choices or not choices[name].complete]


def link_bundle(
    parts: Sequence[Part], choices: Mapping[str, Choice], folder: Path
) -> dict[str, str]:
    """Put the chosen files into one bundle: hard links, or copies across disks.

    Readings come from the X-ray's source, else from the first that has one; the bundle's own
    manifest from the first source, if it has one.

    Returns:
        SHA-256 of each file, by its name in the bundle.
    """
    taken = {}
    for image_id, choice in choices.items():
        part, name = choice.image
        taken[name] = part
        if choice.masks:
            taken |= dict.fromkeys(choice.masks[1], choice.masks[0])
        reading = f"{READINGS_FOLDER}/{image_id}.txt"
        holders = [holder for holder in (part, *parts) if _usable(holder, reading)]
        if holders:
            taken[reading] = holders[0]
    if _usable(parts[0], MANIFEST_NAME):
        taken[MANIFEST_NAME] = parts[0]
    for name, part in taken.items():
        link_or_copy(part.arrival.folder / name, folder / name)
    return {name: part.arrival.files[name].sha256 for name, part in taken.items()}


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(source, target)


def origins_of(choices: Mapping[str, Choice]) -> dict[str, dict[str, str | None]]:
    """By image id, which source gave the X-ray and which the mask."""
    return {
        image_id: {
            "image": choice.image[0].source,
            "mask": choice.masks[0].source if choice.masks else None,
        }
        for image_id, choice in choices.items()
    }


def describe(parts: Sequence[Part], choices: Mapping[str, Choice], lacking: Sequence[str]) -> str:
    """What came from where, in a line a source; X-rays with another source's mask by name."""
    lines = []
    for part in parts:
        images = sum(choice.image[0] is part for choice in choices.values())
        masks = sum(bool(c.masks) and c.masks[0] is part for c in choices.values())
        kind = f", a copy resized to {part.arrival.resized}" if part.arrival.resized else ""
        lines.append(f"From {part.source}{kind}: {images} X-rays and {masks} lung masks.")
    mixed = [image_id for image_id, choice in choices.items() if choice.mixed]
    if mixed:
        lines.append(f"X-ray and mask from different sources: {_listed(mixed)}.")
    if lacking:
        lines.append(f"Not complete and sound in one source: {_listed(lacking)}.")
    return "\n".join(lines)


def _index_of(part: Part) -> dict[str, dict[str, list[str]]]:
    """Usable files of a part: folder, then image id, then names."""
    index: dict[str, dict[str, list[str]]] = {}
    for name in part.arrival.files:
        path = PurePosixPath(name)
        if _usable(part, name):
            by_id = index.setdefault(path.parent.as_posix(), {})
            by_id.setdefault(path.stem.removesuffix("_mask"), []).append(name)
    return index


def _usable(part: Part, name: str) -> bool:
    file = part.arrival.files.get(name)
    return file is not None and not file.damage


def _choose(case: Case, parts: Sequence[Part], indexes: Sequence[dict]) -> Choice | None:
    images = {at: _image_of(case, index) for at, index in enumerate(indexes)}
    masks = {at: _masks_of(case, index) for at, index in enumerate(indexes)}
    ranked = []
    for at_image, at_mask in product(images, [*masks, None]):
        image, chosen = images[at_image], masks.get(at_mask, ())
        if not image or bool(chosen) != (at_mask is not None):
            continue
        if not all(_same_size(parts[at_image], image, parts[at_mask], name) for name in chosen):
            continue
        odd = image in parts[at_image].arrival.odd_sizes
        unmasked = bool(case.mask_file) and not chosen
        mixed = at_mask not in (None, at_image)
        rank = (unmasked, odd, mixed, at_image, -1 if at_mask is None else at_mask)
        ranked.append((rank, at_image, at_mask))
    if not ranked:
        return None
    (unmasked, odd, mixed, *_), at_image, at_mask = min(ranked, key=lambda entry: entry[0])
    return Choice(
        (parts[at_image], images[at_image]),
        None if at_mask is None else (parts[at_mask], masks[at_mask]),
        not (unmasked or odd or mixed),
    )


def _image_of(case: Case, index: Mapping[str, Mapping[str, list[str]]]) -> str:
    names = index.get(IMAGE_FOLDER, {}).get(case.image_id, [])
    preferred = f"{IMAGE_FOLDER}/{case.image_file}"
    return preferred if preferred in names else (names or [""])[0]


def _masks_of(case: Case, index: Mapping[str, Mapping[str, list[str]]]) -> tuple[str, ...]:
    """One merged mask, or left and right, or nothing: as `pairing.MaskFiles.of` chooses."""
    if not case.mask_file:
        return ()
    merged = index.get(MASK_FOLDER, {}).get(case.image_id, [])
    if merged:
        preferred = f"{MASK_FOLDER}/{case.mask_file}"
        return (preferred if preferred in merged else merged[0],)
    left, right = (
        index.get(folder, {}).get(case.image_id, [])
        for folder in (LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)
    )
    return (left[0], right[0]) if left and right else ()


def _same_size(one: Part, image: str, other: Part, mask: str) -> bool:
    return one.arrival.files[image].size == other.arrival.files[mask].size


def _listed(names: Sequence[str]) -> str:
    return ", ".join(compress_ranges(sorted(names)))
