"""Whether the expected Dice can be believed: fitted on validation films, scored on others.

    python -m benchmarks.quality --workspace W --fit
    python -m benchmarks.quality --workspace W --external FOLDER

The first fits `weights/quality.npz`, and `page/quality.json` for the page, on the validation cases
of the workspace, sound, corrupted and hard. It is run after other weights are shipped. The second
scores the former on the test cases and on the external set, sound and corrupted, and writes
`quality.csv`; a network takes ten minutes a set.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import optimize, stats
from tqdm.contrib.concurrent import thread_map

from benchmarks.corruptions import CORRUPTIONS, corrupt
from benchmarks.external import find_films
from benchmarks.hard import HARD, harden
from lungseg_utils import load_prepared, open_workspace
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.evaluation.summaries import risk_coverage
from lungseg_utils.figures.scores import trust_curves
from lungseg_utils.files.records import write_atomically, write_json
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import read_image, read_mask, resize_image
from lungseg_utils.segment.network import (
    NETWORKS,
    QUALITY,
    WEIGHTS,
    load_quality,
    load_shipped,
    read_shipped_index,
)
from lungseg_utils.segment.postprocess import Outlines
from lungseg_utils.segment.quality import (
    LOOK_BELOW,
    MEASURES,
    Quality,
    logarithms,
    measure,
)
from lungseg_utils.segment.segmenter import Segmenter

TABLE = Path(__file__).with_name("quality.csv")
EVAL_SIZE = 512
# Of all films whose Dice is below `LOOK_BELOW`, how many have to be found.
FOUND = 0.95
COVERAGES = (100, 90, 80, 50)
FIGURE = Path(__file__).parents[1] / "docs/risk_coverage.png"
PAGE = Path(__file__).parents[1] / "page/quality.json"
ON_PAGE = ("mirrored", "doubt")


def observe(segmenters: Mapping[str, Segmenter], cases: Cases, outlines: Outlines) -> pd.DataFrame:
    """What each network finds in each film, and what speaks against it.

    Args:
        segmenters: Of the three networks, each alone, and no lung completed.
        cases: At the networks' size.
        outlines: Of lungs.

    Returns:
        A row a film and network: `network`, `image_id`, `dice`, `measures`, and `unusual`, whether
        the mask alone is a reason to look.
    """

    def of_film(row: int) -> list[dict]:
        image, truth = np.asarray(cases.images[row]), np.asarray(cases.masks[row])
        found = {name: one.segment(image) for name, one in segmenters.items()}
        mirror = np.ascontiguousarray(image[:, ::-1])
        mirrored = {name: one.segment(mirror).mask[:, ::-1] for name, one in segmenters.items()}
        return [
            {
                "network": name,
                "image_id": cases.ids[row],
                "dice": dice(result.mask, truth),
                "unusual": bool(result.look),
                "measures": measure(
                    result.mask,
                    mirrored[name],
                    [other.mask for key, other in found.items() if key != name],
                    result.coarse,
                    outlines,
                ),
            }
            for name, result in found.items()
        ]

    workers = {"max_workers": os.cpu_count(), "disable": True}
    films = thread_map(of_film, range(len(cases)), **workers)
    return pd.DataFrame([row for rows in films for row in rows])


def fit(observed: pd.DataFrame, outlines: Outlines, sha256: Mapping[str, str]) -> Quality:
    """Weigh the measures, and turn the score into an expected Dice by a falling step function.

    The weights explain how much of its Dice a film lost when it was made bad, as what it lacked
    before is mostly the mask's fault. None is negative, so that nothing speaks for a mask.

    Args:
        observed: Rows of `observe`, with `condition`, which is `sound` for films as they are.
        outlines: Kept.
        sha256: Of the networks, kept.
    """
    measures = np.stack(observed["measures"])
    fitted = _fitted(measures, observed)
    far = measures[:, list(MEASURES).index("outline")]
    farthest = far[observed["dice"] >= LOOK_BELOW].max()
    return Quality(outlines, *fitted, farthest, dict(sha256))


def fit_for_page(observed: pd.DataFrame) -> dict[str, list | float]:
    """The same for the page, which runs one network and knows two of the measures."""
    ours = observed[observed["network"] == "unet"]
    measures = np.stack(ours["measures"])[:, [list(MEASURES).index(name) for name in ON_PAGE]]
    fitted = dict(zip(("weights", "scores", "dices"), _fitted(measures, ours), strict=True))
    reasons = [MEASURES[name] for name in ON_PAGE]
    rounded = {name: values.round(5).tolist() for name, values in fitted.items()}
    return rounded | {"lookBelow": LOOK_BELOW, "reasons": reasons}


def _fitted(measures: np.ndarray, observed: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Weights of the measures, and the steps' scores and Dice."""
    dices = observed["dice"].to_numpy()
    lost = np.clip(dice_of_sound(observed) - dices, 0, None)
    # Good masks have measures above 0 too: a constant takes off what these amount to.
    columns = np.c_[logarithms(measures), np.full(len(measures), -1)]
    weights = optimize.nnls(columns, logarithms(lost))[0][:-1]
    scores = logarithms(measures) @ weights
    order = np.argsort(scores, kind="stable")
    steps = optimize.isotonic_regression(dices[order], increasing=False)
    ends = steps.blocks
    middles = [scores[order][a:b].mean() for a, b in pairwise(ends)]
    return weights, np.array(middles), steps.x[ends[:-1]]


