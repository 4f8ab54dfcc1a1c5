"""What each choice of the recipe is worth on the validation cases, sound and corrupted.

Trains a small U-Net with one thing changed at a time, over several seeds, and compares each change
with the unchanged recipe of the same seed. Test cases are never read. Goes on where it stopped:

    python benchmarks/choices.py --workspace workspace/real

The workspace holds the prepared X-rays of notebook 03 at 256 and 512. A setting takes about four
minutes a seed on one core; `--only strong,mild` picks settings, so that cores share the work.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lungseg_utils import load_prepared, open_workspace, train
from lungseg_utils.config import TrainingConfig
from lungseg_utils.data.augmentation import MILD, STRONG
from lungseg_utils.data.cases import Cases
from lungseg_utils.data.corruptions import CORRUPTIONS, corrupt
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.records import write_atomically
from lungseg_utils.runs import Run
from lungseg_utils.segmenter import Segmenter

TABLE = Path(__file__).with_name("choices.csv")
EVAL_SIZE = 512
# Smaller and shorter than the recipe that is shipped, so that many can be compared.
BASE = TrainingConfig(
    model="unet",
    size=256,
    model_options={"base_filters": 32, "depth": 3, "patch_size": 4, "normalisation": "batch"},
    optimizer="adamw",
    learning_rate=0.002,
    schedule="cosine",
    weight_decay=0.0001,
    batch_size=8,
    epochs=12,
    patience=12,
    precision="mixed_bfloat16",
    augmentation=STRONG,
)
PATCHES_OF_2 = {"base_filters": 16, "depth": 4, "patch_size": 2, "normalisation": "batch"}
CHOICES = {
    "base": BASE,
    "mild augmentation": replace(BASE, augmentation=MILD),
    "no effects": replace(BASE, augmentation=replace(STRONG, effects=0)),
    "questionable masks left out": BASE,
    "patches of 2": replace(BASE, model_options=PATCHES_OF_2),
    "Dice loss alone": replace(BASE, loss="dice"),
    "24 epochs": replace(BASE, epochs=24, patience=24),
}


def train_one(choice: str, seed: int, cases: Cases, folder: Path) -> Run:
    """Train one setting with one seed, or read what was trained."""
    chosen = cases.select("train")
    if choice == "questionable masks left out":
        chosen = chosen.take(np.flatnonzero(chosen.index["questionable_mask"] == 0))
    config = replace(CHOICES[choice], seed=seed)
    return train(config, chosen, cases.select("val"), folder / f"{choice.replace(' ', '-')}-{seed}")


def score(segmenter: Segmenter, cases: Cases) -> np.ndarray:
    """Dice of every case at its size, post-processed; float64 (N,)."""
    pairs = zip(cases.images, cases.masks, strict=True)
    return np.array([dice(segmenter.segment(image).mask, mask) for image, mask in pairs])


def figures(run: Run, val: Cases) -> dict[str, float]:
    """Mean Dice of a run: sound films, those with an unquestioned mask, each corruption."""
    segmenter = Segmenter(run)
    sound = score(segmenter, val)
    corrupted = {name: score(segmenter, corrupt(val, name)).mean() for name in CORRUPTIONS}
    return {
        "val": sound.mean(),
        "val_unquestioned": sound[val.index["questionable_mask"] == 0].mean(),
        "corrupted": np.mean(list(corrupted.values())),
        **corrupted,
    }


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Each choice against the base of the same seed: mean, smallest and largest difference."""
    wide = table.set_index(["choice", "seed"])[["val", "val_unquestioned", "corrupted"]]
    paired = wide - wide.loc["base"].reindex(wide.index, level="seed")
    grouped = paired.drop(index="base").dropna().groupby("choice", sort=False)
    return grouped.agg(["mean", "min", "max"]).round(4)


def main() -> None:
    """Train and score what is missing in the table; print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True, help="holds prepared X-rays, 256 and 512")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CHOICES), help="settings, separated by commas")
    arguments = parser.parse_args()
    workspace = open_workspace(arguments.workspace)
    cases = load_prepared(workspace, BASE.size)
    val = load_prepared(workspace, EVAL_SIZE).select("val")
    for seed in range(arguments.seeds):
        for choice in arguments.only.split(","):
            if not known(choice, seed):
                run = train_one(choice, seed, cases, workspace.root / "choices")
                row = {"choice": choice, "seed": seed, **figures(run, val)}
                add(row)
    table = pd.read_csv(TABLE)
    if "base" in set(table["choice"]):
        print(differences(table).to_string())


def known(choice: str, seed: int) -> bool:
    """Whether the table holds this setting and seed."""
    if not TABLE.is_file():
        return False
    table = pd.read_csv(TABLE)
    return bool(((table["choice"] == choice) & (table["seed"] == seed)).any())


def add(row: dict) -> None:
    """Add a row to the table, in the order of the settings."""
    rows = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame()
    table = pd.concat([rows, pd.DataFrame([row])]).round(4)
    order = table["choice"].map(list(CHOICES).index)
    table = table.assign(order=order).sort_values(["order", "seed"]).drop(columns="order")
    write_atomically(TABLE, lambda path: table.to_csv(path, index=False))


if __name__ == "__main__":
    main()
