"""All results again from the weights that come with the package.

`python -m benchmarks.score_shipped --data BUNDLE --external FOLDER` scores them, records the
figures in `weights/results.json`, writes them into the README and the model card, and says where
one differs from what was recorded. What is left out, and what has not changed, stays as recorded.
X-rays other than the recorded ones are scored, but not recorded. An external set whose masks
include the lung behind the heart is named as such by `--heart in`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.external import (
    CONVENTIONS,
    Film,
    common_size,
    digest_films,
    figures_of_films,
    find_films,
    print_headlines,
    score_films,
)
from benchmarks.figures import changed_figures, differences_of, figures_of
from benchmarks.texts import render_model_card, render_readme_results, split_at_markers
from lungseg_utils.bundle import Pairing, pair_bundle
from lungseg_utils.environment import versions
from lungseg_utils.errors import (
    LungsegError,
    MissingInputError,
    StaleOutputError,
    compress_ranges,
)
from lungseg_utils.evaluation.metrics import METRICS
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.files.records import read_json, write_atomically, write_json
from lungseg_utils.preparation.arrays import data_digest, prepare
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import (
    CROSS_SET,
    INDEX,
    NETWORKS,
    SHIPPED,
    WEIGHTS,
    ExportedRun,
    load_shipped,
    predict_images,
)
from lungseg_utils.segment.predict import predict_in_batches
from lungseg_utils.workspace import Workspace, open_workspace

RESULTS = "results.json"
CARD = "MODEL_CARD.md"
README = Path(__file__).resolve().parent.parent / "README.md"
SCORED_SIZE = 512
_PARTS = ("data", "external", "cost")
_TIMED = 7
_CASE_COLUMNS = [
    "model",
    "image_id",
    "source",
    "convention",
    "region",
    *METRICS,
    "empty_prediction",
]
Runs = Mapping[str, ExportedRun]


def benchmark(
    data: Path | str | None,
    external: Path | str | None,
    workspace: Path | str,
    folder: Path = WEIGHTS,
    readme: Path = README,
    load: Callable[[str, Path], ExportedRun] = load_shipped,
    heart: str = "out",
) -> dict[str, tuple[object, object]]:
    """Score the shipped weights, record the figures and write them into README and model card.

    What was found and what was written is printed.

    Args:
        data: The bundle, with `CXR_png` and `masks`; None keeps its recorded figures.
        external: A folder with `images` and `masks`, and with `hearts` if there are any; None
            keeps its recorded figures.
        workspace: Gets the scores of each case, and the prepared arrays, which are used again
            while the bundle stays as it is.
        folder: Holds the weights; gets `results.json` and `MODEL_CARD.md`.
        readme: Gets its results between the markers.
        load: Called with name and folder.
        heart: Whether the masks of the external set have the lung behind the heart `in` them, or
            leave it `out`.

    Returns:
        Figures that differ from the recorded ones, as from `changed_figures`.

    Raises:
        LungsegError: A folder is not what it should be, weights are missing or damaged, the
            markers are missing, or there is nothing to score or to keep. Nothing is recorded then.
    """
    recorded = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    # All that can be refused is refused before anything takes long.
    _check_named({"data": data, "external": external}, recorded)
    pairing = None if data is None else _pair_whole(data)
    films = None if external is None else find_films(external, heart)
    split_at_markers(readme.read_text(encoding="utf-8"))
    runs = {name: load(name, folder) for name in SHIPPED}

    scored, workspace = {}, open_workspace(workspace)
    if pairing:
        scored["data"] = _score_data(pairing, workspace, runs)
    if films:
        scored["external"] = _score_external(films, runs, heart)
    for part, (_, scores) in scored.items():
        print_headlines(part, scores)
        print("Wrote", _write_cases(workspace, part, scores))

    found = {part: values for part, (values, _) in scored.items()}
    same = [part for part in found if _agree("inputs", part, recorded, found)]
    changed = changed_figures(_figures(recorded, same), _figures(found, same))
    other = [part for part in found if part in recorded and part not in same]
    for part in other:
        print(
            f"{part.upper()} holds other X-rays or masks than the recorded ones, so nothing was "
            f"recorded: {RESULTS}, README and {CARD} are as they were. To record these, take "
            f'"{part}" out of {RESULTS}.'
        )
    if not other:
        found["cost"] = _measure_cost(runs)
        _report_left_out(recorded, found, runs)
        _record(_merge(recorded, found, changed), folder, readme)
    return changed


def _check_named(named: Mapping[str, object], recorded: Mapping[str, dict]) -> None:
    lacking = [part for part, path in named.items() if path is None and part not in recorded]
    if lacking or not any(named.values()):
        raise MissingInputError(
            "A benchmark needs X-rays to score, and keeps only figures that are recorded.",
            f"no folder for {' and '.join(part.upper() for part in lacking or named)}",
            "Name the bundle's folder as DATA, the external set's as EXTERNAL, or both.",
        )


def _pair_whole(folder: Path | str) -> Pairing:
    pairing = pair_bundle(folder)
    _refuse(pairing.missing_images + pairing.missing_masks, f"missing in {folder}")
    return pairing


def _refuse(lacking: Iterable[str], why: str) -> None:
    """Refuse to go on without some cases: the figures would be of others."""
    if lacking := sorted(lacking):
        raise LungsegError(
            "A benchmark scores every X-ray of the manifest, with every mask it names.",
            f"{len(lacking)} {why}: {', '.join(compress_ranges(lacking))}",
            "Fetch their X-rays and masks again; what is wrong with a file is printed above.",
        )


def _score_data(
    pairing: Pairing, workspace: Workspace, runs: Runs
) -> tuple[dict[str, object], pd.DataFrame]:
    """The part of the results, and the rows of `score_run` that it comes from."""
    sizes = sorted({SCORED_SIZE, *(run.config.size for run in runs.values())})
    prepared = {size: _prepared(pairing, workspace, size) for size in sizes}
    wanted = {pair.case.image_id for pair in (*pairing.pairs, *pairing.unlabelled)}
    _refuse(wanted.difference(prepared[SCORED_SIZE].ids), "left out while preparing")
    index = prepared[SCORED_SIZE].index
    chosen = dict.fromkeys(NETWORKS, index["split"] == "test")
    for name, source in CROSS_SET.items():
        chosen[name] = (index["source"] == source) & (index["has_mask"] == 1)
    tables = []
    for name, run in runs.items():
        # All sizes are of the same pairing, so that a row is the same case in each.
        rows = np.flatnonzero(chosen[name])
        truth, seen = prepared[SCORED_SIZE].take(rows), prepared[run.config.size].images[rows]
        tables.append(score_run(name, truth.ids, predict_in_batches(run, seen), truth))
    scores = pd.concat(tables, ignore_index=True)
    test = scores[scores["model"].isin(NETWORKS)]
    crossed = figures_of(scores[scores["model"].isin(CROSS_SET)])
    figures = {
        "test": figures_of(test),
        "differences": differences_of(test),
        "cross": {name: {"all": groups["all"]} for name, groups in crossed.items()},
    }
    inputs = data_digest(workspace, SCORED_SIZE)
    return {"figures": figures, "made_with": _made_with(runs.values(), inputs)}, scores


def _prepared(pairing: Pairing, workspace: Workspace, size: int) -> Cases:
    try:
        return prepare(pairing, workspace, size)
    except StaleOutputError:  # of other files, as the command says
        return prepare(pairing, workspace, size, overwrite=True)


def _score_external(
    films: list[Film], runs: Runs, heart: str
) -> tuple[dict[str, object], pd.DataFrame]:
    networks = [runs[name] for name in NETWORKS]
    scores = pd.concat([score_films(run, films, heart) for run in networks], ignore_index=True)
    part = {
        "figures": figures_of_films(scores, heart),
        "convention": heart,
        "size": common_size(films),
        "made_with": _made_with(networks, digest_films(films, heart)),
    }
    return part, scores


def _write_cases(workspace: Workspace, part: str, scores: pd.DataFrame) -> Path:
    """Write the scores of each case after post-processing, so that single ones can be looked up."""
    post = scores[scores["stage"] == "post"].filter(_CASE_COLUMNS)
    return write_atomically(
        workspace.reports / f"cases-{part}.csv",
        lambda path: post.to_csv(path, index=False, lineterminator="\n"),
    )


def _measure_cost(runs: Runs) -> dict[str, object]:
    """Parameters, bytes and seconds an image, the median of some calls on the machine at hand."""
    figures = {}
    for name, run in runs.items():
        image = np.zeros((1, run.config.size, run.config.size), np.uint8)
        predictor, seconds = run.load_predictor(), []
        for _ in range(1 + _TIMED):
            start = time.perf_counter()
            predict_images(run, predictor, image)
            seconds.append(time.perf_counter() - start)
        figures[name] = {
            "parameters": run.record["parameters"],
            "bytes": run.record["bytes"],
            "seconds_an_image": round(median(seconds[1:]), 3),  # the first call prepares
        }
    return {"figures": figures, "made_with": _made_with(runs.values(), inputs="")}


def _made_with(runs: Iterable[ExportedRun], inputs: str) -> dict[str, object]:
    """What a part of the results was made with: weights, X-rays and masks, versions, machine."""
    import keras

    from lungseg_utils.training.devices import list_gpus

    return {
        "weights": {run.name: run.record["sha256"] for run in runs},
        "inputs": inputs,
        "versions": versions(),
        "backend": keras.backend.backend(),
        "processor": processor_name(),
        "gpus": list_gpus(),
    }


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux states it, else the kind of machine."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _agree(key: str, part: str, recorded: dict, found: dict) -> bool:
    return part in recorded and recorded[part]["made_with"][key] == found[part]["made_with"][key]


def _figures(results: dict, parts: Iterable[str]) -> dict[str, dict]:
    return {part: results[part]["figures"] for part in parts}


def _report_left_out(recorded: dict, found: dict, runs: Runs) -> None:
    for part in (part for part in recorded if part not in found):
        weights = recorded[part]["made_with"]["weights"]
        current = all(runs[name].record["sha256"] == digest for name, digest in weights.items())
        whose = "these weights" if current else "OTHER WEIGHTS: score it again"
        print(f"{part.upper()} was left out: its figures are kept as recorded, of {whose}.")


def _merge(recorded: dict, found: dict, changed: Iterable[str]) -> dict:
    """What to record: a part anew where its weights or a figure changed, else as it was."""
    affected = {name.partition(".")[0] for name in changed}
    kept = {
        part: values
        for part, values in recorded.items()
        if part not in found or (part not in affected and _agree("weights", part, recorded, found))
    }
    return {part: (found | kept)[part] for part in _PARTS}


def _record(results: dict, folder: Path, readme: Path) -> None:
    weights = read_json(folder / INDEX)
    before, _, after = split_at_markers(readme.read_text(encoding="utf-8"))
    page = before + render_readme_results(results, weights) + after
    texts = {folder / CARD: render_model_card(results, weights), readme: page}
    print("Wrote", write_json(folder / RESULTS, results))
    for path, text in texts.items():
        content = text.encode("utf-8")
        write_atomically(path, lambda target, content=content: target.write_bytes(content))
        print("Wrote", path)


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
        "--heart",
        choices=sorted(CONVENTIONS),
        default="out",
        help="whether the masks of --external have the lung behind the heart in them, or leave it "
        "out as these networks do (the default). With in, that lung counts as missed; where a "
        "third folder, hearts, has a mask of the heart for each film, the networks are scored "
        "twice: against the masks as drawn, and against the masks minus the hearts, where all "
        "that is found inside a heart counts as wrong. With out, hearts are not used: they do not "
        "say where there is lung behind them",
    )
    parser.add_argument(
        "--workspace",
        default="workspace/benchmark",
        help="for the scores of each case and for prepared arrays, which replace those of other "
        "files there",
    )
    options = parser.parse_args(arguments)
    if options.heart == "in" and not options.external:
        parser.error("--heart in is said of the masks of --external: name their folder too")
    try:
        changed = benchmark(options.data, options.external, options.workspace, heart=options.heart)
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    for name, (old, new) in changed.items():
        print(f"Changed: {name} was {old}, now {new}")
    print(f"{len(changed)} figures differ from the recorded ones.")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