def dice_of_sound(observed: pd.DataFrame) -> np.ndarray:
    """Of each row the Dice that the same network has on the same film as it was."""
    keys = ["network", "image_id"]
    sound = observed[observed["condition"] == "sound"].set_index(keys)["dice"]
    return sound.reindex(pd.MultiIndex.from_frame(observed[keys])).to_numpy()


def judged(observed: pd.DataFrame, quality: Quality) -> pd.DataFrame:
    """The rows with `expected_dice`, `look`, and `sound_dice`, of the same film as it was."""
    expected = np.array([quality.judge(measures)[0] for measures in observed["measures"]])
    look = observed["unusual"] | (expected < LOOK_BELOW)
    sound = dice_of_sound(observed)
    return observed.assign(expected_dice=expected, look=look, sound_dice=sound)


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """How well expected and true Dice agree over films of one set and network.

    Args:
        rows: `dice`, `sound_dice`, `expected_dice` and `look`.

    Returns:
        `n`; `error`, the mean absolute one; `bad`, films below `LOOK_BELOW`; `auroc` of telling
        these from the others, and `auroc_worse` without the films that are bad as they were, which
        is mostly their mask's fault; `looked_at`, the least share of films, worst first, among
        which are 95 % of them; `flagged`, the share that is said to need a look, and of the bad
        ones `bad_flagged`; `risk_100` and on, the mean of 1 − Dice where so many percent of the
        films, those trusted most, are used unseen.
    """
    truth, expected = rows["dice"].to_numpy(), rows["expected_dice"].to_numpy()
    bad, flagged = truth < LOOK_BELOW, rows["look"].to_numpy(bool)
    found = {"n": len(rows), "error": np.abs(truth - expected).mean(), "bad": int(bad.sum())}
    worse = rows["sound_dice"].to_numpy() >= LOOK_BELOW
    found |= {"auroc": _auroc(expected, bad), "auroc_worse": _auroc(expected[worse], bad[worse])}
    if bad.any():
        caught = np.cumsum(bad[np.argsort(expected, kind="stable")])
        found["looked_at"] = (np.searchsorted(caught, FOUND * bad.sum() - 1e-9) + 1) / len(rows)
        found["bad_flagged"] = flagged[bad].mean()
    curve = risk_coverage(truth, expected).set_index("coverage")["risk"]
    used = {f"risk_{percent}": curve[: percent / 100 + 1e-9].iloc[-1] for percent in COVERAGES}
    return found | {"flagged": flagged.mean(), **used}


