"""How fast films are segmented, against an earlier version; how soon one is; in what memory.

Everything is measured in one go, both versions in turns, so run it on a quiet machine:

    python -m benchmarks.speed --data BUNDLE [--originals FOLDER] [--before COMMIT]

Without full-size films, what concerns them is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pandas as pd

from lungseg_utils.bundle import IMAGE_FOLDER, find_bundle, list_bundle_images
from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.inputs import list_images

REPOSITORY = Path(__file__).resolve().parent.parent
TURNS = 3
STARTS = 5
# As many times the full-size films, to see whether memory grows.
MORE = 4
# Goals: times as fast as before, seconds, bytes.
FASTER, FASTER_FULL_SIZE, SECONDS, MEMORY = 2.5, 1.8, 2.0, 1.5e9

_PACKAGE = "lungseg_utils", "data_manifest.csv"

# Run with either version. Libraries and network are loaded before the time begins.
_SEGMENT = """
import sys, time
import lungseg_utils
films, one, out, fast, *kinds = sys.argv[1:]
options = {"save": kinds} if kinds else {}
segmenter = lungseg_utils.Segmenter.load("unet", **({"fast": True} if fast else {}))
segmenter.segment_folder(one, out + "/warm-up", **options)
begun = time.perf_counter()
table = segmenter.segment_folder(films, out + "/films", **options)
seconds = time.perf_counter() - begun
if table["error"].fillna("").any():
    sys.exit(table["error"].to_string())
print(lungseg_utils.__file__, len(table) / seconds, sep="\\n")
"""

# In a process of its own, as what is counted is the most of all that a process has started.
_PEAK = """
import resource, subprocess, sys
command = [sys.executable, "-m", "lungseg_utils", *sys.argv[1:]]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
"""


def core_count() -> int:
    """Cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def describe_machine() -> str:
    """Cores, and how busy they are: on a busy machine no figure says anything."""
    return f"{core_count()} cores, load {os.getloadavg()[0]:.1f} before the start"


