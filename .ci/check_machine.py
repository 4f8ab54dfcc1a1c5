"""Name what the machine lacks before anything is installed; standard library only."""

import ctypes
import importlib.util
import platform
import shutil
import sys
from pathlib import Path

LIBRARIES = {"libGL.so.1": "libgl1", "libglib-2.0.so.0": "libglib2.0-0"}


def debian_package(package: str, release: Path = Path("/etc/os-release")) -> str:
    """The package's name on this release: Debian 13 and Ubuntu 24.04 renamed libglib2.0-0."""
    facts = (
        dict(line.split("=", 1) for line in release.read_text().splitlines() if "=" in line)
        if release.is_file()
        else {}
    )
    version = facts.get("VERSION_ID", "").strip('"').split(".")[0]
    first_renamed = {"debian": 13, "ubuntu": 24}.get(facts.get("ID", "").strip('"'))
    renamed = first_renamed is not None and version.isdigit() and int(version) >= first_renamed
    return "libglib2.0-0t64" if package == "libglib2.0-0" and renamed else package


def loads(library: str) -> bool:
    """Whether the dynamic linker finds a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_parts() -> list[tuple[str, str]]:
    """What is missing, as pairs of what it is and the Debian package that brings it."""
    missing = []
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        missing.append((f"the module ensurepip of {sys.executable}", "python3-venv"))
    if not shutil.which("git"):
        missing.append(("the command git", "git"))
    if platform.system() == "Linux":
        missing += [
            (f"the library {library} (OpenCV needs it)", debian_package(package))
            for library, package in LIBRARIES.items()
            if not loads(library)
        ]
    return missing


def main() -> int:
    """Print what is missing.

    Returns:
        Exit code: 0 when nothing is missing, else 1.
    """
    missing = missing_parts()
    if missing:
        print("This machine lacks what the project needs:", file=sys.stderr)
        for part, package in missing:
            print(f"  {part}: Debian package {package}", file=sys.stderr)
        packages = " ".join(package for _, package in missing)
        print(f"  What to do: sudo apt-get install {packages}", file=sys.stderr)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
