"""The README's results, from the recorded figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.bundle import REFERENCE
from benchmarks.markdown import NAMES, difference, figure, table
from lungseg_utils.evaluation.intervals import MINIMUM_PATIENTS
from lungseg_utils.segment.shipped import CROSS_SET, NETWORKS

# What is scored, as the table calls it, by the group of the figures.
_GROUPS = {
    "all": "all test images",
    "source=montgomery": "Montgomery",
    "source=shenzhen": "Shenzhen",
    "questionable=no": "all but questionable masks",
}
_CROSS = {
    "unet-shenzhen": "all of Montgomery, trained on Shenzhen alone",
    "unet-montgomery": "all of Shenzhen, trained on Montgomery alone",
}
# Figures of another project on the same test images: where, n, network, Dice, IoU, HD95, ASSD.
_PUBLISHED = (
    "published, all test images",
    141,
    "[VGG11 U-Net](https://github.com/IlliaOvcharenko/lung-segmentation)",
    "0.961",
    "0.927",
    "–",
    "–",
)
JSRT = "JSRT"
_HEADER = ("scored on", "n", "network", "Dice", "IoU", "HD95", "ASSD")


def render_readme_results(results: Mapping[str, dict], weights: Mapping[str, dict]) -> str:
    """The README's results, between its markers.

    Args:
        results: The recorded results, with `data`, `external` or both.
        weights: `weights.json`: a record for each network.

    Returns:
        Markdown, ending with a line break.
    """
    parts = [_introduction(results), render_scores(results, weights, JSRT)]
    if "data" in results:
        figures = results["data"]["figures"]
        parts += [_per_lung(figures["test"]), _notes(figures)]
    return "\n".join(parts)


def render_scores(results: Mapping[str, dict], weights: Mapping[str, dict], external: str) -> str:
    """The table of the scores alone.

    Args:
        results: With `data`, `external` or both.
        weights: `weights.json`.
        external: What the external set is called.

    Returns:
        Markdown, ending with a line break.
    """
    return table(_HEADER, _rows(results, weights, external))


def _introduction(results: Mapping[str, dict]) -> str:
    size = results.get("external", {}).get("size")
    external = f"{size[0]}×{size[1]}" if size else "their own size"
    return (
        "The weights that come with the package, after post-processing: means over images with "
        "95 % intervals over patients, distances in pixels. Test and cross-set images are scored "
        f"at 512×512, those of JSRT, on which nothing was trained or chosen, at {external}. "
        "`make benchmark DATA=… EXTERNAL=…` computes this from the weights and says where a figure "
        "differs; by sex, age and finding: [model card](lungseg_utils/weights/MODEL_CARD.md).\n"
    )


def _rows(
    results: Mapping[str, dict], weights: Mapping[str, dict], external: str
) -> Iterator[tuple[object, ...]]:
    data = results["data"]["figures"] if "data" in results else {}
    if data:
        for group, title in _GROUPS.items():
            for name in NETWORKS:
                if group in data["test"][name]:
                    yield _row(title, NAMES[name], data["test"][name][group]["both"])
        yield _PUBLISHED
    if "external" in results:
        for name in NETWORKS:
            yield _row(external, NAMES[name], results["external"]["figures"][name]["both"])
    for name in CROSS_SET if data else ():
        record = data["cross"][name]["all"]["both"]
        yield _row(_CROSS[name], _cross_set_network(name, weights), record)


def _cross_set_network(name: str, weights: Mapping[str, dict]) -> str:
    size, usual = (weights[key]["config"]["size"] for key in (name, REFERENCE))
    return NAMES[REFERENCE] if size == usual else f"{NAMES[REFERENCE]}, {size}×{size}"


def _row(title: str, network: str, record: Mapping[str, object]) -> tuple[object, ...]:
    means = (figure(record, metric, interval=False) for metric in ("iou", "hd95_px", "assd_px"))
    return (title, record["n"], network, figure(record, "dice"), *means)


def _per_lung(test: Mapping[str, dict]) -> str:
    header = ("Dice of the", "n", *(NAMES[name] for name in NETWORKS))
    rows = []
    for region in ("right", "left"):
        records = [test[name]["all"][region] for name in NETWORKS]
        cells = (figure(record, "dice") for record in records)
        rows.append((f"{region} lung", records[0]["n"], *cells))
    return table(header, rows)


def _notes(figures: Mapping[str, dict]) -> str:
    differences = ", ".join(
        f"{NAMES[name]} {difference(groups['all'], 'dice')}"
        for name, groups in figures["differences"].items()
    )
    return (
        f"Paired differences in Dice to the {NAMES[REFERENCE]}: {differences}. The published "
        "network's training images share patients with the test images; ours do not. No interval "
        f"is given under {MINIMUM_PATIENTS} patients. No setting was chosen on the test images.\n"
    )
