"""What each choice of the recipe is worth on the validation cases: sound, corrupted and hard.

Trains a small U-Net with one thing changed at a time, over several seeds, and compares each change
with the unchanged recipe of the same seed; with `--transfer` also on Shenzhen alone, to see what is
left of it on Montgomery's training and validation cases. Test cases are never read. Goes on where
it stopped:

    python -m benchmarks.choices --workspace workspace/real

The workspace holds the prepared X-rays of notebook 03 at 256 and 512. A setting takes about three
minutes a seed on two cores; `--only "base,mild augmentation"` picks settings, so that processes
share the work.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from benchmarks.corruptions import CORRUPTIONS, corrupt
from benchmarks.figures import spread_columns
from benchmarks.hard import HARD, harden
from lungseg_utils import load_prepared, open_workspace, train
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.records import write_atomically
from lungseg_utils.files.storage import hold
from lungseg_utils.preparation.augmentation import BEDSIDE, MILD, STRONG
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.network import ExportedRun, export_onnx, load_onnx
from lungseg_utils.segment.segmenter import Segmenter
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import Run

TABLE = Path(__file__).with_name("choices.csv")
KEYS = ["choice", "seed"]
# Dice on Montgomery of the setting trained on Shenzhen alone.
TRANSFER = "shenzhen_to_montgomery"
COMPARED = ["val", "val_unquestioned", "corrupted", "corrupted_p5", "hard", "hard_p5", TRANSFER]
EVAL_SIZE = 512
SOURCES = ("montgomery", "shenzhen")
# Smaller and shorter than the recipe that is shipped, so that many can be compared.
UNET = {"base_filters": 16, "depth": 4, "patch_size": 2, "normalisation": "batch"}
BASE = TrainingConfig(
    model="unet",
    size=256,
    model_options=UNET,
    optimizer="adamw",
    learning_rate=0.002,
    schedule="cosine",
    weight_decay=0.0001,
    batch_size=8,
    epochs=12,
    patience=12,
    precision="mixed_bfloat16",
    augmentation=BEDSIDE,
)
LITE0 = {"encoder": "efficientnet-lite0", "encoder_weights": "imagenet"}
CHOICES = {
    "base": BASE,
    "no bedside films": replace(BASE, augmentation=STRONG),
    "bedside films alone": replace(BASE, augmentation=replace(STRONG, bedside=1)),
    "mild augmentation": replace(BASE, augmentation=MILD),
    "EfficientNet-Lite0 as encoder": replace(BASE, model_options=UNET | LITE0),
    "patches of 4": replace(BASE, model_options=UNET | {"base_filters": 32, "patch_size": 4}),
    "a level deeper": replace(BASE, model_options=UNET | {"depth": 5}),
    "questionable masks left out": BASE,
    # Every epoch has all others twice, so half as many.
    "questionable masks half as often": replace(BASE, epochs=6, patience=6),
    "as many of Montgomery as of Shenzhen": BASE,
    "pseudo-labels on the films without mask": BASE,
    "Dice loss alone": replace(BASE, loss="dice"),
    "24 epochs": replace(BASE, epochs=24, patience=24),
}


def train_one(choice: str, seed: int, cases: Cases, folder: Path) -> Run:
    """Train one setting with one seed, or read what was trained."""
    config = replace(CHOICES[choice], seed=seed)
    name = f"{choice.replace(' ', '-')}-{seed}"
    return train(config, training_cases(choice, cases), cases.select("val"), folder / name)


def training_cases(choice: str, cases: Cases) -> Cases:
    """The cases that a setting is trained on."""
    chosen = cases.select("train")
    sound = np.flatnonzero(chosen.index["questionable_mask"] == 0)
    if choice == "questionable masks left out":
        return chosen.take(sound)
    if choice == "questionable masks half as often":
        return chosen.take(np.r_[np.arange(len(chosen)), sound])
    if choice == "as many of Montgomery as of Shenzhen":
        of = {name: np.flatnonzero(chosen.index["source"] == name) for name in SOURCES}
        return chosen.take(np.r_[of["shenzhen"], np.resize(of["montgomery"], len(of["shenzhen"]))])
    if choice == "pseudo-labels on the films without mask":
        bare = cases.take(np.flatnonzero(cases.index["has_mask"] == 0))
        # All of Shenzhen; by a network that has not seen Montgomery, on which it may be scored.
        masks = np.array(segmented(Segmenter.load("unet-shenzhen"), bare.images))
        images = np.concatenate([chosen.images, bare.images])
        index = pd.concat([chosen.index, bare.index.assign(has_mask=1)], ignore_index=True)
        digest = f"{chosen.digest} pseudo-labels"
        return Cases(images, np.concatenate([chosen.masks, masks]), index, digest)
    return chosen


def score(segmenter: Segmenter, cases: Cases) -> np.ndarray:
    """Dice of every case at its size, post-processed; float64 (N,)."""
    pairs = zip(segmented(segmenter, cases.images), cases.masks, strict=True)
    return np.array([dice(found, mask) for found, mask in pairs])


def exported(run: Run | ExportedRun) -> ExportedRun:
    """A network as it would be shipped; ONNX Runtime is the quicker one, film by film."""
    if isinstance(run, ExportedRun):
        return run
    return load_onnx(export_onnx(run, run.folder / "network.onnx"))


def segmented(segmenter: Segmenter, images: np.ndarray) -> list[np.ndarray]:
    """The masks of films, one film a core."""
    workers = {"max_workers": os.cpu_count(), "disable": True}
    return [found.mask for found in thread_map(segmenter.segment, images, **workers)]


def figures(runs: Sequence[Run | ExportedRun], val: Cases) -> list[dict[str, float]]:
    """Mean Dice of each run: sound films, those with an unquestioned mask, each kind of bad film.

    Over all corrupted and over all hard films also the 5th percentile, the minimum and the share
    under 0.9.
    """
    segmenters = [Segmenter(exported(run)) for run in runs]

    def scores(cases: Cases) -> list[np.ndarray]:
        return [score(segmenter, cases) for segmenter in segmenters]

    sound = scores(val)
    corrupted = {name: scores(corrupt(val, name)) for name in CORRUPTIONS}
    hard = {name: scores(harden(val, name)) for name in HARD}
    unquestioned = (val.index["questionable_mask"] == 0).to_numpy()
    return [
        {
            "val": sound[run].mean(),
            "val_unquestioned": sound[run][unquestioned].mean(),
            **spread_columns("corrupted", np.concatenate([of[run] for of in corrupted.values()])),
            **spread_columns("hard", np.concatenate([of[run] for of in hard.values()])),
            **{name: of[run].mean() for name, of in (corrupted | hard).items()},
        }
        for run in range(len(runs))
    ]


def transfer(choice: str, seed: int, cases: Cases, scored: Cases, folder: Path) -> float:
    """Mean Dice on Montgomery of a setting trained on Shenzhen; test cases are in neither."""
    run = train_one(choice, seed, cases.of_source("shenzhen"), folder / "shenzhen")
    montgomery = scored.of_source("montgomery")
    seen = np.flatnonzero(montgomery.index["split"].isin(["train", "val"]))
    return score(Segmenter(exported(run)), montgomery.take(seen)).mean()


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Each choice against the base of the same seed: mean, smallest and largest difference."""
    wide = table.set_index(KEYS)[COMPARED]
    paired = wide - wide.loc["base"].reindex(wide.index, level="seed")
    changed = paired[paired.index.get_level_values("choice") != "base"]
    grouped = changed.groupby("choice", sort=False)
    return grouped.agg(["mean", "min", "max"]).round(4)


