"""All results again from the weights that come with the package.

`python -m benchmarks.score_shipped --data BUNDLE --external FOLDER` scores them, records the
figures in `weights/results.json`, writes them into the README and the model card, and says where
one differs from what was recorded. What is left out keeps its recorded figures. X-rays other than
the recorded ones are scored, but not recorded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bundle import pair_whole_bundle, score_bundle
from benchmarks.card import failures_of, render_model_card
from benchmarks.cases import write_cases
from benchmarks.external import Film, find_films, score_external
from benchmarks.figures import changed_figures
from benchmarks.markdown import marked, replace_marked
from benchmarks.readme import JSRT, render_readme_results, render_scores
from lungseg_utils.bundle import Pairing
from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.evaluation.networks import Network, load_networks, made_with
from lungseg_utils.files.records import read_json, write_atomically, write_json
from lungseg_utils.segment.shipped import (
    INDEX,
    NETWORKS,
    SHIPPED,
    WEIGHTS,
    ShippedRun,
    load_shipped,
)
from lungseg_utils.workspace import Workspace, open_workspace

RESULTS = "results.json"
CARD = "MODEL_CARD.md"
README = Path(__file__).resolve().parent.parent / "README.md"
_PARTS = {"data": "DATA", "external": "EXTERNAL"}


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found.

    Args:
        results: All figures: those computed now, and the recorded ones of what was left out.
        table: The figures as Markdown.
        changed: Figures that differ from the recorded ones, as from `changed_figures`.
        kept: The parts that were left out, `data` or `external`, each with whether its figures
            are of the present weights.
        other: The parts that were scored on other X-rays or masks than the recorded ones. Where
            there is one, nothing is recorded.
        written: Files written.
    """

    results: dict
    table: str
    changed: dict[str, tuple[object, object]]
    kept: dict[str, bool]
    other: list[str]
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
        workspace: Gets the scores of each case, and the prepared arrays, which are used again
            while the bundle stays as it is.
        folder: Holds the weights; gets `results.json` and `MODEL_CARD.md`.
        readme: Gets its results between the markers; left out where there is none.
        load: Called with name and folder.

    Raises:
        LungsegError: A folder is not what it should be, weights are missing or damaged, the
            markers are missing, or there is nothing to score. Nothing is recorded then.
    """
    folder, readme = Path(folder), Path(readme)
    recorded = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    # All that can be refused is refused before anything takes long.
    pairing, films = _find(data, external)
    if readme.is_file():
        marked(readme.read_text(encoding="utf-8"))
    networks = load_networks([load(name, folder) for name in SHIPPED])
    weights = read_json(folder / INDEX)

    results, written = _score(pairing, films, open_workspace(workspace), networks)
    other = _of_other_inputs(recorded, results)
    changed = _changed(recorded, results, other)
    results["cost"] = _cost(networks)
    if other:
        name = Path(external).resolve().name if "external" in other else JSRT
        return Outcome(results, render_scores(results, weights, name), changed, {}, other, written)
    left_out = [part for part in _PARTS if part in recorded and part not in results]
    kept = {part: _is_of(recorded[part], networks) for part in left_out}
    results |= {part: recorded[part] for part in kept}
    written += _record(results, weights, folder, readme)
    return Outcome(results, render_readme_results(results, weights), changed, kept, other, written)


def _find(
    data: Path | str | None, external: Path | str | None
) -> tuple[Pairing | None, list[Film] | None]:
    if data is None and external is None:
        raise MissingInputError(
            "A benchmark needs X-rays to score.",
            "neither DATA nor EXTERNAL",
            "Name the bundle's folder, the external set's, or both.",
        )
    pairing = None if data is None else pair_whole_bundle(data)
    return pairing, None if external is None else find_films(external)


def _score(
    pairing: Pairing | None,
    films: list[Film] | None,
    workspace: Workspace,
    networks: Mapping[str, Network],
) -> tuple[dict[str, dict], list[Path]]:
    """The parts of the results, and the files with the scores of each case."""
    scored = {}
    if pairing is not None:
        scored["data"] = score_bundle(pairing, workspace, networks)
    if films is not None:
        scored["external"] = score_external(films, {name: networks[name] for name in NETWORKS})
    written = [write_cases(workspace, part, scores) for part, (_, scores) in scored.items()]
    return {part: figures for part, (figures, _) in scored.items()}, written


def _of_other_inputs(recorded: dict, results: dict) -> list[str]:
    both = [part for part in results if part in recorded]
    old, new = (
        {part: values[part]["made_with"] for part in both} for values in (recorded, results)
    )
    return [part for part in both if old[part]["inputs"] != new[part]["inputs"]]


def _cost(networks: Mapping[str, Network]) -> dict[str, object]:
    figures = {name: network.cost() for name, network in networks.items()}
    return {"figures": figures, "made_with": made_with(networks, "")}


def _changed(
    recorded: dict, results: dict, other: Sequence[str]
) -> dict[str, tuple[object, object]]:
    both = [part for part in results if part in recorded and part not in other]
    old, new = ({part: values[part]["figures"] for part in both} for values in (recorded, results))
    return changed_figures(old, new)


def _is_of(part: dict, networks: Mapping[str, Network]) -> bool:
    return all(
        networks[name].run.record["sha256"] == digest
        for name, digest in part["made_with"]["weights"].items()
    )


def _record(results: dict, weights: dict, folder: Path, readme: Path) -> list[Path]:
    results = {part: results[part] for part in (*_PARTS, "cost") if part in results}
    card = folder / CARD
    failures = failures_of(card.read_text(encoding="utf-8") if card.is_file() else "")
    texts = {card: render_model_card(results, weights, failures)}
    if readme.is_file():
        before = readme.read_text(encoding="utf-8")
        texts[readme] = replace_marked(before, render_readme_results(results, weights))
    written = [write_json(folder / RESULTS, results)]
    for path, text in texts.items():
        content = text.encode("utf-8")
        written.append(
            write_atomically(path, lambda target, content=content: target.write_bytes(content))
        )
    return written


def _report(outcome: Outcome) -> None:
    print(outcome.table)
    for part, current in outcome.kept.items():
        weights = "these weights" if current else "OTHER WEIGHTS: score it again"
        print(f"{_PARTS[part]} was left out: its figures are kept as recorded, of {weights}.")
    for part in outcome.other:
        print(
            f"{_PARTS[part]} holds other X-rays or masks than the recorded ones, so nothing was "
            f"recorded: {RESULTS}, README and {CARD} are as they were. To record these, take "
            f'"{part}" out of {RESULTS}.'
        )
    for path in outcome.written:
        print(f"Wrote {path}")
    for name, (old, new) in outcome.changed.items():
        print(f"Changed: {name} was {old}, now {new}")
    if outcome.changed or not outcome.other:
        print(f"{len(outcome.changed)} figures differ from the recorded ones.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 when a figure differs from the recorded one, 2 when it cannot be run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.score_shipped",
        description="Score the weights that come with the package, and write down the results.",
    )
    parser.add_argument("--data", help="the bundle: a folder with CXR_png and masks")
    parser.add_argument(
        "--external",
        help="a folder with images and masks of the same names; a set of your own is scored too, "
        "and leaves the recorded figures as they are",
    )
    parser.add_argument(
        "--workspace",
        default="workspace/benchmark",
        help="for the scores of each case and for prepared arrays, which replace those of other "
        "files there",
    )
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
