"""A folder of images in, a folder of results out, that any call can go on with."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from lungseg_utils.errors import ImageFileError, LungsegError
from lungseg_utils.files.records import (
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
# A core works on a film at a time. More than four at once would need too much memory for the
# largest films: 300 MB each.
_MOST_WORKERS = 4

Row = dict[str, object]


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
    """Results of many images: some files an image, and a table of all images.

    `record.json` says what made them, and of which bytes, and names whatever may lie there;
    `progress.jsonl` gets a line as soon as an image is done. So whenever a call is interrupted,
    killed or fails, the next one goes on, and nothing is left that no record names.

    Args:
        out: The folder.
        places: The files of an image under `out` by their kinds, `{}` for its name from
            `name_outputs`.
        table: The table's name.
        figures: Its columns between `file` and `error`, with pandas' types.
        extras: Names of other files that belong to a table that is whole.
    """

    out: Path
    places: Mapping[str, str]
    table: str
    figures: Mapping[str, str]
    extras: tuple[str, ...] = ()

    @property
    def files_and_folders(self) -> list[Path]:
        """All that results consist of; need not exist."""
        names = self.table, _RECORD, _PROGRESS, *self.extras
        return [*self._folders, *(self.out / name for name in names)]

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
        notes = [self.out / name for name in (_PROGRESS, _RECORD)]
        # Without any of them, what lies in folders of these names was not made by a call.
        if any(path.exists() for path in (self.out / self.table, *notes)):
            self._remove_table()
            for folder in filter(Path.exists, self._folders):
                shutil.rmtree(folder)
            for path in notes:
                path.unlink(missing_ok=True)

    def fill(
        self,
        images: Mapping[str, Callable[[], bytes]],
        parameters: dict[str, object],
        make: Callable[[str, bytes, dict[str, Path]], Row],
        title: str,
        kinds: Collection[str] | None = None,
    ) -> list[Row]:
        """Make what is missing, several images at a time, remove what no longer holds, and list it.

        Results stay where the image's bytes and the parameters are those they were made from.
        With other parameters, or unknown ones, all are made anew.

        Args:
            images: Functions that read an image's bytes, by what the table calls it.
            parameters: Whatever decides the results, beside the images; as JSON keeps it.
            make: Called with an image's name and bytes and the paths of its results by their
                kinds; writes them, and returns its figures for the table. It is called by several
                threads. An image that it refuses with an `ImageFileError` is named in the table,
                and tried again by the next call.
            title: Of the progress bar.
            kinds: Of `places`, what is wanted; None for all. What an earlier call made beside
                that stays.

        Returns:
            The table: a row an image, in their order.

        Raises:
            LungsegError: The record is damaged.
            StorageError: The disk is full or read-only; what is done is kept.
        """
        kinds = list(self.places if kinds is None else kinds)
        record = self.read_record()
        if record["parameters"] != parameters:
            self.discard()
            record["files"] = {}
        entries = self._plan(images, record["files"], kinds)
        # Before anything is made, so that whatever a killed call leaves is named there.
        self._save(parameters, entries)
        todo = [file for file, entry in entries.items() if not entry["row"]]
        done = len(entries) - len(todo)

        noting = threading.Lock()

        def work(file: str) -> None:
            paths, former = self._paths(entries[file]), entries[file]
            wanted = {kind: paths[kind] for kind in kinds}
            entry = former | make_one(file, images[file], wanted, make)
            if entry["sha256"] != former["sha256"]:  # what was made beside is of other bytes
                for kind in paths.keys() - (wanted if entry["sha256"] else {}):
                    paths[kind].unlink(missing_ok=True)
            entry["absent"] += [one for one in former.get("absent", []) if one not in wanted]
            # At once, so that a killed call does none again that was done.
            with noting:
                self._note({file: entry})
                entries[file] = entry

        with tqdm(desc=title, unit="image", initial=done, total=len(entries)) as bar:
            for _ in _in_parallel(work, todo):
                bar.update()
        self._save(parameters, entries)
        return self._write_table([entry["row"] for entry in entries.values()])

    def to_frame(self, rows: Sequence[Row]) -> pandas.DataFrame:
        """The table that `fill` returned, with the columns' types."""
        import pandas

        return pandas.DataFrame(rows, columns=self._columns).astype(dict(self.figures))

    def paths_of(self, kind: str) -> dict[str, Path]:
        """Where the results of a kind lie, by their images' names in the table."""
        entries = self.read_record()["files"]
        return {file: self._paths(entry)[kind] for file, entry in entries.items()}

    @property
    def _columns(self) -> list[str]:
        return ["file", *self.figures, "error"]

    @property
    def _folders(self) -> list[Path]:
        return [(self.out / place).parent for place in self.places.values()]

    def _remove_table(self) -> None:
        for name in (self.table, *self.extras):
            (self.out / name).unlink(missing_ok=True)

    def place(self, name: str) -> dict[str, Path]:
        """Where the results of an image lie by their kinds; its name is that of `name_outputs`."""
        return {kind: self.out / place.format(name) for kind, place in self.places.items()}

    def _paths(self, entry: dict) -> dict[str, Path]:
        return self.place(entry["output"].removesuffix(".png"))

    def _plan(
        self,
        images: Mapping[str, Callable[[], bytes]],
        recorded: dict[str, dict],
        kinds: Sequence[str],
    ) -> dict[str, dict]:
        """An entry an image: as recorded, or without a row where it is yet to be made.

        Removes the results of all others, with what killed processes left half-written.
        """
        names = name_outputs([PurePath(file) for file in images])
        entries = {}
        known = tqdm(images.items(), "Comparing", unit="image", disable=not recorded, leave=False)
        for (file, read), name in zip(known, names, strict=True):
            entries[file] = self._entry_of(recorded.get(file), f"{name}.png", read, kinds)
        if entries != recorded:
            self._remove_table()
        found = {path for entry in recorded.values() for path in self._paths(entry).values()}
        kept = {
            path for one in entries.values() if one["sha256"] for path in self._paths(one).values()
        }
        for folder in {self.out, *(path.parent for path in found)}:
            remove_partial(folder)
        for path in found - kept:
            path.unlink(missing_ok=True)
        return entries

    def _entry_of(
        self, former: dict | None, output: str, read: Callable[[], bytes], kinds: Sequence[str]
    ) -> dict:
        """The former entry if the image is the same; without its row where a result is missing."""
        new = {"sha256": "", "output": output, "row": {}}
        if not former or not former["sha256"] or former["output"] != output:
            return new
        try:
            if former["sha256"] != hashlib.sha256(read()).hexdigest():
                return new
        except ImageFileError:  # named when the image is read once more
            return new
        # What could not be made of an image, as its note says, is not waited for.
        paths, absent = self._paths(former), former["absent"]
        whole = all(paths[kind].is_file() or kind in absent for kind in kinds)
        return former if whole else former | {"row": {}}

    def _note(self, done: dict[str, dict]) -> None:
        def append() -> None:
            with (self.out / _PROGRESS).open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(done)}")  # on a new line, also after half a one

        retry_passing(append)

    def _save(self, parameters: dict[str, object], entries: dict[str, dict]) -> None:
        write_json(self.out / _RECORD, {"parameters": parameters, "files": entries})
        (self.out / _PROGRESS).unlink(missing_ok=True)

    def _write_table(self, rows: list[Row]) -> list[Row]:
        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, self._columns, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)

        write_atomically(self.out / self.table, write)
        return rows


