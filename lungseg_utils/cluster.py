"""The same results from many machines: Ray Data maps films to rows, blocks of films at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import pickle
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from lungseg_utils.environment import require_extra
from lungseg_utils.errors import InvalidValueError, StaleOutputError
from lungseg_utils.files.records import read_json, write_atomically, write_json
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.segment.folders import ResultFolder, Row, make_one, name_outputs
from lungseg_utils.segment.inputs import Reader, find_films
from lungseg_utils.segment.segmenter import Segmenter, maker, open_results, write_run

if TYPE_CHECKING:
    import pandas
    import ray

PARQUET = "lungs.parquet"
_RECORD = "record.json"
# A block of the table is a Parquet file: what a killed call had not finished of it is made again.
_FILMS_A_BLOCK = 256
# Few films at a time go to an actor, so that little is made twice when it dies.
_FILMS_A_BATCH = 4


@dataclass(frozen=True)
class _Work:
    """What an actor needs to make a film's results, as it travels to it."""

    networks: tuple  # what a `Segmenter` is made of
    results: ResultFolder
    kinds: tuple[str, ...]
    deidentified: bool


def fill_from_cluster(
    segmenter: Segmenter,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    save: Collection[str],
    deidentified: bool,
    command: str,
    address: str,
) -> tuple[Path, int, int]:
    """Segment films on every machine of a Ray cluster, which all see the same folders.

    A row a film goes to `lungs.parquet`, a folder of one file a block of films; a block whose file
    is there is not made again, whoever killed the call before. A film that an actor was at when
    its machine died is given to another.

    Args:
        segmenter: The network.
        inputs: As for `Segmenter.segment_folder`, and so for `save` and `deidentified`.
        out: Gets the results; on a file system that all machines share.
        save: As there, without `gallery`.
        deidentified: As there.
        command: Noted in `run.json`.
        address: Of the cluster: `ray://…`, `HOST:PORT`, `auto`, or `local` for this machine alone.

    Returns:
        The table, how many films are in it, and how many of them failed.

    Raises:
        LungsegError: Ray is not installed; says how to install it.
        InvalidValueError: A gallery is asked for: a page of so many films opens nowhere.
        StaleOutputError: `out` holds results of other films, or made with another network.
    """
    require_extra("ray", "ray", "results of a cluster")
    if "gallery" in save:
        raise InvalidValueError(
            "A gallery is a page of the films of one machine.",
            "gallery with --ray",
            "Leave it out.",
        )
    results = open_results(out, save)
    table = results.out / PARQUET
    films = find_films(inputs, [*results.files_and_folders, table])
    parameters = segmenter._parameters() | {"deidentified": deidentified, "save": sorted(save)}
    with hold(table, "segmenting"), explained(results.out):
        _claim(results.out / _RECORD, parameters | {"films_sha256": _digest(films)})
        blocks = _blocks(films, table)
        networks = segmenter.run, segmenter.quality, segmenter.others
        work = _Work(networks, results, tuple(save), deidentified)
        with _connected(address), tqdm(desc="Segmenting", unit="image", total=len(films)) as bar:
            missing = {path: block for path, block in blocks.items() if not path.is_file()}
            bar.update(len(films) - sum(map(len, missing.values())))
            for path, rows in _made(missing, films, work, bar):
                frame = results.to_frame(rows)
                write_atomically(path, lambda target, frame=frame: frame.to_parquet(target))
        failed = sum(_failures(path) for path in blocks)
        write_run(results.out, command, save, parameters, len(films), failed)
    return table, len(films), failed


def _claim(record: Path, wanted: dict[str, object]) -> None:
    """Begin, or go on with, what the record says; results of something else are no start."""
    with contextlib.suppress(FileNotFoundError):
        if (found := read_json(record)) != wanted:
            names = sorted(
                key for key in wanted.keys() | found if found.get(key) != wanted.get(key)
            )
            raise StaleOutputError(
                "A folder that a cluster fills holds results of the same films, made alike.",
                f"{record.parent} differs in {', '.join(names)}",
                "Choose another folder for the results, or delete this one.",
            )
    write_json(record, wanted)


def _digest(films: Mapping[str, Reader]) -> str:
    """Of the films' names, sizes and times; to read every byte would take a cluster of its own."""
    digest = hashlib.sha256()
    for name, reader in films.items():
        stamp = reader.args[0].stat()  # the file, or the archive that it is in
        digest.update(f"{name}\n{stamp.st_size} {stamp.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _blocks(films: Mapping[str, Reader], table: Path) -> dict[Path, dict[str, str]]:
    """Each block's file, with the outputs' names of its films."""
    outputs = dict(zip(films, name_outputs([PurePath(file) for file in films]), strict=True))
    names = list(films)
    return {
        table / f"{start // _FILMS_A_BLOCK:06}.parquet": {
            name: outputs[name] for name in names[start : start + _FILMS_A_BLOCK]
        }
        for start in range(0, len(names), _FILMS_A_BLOCK)
    }


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Join the cluster, unless the caller has; leave it as it was found."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _made(
    blocks: Mapping[Path, dict[str, str]], films: Mapping[str, Reader], work: _Work, bar: tqdm
) -> Iterator[tuple[Path, list[Row]]]:
    """The rows of each block as soon as all are there, in whatever order blocks are done."""
    import ray

    if not blocks:
        return
    # One bar is enough: ours, which counts films.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    paths = list(blocks)
    asked = [
        {"block": number, "file": file, "output": output, "reader": pickle.dumps(films[file])}
        for number, path in enumerate(paths)
        for file, output in blocks[path].items()
    ]
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=max(1, int(ray.cluster_resources()["CPU"]))
    )
    made = ray.data.from_items(
        asked, override_num_blocks=-(-len(asked) // _FILMS_A_BATCH)
    ).map_batches(
        _Actor,
        fn_constructor_args=[ray.put(work)],
        batch_size=_FILMS_A_BATCH,
        batch_format="pandas",
        compute=pool,
    )
    rows: dict[int, dict[str, Row]] = defaultdict(dict)
    for found in made.iter_rows():
        block = rows[found["block"]]
        block[found["file"]] = json.loads(found["row"])
        bar.update()
        path = paths[found["block"]]
        if len(block) == len(blocks[path]):
            del rows[found["block"]]
            yield path, [block[file] for file in blocks[path]]


class _Actor:
    """Holds the network on one core of some machine."""

    def __init__(self, work: ray.ObjectRef) -> None:
        import ray

        work = ray.get(work)
        self._work = work
        self._make = maker(Segmenter(*work.networks), work.deidentified)

    def __call__(self, batch: pandas.DataFrame) -> pandas.DataFrame:
        films = zip(batch["file"], batch["output"], batch["reader"], strict=True)
        return batch[["block", "file"]].assign(row=[json.dumps(self._row(*film)) for film in films])

    def _row(self, file: str, output: str, reader: bytes) -> Row:
        paths = self._work.results.place(output)
        wanted = {kind: paths[kind] for kind in self._work.kinds}
        # Read where it is needed, so that no film's bytes travel between machines.
        return make_one(file, pickle.loads(reader), wanted, self._make)["row"]


def _failures(path: Path) -> int:
    import pandas

    return int((pandas.read_parquet(path, columns=["error"])["error"] != "").sum())
