"""All results again from the weights that come with the package.

`python -m lungseg_utils.benchmark --data BUNDLE --external FOLDER` scores them, records the figures
in `weights/results.json`, writes them into the README and the model card, and says where one
differs from what was recorded. What is left out keeps its recorded figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungseg_utils.benchmarking.bundle import (
    CROSS_SET,
    NETWORKS,
    pair_whole_bundle,
    score_bundle,
)
from lungseg_utils.benchmarking.card import failures_of, render_model_card
from lungseg_utils.benchmarking.external import find_films, score_external
from lungseg_utils.benchmarking.figures import changed_figures
from lungseg_utils.benchmarking.markdown import marked, replace_marked
from lungseg_utils.benchmarking.networks import Network, load_networks, made_with
from lungseg_utils.benchmarking.readme import render_readme_table
from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.records import read_json, write_atomically, write_json
from lungseg_utils.shipped import INDEX, WEIGHTS, ShippedRun, load_shipped
from lungseg_utils.workspace import open_workspace

RESULTS = "results.json"
CARD = "MODEL_CARD.md"
README = Path(__file__).resolve().parent.parent / "README.md"
_PARTS = {"data": "DATA", "external": "EXTERNAL"}


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found.

    Args:
        results: All figures: those computed now, and the recorded ones of what was left out.
        changed: Figures that differ from the recorded ones, as from `changed_figures`.
        kept: The parts that were left out, `data` or `external`, each with whether its figures
            are of the present weights.
        written: Files written.
    """

    results: dict
    changed: dict[str, tuple[object, object]]
    kept: dict[str, bool]
    written: list[Path]


def benchmark(
    data: Path | str | None = None,
    external: Path | str | None = None,
    workspace: Path | str = "workspace/benchmark",
    folder: Path | str = WEIGHTS,
    readme: Path | str = README,
    load: Callable[[str, Path], ShippedRun] = load_shipped,
) -> Outcome:
    """Score the shipped weights, record the figures and write them into README and model card.

    Args:
        data: The bundle, with `CXR_png` and `masks`; None keeps its recorded figures.
        external: A folder with `images` and `masks`; None keeps its recorded figures.
        workspace: Gets the prepared arrays; used again while the bundle stays as it is.
        folder: Holds the weights; gets `results.json` and `MODEL_CARD.md`.
        readme: Gets its results between the markers; left out where there is none.
        load: Called with name and folder.

    Raises:
        LungsegError: A folder is not what it should be, weights are missing or damaged, the
            markers are missing, or there is nothing to score. Nothing is written then.
    """
    folder, readme = Path(folder), Path(readme)
    recorded = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    # All that can be refused is refused before anything takes long.
    pairing = None if data is None else pair_whole_bundle(data)
    films = None if external is None else find_films(external)
    if pairing is None and films is None:
        raise MissingInputError(
            "A benchmark needs X-rays to score.",
            "neither DATA nor EXTERNAL",
            "Name the bundle's folder, the external set's, or both.",
        )
    if readme.is_file():
        marked(readme.read_text(encoding="utf-8"))
    weights = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    runs = [load(name, folder) for name in (*NETWORKS, *CROSS_SET)]
    networks = load_networks(runs)

    results = {"cost": _cost(networks)}
    if pairing is not None:
        results["data"] = score_bundle(pairing, open_workspace(workspace), networks)
    if films is not None:
        results["external"] = score_external(films, {name: networks[name] for name in NETWORKS})
    changed = _changed(recorded, results)
    kept = {}
    for part in _PARTS:
        if part not in results and part in recorded:
            results[part] = recorded[part]
            kept[part] = _is_of(recorded[part], networks)
    written = _write(results, weights, folder, readme)
    return Outcome(results, changed, kept, written)


def _cost(networks: Mapping[str, Network]) -> dict[str, object]:
    figures = {name: network.cost() for name, network in networks.items()}
    return {"figures": figures, "made_with": made_with(networks, "")}


def _changed(recorded: dict, results: dict) -> dict[str, tuple[object, object]]:
    both = [part for part in _PARTS if part in recorded and part in results]
    old, new = ({part: values[part]["figures"] for part in both} for values in (recorded, results))
    return changed_figures(old, new)


def _is_of(part: dict, networks: Mapping[str, Network]) -> bool:
    return all(
        networks[name].run.record["sha256"] == digest
        for name, digest in part["made_with"]["weights"].items()
    )


def _write(results: dict, weights: dict, folder: Path, readme: Path) -> list[Path]:
    results = {part: results[part] for part in (*_PARTS, "cost") if part in results}
    card = folder / CARD
    failures = failures_of(card.read_text(encoding="utf-8") if card.is_file() else "")
    texts = {card: render_model_card(results, weights, failures)}
    if readme.is_file():
        before = readme.read_text(encoding="utf-8")
        texts[readme] = replace_marked(before, render_readme_table(results))
    written = [write_json(folder / RESULTS, results)]
    for path, text in texts.items():
        content = text.encode("utf-8")
        written.append(
            write_atomically(path, lambda target, content=content: target.write_bytes(content))
        )
    return written


def _report(outcome: Outcome) -> None:
    print(render_readme_table(outcome.results))
    for part, current in outcome.kept.items():
        weights = "these weights" if current else "OTHER WEIGHTS: score it again"
        print(f"{_PARTS[part]} was left out: its figures are kept as recorded, of {weights}.")
    for path in outcome.written:
        print(f"Wrote {path}")
    for name, (old, new) in outcome.changed.items():
        print(f"Changed: {name} was {old}, now {new}")
    print(f"{len(outcome.changed)} figures differ from the recorded ones.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 when a figure differs from the recorded one, 2 when it cannot be run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lungseg_utils.benchmark",
        description="Score the weights that come with the package, and write down the results.",
    )
    parser.add_argument("--data", help="the bundle: a folder with CXR_png and masks")
    parser.add_argument("--external", help="a folder with images and masks of the same names")
    parser.add_argument("--workspace", default="workspace/benchmark", help="for prepared arrays")
    options = parser.parse_args(arguments)
    try:
        outcome = benchmark(options.data, options.external, options.workspace)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    _report(outcome)
    return 1 if outcome.changed else 0


if __name__ == "__main__":
    sys.exit(main())
