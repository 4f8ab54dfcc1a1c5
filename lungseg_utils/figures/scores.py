"""Figures of numbers: learning curves, distributions of scores, differences with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.summaries import HIGHER_IS_BETTER
from lungseg_utils.figures.drawing import (
    INK,
    MEDIUM,
    MODEL_COLOURS,
    SMALL,
    WIDTH,
    NotebookFigure,
)

_METRIC_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "accuracy": "Accuracy",
    "hd95_px": "HD95 (pixels)",
    "assd_px": "ASSD (pixels)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
}
_STAGE_NAMES = {"raw": "before post-processing", "post": "after post-processing"}
_REGION_NAMES = {"source": "Both lungs", "region": "Each lung"}
_GRID = "#E0E0E0"
_JITTER = 0.3


def learning_curves(stages: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Loss and Dice by epoch, for training and validation; the best validation Dice is marked.

    Args:
        stages: Of each stage of the training, a row of the figure, each run's history by name:
            columns epoch, loss, val_loss, dice, val_dice. As from `runs.stage_histories`.
    """
    if not stages:
        raise _nothing("history")
    # The last stage comes first: it has all runs, in the order that gives other figures' colours.
    of_stages = reversed(list(stages.values()))
    names = list(dict.fromkeys(name for histories in of_stages for name in histories))
    colours = _colours(names)
    figure, axes = _figure(len(stages), 2, 3.4 * len(stages))
    for row, (stage, histories) in zip(axes.reshape(-1, 2), stages.items(), strict=True):
        for name, history in histories.items():
            _draw_history(row, name, history, colours[name])
        _name_curves(row, stage, {name: colours[name] for name in histories})
    return figure


def _draw_history(row: Sequence[Axes], name: str, history: pd.DataFrame, colour: str) -> None:
    for axes, column in zip(row, ("loss", "dice"), strict=True):
        axes.plot(history["epoch"], history[column], color=colour, ls=":", lw=1.4)
        axes.plot(history["epoch"], history[f"val_{column}"], color=colour, lw=1.8, label=name)
    best = history.loc[history["val_dice"].idxmax()]
    label = f"{name}: {best['val_dice']:.3f} at epoch {int(best['epoch'])}"
    row[1].plot(best["epoch"], best["val_dice"], "o", ms=7, mfc="white", mec=colour, label=label)


def _name_curves(row: Sequence[Axes], stage: str, colours: Mapping[str, str]) -> None:
    losses, scores = row
    for axes, title in ((losses, "Loss"), (scores, "Dice")):
        _name(axes, f"{title} {stage}", "Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if _spans_decades(losses):
        losses.set_yscale("log")
    losses.legend(handles=_curve_handles(colours), frameon=False, fontsize=SMALL)
    marks = [line for line in scores.get_lines() if line.get_marker() == "o"]
    scores.legend(
        handles=marks, title="Best validation", title_fontsize=SMALL, frameon=False, fontsize=SMALL
    )


def distributions(cases: pd.DataFrame, metric: str = "dice", stage: str = "post") -> Figure:
    """Scores of every case, by source and model: points, quartiles and the mean.

    Args:
        cases: Rows of `score_run`.
        metric: One of `METRICS`.
        stage: `raw` or `post`.
    """
    chosen = cases[cases["region"] == "both"]
    sources = {source: source.capitalize() for source in sorted(chosen["source"].unique())}
    return _boxes(chosen, metric, stage, "source", sources)


def per_lung(cases: pd.DataFrame, metric: str = "dice", stage: str = "post") -> Figure:
    """Scores of every case, by lung and model; arguments as for `distributions`."""
    regions = {"right": "Right lung", "left": "Left lung"}
    return _boxes(cases[cases["region"].isin(regions)], metric, stage, "region", regions)


def differences(table: pd.DataFrame, metric: str = "dice", stage: str = "post") -> Figure:
    """Paired differences between models with their 95 % intervals, over all cases and by source.

    Args:
        table: From `paired_differences`.
        metric: One of `METRICS`.
        stage: `raw` or `post`.
    """
    chosen = _of_both_lungs(table, metric, stage)
    rows, ends = [], []
    for (model, reference), of_pair in chosen.groupby(["model", "reference"], sort=False):
        pair = f"{model} − {reference}"
        rows += [
            (f"{pair}, {_group_name(row.group)} (n = {row.n})", row) for row in of_pair.itertuples()
        ]
        ends.append(len(rows))
    figure = _intervals(rows)
    axes = figure.axes[0]
    axes.axvline(0, color=INK, lw=1.2, zorder=1)
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color=_GRID, lw=0.8, zorder=0)
    better = "right" if metric in HIGHER_IS_BETTER else "left"
    label = f"Difference in {_METRIC_NAMES[metric]}; {better} of 0 the first is better"
    _name(axes, f"Paired differences, {_STAGE_NAMES[stage]}", label)
    return figure


def subgroups(
    summary: pd.DataFrame, model: str, metric: str = "dice", stage: str = "post"
) -> Figure:
    """One model's mean with its 95 % interval in every group of cases.

    Args:
        summary: From `summarise`.
        model: The model's name in it.
        metric: One of `METRICS`.
        stage: `raw` or `post`.
    """
    chosen = _of_both_lungs(summary[summary["model"] == model], metric, stage)
    figure = _intervals(
        [(f"{_group_name(row.group)} (n = {row.n})", row) for row in chosen.itertuples()]
    )
    axes = figure.axes[0]
    axes.axvline(chosen["mean"].iloc[0], color=INK, lw=1, ls=":", zorder=1)
    note = "" if chosen["low"].notna().all() else " (no interval under 10 patients)"
    _name(axes, f"{model} by group, {_STAGE_NAMES[stage]}", _METRIC_NAMES[metric] + note)
    return figure


