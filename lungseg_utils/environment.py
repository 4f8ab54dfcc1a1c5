"""Which versions and which code a result was made with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

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
