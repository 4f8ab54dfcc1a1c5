"""Which versions a result was made with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "matplotlib",
    "pandas",
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
