"""Errors that tell a user the rule, what arrived and what to do."""

from __future__ import annotations


class LungsegError(ValueError):
    """A rule was broken by what the user passed or by what lies in the workspace.

    Args:
        rule: What must hold.
        received: What was found in its place; shown as it is.
        advice: What the user can do about it.
    """

    def __init__(self, rule: str, received: object, advice: str) -> None:
        super().__init__(rule, received, advice)
        self.rule = rule
        self.received = received
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.rule}\n  Received: {self.received}\n  What to do: {self.advice}"


class ManifestError(LungsegError):
    """The manifest breaks a rule; names the row and the column."""


class MissingInputError(LungsegError):
    """What an earlier stage writes is not there; names the notebook to run first."""


class StaleOutputError(LungsegError):
    """An output folder was made with other parameters or from other inputs."""


class ImageFileError(LungsegError):
    """A file cannot be read as an X-ray or a mask."""


class UnusableMaskError(ImageFileError):
    """A file can be read, but is no lung mask, or not that of its X-ray."""


class DownloadError(LungsegError):
    """A source could not be fetched, or what arrived is not the data set."""


class StorageError(LungsegError):
    """A disk or drive is full, read-only or gone; nothing half-written has a final name."""


class LockedError(LungsegError):
    """Another process writes there; the message names it."""


class MemoryExhaustedError(LungsegError):
    """The network does not fit the memory of the GPU or the machine; says what to lower."""


class TrainingDivergedError(LungsegError):
    """The loss became NaN or infinite."""


class SeriesError(LungsegError):
    """The series of notebooks cannot run as asked, or one of them failed."""
