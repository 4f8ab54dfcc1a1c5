"""Errors that tell a user the rule, what arrived and what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_SHOWN_NAMES = 20


class LungsegError(Exception):
    """A rule was broken by what the user passed or by what lies in the workspace.

    The subclasses are also the builtin errors that they amount to, so that `except ValueError`
    catches a wrong value and `except OSError` a full disk, and neither the other.

    Args:
        rule: What must hold.
        received: What was found in its place; shown as it is.
        advice: What the user can do about it.
    """

    def __init__(self, rule: str, received: object, advice: str) -> None:
        # Past OSError, which would take the first two for a number and its text.
        Exception.__init__(self, rule, received, advice)
        self.rule = rule
        self.received = received
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.rule}\n  Received: {self.received}\n  What to do: {self.advice}"


class InvalidValueError(LungsegError, ValueError):
    """A parameter or an array has a value that is not allowed."""


class ManifestError(LungsegError, ValueError):
    """The manifest breaks a rule; names the row and the column."""


class MissingInputError(LungsegError, FileNotFoundError):
    """What an earlier stage writes is not there; names the notebook to run first."""


class StaleOutputError(LungsegError, ValueError):
    """An output folder was made with other parameters or from other inputs."""


class ImageFileError(LungsegError, ValueError):
    """A file cannot be read as an X-ray or a mask."""


class UnusableMaskError(ImageFileError):
    """A file can be read, but is no lung mask, or not that of its X-ray."""


class DownloadError(LungsegError, OSError):
    """A source could not be fetched, or what arrived is not the data set."""


class StorageError(LungsegError, OSError):
    """A disk or drive is full, read-only or gone; nothing half-written has a final name."""


class LockedError(LungsegError, TimeoutError):
    """Another process writes there; the message names it."""


class MemoryExhaustedError(LungsegError, MemoryError):
    """The network does not fit the memory of the GPU or the machine; says what to lower."""


class TrainingDivergedError(LungsegError, ArithmeticError):
    """The loss became NaN or infinite."""


def check_known(names: object, known: Collection[object], what: str) -> None:
    """Refuse names that are not among the known ones.

    Args:
        names: A name, or several in a list, tuple, set or dictionary.
        known: All that there are.
        what: What a name is of, for the message, such as "A split".

    Raises:
        InvalidValueError: Shows the unknown names, and all that are known.
    """
    several = list(names) if isinstance(names, list | tuple | set | dict) else [names]
    if unknown := [name for name in several if name not in known]:
        raise InvalidValueError(
            f"{what} is one of {', '.join(map(str, known))}.",
            ", ".join(map(repr, unknown)),
            "Correct the name.",
        )


def shortened(names: Iterable[str]) -> list[str]:
    """The first names, and how many more there are, for messages."""
    names = list(names)
    more = len(names) - _SHOWN_NAMES
    return [*names[:_SHOWN_NAMES], f"and {more} more"] if more > 0 else names


def compress_ranges(names: Iterable[str]) -> list[str]:
    """Shorten runs of names that count upwards: `X_0036_0` … `X_0040_0` to `X_0036_0–0040_0`."""
    runs: list[list[str]] = []
    for name in names:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    return [
        run[0] if len(run) == 1 else f"{run[0]}–{_numbered(run[-1]).group('tail')}" for run in runs
    ]


def _numbered(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"(?P<head>.*?_)(?P<tail>(?P<number>\d+)(?P<rest>_.*))", name)


def _follows(first: str, second: str) -> bool:
    one, two = _numbered(first), _numbered(second)
    return bool(
        one
        and two
        and one["head"] == two["head"]
        and one["rest"] == two["rest"]
        and len(one["number"]) == len(two["number"])
        and int(two["number"]) == int(one["number"]) + 1
    )