def trust_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean loss of Dice over the cases trusted most, by how many these are.

    Args:
        curves: By model, from `evaluation.summaries.risk_coverage`.
    """
    if not curves:
        raise _nothing("curves")
    figure, axes = _figure(1, 1, 3.6)
    for (name, curve), colour in zip(curves.items(), _colours(list(curves)).values(), strict=True):
        axes.plot(curve["coverage"], curve["risk"], color=colour, lw=1.8, label=name)
    _name(axes, "Risk and coverage", "Share of cases, the most trusted first", "Mean of 1 − Dice")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def _boxes(
    cases: pd.DataFrame, metric: str, stage: str, factor: str, levels: Mapping[str, str]
) -> Figure:
    """Scores by the levels of a factor, the models side by side within each."""
    cases = cases[cases["stage"] == stage].dropna(subset=[metric])
    if not len(cases):
        raise _nothing("table of scores")
    colours = _colours(list(dict.fromkeys(cases["model"])))
    figure, axes = _figure(1, 1, 4.0)
    random = np.random.default_rng(0)
    width = min(0.3, 0.8 / len(colours))
    for place, level in enumerate(levels):
        for number, (model, colour) in enumerate(colours.items()):
            values = cases.loc[(cases[factor] == level) & (cases["model"] == model), metric]
            centre = place + (number - (len(colours) - 1) / 2) * width
            _box(axes, values, centre, width, colour, random)
    counts = cases.groupby(factor)["image_id"].nunique()
    names = [f"{name}\nn = {counts.get(level, 0)}" for level, name in levels.items()]
    axes.set_xticks(range(len(levels)), names)
    _name(axes, f"{_REGION_NAMES[factor]}, {_STAGE_NAMES[stage]}", "", _METRIC_NAMES[metric])
    axes.set_xlim(-0.55, len(levels) - 0.45)
    axes.grid(axis="x", visible=False)
    if metric not in HIGHER_IS_BETTER:
        _distance_scale(axes, cases[metric].max())
    handles = [Patch(color=colour, alpha=0.6, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], ls="", marker="D", ms=5, mfc="white", mec=INK, label="Mean"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=SMALL)
    return figure


def _box(
    axes: Axes,
    values: pd.Series,
    centre: float,
    width: float,
    colour: str,
    random: np.random.Generator,
) -> None:
    if not len(values):
        return
    spread = random.uniform(-_JITTER, _JITTER, len(values)) * width
    axes.plot(centre + spread, values, "o", ms=3, color=colour, alpha=0.5, mew=0, zorder=2)
    lines = {f"{part}props": {"color": INK} for part in ("median", "box", "whisker", "cap")}
    axes.boxplot(
        values,
        positions=[centre],
        widths=0.75 * width,
        showfliers=False,
        showmeans=True,
        meanprops={"marker": "D", "mfc": "white", "mec": INK, "ms": 5, "zorder": 5},
        manage_ticks=False,
        zorder=3,
        **lines,
    )


def _intervals(rows: Sequence[tuple[str, object]]) -> Figure:
    """Points with horizontal intervals, from the top down; no bar where there is no interval."""
    figure, axes = _figure(1, 1, 1.1 + 0.28 * len(rows))
    colour = MODEL_COLOURS[0]
    for place, (_, row) in enumerate(rows):
        if np.isfinite(row.low):
            axes.plot([row.low, row.high], [place, place], color=colour, lw=2.2)
        axes.plot(row.mean, place, "o", color=colour, ms=6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure


def _figure(rows: int, columns: int, height: float) -> tuple[NotebookFigure, object]:
    figure = NotebookFigure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(rows, columns)
    for panel in np.atleast_1d(axes).flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#999999")
        panel.tick_params(labelsize=SMALL + 1, colors=INK)
        panel.grid(color=_GRID, lw=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def _name(axes: Axes, title: str, x: str, y: str = "") -> None:
    axes.set_title(title, fontsize=MEDIUM, color=INK)
    axes.set_xlabel(x, fontsize=MEDIUM, color=INK)
    axes.set_ylabel(y, fontsize=MEDIUM, color=INK)


def _distance_scale(axes: Axes, largest: float) -> None:
    """Linear to 1, logarithmic above: a missed lung costs hundreds, a good outline one or two."""
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    top = next((tick for tick in ticks if tick >= largest), largest)
    axes.set_ylim(0, 1.05 * top)
    axes.set_yticks([tick for tick in ticks if tick <= top])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def _spans_decades(axes: Axes) -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > 20 * values.min())


def _curve_handles(colours: Mapping[str, str]) -> list[Line2D]:
    handles = [Line2D([], [], color=colour, lw=1.8, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], color=INK, lw=1.8, label="validation"))
    handles.append(Line2D([], [], color=INK, lw=1.4, ls=":", label="training"))
    return handles


def _colours(names: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, itertools.cycle(MODEL_COLOURS)))


def _group_name(group: str) -> str:
    factor, _, level = group.partition("=")
    factor = {"questionable": "questionable mask"}.get(factor, factor)
    return f"{factor}: {level}" if level else "all cases"


def _of_both_lungs(table: pd.DataFrame, metric: str, stage: str) -> pd.DataFrame:
    of_both = (table["region"] == "both") & (table["metric"] == metric) & (table["stage"] == stage)
    chosen = table[of_both].dropna(subset=["mean"])
    if not len(chosen):
        raise _nothing("table")
    return chosen


def _nothing(what: str) -> LungsegError:
    return LungsegError(
        f"A figure needs at least one row of the {what}.",
        "none",
        "Check the metric, stage and model, and that they were scored.",
    )
