"""Recorded figures as the README's results and the model card.

What is said stands in `templates/`, the section "Where it fails" of the card among it; here are
the tables and figures that fill them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

from benchmarks.figures import DIGITS, REFERENCE, SOUND_SHENZHEN
from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.intervals import MINIMUM_PATIENTS, RESAMPLES
from lungseg_utils.evaluation.summaries import HEADLINE, TAILS, format_interval
from lungseg_utils.files.records import differing
from lungseg_utils.segment.network import CROSS_SET

TEMPLATES = Path(__file__).with_name("templates")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NAMES = {
    "unet": "U-Net",
    "unetpp": "U-Net++",
    "pix2pix": "Pix2Pix",
    "unet-shenzhen": "U-Net of Shenzhen",
    "unet-montgomery": "U-Net of Montgomery",
}
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
_README_GROUPS = {"all": "all test images"} | {
    group: _GROUPS[group] for group in ("source=montgomery", "source=shenzhen", "questionable=no")
}
_LUNGS = {"right lung": ("all", "right"), "left lung": ("all", "left")}
_DIFFERENCE_DIGITS = DIGITS | {"dice": 4, "iou": 4, "accuracy": 4}
# Early stopping looks at the bare prediction, so that the row compares no networks.
BEST_DICE = "best epoch's Dice on its validation images, at its own size, not post-processed"


def render_readme_results(results: Mapping[str, dict], weights: Mapping[str, dict]) -> str:
    """The README's results, between its markers.

    Args:
        results: The recorded results.
        weights: `weights.json`: a record for each network.

    Returns:
        Markdown, ending with a line break.
    """
    data, external = results["data"]["figures"], _networks_alone(results["external"]["figures"])
    differences = [
        f"{NAMES[name]} {difference(groups['all'], 'dice')}"
        for name, groups in data["differences"].items()
    ]
    test = [
        _score_row(title, NAMES[name], groups[group]["both"])
        for group, title in _README_GROUPS.items()
        for name, groups in data["test"].items()
        if group in groups
    ]
    return _fill(
        "readme_results.md",
        results,
        test=_lines(test),
        external=_lines(
            _score_row("JSRT", NAMES[name], regions["both"]) for name, regions in external.items()
        ),
        cross=_lines(_cross_rows(data["cross"], weights)),
        lungs=_lines(_dice_rows(data["test"], _LUNGS)),
        differences=", ".join(differences),
    )


def render_model_card(results: Mapping[str, dict], weights: Mapping[str, dict]) -> str:
    """The whole model card; arguments and result as of `render_readme_results`."""
    data, external = results["data"]["figures"], _networks_alone(results["external"]["figures"])
    machine = results["cost"]["made_with"]
    groups = {title: (group, "both") for group, title in _GROUPS.items()} | _LUNGS
    test = {name: groups["all"] for name, groups in data["test"].items()}
    shared, own = _training(weights)
    return _fill(
        "model_card.md",
        results,
        networks=_lines(_network_rows(results["cost"]["figures"], weights)),
        machine=", ".join([machine["processor"], *machine["gpus"]]),
        training=_lines(own),
        shared=", ".join(f"{name} {value}" for name, value in shared.items()),
        test=_lines((NAMES[name], *_score_cells(lungs["both"])) for name, lungs in test.items()),
        groups=_lines(_dice_rows(data["test"], groups)),
        differences=_lines(
            (NAMES[name], _GROUPS[group], *_cells(record, difference))
            for name, groups in data["differences"].items()
            for group, record in groups.items()
        ),
        cross=_lines(
            (NAMES[name], CROSS_SET[name].title(), *_score_cells(groups["all"]["both"]))
            for name, groups in data["cross"].items()
        ),
        external=_lines(
            (NAMES[name], *_score_cells(regions["both"])) for name, regions in external.items()
        ),
    )


def split_at_markers(page: str) -> tuple[str, str, str]:
    """Split the README into what stands before, between and after the markers of the results.

    Raises:
        LungsegError: The markers are not there, each once on a line of its own.
    """
    found = re.fullmatch(rf"(.*^{BEGIN}\n)(.*)(^{END}$.*)", page, re.DOTALL | re.MULTILINE)
    if not found or page.count(BEGIN) > 1 or page.count(END) > 1:
        raise LungsegError(
            f"Results stand once between the lines {BEGIN} and {END}.",
            f"{page.count(BEGIN)} and {page.count(END)} such lines",
            "Put the two lines back where the results belong.",
        )
    return found.groups()


def figure(record: Mapping[str, Mapping], metric: str) -> str:
    """A figure as the tables show it: `0.961 [0.955, 0.966]`.

    Args:
        record: With `mean`, `low` and `high` of each metric.
        metric: One of them, such as `dice`.
    """
    return _shown(record[metric], DIGITS[metric])


def difference(record: Mapping[str, Mapping], metric: str) -> str:
    """A difference as `figure` shows it, but of Dice, IoU and accuracy with 4 decimals."""
    return _shown(record[metric], _DIFFERENCE_DIGITS[metric])


def _shown(values: Mapping[str, float | None], digits: int) -> str:
    given = (values[name] for name in ("mean", "low", "high"))
    numbers = (math.nan if value is None else value for value in given)
    return format_interval(*numbers, digits).replace("-", "−")


def _networks_alone(figures: Mapping[str, dict]) -> dict[str, dict]:
    """Scores against the masks as they are drawn, without those minus the hearts."""
    return {name: regions for name, regions in figures.items() if name in NAMES}


def _fill(template: str, results: Mapping[str, dict], **values: str) -> str:
    text = Template((TEMPLATES / template).read_text(encoding="utf-8"))
    size = results["external"]["size"]
    return text.substitute(
        values,
        size=f"{size[0]}×{size[1]}" if size else "the films' own size",
        resamples=f"{RESAMPLES:,}",
        minimum=MINIMUM_PATIENTS,
    )


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows of a Markdown table; its head stands in the template."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in rows)


def _score_row(title: str, network: str, record: Mapping[str, dict]) -> tuple[object, ...]:
    means = (figure(record, metric).partition(" ")[0] for metric in ("iou", "hd95_px", "assd_px"))
    return (title, record["n"], network, figure(record, "dice"), *_tails(record), *means)


def _tails(record: Mapping[str, Mapping]) -> Iterator[str]:
    """How far down the Dice of single films reaches; dashes where it was not recorded yet."""
    for name, (_, form) in TAILS.items():
        known = name in record["dice"]
        yield form.format(record["dice"][name]).replace("%", " %") if known else "–"


def _cross_rows(
    cross: Mapping[str, dict], weights: Mapping[str, dict]
) -> Iterator[tuple[object, ...]]:
    for name, groups in cross.items():
        trained, scored = name.partition("-")[2].title(), CROSS_SET[name].title()
        size, usual = (weights[key]["config"]["size"] for key in (name, REFERENCE))
        network = NAMES[REFERENCE] + ("" if size == usual else f", {size}×{size}")
        title = f"all of {scored}, trained on {trained} alone"
        yield _score_row(title, network, groups["all"]["both"])


def _dice_rows(
    test: Mapping[str, dict], titles: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[object, ...]]:
    """A row for each title's group and region, with the Dice of all networks."""
    for title, (group, region) in titles.items():
        records = [groups[group][region] for groups in test.values() if group in groups]
        if records:
            yield title, records[0]["n"], *(figure(record, "dice") for record in records)


