"""A folder of images in, a folder of results out, that any call can go on with."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from lungseg_utils.errors import ImageFileError, MissingInputError
from lungseg_utils.files.images import SUFFIXES
from lungseg_utils.files.records import (
    file_sha256,
    remove_partial,
    require_record,
    write_atomically,
    write_json,
)
from lungseg_utils.files.storage import retry_passing

if TYPE_CHECKING:
    import pandas

_RECORD = "record.json"
_PROGRESS = "progress.jsonl"


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
            "Pass the path of your images; in Colab, upload them with the folder pane first. "
            "Export DICOM files as PNG.",
        )
    return images


def name_outputs(files: Sequence[PurePath]) -> list[str]:
    """Name the output of each file, without a suffix of its own.

    A file gives its output its own name without suffix. Where several files differ in nothing
    but the suffix, or in upper and lower case, they keep their suffixes; where that does not tell
    them apart either, the later ones are numbered.

    Args:
        files: Relative paths, all different.

    Returns:
        A name a file, with its folders, joined by `/`; no two are equal, also where upper and
        lower case are the same.
    """
    stems = [file.with_suffix("").as_posix() for file in files]
    uses = Counter(stem.casefold() for stem in stems)
    taken = {stem for stem, number in uses.items() if number == 1}
    return [
        stem if uses[stem.casefold()] == 1 else _free_name(file.as_posix(), taken)
        for file, stem in zip(files, stems, strict=True)
    ]


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or the first numbered one that is not taken; it is taken from now on."""
    numbered = (f"{name}-{number}" for number in count(2))
    free = next(one for one in chain([name], numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free


@dataclass(frozen=True)
class ResultFolder:
    """Results of a folder of images: some files an image, and a table of all images.

    `record.json` says what made them, and of which bytes, and names whatever may lie there;
    `progress.jsonl` gets a line as soon as an image is done. So whenever a call is interrupted,
    killed or fails, the next one goes on, and nothing is left that no record names.

    Args:
        out: The folder.
        places: The files of an image under `out`, `{}` for its name from `name_outputs`.
        table: The table's name.
        figures: Its columns between `file` and `error`, with pandas' types.
    """

    out: Path
    places: tuple[str, ...]
    table: str
    figures: Mapping[str, str]

    def find_images(self, folder: Path | str, pattern: str = "*") -> dict[str, Path]:
        """The images to work on, by their paths relative to `folder`; never results.

        Args:
            folder: As in `list_images`.
            pattern: As in `list_images`.

        Raises:
            MissingInputError: There is none.
        """
        images = list_images(folder, pattern, self._folders)
        root = Path(folder).parent if Path(folder).is_file() else Path(folder)
        return {path.relative_to(root).as_posix(): path for path in images}

    def read_record(self) -> dict[str, dict]:
        """Read what made the results, and which images are done.

        Returns:
            `parameters` and `files`; both are empty where nothing says so.

        Raises:
            LungsegError: The record is damaged.
        """
        if not (self.out / _RECORD).is_file():
            return {"parameters": {}, "files": {}}
        record = require_record(
            self.out / _RECORD,
            ("parameters", "files"),
            "The record of a folder's results is whole, as it was written.",
            "Choose another output folder; or delete this file, or pass overwrite=True (OVERWRITE "
            "in the notebook) where that is offered: all is made again then.",
        )
        if (self.out / _PROGRESS).is_file():
            for line in (self.out / _PROGRESS).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # of a process killed as it wrote the line
                    record["files"].update(json.loads(line))
        return record

    def discard(self) -> None:
        """Remove what earlier calls made, the table that lists it first, the record last."""
        table, *notes = (self.out / name for name in (self.table, _PROGRESS, _RECORD))
        # Without any of them, what lies in folders of these names was not made by a call.
        if any(path.exists() for path in (table, *notes)):
            table.unlink(missing_ok=True)
            for folder in filter(Path.exists, self._folders):
                shutil.rmtree(folder)
            for path in notes:
                path.unlink(missing_ok=True)

    def fill(
        self,
        images: Mapping[str, Path],
        parameters: dict[str, object],
        make: Callable[..., dict[str, object]],
        title: str,
    ) -> pandas.DataFrame:
        """Make what is missing, remove what no longer holds, and write the table.

        Results stay where the image's bytes and the parameters are those they were made from.
        With other parameters, or unknown ones, all are made anew.

        Args:
            images: The files, by what the table calls them.
            parameters: Whatever decides the results, beside the images; as JSON keeps it.
            make: Called with an image and the paths of its results, in the order of `places`;
                writes them, and returns its figures for the table. An image that it refuses with
                an `ImageFileError` is named in the table, and tried again by the next call.
            title: Of the progress bar.

        Returns:
            The table: a row an image, in their order.

        Raises:
            LungsegError: The record is damaged.
        """
        record = self.read_record()
        if record["parameters"] != parameters:
            self.discard()
            record["files"] = {}
        entries = self._plan(images, record["files"])
        # Before anything is made, so that whatever a killed call leaves is named there.
        self._save(parameters, entries)
        todo = [file for file, entry in entries.items() if not entry["row"]]
        done = len(entries) - len(todo)
        for file in tqdm(todo, desc=title, unit="image", initial=done, total=len(entries)):
            entries[file] |= self._make(file, images[file], entries[file], make)
            self._note({file: entries[file]})
        self._save(parameters, entries)
        return self._write_table([entry["row"] for entry in entries.values()])

    @property
    def _folders(self) -> list[Path]:
        return [(self.out / place).parent for place in self.places]

    def _paths(self, entry: dict) -> list[Path]:
        name = entry["output"].removesuffix(".png")
        return [self.out / place.format(name) for place in self.places]

    def _plan(self, images: Mapping[str, Path], recorded: dict[str, dict]) -> dict[str, dict]:
        """An entry an image: as recorded, or without a row where it is yet to be made.

        Removes the results of all others, with what killed processes left half-written.
        """
        names = name_outputs([PurePath(file) for file in images])
        entries = {}
        known = tqdm(images.items(), "Comparing", unit="image", disable=not recorded, leave=False)
        for (file, path), name in zip(known, names, strict=True):
            former, new = recorded.get(file), {"sha256": "", "output": f"{name}.png", "row": {}}
            entries[file] = former if self._holds(former, new["output"], path) else new
        if entries != recorded:
            (self.out / self.table).unlink(missing_ok=True)
        found = {path for entry in recorded.values() for path in self._paths(entry)}
        kept = {path for one in entries.values() if one["row"] for path in self._paths(one)}
        for folder in {self.out, *(path.parent for path in found)}:
            remove_partial(folder)
        for path in found - kept:
            path.unlink(missing_ok=True)
        return entries

    def _holds(self, entry: dict | None, output: str, path: Path) -> bool:
        if not entry or not entry["sha256"] or entry["output"] != output:
            return False
        return all(map(Path.is_file, self._paths(entry))) and entry["sha256"] == _sha256(path)

    def _make(self, file: str, path: Path, entry: dict, make: Callable) -> dict[str, object]:
        # Before it is read: bytes that change meanwhile are then made again.
        digest = _sha256(path)
        try:
            figures = make(path, *self._paths(entry))
        except ImageFileError as error:
            reason = str(error.received).removeprefix(f"{path}: ")
            return {"row": {"file": file, "error": f"{error.rule} {reason}"}}
        return {"sha256": digest, "row": {"file": file, **figures, "error": ""}}

    def _note(self, done: dict[str, dict]) -> None:
        def append() -> None:
            with (self.out / _PROGRESS).open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(done)}")  # on a new line, also after half a one

        retry_passing(append)

    def _save(self, parameters: dict[str, object], entries: dict[str, dict]) -> None:
        write_json(self.out / _RECORD, {"parameters": parameters, "files": entries})
        (self.out / _PROGRESS).unlink(missing_ok=True)

    def _write_table(self, rows: list[dict[str, object]]) -> pandas.DataFrame:
        import pandas

        columns = ["file", *self.figures, "error"]
        table = pandas.DataFrame(rows, columns=columns).astype(dict(self.figures))
        write_atomically(self.out / self.table, lambda path: table.to_csv(path, index=False))
        return table


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:  # named when the image is read
        return ""
