"""Set the repository's address everywhere: `python -m tools.set_repository URL`.

The address stands in the badges of notebooks and README, in the notebooks' REPOSITORY, in
pyproject.toml and in CITATION.cff; where GitHub Pages serves the page follows from it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils.errors import LungsegError

# GitHub's own rules for the names of owners and repositories.
_ADDRESS = re.compile(
    r"https://github\.com/(?P<owner>[A-Za-z\d](?:-?[A-Za-z\d]){0,38})/(?P<name>[\w.-]{1,100})",
    re.ASCII,
)
_BADGE = re.compile(r"(?<=colab\.research\.google\.com/github/)[^/\s\"]+/[^/\s\"]+(?=/blob/)")
# As it stands in a notebook's file, where quotation marks are escaped.
_PARAMETER = re.compile(
    r'(?P<name>REPOSITORY = \\")[^"\\]*'
    r'(?P<form>\\"  # @param \{type:\\"string\\"\})(  # fmt: skip)?'
)
_SITE = re.compile(r"(?<=https://)[^/\s]+\.github\.io/[\w.-]+(?=/)")
_LINE_LENGTH = 100


def normalised_address(address: str) -> str:
    """Bring an address to its one form, without `.git` and closing slash.

    Raises:
        LungsegError: It is not the address of a repository on GitHub.
    """
    stripped = address.strip().removesuffix("/").removesuffix(".git")
    match = _ADDRESS.fullmatch(stripped)
    if match is None or not match["name"].strip("."):
        raise LungsegError(
            "The repository's address is https://github.com/OWNER/NAME: Colab opens no other.",
            repr(address),
            "Copy it from the browser's address bar on the repository's main page.",
        )
    return stripped


def files_with_address(root: Path) -> list[Path]:
    """Files of the checkout in which the address stands."""
    names = ("pyproject.toml", "CITATION.cff", "README.md", "CONTRIBUTING.md")
    present = [root / name for name in names if (root / name).is_file()]
    return present + sorted((root / "notebooks").glob("*.ipynb"))


def current_address(root: Path) -> str:
    """The address that pyproject.toml names.

    Raises:
        LungsegError: The folder is not a checkout of the project.
    """
    try:
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return settings["project"]["urls"]["Repository"]
    except (OSError, KeyError, ValueError) as error:
        raise LungsegError(
            "The address is set in a checkout, whose pyproject.toml names the present one.",
            f"{root} ({error})",
            "Clone the repository and run the command there.",
        ) from error


def set_repository(address: str, root: Path) -> list[Path]:
    """Replace the repository's address in every file of a checkout that names it.

    Args:
        address: The new one, such as `https://github.com/me/lungs`.
        root: Folder of the checkout.

    Returns:
        The files that changed; none when the address stood there already.

    Raises:
        LungsegError: The address is nonsense, or the folder is not a checkout.
    """
    new, old = normalised_address(address), current_address(root)
    mention = re.compile(re.escape(old.removeprefix("https://")) + r"(?![\w-])")
    changed = []
    for path in files_with_address(root):
        before = path.read_bytes().decode("utf-8")
        after = mention.sub(new.removeprefix("https://"), before)
        after = _BADGE.sub(new.removeprefix("https://github.com/"), after)
        after = _SITE.sub(_site_of(new), after)
        after = _PARAMETER.sub(lambda match: _parameter_line(match, new), after)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(path)
    return changed


def _site_of(address: str) -> str:
    owner, name = address.removeprefix("https://github.com/").split("/")
    return f"{owner}.github.io/{name}"


def _parameter_line(match: re.Match, address: str) -> str:
    """The line of the parameter, which must stay one line: Colab's form reads no other."""
    line = match["name"] + address + match["form"]
    too_long = len(line.replace("\\", "")) > _LINE_LENGTH
    return line + "  # fmt: skip" * too_long


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, or 2 when the address was refused.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.set_repository", description=__doc__)
    parser.add_argument("address", metavar="URL", help="https://github.com/OWNER/NAME")
    root = Path(__file__).resolve().parent.parent
    try:
        changed = set_repository(parser.parse_args(arguments).address, root)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    for path in changed:
        print(f"changed {path.relative_to(root)}")
    if not changed:
        print("The address stands everywhere already.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
