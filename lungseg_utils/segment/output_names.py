"""Names of outputs: as the inputs are called, and never one for two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import PurePath


def name_outputs(files: Sequence[PurePath]) -> list[str]:
    """Name the output of each file, without a suffix of its own.

    A file gives its output its own name without suffix. Where several files differ in nothing
    but the suffix, or in upper and lower case, they keep their suffixes; where that does not tell
    them apart either, the later ones are numbered.

    Args:
        files: Relative paths, all different.

    Returns:
        A name a file, with its folders, joined by `/`; no two are equal, also where upper and
        lower case are the same.
    """
    stems = [file.with_suffix("").as_posix() for file in files]
    uses = Counter(stem.casefold() for stem in stems)
    taken = {stem for stem, number in uses.items() if number == 1}
    return [
        stem if uses[stem.casefold()] == 1 else _free_name(file.as_posix(), taken)
        for file, stem in zip(files, stems, strict=True)
    ]


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or the first numbered one that is not taken; it is taken from now on."""
    numbered = (f"{name}-{number}" for number in count(2))
    free = next(one for one in chain([name], numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free
