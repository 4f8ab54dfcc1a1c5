"""The way of one X-ray through the package, counted: `python -m tools.way`.

Fetches a packed bundle of drawn X-rays, prepares it and segments one of them, and counts for each
stage the modules and functions of the package that run, how often each file is opened and how
often it is decoded.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lungseg_utils
from lungseg_utils import Segmenter, fetch, open_workspace, pair_bundle, prepare
from lungseg_utils.phantom.sets import write_phantom_bundle

PACKAGE = Path(lungseg_utils.__file__).resolve().parent
CASES, SIZE = 6, 64


@dataclass
class Way:
    """What one stage passes.

    Args:
        modules: Modules of the package of which a function ran, in the order of their first.
        functions: Functions of the package that ran, as `module.function`.
        opened: How often a PNG was opened for reading, by its folder and name.
        decoded: What decoded an image, once an image.
    """

    modules: list[str] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    opened: Counter[str] = field(default_factory=Counter)
    decoded: list[str] = field(default_factory=list)


def trace(stage: Callable[[], object]) -> Way:
    """Run a stage and watch what it passes, in all of its threads."""
    way = Way()

    def watch(frame, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            file = Path(frame.f_code.co_filename)
            # Pillow calls this once before it decodes an image.
            if (file.name, frame.f_code.co_name) == ("ImageFile.py", "load_prepare"):
                way.decoded.append("Pillow")
            if file.is_relative_to(PACKAGE):
                module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
                if module not in way.modules:
                    way.modules.append(module)
                way.functions.add(f"{module}.{frame.f_code.co_qualname}")
        elif event == "c_call" and argument.__name__ in {"imdecode", "imread"}:
            way.decoded.append("OpenCV")

    with _openings(way.opened):
        threading.setprofile(watch)
        sys.setprofile(watch)
        try:
            stage()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return way


_LISTENERS: list[Counter[str]] = []


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and _LISTENERS:
        path, _, flags = arguments
        if str(path).endswith(".png") and not flags & 3:
            for listener in _LISTENERS:
                listener["/".join(Path(str(path)).parts[-2:])] += 1


@contextmanager
def _openings(counter: Counter[str]) -> Iterator[None]:
    # A hook can be added but never taken away.
    if not getattr(_listen, "added", False):
        sys.addaudithook(_listen)
        _listen.added = True
    _LISTENERS.append(counter)
    try:
        yield
    finally:
        _LISTENERS.remove(counter)


def stages(folder: Path) -> dict[str, Way]:
    """Trace the way from a zip file to a mask.

    Args:
        folder: Empty; gets the bundle and a workspace.
    """
    bundle = write_phantom_bundle(folder / "bundle", count=CASES, size=128, unlabelled=0)
    archive = shutil.make_archive(str(folder / "bundle"), "zip", bundle)
    workspace = open_workspace(folder / "workspace")
    ways = {"fetch a zip": trace(lambda: fetch("zip", workspace, archive))}
    pairing = pair_bundle(workspace.raw)
    ways["prepare"] = trace(lambda: prepare(pairing, workspace, SIZE))
    segmenter = Segmenter.load("unet")
    film = pairing.pairs[0].image
    ways["segment a film"] = trace(lambda: segmenter.segment(film))
    return ways


def main() -> int:
    """Print a row a stage."""
    with tempfile.TemporaryDirectory() as folder:
        ways = stages(Path(folder))
    print("| stage | modules | functions | a PNG is read | decoded | passes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for stage, way in ways.items():
        figures = [len(way.modules), len(way.functions), max(way.opened.values())]
        figures.append(len(way.decoded) / len(way.opened))
        passed = ", ".join(f"`{module}`" for module in way.modules)
        print(f"| {stage} | {' | '.join(f'{figure:g}' for figure in figures)} | {passed} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