def main() -> None:
    """Train and score what is missing in the table; print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds prepared X-rays, 256 and 512")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--transfer", action="store_true", help="train on Shenzhen alone too")
    parser.add_argument("--only", default=",".join(CHOICES), help="settings, separated by commas")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if unknown := sorted(set(only) - set(CHOICES)):
        parser.error(f"settings are {', '.join(CHOICES)}; not {', '.join(unknown)}")
    workspace = open_workspace(arguments.workspace)
    cases, scored = (load_prepared(workspace, size) for size in (BASE.size, EVAL_SIZE))
    folder = workspace.root / "choices"
    for seed in range(arguments.seeds):
        for choice in only:
            known = recorded(choice, seed)
            if "val" not in known:
                run = train_one(choice, seed, cases, folder)
                record(choice, seed, *figures([run], scored.select("val")))
            if arguments.transfer and TRANSFER not in known:
                found = transfer(choice, seed, cases, scored, folder)
                record(choice, seed, {TRANSFER: found})
    print(differences(pd.read_csv(TABLE)).to_string())


def recorded(choice: str, seed: int, path: Path = TABLE) -> dict[str, float]:
    """What the table holds of a setting and seed."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path).set_index(KEYS)
    return table.loc[(choice, seed)].dropna().to_dict() if (choice, seed) in table.index else {}


def record(choice: str, seed: int, found: dict[str, float], path: Path = TABLE) -> None:
    """Write figures into the table, in the order of the settings; processes may share it."""
    row = pd.DataFrame([found], index=pd.MultiIndex.from_tuples([(choice, seed)], names=KEYS))
    with hold(path, "recording"):
        table = row
        if path.is_file():
            table = row.combine_first(pd.read_csv(path).set_index(KEYS))
        order = sorted(table.index, key=lambda key: (list(CHOICES).index(key[0]), key[1]))
        table = table.loc[order].reindex(columns=[*COMPARED, *CORRUPTIONS, *HARD]).round(4)
        write_atomically(path, lambda target: table.to_csv(target))


if __name__ == "__main__":
    main()
