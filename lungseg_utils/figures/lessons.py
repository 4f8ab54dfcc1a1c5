"""Figures that explain an idea in the notebooks: splits, preprocessing, architectures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lungseg_utils.figures.drawing import NotebookFigure

# Okabe and Ito's palette, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
_SPLIT_COLOURS = {
    "train": BLUE,
    "val": ORANGE,
    "test": GREEN,
    "excluded": "#D55E00",
    "unlabelled": GREY,
}


def plot_manifest(table: pd.DataFrame) -> NotebookFigure:
    """Cases of each source by split, and the patients' ages.

    Args:
        table: A row a case with `source`, `split` and `age_years`.
    """
    figure = NotebookFigure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = pd.crosstab(table["source"], table["split"])
    start = np.zeros(len(counts))
    for split, colour in _SPLIT_COLOURS.items():
        values = counts.get(split, pd.Series(0, counts.index)).to_numpy()
        left.barh(counts.index, values, left=start, color=colour, label=split)
        start = start + values
    left.set_xlabel("cases")
    left.set_title("Split")
    left.legend(frameon=False, fontsize=8)
    ages = {source: rows["age_years"].dropna() for source, rows in table.groupby("source")}
    right.hist(
        [values.astype(float) for values in ages.values()],
        bins=range(0, 100, 10),
        label=list(ages),
        color=[BLUE, ORANGE][: len(ages)],
    )
    right.set_xlabel("age in years")
    right.set_title("Age")
    right.legend(frameon=False, fontsize=8)
    _tidy(left, right)
    return figure


def show_variants(variants: Mapping[str, np.ndarray]) -> NotebookFigure:
    """The same X-ray in several versions, each above its grey-value histogram.

    Args:
        variants: Title to grey image, uint8 `(H, W)`.
    """
    figure = NotebookFigure(figsize=(2.6 * len(variants), 3.8), layout="constrained")
    axes = figure.subplots(2, len(variants), height_ratios=(3, 1), squeeze=False)
    for (title, image), (top, bottom) in zip(variants.items(), axes.T, strict=True):
        _show(top, image, title)
        bottom.hist(image.ravel(), bins=64, range=(0, 255), color=BLUE)
        bottom.set_yticks([])
        bottom.set_xticks([0, 255])
        _tidy(bottom)
    return figure


def show_stitched(pair: np.ndarray) -> NotebookFigure:
    """A stitched pair, its two halves named.

    Args:
        pair: uint8 `(H, 2·H)`.
    """
    height, width = pair.shape
    figure = NotebookFigure(figsize=(7, 3.7), layout="constrained")
    axes = figure.subplots()
    _show(axes, pair, f"one file of {height} × {width} pixels")
    axes.axvline(width / 2 - 0.5, color=ORANGE)
    for place, name in ((0.25, "input: X-ray"), (0.75, "target: mask")):
        axes.text(place, -0.06, name, transform=axes.transAxes, ha="center")
    return figure


def plot_feature_maps(model) -> NotebookFigure:
    """Resolution and channels along a network: each level a bar, as wide as its channels.

    Args:
        model: A functional `keras.Model` from image to mask.
    """
    stages = _stages(model)
    figure = NotebookFigure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    largest = max(size for size, _ in stages)
    for place, (size, channels) in enumerate(stages):
        height = size / largest
        axes.bar(place, height, width=0.8, bottom=(1 - height) / 2, color=BLUE)
        axes.text(place, 0.5 + height / 2 + 0.03, f"{size}²", ha="center", fontsize=8)
        axes.text(place, 0.5 - height / 2 - 0.09, f"×{channels}", ha="center", fontsize=8)
    axes.set_title("Side of the feature maps in pixels, × channels, from input to output")
    axes.set_axis_off()
    axes.set_ylim(-0.15, 1.15)
    return figure


def plot_nested_skips(depth: int) -> NotebookFigure:
    """The nodes of U-Net++ and the paths between them.

    Args:
        depth: How often the resolution is halved.
    """
    figure = NotebookFigure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for level in range(depth + 1):
        for column in range(depth + 1 - level):
            _draw_node(axes, level, column, depth)
    handles = [
        axes.plot([], [], color=GREY, label="down")[0],
        axes.plot([], [], color=GREEN, label="up")[0],
        axes.plot([], [], color=ORANGE, linestyle="--", label="skip connection")[0],
    ]
    axes.legend(handles=handles, frameon=False, loc="lower right")
    axes.set_title("Every node joins all earlier ones of its level; the top row is supervised")
    axes.set_xlim(-0.8, 2 * depth + 0.8)
    axes.set_ylim(-1.2 * depth - 0.7, 0.4 + 0.4 * depth)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure


def show_judgements(
    image: np.ndarray, masks: Mapping[str, np.ndarray], judgements: Mapping[str, np.ndarray]
) -> NotebookFigure:
    """What a PatchGAN thinks of masks: its probability that each patch is a manual one.

    Args:
        image: The X-ray `(H, W)`.
        masks: Title to mask `(H, W)`.
        judgements: The same titles to probabilities `(h, w)` in [0, 1].
    """
    figure = NotebookFigure(figsize=(2.6 * (1 + 2 * len(masks)), 2.9), layout="constrained")
    axes = figure.subplots(1, 1 + 2 * len(masks))
    _show(axes[0], image, "X-ray")
    for number, (title, mask) in enumerate(masks.items()):
        _show(axes[1 + 2 * number], mask, title)
        right = axes[2 + 2 * number]
        shown = right.imshow(judgements[title], cmap="cividis", vmin=0, vmax=1)
        right.set_title(f"judged real: {np.mean(judgements[title]):.2f}", fontsize=9)
        right.set_axis_off()
    figure.colorbar(shown, ax=axes[-1], shrink=0.8, label="probability")
    return figure


def show_segmentation(
    image: np.ndarray, probability: np.ndarray, overlay: np.ndarray, title: str
) -> NotebookFigure:
    """One X-ray, the probability of lung, and the mask's outline on the X-ray.

    Args:
        image: uint8 `(H, W)`.
        probability: float32 `(H, W)` in [0, 1].
        overlay: uint8 `(H, W, 3)` RGB.
        title: Shown above the X-ray.
    """
    figure = NotebookFigure(figsize=(9.5, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _show(left, image, title)
    shown = middle.imshow(probability, cmap="cividis", vmin=0, vmax=1)
    middle.set_title("probability of lung", fontsize=9)
    middle.set_axis_off()
    figure.colorbar(shown, ax=middle, shrink=0.8)
    right.imshow(overlay)
    right.set_title("outline of the mask", fontsize=9)
    right.set_axis_off()
    return figure


def _stages(model) -> list[tuple[int, int]]:
    """Side and channels wherever the resolution changes, first and last included."""
    shapes = [
        layer.output.shape for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4
    ]
    # The widest tensor before each change of resolution is the level's own.
    stages: list[tuple[int, int]] = [(shapes[0][1], shapes[0][3])]
    for before, after in itertools.pairwise(shapes):
        if after[1] != before[1]:
            stages.append((before[1], before[3]))
    stages += [(shapes[-2][1], shapes[-2][3]), (shapes[-1][1], shapes[-1][3])]
    # A network of patches leaves its input, and comes to its output, in one step.
    return [stage for stage, _ in itertools.groupby(stages)]


def _draw_node(axes, level: int, column: int, depth: int) -> None:
    x, y = 2 * column + level, -1.2 * level
    supervised = level == 0 and column > 0
    axes.plot(x, y, "o", markersize=26, color=BLUE if supervised else "white", mec=BLUE, zorder=3)
    axes.text(
        x,
        y,
        f"{level},{column}",
        ha="center",
        va="center",
        fontsize=8,
        color="white" if supervised else "black",
        zorder=4,
    )
    arrow = {"arrowstyle": "-|>", "shrinkA": 13, "shrinkB": 13}
    if column == 0 and level < depth:
        down = (x + 1, y - 1.2)
        axes.annotate("", down, (x, y), arrowprops={**arrow, "color": GREY})
    if column > 0:
        below = (x - 1, y - 1.2)
        axes.annotate("", (x, y), below, arrowprops={**arrow, "color": GREEN})
    for earlier in range(column):
        curve = f"arc3,rad={-0.12 * (column - earlier - 1)}"
        start = (2 * earlier + level, y)
        style = {**arrow, "color": ORANGE, "linestyle": "--", "connectionstyle": curve}
        axes.annotate("", (x, y), start, arrowprops=style)


def _show(axes, image: np.ndarray, title: str) -> None:
    highest = 1 if image.max() <= 1 else 255
    axes.imshow(image, cmap="gray", vmin=0, vmax=highest)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _tidy(*all_axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
