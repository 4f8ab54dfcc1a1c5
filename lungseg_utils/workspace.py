"""Where every file lives: the workspace, on Drive in Colab and in a folder elsewhere."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lungseg_utils.errors import InvalidValueError, LungsegError, StorageError

DRIVE_MOUNT = "/content/drive"


@dataclass(frozen=True)
class Workspace:
    """Paths of everything the series reads and writes.

    Args:
        root: Kept between sessions: on Drive in Colab. Few, large files.
        scratch: On the local disk, may vanish with the machine: unpacked data.

    Attributes:
        downloads: What was fetched, as it came, and the records of where it came from.
        source_record: Which source the data came from, so that a fresh machine can fetch it again.
        raw: Unpacked bundles, a folder a source.
        runs: Training runs, a folder each.
        reports: Tables and figures of the evaluation.
        cleaned: The cleaned secondary image set.
        examples: X-rays that notebook 08 segments when it is given none.
        secondary: The drawn image set that notebook 09 cleans when it is given none.
    """

    root: Path
    scratch: Path
    downloads: Path = field(init=False, repr=False)
    source_record: Path = field(init=False, repr=False)
    raw: Path = field(init=False, repr=False)
    runs: Path = field(init=False, repr=False)
    reports: Path = field(init=False, repr=False)
    cleaned: Path = field(init=False, repr=False)
    examples: Path = field(init=False, repr=False)
    secondary: Path = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kept, passing = (
            ("downloads", "runs", "reports", "cleaned"),
            ("raw", "examples", "secondary"),
        )
        places = {name: self.root / name for name in kept}
        places |= {name: self.scratch / name for name in passing}
        places["source_record"] = places["downloads"] / "source.json"
        for name, place in places.items():
            object.__setattr__(self, name, place)

    def prepared(self, size: int) -> Path:
        """Arrays of all cases resized to `size` pixels."""
        return self.root / "prepared" / str(size)

    def prepared_sizes(self) -> list[int]:
        """Sizes of the arrays that lie in the workspace, ascending."""
        names = [path.parent.name for path in (self.root / "prepared").glob("*/record.json")]
        return sorted(int(name) for name in names if name.isdigit())

    def stitched(self, size: int) -> Path:
        """Archive of X-ray and mask side by side, `size` × 2·`size` pixels each."""
        return self.root / "stitched" / f"{size}.zip"

    def run(self, name: str) -> Path:
        """One training run."""
        if not name or Path(name).name != name or name in {".", ".."}:
            raise InvalidValueError(
                "A run's name is a single folder name.",
                repr(name),
                "Choose a name such as 'unet' or 'unet-clahe', without slashes.",
            )
        return self.runs / name

    def segmented(self, run_name: str) -> Path:
        """Masks of the user's own X-rays, made by one run."""
        return self.root / "segmented" / self.run(run_name).name


def in_colab() -> bool:
    """Whether this Python runs in Google Colab."""
    return bool(importlib.util.find_spec("google")) and bool(
        importlib.util.find_spec("google.colab")
    )


def mount_drive(mount_point: str = DRIVE_MOUNT) -> Path:
    """Mount Google Drive in Colab; `open_workspace` does so where the workspace lies there.

    Returns:
        The folder "My Drive".

    Raises:
        LungsegError: This is not Colab, or access was refused.
    """
    if not in_colab():
        raise LungsegError(
            "Google Drive can be mounted in Colab only.",
            "a Python outside Colab",
            "Pass a folder of this machine as WORKSPACE instead.",
        )
    from google.colab import drive

    try:
        drive.mount(mount_point)
    except Exception as error:  # Colab has errors of its own for each way to refuse
        raise LungsegError(
            "Colab must be allowed to use Google Drive, where results are kept.",
            f"{type(error).__name__}: {error}",
            "Run this cell again and allow it; or pass a folder of this machine as WORKSPACE, such "
            "as /content/lungseg, which is lost with the machine.",
        ) from error
    return Path(mount_point) / "MyDrive"


def open_workspace(path: str | Path = "", drive: str = DRIVE_MOUNT) -> Workspace:
    """Open the workspace, making its folder where it is new.

    In Colab, Drive is mounted first where the workspace lies there and it is not mounted yet.

    Args:
        path: The folder. Empty: `MyDrive/lungseg` in Colab, else `./workspace`.
        drive: Where Drive is mounted.

    Raises:
        LungsegError: Access to Drive was refused.
        StorageError: The folder cannot be made or written to.
    """
    on_drive = not path or Path(drive) in Path(path).parents
    if in_colab() and on_drive and not (Path(drive) / "MyDrive").is_dir():
        mount_drive(drive)
    workspace = locate_workspace(path, drive)
    for folder in (workspace.root, workspace.scratch):
        _make_writable(folder)
    return workspace


def locate_workspace(path: str | Path = "", drive: str = DRIVE_MOUNT) -> Workspace:
    """Tell where the workspace is, or would be; makes nothing.

    Args:
        path: As in `open_workspace`; empty in Colab without Drive: `./workspace`.
        drive: As in `open_workspace`.
    """
    my_drive = Path(drive) / "MyDrive"
    if path:
        root = Path(path).expanduser().resolve()
    elif in_colab() and my_drive.is_dir():
        root = my_drive / "lungseg"
    else:
        root = Path("workspace").resolve()
    scratch = Path(tempfile.gettempdir()) / "lungseg_scratch" if in_colab() else root / "scratch"
    return Workspace(root, scratch)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            "The workspace must be a folder that can be written to.",
            f"{folder} ({error.strerror})",
            "Choose another WORKSPACE, or free space and permissions there.",
        ) from error
