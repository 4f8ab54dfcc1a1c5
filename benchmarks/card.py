"""The model card, from the recorded figures and the record of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from benchmarks.bundle import REFERENCE
from benchmarks.figures import SOUND_SHENZHEN
from benchmarks.markdown import NAMES, difference, figure, table
from lungseg_utils.evaluation.intervals import MINIMUM_PATIENTS, RESAMPLES
from lungseg_utils.evaluation.summaries import HEADLINE
from lungseg_utils.files.records import differing
from lungseg_utils.segment.shipped import CROSS_SET, NETWORKS

FAILURES = "## Where it fails"
NOT_WRITTEN = "Not written yet."
# Early stopping looks at the bare prediction, so that the row compares no networks.
BEST_DICE = "best epoch's Dice on its validation images, at its own size, not post-processed"
_GROUPS = {
    "all": "all",
    "source=montgomery": "Montgomery",
    "source=shenzhen": "Shenzhen",
    "questionable=no": "all but questionable masks",
    SOUND_SHENZHEN: "Shenzhen but questionable masks",
    "questionable=yes": "questionable masks alone",
    "tuberculosis=no": "without tuberculosis",
    "tuberculosis=yes": "with tuberculosis",
    "sex=F": "female",
    "sex=M": "male",
    "sex=unknown": "sex unknown",
    "age=under 16": "under 16 years",
    "age=16-39": "16 to 39 years",
    "age=40-64": "40 to 64 years",
    "age=65 and over": "65 years and over",
    "age=unknown": "age unknown",
}
_HEADER = ("n", *(title for title, _ in HEADLINE.values()))
_INTENDED = (
    "Networks that find the lungs in frontal chest X-rays, grey and squashed to a square, as a "
    "probability for each pixel. For research and teaching on adult, upright X-rays like those "
    'they were trained on. `Segmenter.load("unet")` loads one of them once its SHA-256 is that of '
    "`weights.json`.\n"
)
_DATA = (
    "Chest X-rays of the Montgomery County (United States) and Shenzhen (China) sets of the U.S. "
    "National Library of Medicine, about half of them with tuberculosis, with lung masks drawn by "
    "hand: those of the set for Montgomery, those of Stirenko et al. for Shenzhen. The masks leave "
    "out lung behind the heart. An earlier study called 62 of the Shenzhen masks questionable; "
    "they are kept, and figures are given with and without them.\n\n"
    "The split is `data_manifest.csv`: the test images are those of a published split, no patient "
    "is in two parts, and what shares a patient with a test image is left out of training. "
    "Validation images chose the epoch and the settings; test images and the external set chose "
    "nothing. Two more U-Nets, each trained on one of the sets alone, are scored on the other.\n"
)
_TERMS = (
    "The weights are for research, not for commercial use; `LICENSE` beside this file holds the "
    "terms and what to cite. No X-ray and no mask is part of the project.\n\n"
    "**Not a medical device.** No authority has cleared these networks and no clinical trial has "
    "tested them. Do not use them for diagnosis, treatment or any decision about a patient.\n"
)


def render_model_card(
    results: Mapping[str, dict], weights: Mapping[str, dict], failures: str = NOT_WRITTEN
) -> str:
    """The whole model card.

    Args:
        results: The recorded results, with `data`, `external` or both.
        weights: `weights.json`: a record for each network.
        failures: The text of the section that is written by hand, from `failures_of`.

    Returns:
        Markdown, ending with a line break.
    """
    sections = {
        "# Model card: the lungs in chest X-rays": _INTENDED,
        "## Networks": _networks(results, weights),
        "## Data": _DATA,
        "## Training": _training(weights),
        "## How it is scored": _protocol(results),
    }
    if "data" in results:
        sections |= _of_data(results["data"]["figures"])
    if "external" in results:
        sections["## External set: JSRT"] = _external(results["external"])
    sections[FAILURES] = failures.strip("\n") + "\n"
    sections["## Terms"] = _TERMS
    return "\n".join(f"{heading}\n\n{text}" for heading, text in sections.items())


def failures_of(card: str) -> str:
    """The section of a card that is written by hand, up to the next heading of its level."""
    found = re.search(rf"^{FAILURES}\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    return found[1].strip("\n") if found else NOT_WRITTEN


def _networks(results: Mapping[str, dict], weights: Mapping[str, dict]) -> str:
    cost = results["cost"]["figures"]
    rows = [
        (
            NAMES[name],
            record["file"],
            f"{record['parameters']:,}",
            f"{record['bytes'] / 1e6:.1f} MB",
            f"{record['config']['size']}×{record['config']['size']}",
            cost[name]["seconds_an_image"] if name in cost else "–",
        )
        for name, record in weights.items()
    ]
    header = ("network", "file", "parameters", "size", "input", "seconds an image")
    machine = results["cost"]["made_with"]
    where = ", ".join([machine["processor"], *machine["gpus"]])
    return (
        table(header, rows)
        + f"\nSeconds are a measurement on one machine ({where}; one image at a time), and compare "
        "with no other. Kernels are kept in half precision.\n"
    )


def _training(weights: Mapping[str, dict]) -> str:
    columns = {name: dict(_settings(record)) for name, record in weights.items()}
    names = list(dict.fromkeys(key for column in columns.values() for key in column))
    rows = {name: [column.get(name, "–") for column in columns.values()] for name in names}
    shared = {name: cells[0] for name, cells in rows.items() if len(set(cells)) == 1}
    own = [(name, *cells) for name, cells in rows.items() if name not in shared]
    listed = ", ".join(f"{name} {value}" for name, value in shared.items())
    header = ("setting", *(NAMES[name] for name in columns))
    return f"{table(header, own)}\nThe same for all: {listed}.\n"


def _settings(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    data = record["data"]
    yield "training images", data["train_cases"]
    yield "validation images", data["val_cases"]
    yield "epochs run", record["epochs_run"]
    yield "best epoch", record["best_epoch"]
    yield BEST_DICE, f"{record['best_val_dice']:.4f}"
    half = record.get("half_size", {})
    if half:
        yield "epochs run at half the size", half["epochs_run"]
        yield "best epoch at half the size", half["best_epoch"]
        yield "its Dice at half the size, likewise", f"{half['best_val_dice']:.4f}"
    seconds = record["training_seconds"] + half.get("training_seconds", 0)
    yield "minutes of training", round(seconds / 60)
    yield "precision used", record["dtype_policy"]
    config = record["config"]
    if config["model"] == "pix2pix":
        # It brings its own loss, whatever the configuration says.
        config = config | {"loss": "adversarial + L1"}
    # Against nothing, all settings differ: nested ones come with their names joined.
    for name, (_, value) in differing({}, config).items():
        if value != {}:
            yield f"`{name}`", str(value)


def _protocol(results: Mapping[str, dict]) -> str:
    size = results.get("external", {}).get("size")
    external = f"{size[0]}×{size[1]}" if size else "the films' own size"
    return (
        "The probability is resized (bilinear) to 512×512, for the external set to "
        f"{external}, thresholded at 0.5 and post-processed: the largest piece stays, the second "
        "where it covers at least 1 %, and their holes are filled. Figures are means over images. "
        "HD95 and ASSD are distances between outlines, in pixels of that size. Intervals are 95 % "
        f"percentile bootstrap intervals of {RESAMPLES:,} resamples of patients within each "
        f"source, none under {MINIMUM_PATIENTS} patients. They cover the sampling of cases, not of "
        "trainings. `results.json` holds all figures, and what they were computed with.\n"
    )


def _of_data(figures: Mapping[str, dict]) -> dict[str, str]:
    test = figures["test"]
    whole = table(
        ("network", *_HEADER),
        [(NAMES[name], *_cells(test[name]["all"]["both"])) for name in NETWORKS],
    )
    return {
        "## Test images": f"{whole}\n{_by_group(test)}\n{_differences(figures['differences'])}",
        "## Each set by a network of the other": table(
            ("network", "scored on", *_HEADER),
            [
                (NAMES[name], source.title(), *_cells(figures["cross"][name]["all"]["both"]))
                for name, source in CROSS_SET.items()
            ],
        ),
    }


def _cells(record: Mapping[str, object]) -> tuple[object, ...]:
    return (record["n"], *(figure(record, metric) for metric in HEADLINE))


def _by_group(test: Mapping[str, dict]) -> str:
    rows = []
    for group, title in _GROUPS.items():
        if group in test[REFERENCE]:
            rows.append(_dice_row(title, [test[name][group]["both"] for name in NETWORKS]))
    for region in ("right", "left"):
        rows.append(_dice_row(f"{region} lung", [test[name]["all"][region] for name in NETWORKS]))
    return table(("Dice", "n", *(NAMES[name] for name in NETWORKS)), rows)


def _dice_row(title: str, records: list[Mapping[str, object]]) -> tuple[object, ...]:
    return (title, records[0]["n"], *(figure(record, "dice") for record in records))


def _differences(differences: Mapping[str, dict]) -> str:
    rows = [
        (
            NAMES[name],
            _GROUPS[group],
            record["n"],
            *(difference(record, metric) for metric in HEADLINE),
        )
        for name, groups in differences.items()
        for group, record in groups.items()
    ]
    title = f"difference to the {NAMES[REFERENCE]}"
    return table((title, "images", *_HEADER), rows)


def _external(part: Mapping[str, object]) -> str:
    rows = [(NAMES[name], *_cells(regions["both"])) for name, regions in part["figures"].items()]
    return (
        "Films of other hospitals, with and without lung nodules (JSRT, Shiraishi et al. 2000), "
        "and masks of other readers (SCR, van Ginneken et al. 2006). Nothing was trained or chosen "
        f"on them.\n\n{table(('network', *_HEADER), rows)}"
    )
