"""Which versions and which code a result was made with."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lungseg_utils.errors import ImageFileError, LungsegError

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "matplotlib",
    "pandas",
    "onnxruntime",
    "pydicom",
    "highdicom",
)


# What some kinds of film, and many machines, need, as in pyproject.toml.
EXTRAS = {
    "dicom": ("pydicom>=3.0", "pylibjpeg[all]>=2.0", "highdicom>=0.25"),
    "nifti": ("nibabel>=5.2",),
    "ray": ("ray[data]>=2.40",),
}


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "lungseg-utils[{extra}]"'


def missing_package(what: str, package: str, extra: str, received: str) -> ImageFileError:
    """The error about a film that a package of an extra would read."""
    line = install_line(extra)
    return ImageFileError(f"{what} need {package}: {line}", received, f"Run {line}")


def install_missing(messages: Iterable[str]) -> bool:
    """Install the extras that messages ask for, for a notebook whose package is no installed one.

    Returns:
        Whether there were any.
    """
    text = "\n".join(messages)
    wanted = [name for name in EXTRAS if install_line(name) in text]
    if wanted:
        packages = [package for name in wanted for package in EXTRAS[name]]
        subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", *packages])
        importlib.invalidate_caches()
    return bool(wanted)


def require_extra(extra: str, package: str, what: str) -> None:
    """Refuse what a package of an extra is needed for where it is not installed.

    Raises:
        LungsegError: It is not; names the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise LungsegError(
            f"To save {what} needs {package}.", "no such package", install_line(extra)
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Returns:
        Name to version; a package that is not installed is left out.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def show_versions() -> None:
    """Print the versions in one line."""
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


def git_commit(checkout: Path = CHECKOUT) -> str:
    """The package's commit, `-dirty` where tracked files were changed since.

    Args:
        checkout: The folder that holds the package.

    Returns:
        Empty where that is no checkout of its own.
    """
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Installed into somebody's project, the enclosing repository is not this one.
        if Path(_git(checkout, "rev-parse", "--show-toplevel")) == checkout:
            return _git(checkout, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
