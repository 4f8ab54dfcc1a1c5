"""Check all that a workspace holds: `python -m lungseg_utils.verify [WORKSPACE]`.

Raw files are compared with the SHA-256 of their first arrival; prepared arrays, stitched archives
and runs are read through. Nothing is changed. Exit code 1 where something is damaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.workspace import Workspace, locate_workspace
from lungseg_utils.workspace_checks import (
    Damage,
    check_archive,
    check_prepared,
    check_raw,
    check_run,
    check_source,
    check_stitched,
)

_FETCH_AGAIN = "Delete it and run notebook 02_download_and_pair again."


@dataclass(frozen=True)
class Verification:
    """What a check of a workspace found.

    Args:
        checked: What was checked, such as `prepared/256`.
        damaged: What is not as it should be.
    """

    checked: list[str] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)

    def summary(self) -> str:
        """A readable report: what was checked, and for each damage what, why and the remedy."""
        lines = [f"Checked: {', '.join(self.checked) or 'nothing; the workspace is empty'}."]
        for damage in self.damaged:
            lines += [f"{damage.path}: {damage.reason}", f"  What to do: {damage.remedy}"]
        found = f"{len(self.damaged)} damaged." if self.damaged else "Nothing is damaged."
        return "\n".join([*lines, found])


def verify_workspace(workspace: Workspace | Path | str) -> Verification:
    """Check raw files, downloads, prepared arrays, stitched archives and runs of a workspace.

    Args:
        workspace: The workspace, or its folder; empty for the usual one.

    Returns:
        What was checked, and what is damaged.

    Raises:
        MissingInputError: There is no such folder.
    """
    if not isinstance(workspace, Workspace):
        workspace = locate_workspace(workspace)
    if not workspace.root.is_dir():
        raise MissingInputError(
            "The workspace must be there to be verified.",
            f"no folder {workspace.root}",
            "Check the path. In Colab, run notebook 01_mount_drive first.",
        )
    result = Verification()
    for name, check in _list_checks(workspace):
        result.checked.append(name)
        result.damaged.extend(check())
    return result


def _list_checks(workspace: Workspace) -> Iterator[tuple[str, Callable[[], Iterator[Damage]]]]:
    """The name of each thing to be checked, and its check."""
    downloads = workspace.downloads
    if workspace.source_record.is_file():
        yield "downloads/source.json", lambda: check_source(workspace.source_record)
    for path in _visible(downloads, "*.zip"):
        yield f"downloads/{path.name}", lambda path=path: check_archive(path, _FETCH_AGAIN)
    for path in _visible(workspace.raw):
        yield f"raw/{path.name}", lambda path=path: check_raw(path, downloads)
    for path in _visible(workspace.root / "prepared"):
        yield f"prepared/{path.name}", lambda path=path: check_prepared(path)
    for path in _visible(workspace.root / "stitched", "*.zip"):
        yield f"stitched/{path.name}", lambda path=path: check_stitched(path)
    for path in _visible(workspace.runs):
        yield f"runs/{path.name}", lambda path=path: check_run(path)


def _visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files by a pattern, or all folders; not those that something is being written to."""
    found = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
    return [path for path in found if path.is_dir() == (pattern == "*")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 where something is damaged, 2 where there is no workspace.
    """
    parser = argparse.ArgumentParser(prog="python -m lungseg_utils.verify", description=__doc__)
    parser.add_argument("workspace", nargs="?", default="", help="default: as in the notebooks")
    folder = parser.parse_args(arguments).workspace
    try:
        result = verify_workspace(folder)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    print(result.summary())
    return 1 if result.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