def run_python(code: Path, place: Path, *arguments: str | Path) -> list[str]:
    """Run Python with the package of a checkout.

    Args:
        code: The checkout.
        place: Where it runs; nothing to import lies there.
        *arguments: Of Python.

    Returns:
        The lines that were printed.

    Raises:
        LungsegError: It failed.
    """
    environment = os.environ | {"PYTHONPATH": str(code), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise LungsegError(
            "What is measured runs to its end.", done.stderr[-3000:], f"Look into {code}."
        )
    return done.stdout.splitlines()


def check_out(commit: str, folder: Path) -> Path:
    """Write the package as of a commit.

    Raises:
        LungsegError: The repository has no such commit.
    """
    archive = folder.with_suffix(".zip")
    command = ["git", "archive", f"--output={archive}", commit, *_PACKAGE]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise LungsegError(
            "What is compared is a commit of this repository.",
            f"{commit}: {done.stderr.strip()}",
            "Name another with --before, or fetch the whole history.",
        )
    shutil.unpack_archive(archive, folder)
    return folder


def spread(films: Sequence[Path], count: int) -> list[Path]:
    """So many of the films at even distances, that all sources are among them."""
    return list(films)[:: max(1, len(films) // count)][:count]


def lay_out(films: Sequence[Path], count: int, folder: Path) -> Path:
    """Copy films into a folder, again under other names until there are so many."""
    folder.mkdir(parents=True)
    for number in range(count):
        film = films[number % len(films)]
        target = folder / f"{number:04d}_{film.name}"
        if number < len(films):
            shutil.copyfile(film, target)
        else:
            os.link(folder / f"{number % len(films):04d}_{film.name}", target)
    return folder


def films_a_second(code: Path, films: Path, *kinds: str, fast: bool = False) -> float:
    """The rate of `Segmenter.segment_folder`, after one film to warm up.

    Args:
        code: A checkout.
        films: The folder.
        fast: One network alone, without what each mask is worth; earlier versions do no other.
        *kinds: Of results; none for those that a version makes by default.

    Raises:
        LungsegError: A film could not be segmented, or another package was imported.
    """
    with tempfile.TemporaryDirectory() as place:
        arguments = films, min(films.iterdir()), place, "fast" * fast, *kinds
        printed = run_python(code, Path(place), "-c", _SEGMENT, *arguments)
    imported, rate = printed[-2:]
    if not Path(imported).is_relative_to(code):
        raise LungsegError("Each version is measured.", imported, f"It hides that of {code}.")
    return float(rate)


def seconds_from_start(film: Path) -> float:
    """From the start of the command for one film to its end."""
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        run_python(REPOSITORY, Path(place), "-m", "lungseg_utils", film, "out")
        return time.perf_counter() - begun


def peak_memory(films: Path) -> float:
    """The most memory, in bytes, that the command holds for a folder of films."""
    with tempfile.TemporaryDirectory() as place:
        return float(run_python(REPOSITORY, Path(place), "-c", _PEAK, films, "out")[-1])


def compare(what: str, films: Path, former: Path, goal: float) -> dict[str, str]:
    """The row of two versions' films a second: medians of some turns."""
    rates = []
    for turn in range(TURNS):
        before, judged = films_a_second(former, films), films_a_second(REPOSITORY, films)
        rates.append((before, films_a_second(REPOSITORY, films, fast=True), judged))
        told = ", ".join(f"{rate:.2f}" for rate in rates[-1])
        print(f"{what}, turn {turn + 1}: {told} films/s before, now fast, now", flush=True)
    before, now, judged = map(median, zip(*rates, strict=True))
    measured = f"{before:.2f} films/s before, {now:.2f} fast: {now / before:.2f} ×; {judged:.2f}"
    return row(what, measured, f"≥ {goal} ×", now / before >= goal)


def row(what: str, measured: str, goal: str, reached: bool) -> dict[str, str]:
    """A line of the table."""
    return {
        "what": what,
        "measured": measured,
        "goal": goal,
        "reached": "yes" if reached else "no",
    }


def start(film: Path) -> dict[str, str]:
    """The row of a single film."""
    seconds = median(seconds_from_start(film) for _ in range(STARTS))
    reached = seconds <= SECONDS
    return row("one film, from a cold start", f"{seconds:.2f} s", f"≤ {SECONDS} s", reached)


def memory(films: Sequence[Path], count: int, place: Path) -> dict[str, str]:
    """The row of the memory for so many films."""
    peak = peak_memory(lay_out(films, count, place / f"memory{count}"))
    reached = peak < MEMORY
    what = f"most memory, {count} full-size films"
    return row(what, f"{peak / 1e9:.2f} GB", f"< {MEMORY / 1e9} GB", reached)


def measure(options: argparse.Namespace, place: Path) -> list[dict[str, str]]:
    """All rows of the table; films and the earlier version are laid out in `place`."""
    former = check_out(options.before, place / "former")
    films = list_bundle_images(find_bundle(options.data) / IMAGE_FOLDER)
    small = lay_out(spread(films, options.films), options.films, place / "small")
    rows = [compare(f"{options.films} films of the bundle", small, former, FASTER)]
    if options.originals:
        originals, count = list_images(options.originals), options.full_size
        large = lay_out(originals, count, place / "large")
        rows.append(compare(f"{count} full-size films", large, former, FASTER_FULL_SIZE))
    rows.append(start(min(small.iterdir())))
    if options.originals:
        rows += [memory(originals, number, place) for number in (count, MORE * count)]
    return rows


def main() -> int:
    """Print the table; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the bundle, with CXR_png at 512 × 512")
    parser.add_argument("--originals", help="folder of full-size films")
    parser.add_argument("--before", default="a487d1f", help="commit (default: %(default)s)")
    parser.add_argument("--films", type=int, default=120, help="of the bundle")
    parser.add_argument("--full-size", type=int, default=24, help="how many, by repetition")
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as place:
        rows = measure(options, Path(place))
    print(pd.DataFrame(rows).to_string(index=False))
    return int(any(row["reached"] == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
