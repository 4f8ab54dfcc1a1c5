"""A stand-in for Google Colab: a fresh machine for every notebook, and a Drive that stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Stands in for Colab's module: what is kept appears once it is mounted.
DRIVE_STUB = """\
from pathlib import Path

def mount(mount_point, force_remount=False):
    if not Path(mount_point).exists():
        Path(mount_point).mkdir()
        Path(mount_point, "MyDrive").symlink_to({kept!r})
    print("Mounted at", mount_point)
"""

# The package is looked for on the machine alone: an editable installation puts a checkout on the
# path, and leaves the manifest among the installed libraries.
SITE_CUSTOMISATION = """\
import sys
from importlib.machinery import PathFinder
from pathlib import Path

search = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    if name == "lungseg_utils":
        path = [place for place in sys.path if Path(place).resolve().is_relative_to({machine!r})]
    return search(name, path, target)

PathFinder.find_spec = find_spec
"""


def clone_of_working_tree(repository: Path, folder: Path) -> str:
    """Commit the working tree as it stands to a repository of its own.

    Returns:
        Its address, `file://…/lung-segmentation`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = folder / "lung-segmentation"
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "Copy"]):
        places = [f"--git-dir={origin}", f"--work-tree={repository}"]
        subprocess.run(["git", *places, *command], check=True)
    return origin.as_uri()


def with_pip() -> dict[str, str]:
    """This environment, in which `pip` finds all that is asked for installed already."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PIP_NO_INDEX": "1"}


class ColabMachine:
    """Runs notebooks as Colab does: `google.colab` is there, `lungseg_utils` is not installed.

    Args:
        folder: Everything is made below it.
    """

    def __init__(self, folder: Path) -> None:
        self.kept, self.drive, self.content, self.local_disk, self.executed, stubs = (
            folder / name for name in ("kept", "drive", "content", "local", "executed", "stubs")
        )
        for made in (self.kept, self.executed, stubs / "google" / "colab"):
            made.mkdir(parents=True)
        (stubs / "google" / "colab" / "__init__.py").touch()
        stub = DRIVE_STUB.format(kept=str(self.kept))
        (stubs / "google" / "colab" / "drive.py").write_text(stub)
        site = SITE_CUSTOMISATION.format(machine=str(folder.resolve()))
        (stubs / "sitecustomize.py").write_text(site)
        self._environment = with_pip() | {"PYTHONPATH": str(stubs), "TMPDIR": str(self.local_disk)}

    def run(self, notebook: Path, parameters: dict[str, object]) -> str:
        """Run a notebook on a fresh machine: nothing mounted, nothing on its disk.

        Returns:
            The text of the executed notebook.
        """
        for folder in (self.drive, self.content, self.local_disk):
            shutil.rmtree(folder, ignore_errors=True)
        self.content.mkdir()
        self.local_disk.mkdir()
        output = self.executed / notebook.name
        values = json.dumps({**parameters, "DRIVE": str(self.drive)})
        command = [
            "-m",
            "papermill",
            notebook,
            output,
            "-k",
            "python3",
            "--parameters_yaml",
            values,
        ]
        done = subprocess.run(
            [sys.executable, *command, "--cwd", self.content, "--no-progress-bar"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return output.read_text(encoding="utf-8")