def _auroc(expected: np.ndarray, bad: np.ndarray) -> float:
    """How often a bad film is expected to be worse than one that is not; NaN without either."""
    if bad.all() or not bad.any():
        return np.nan
    pairs = bad.sum() * (~bad).sum()
    return stats.mannwhitneyu(expected[~bad], expected[bad]).statistic / pairs


def made_bad(cases: Cases, hard: bool = False) -> Iterator[tuple[str, Cases]]:
    """The films as they are, and corrupted, each with the name of what was done."""
    yield "sound", cases
    for name in CORRUPTIONS:
        yield name, corrupt(cases, name)
    for name in HARD if hard else ():
        yield name, harden(cases, name)


def observe_all(cases: Cases, outlines: Outlines, hard: bool = False) -> pd.DataFrame:
    """`observe` of films sound and made bad, by `condition`."""
    segmenters = {name: Segmenter(load_shipped(name)) for name in NETWORKS}
    parts = []
    for condition, films in made_bad(cases, hard):
        parts.append(observe(segmenters, films, outlines).assign(condition=condition))
        print(condition, len(films), flush=True)
    return pd.concat(parts, ignore_index=True)


def external_cases(folder: Path | str) -> Cases:
    """The films of an external set whose masks leave the heart out, at the networks' size."""
    films = find_films(folder)
    images = np.stack([resize_image(read_image(film.image), EVAL_SIZE) for film in films])
    masks = np.stack(
        [
            cv2.resize(
                read_mask(film.mask), (EVAL_SIZE, EVAL_SIZE), interpolation=cv2.INTER_NEAREST
            )
            for film in films
        ]
    )
    index = pd.DataFrame({"image_id": [film.image.stem for film in films]})
    return Cases(images, masks, index, digest="")


def summarised(observed: pd.DataFrame, name: str) -> pd.DataFrame:
    """`figures` of a set of films, sound and corrupted apart, a row a network."""
    sound = observed["condition"] == "sound"
    parts = {name: sound, f"{name}, corrupted": ~sound}
    return pd.DataFrame(
        [
            {"set": part, "network": network, **figures(rows)}
            for part, chosen in parts.items()
            for network, rows in observed[chosen].groupby("network", sort=False)
        ]
    )


def main() -> None:
    """Fit, or score what was fitted; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds prepared X-rays at 512")
    parser.add_argument("--fit", action="store_true", help="on the validation cases")
    parser.add_argument("--external", help="a folder with images/ and masks/")
    arguments = parser.parse_args()
    workspace = open_workspace(arguments.workspace)
    cases = load_prepared(workspace, EVAL_SIZE)
    if arguments.fit:
        outlines = Outlines.of_masks(cases.select("train").masks)
        observed = observe_all(cases.select("val"), outlines, hard=True)
        index = read_shipped_index(WEIGHTS)
        quality = fit(observed, outlines, {name: index[name]["sha256"] for name in NETWORKS})
        write_atomically(WEIGHTS / QUALITY, lambda path: path.write_bytes(quality.to_bytes()))
        write_json(PAGE, fit_for_page(observed))
        print(dict(zip(MEASURES, quality.weights.round(3), strict=True)))
        print(summarised(judged(observed, quality), "val").round(4).to_string(index=False))
        return
    quality, tables, curves = load_quality(), [], {}
    sets = {"test": cases.select("test")}
    if arguments.external:
        sets[Path(arguments.external).name] = external_cases(arguments.external)
    for name, films in sets.items():
        observed = judged(observe_all(films, quality.outlines), quality)
        path = workspace.reports / f"quality-{name}.csv"
        observed.drop(columns="measures").to_csv(path, index=False)
        tables.append(summarised(observed, name))
        ours = observed[observed["network"] == "unet"]
        for part, rows in ours.groupby(ours["condition"] == "sound", sort=False):
            title = name if part else f"{name}, corrupted"
            curves[title] = risk_coverage(rows["dice"], rows["expected_dice"])
    table = pd.concat(tables).round(4)
    write_atomically(TABLE, lambda path: table.to_csv(path, index=False))
    figure = trust_curves(curves)
    write_atomically(FIGURE, lambda path: figure.savefig(path, format="png", dpi=120))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
