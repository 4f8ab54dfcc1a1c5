"""A stand-in for Google Colab: a fresh machine for every notebook, and a Drive that stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

DRIVE_STUB = '''\
"""Stand-in for Colab's module: mounting makes the folder."""

from pathlib import Path


def mount(mount_point, force_remount=False):
    Path(mount_point, "MyDrive").mkdir(parents=True, exist_ok=True)
    print("Mounted at", mount_point)
'''

# The package is looked for neither in the checkout, which an editable installation puts on the
# path, nor among the installed libraries, where such an installation leaves the manifest.
SITE_CUSTOMISATION = """\
import sys
from importlib.machinery import PathFinder
from pathlib import Path

search = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    if name == "lungseg_utils":
        places = [place for place in sys.path if "site-packages" not in place]
        path = [place for place in places if Path(place).resolve() != Path({checkout!r})]
    return search(name, path, target)

PathFinder.find_spec = find_spec
"""


def clone_of_working_tree(repository: Path, folder: Path) -> str:
    """Commit the working tree as it stands to a repository of its own.

    Returns:
        Its address, `file://…/lung-segmentation`.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    origin = folder / "lung-segmentation"
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, origin / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "Copy"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    return origin.as_uri()


class ColabMachine:
    """Runs notebooks as Colab does: `google.colab` is there, `lungseg_utils` is not installed.

    Args:
        folder: Everything is made below it.
        checkout: Where the kernel must not find the package.
    """

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.drive, self.content = folder / "drive", folder / "content"
        self.local_disk, self.executed = folder / "local", folder / "executed"
        self._stubs, self._jupyter = folder / "stubs", folder / "jupyter"
        package = self._stubs / "google" / "colab"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "drive.py").write_text(DRIVE_STUB)
        site = SITE_CUSTOMISATION.format(checkout=str(checkout))
        (self._stubs / "sitecustomize.py").write_text(site)
        self.executed.mkdir()
        self._write_kernel()

    def _write_kernel(self) -> None:
        launcher = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        environment = {"PYTHONPATH": str(self._stubs), "TMPDIR": str(self.local_disk)}
        kernel = {"argv": [*launcher, "--log-level=CRITICAL"], "language": "python"}
        kernel |= {"display_name": "Colab", "env": environment}
        place = self._jupyter / "kernels" / "colab"
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps(kernel))

    def run(self, notebook: Path, parameters: dict[str, object]) -> Path:
        """Run a notebook on a fresh machine: empty working directory and local disk.

        Returns:
            The executed notebook.
        """
        import papermill

        for folder in (self.content, self.local_disk):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        output = self.executed / notebook.name
        with _environment(JUPYTER_PATH=str(self._jupyter)):
            papermill.execute_notebook(
                notebook,
                output,
                {**parameters, "DRIVE": str(self.drive)},
                kernel_name="colab",
                language="python",
                cwd=self.content,
                progress_bar=False,
            )
        return output


@contextmanager
def _environment(**variables: str):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