def make_one(
    file: str, read: Callable[[], bytes], paths: dict[str, Path], make: Callable
) -> dict[str, object]:
    """Make an image's results as `ResultFolder.fill` does.

    Returns:
        Its entry in the record: `sha256` of its bytes, `absent` results, and its `row`.
    """
    try:
        # Read once, so that the digest is that of the bytes that were used.
        content = read()
        figures = make(file, content, paths)
    except ImageFileError as error:
        # Without the folders that lead to it.
        received = str(error.received)
        reason = received.partition(f"{file}: ")[2] or received
        rule = error.rule.removesuffix(".")
        return _failed(file, rule if received == file else f"{rule}: {reason}")
    except (LungsegError, OSError):
        raise
    except Exception as error:
        # One image in thousands must not end the work on all others.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _failed(file, f"An unexpected error, please report it. {reason}")
    absent = [kind for kind, path in paths.items() if not path.is_file()]
    digest = hashlib.sha256(content).hexdigest()
    return {"sha256": digest, "absent": absent, "row": {"file": file, **figures, "error": ""}}


def _failed(file: str, error: str) -> dict[str, object]:
    return {"sha256": "", "absent": [], "row": {"file": file, "error": error}}


def _in_parallel(work: Callable[[str], None], files: Sequence[str]) -> Iterator[None]:
    """Call `work` for several files at a time; a failure ends what has not begun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(cores or 1, _MOST_WORKERS)
    left, waiting = iter(files), set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            # One more than are worked on, so that nobody waits for the next.
            while waiting := waiting | {
                pool.submit(work, file) for file in islice(left, workers + 1 - len(waiting))
            }:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in waiting:
                future.cancel()
