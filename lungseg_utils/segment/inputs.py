"""What a person names – files, folders, patterns, zip archives – as films, one after the other."""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from lungseg_utils.errors import ImageFileError, MissingInputError
from lungseg_utils.files.images import SUFFIXES

Reader = Callable[[], bytes]

_LARGEST_FILE = 1_000_000_000  # bytes
# Of a file in an archive; black films are packed 100 times at most, and small ones hurt nobody.
_LARGEST_RATIO, _SMALL = 300, 50_000_000
# What systems leave in folders, and the table of contents of a DICOM disk.
_LITTER = frozenset({"DICOMDIR", "THUMBS.DB", "DESKTOP.INI", "__MACOSX"})


def find_films(
    inputs: Path | str | Sequence[Path | str], leave_out: Collection[Path] = ()
) -> Mapping[str, Reader]:
    """Find every file that may be a film, whatever it is called.

    Left out are hidden files, those of systems (`Thumbs.db`), and DICOMDIR.

    Args:
        inputs: Files, folders with all folders in them, patterns such as `films/**/*.dcm`, and
            zip archives; one or several.
        leave_out: Files and folders that do not count, such as results.

    Returns:
        For each film a function that reads its bytes, by its name: its path relative to what all
        inputs have in common, with `/`; of a single folder or archive, the path inside.

    Raises:
        MissingInputError: An input does not exist, or there is no file in them.
    """
    several = [inputs] if isinstance(inputs, Path | str) else list(inputs)
    paths = [path for one in several for path in _matching(one)]
    holders = [path if _holds_many(path) else path.parent for path in paths]
    common = Path(os.path.commonpath([path.resolve() for path in holders])) if paths else Path()
    left_out = {path.resolve() for path in leave_out}
    films: dict[str, Reader] = {}
    for path in paths:
        if zipfile.is_zipfile(path):
            place = _below(path, common)
            members = _members(path)
            films |= {(place / name).as_posix(): reader for name, reader in members}
            continue
        for file in _files(path, left_out):
            films[_below(file, common).as_posix()] = partial(read_file, file)
    if not films:
        raise MissingInputError(
            "What is needed is a film (DICOM, PNG, JPEG, TIFF, NIfTI), or a folder of them.",
            f"{', '.join(map(str, several))} (no file in it)",
            "Pass the path of your films; in Colab, upload them with the folder pane first.",
        )
    return dict(sorted(films.items()))


def list_images(
    folder: Path | str, pattern: str = "*", leave_out: Collection[Path] = ()
) -> list[Path]:
    """Image files of a folder, by name; a single file is a list of one.

    Args:
        folder: The folder, or a file.
        pattern: `**/*` for the folders in it too.
        leave_out: Folders whose files do not count.

    Raises:
        MissingInputError: There is none.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    left_out = {path.resolve() for path in leave_out}
    # Archives packed on a Mac carry a "._" file beside each.
    images = [
        path
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and left_out.isdisjoint(path.resolve().parents)
    ]
    if not images:
        raise MissingInputError(
            "What is needed is a PNG, JPEG or other image file, or a folder of them.",
            f"{folder} ({'no image in it' if folder.exists() else 'no such file or folder'})",
            "Pass the path of your images; in Colab, upload them with the folder pane first.",
        )
    return images


def read_file(path: Path) -> bytes:
    """Read a file's bytes.

    Raises:
        ImageFileError: It cannot be read, is larger than 1 GB, or changes while it is read.
    """
    try:
        before = path.stat()
        if before.st_size > _LARGEST_FILE:
            raise _unreadable(path, f"it has {before.st_size:,} bytes, and 1 GB is the limit")
        content = path.read_bytes()
        after = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _unreadable(path, "it changed while it was read")
    return content


def _matching(one: Path | str) -> list[Path]:
    path = Path(one)
    if path.exists():
        return [path]
    # A name may hold such characters itself, hence this order.
    magic = glob.has_magic(str(one))
    found = sorted(glob.glob(str(one), recursive=True)) if magic else []  # noqa: PTH207
    if not found:
        raise MissingInputError(
            "An input is a file, a folder, a pattern or a zip archive.",
            f"{one} (no such file or folder)",
            "Correct the path.",
        )
    return [Path(each) for each in found if Path(each).is_file()]


def _holds_many(path: Path) -> bool:
    return path.is_dir() or zipfile.is_zipfile(path)


def _below(path: Path, common: Path) -> PurePosixPath:
    return PurePosixPath(os.path.relpath(path.resolve().as_posix(), common.as_posix()))


def _is_litter(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part.upper() in _LITTER for part in parts)


def _files(path: Path, left_out: Collection[Path]) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        whole = file.resolve()
        if (
            not _is_litter(file.relative_to(path).parts)
            and file.is_file()
            and left_out.isdisjoint([whole, *whole.parents])
        ):
            yield file


def _members(path: Path) -> Iterator[tuple[str, Reader]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # No way out of the folder of results: "..", drives and roots are dropped.
            parts = [
                part.replace(":", "_")
                for part in PurePosixPath(info.filename.replace("\\", "/")).parts
                if part not in ("/", "..", ".")
            ]
            if parts and not info.is_dir() and not _is_litter(parts):
                yield "/".join(parts), partial(_read_member, path, info)


def _read_member(path: Path, info: zipfile.ZipInfo) -> bytes:
    place = Path(path) / info.filename
    if info.flag_bits & 1:
        raise _unreadable(place, "it is encrypted")
    packed = max(info.compress_size, 1)
    if info.file_size > _LARGEST_FILE or info.file_size > max(_SMALL, _LARGEST_RATIO * packed):
        raise _unreadable(place, f"it would unpack to {info.file_size:,} bytes")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            # One more than it claims, so that a lie is noticed and not unpacked.
            content = file.read(info.file_size + 1)
    except Exception as error:  # zipfile, zlib and bz2 each have their own
        raise _unreadable(place, f"it is damaged: {error}") from error
    if len(content) != info.file_size:
        raise _unreadable(place, "it is damaged: its size is not what the archive says")
    return content


def _unreadable(path: Path, reason: str) -> ImageFileError:
    return ImageFileError(
        "A film's file must be readable.", f"{path}: {reason}", "Check the file and its rights."
    )