def _cells(record: Mapping[str, dict], shown: Callable = figure) -> tuple[object, ...]:
    return (record["n"], *(shown(record, metric) for metric in HEADLINE))


def _score_cells(record: Mapping[str, dict]) -> tuple[object, ...]:
    number, dice, *others = _cells(record)
    return (number, dice, *_tails(record), *others)


def _network_rows(
    cost: Mapping[str, dict], weights: Mapping[str, dict]
) -> Iterator[tuple[object, ...]]:
    for name, record in weights.items():
        size = record["config"]["size"]
        parameters, megabytes = f"{record['parameters']:,}", f"{record['bytes'] / 1e6:.1f} MB"
        seconds = cost[name]["seconds_an_image"]
        yield NAMES[name], record["file"], parameters, megabytes, f"{size}×{size}", seconds


def _training(weights: Mapping[str, dict]) -> tuple[dict[str, object], list[tuple[object, ...]]]:
    """The settings that are the same for all networks, and a row for each of the others."""
    columns = [_settings(record) for record in weights.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name, "–") for column in columns] for name in names}
    shared = {name: cells[0] for name, cells in rows.items() if len(set(cells)) == 1}
    return shared, [(name, *cells) for name, cells in rows.items() if name not in shared]


def _settings(record: Mapping[str, object]) -> dict[str, object]:
    half = record.get("half_size", {})
    settings = {
        "training images": record["data"]["train_cases"],
        "validation images": record["data"]["val_cases"],
        "epochs run": record["epochs_run"],
        "best epoch": record["best_epoch"],
        BEST_DICE: f"{record['best_val_dice']:.4f}",
    }
    if half:
        settings["epochs run at half the size"] = half["epochs_run"]
        settings["best epoch at half the size"] = half["best_epoch"]
        settings["its Dice at half the size, likewise"] = f"{half['best_val_dice']:.4f}"
    seconds = record["training_seconds"] + half.get("training_seconds", 0)
    settings["minutes of training"] = round(seconds / 60)
    settings["precision used"] = record["dtype_policy"]
    config = record["config"]
    if config["model"] == "pix2pix":
        # It brings its own loss, whatever the configuration says.
        config = config | {"loss": "adversarial + L1"}
    # Against nothing, all settings differ: nested ones come with their names joined.
    known = {name: value for name, (_, value) in differing({}, config).items() if value != {}}
    return settings | {f"`{name}`": str(value) for name, value in known.items()}
