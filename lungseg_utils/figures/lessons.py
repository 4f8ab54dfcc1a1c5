"""What the notebooks show to explain an idea, and what the three trainings look at alike."""

from __future__ import annotations

import base64
import html
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lungseg_utils.evaluation.scoring import predicted_mask
from lungseg_utils.figures.drawing import (
    INK,
    MODEL_COLOURS,
    SMALL,
    WIDTH,
    NotebookFigure,
    draw_image,
)
from lungseg_utils.figures.images import prediction_grid, show_pairs
from lungseg_utils.manifest import SPLITS
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.segment.outputs import GALLERY
from lungseg_utils.segment.predict import load_predictions

if TYPE_CHECKING:
    import keras

    from lungseg_utils.preparation.cases import Cases
    from lungseg_utils.training.config import TrainingConfig
    from lungseg_utils.training.runs import Run

BLUE, ORANGE, GREEN = MODEL_COLOURS[:3]
_DOWN = "#999999"

_LARGEST_DOWNLOAD = 20_000_000  # bytes


def show_batch(cases: Cases, config: TrainingConfig, count: int = 4) -> Figure:
    """A first training batch, augmented: its X-rays, masks and both together.

    Args:
        cases: The training cases.
        config: Gives augmentation, preprocessing and seed.
        count: At most so many cases.
    """
    batches = CaseBatches(
        cases, min(count, len(cases)), config.augmentation, config.preprocessing, config.seed
    )
    images, masks = batches.batch(epoch=0, index=0)
    titles = [f"augmented {number}" for number in range(1, len(images) + 1)]
    return show_pairs(images[..., 0], masks[..., 0], titles)


def score_untrained(config: TrainingConfig, cases: Cases) -> float:
    """Mean Dice of a network before its first step, with the weights that `train` begins with.

    Args:
        config: The network, its seed, its preprocessing and batch size.
        cases: With masks, at `config.size`: the validation cases.

    Returns:
        Taken as training takes its validation Dice, so that the two compare.
    """
    import keras

    from lungseg_utils.models.losses import DiceCoefficient
    from lungseg_utils.models.registry import build_model

    keras.utils.set_random_seed(config.seed)
    model = build_model(config.model, config.size, config.model_options)
    batches = CaseBatches(
        cases, config.batch_size, NONE, config.preprocessing, config.seed, shuffle=False
    )
    score = DiceCoefficient()
    for index in range(len(batches)):
        images, masks = batches.batch(epoch=0, index=index)
        score.update_state(masks, model(images, training=False))
    return float(score.result())


def predicted_masks(
    run_folder: Path, split: str, ids: Sequence[str], size: int, stage: str = "raw"
) -> list[np.ndarray]:
    """Masks of some cases, from the probabilities that a run keeps.

    Args:
        run_folder: `runs/<name>` of the workspace.
        split: The split that the cases are of.
        ids: Their image ids.
        size: Side of the masks in pixels.
        stage: `raw`, or `post` for post-processed masks.

    Returns:
        uint8 {0, 1} (size, size), in the order of the ids.
    """
    known, probability = load_predictions(run_folder, split)
    rows = [known.index(image_id) for image_id in ids]
    return [predicted_mask(probability[row], (size, size), stage) for row in rows]


def show_predictions(
    run: Run, cases: Cases, split: str, stage: str = "raw", count: int = 4
) -> Figure:
    """Input, truth, prediction and both outlines of some cases, spread over all of them.

    Args:
        run: Has predicted the split.
        cases: Its cases, with masks, at the size to show them at.
        split: The split that the cases are of.
        stage: `raw`, or `post` for post-processed masks.
        count: At most so many cases.
    """
    shown = cases.take(range(0, len(cases), max(1, len(cases) // count))[:count])
    masks = predicted_masks(run.folder, split, shown.ids, shown.size, stage)
    return prediction_grid(shown.images, shown.masks, masks, shown.ids)


def plot_manifest(table: pd.DataFrame) -> NotebookFigure:
    """Cases of each source by split, and the patients' ages.

    Args:
        table: A row a case with `source`, `split` and `age_years`.
    """
    figure = NotebookFigure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = pd.crosstab(table["source"], table["split"])
    start = np.zeros(len(counts))
    for split, colour in zip(SPLITS, MODEL_COLOURS, strict=False):
        values = counts.get(split, pd.Series(0, counts.index)).to_numpy()
        left.barh(counts.index, values, left=start, color=colour, label=split)
        start = start + values
    left.set(title="Split", xlabel="cases")
    ages = dict(list(table.dropna(subset="age_years").groupby("source")["age_years"]))
    right.hist([*ages.values()], range(0, 100, 10), label=[*ages], color=MODEL_COLOURS[: len(ages)])
    right.set(title="Age", xlabel="age in years")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def show_variants(variants: Mapping[str, np.ndarray]) -> NotebookFigure:
    """The same X-ray in several versions, each above its grey-value histogram.

    Args:
        variants: Title to grey image, uint8 `(H, W)`.
    """
    figure = NotebookFigure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(2, len(variants), height_ratios=(3, 1), squeeze=False)
    for (title, image), (top, bottom) in zip(variants.items(), axes.T, strict=True):
        draw_image(top, image, title)
        top.set_axis_off()
        bottom.hist(image.ravel(), bins=64, range=(0, 255), color=BLUE)
        bottom.set(yticks=[], xticks=[0, 255])
        bottom.spines[["top", "right"]].set_visible(False)
    return figure


def show_stitched(pair: np.ndarray) -> NotebookFigure:
    """A stitched pair, its two halves named.

    Args:
        pair: uint8 `(H, 2·H)`.
    """
    height, width = pair.shape
    title = f"input: X-ray | target: mask, in one file of {height} × {width} pixels"
    return _row((draw_image, pair, title))


def plot_feature_maps(model: keras.Model) -> NotebookFigure:
    """Resolution and channels along a network: each level a bar, as high as its side.

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
    axes.plot([], [], color=_DOWN, label="down")
    axes.plot([], [], color=GREEN, label="up")
    axes.plot([], [], color=ORANGE, linestyle="--", label="skip connection")
    axes.legend(frameon=False, loc="lower right")
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
    panels = [(draw_image, image, "X-ray")]
    for title, mask in masks.items():
        verdict = f"judged real: {np.mean(judgements[title]):.2f}"
        panels += [(draw_image, mask, title), (_draw_probability, judgements[title], verdict)]
    return _row(*panels)


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
    return _row(
        (draw_image, image, title),
        (_draw_probability, probability, "probability of lung"),
        (draw_image, overlay, "outline of the mask"),
    )


def show_gallery(out: Path) -> None:
    """Show the gallery of segmented films in the notebook, and a button that fetches all results.

    Args:
        out: The folder of results. They are packed beside it as a zip archive, which from 20 MB
            on is too large for a notebook; then its path is printed.
    """
    from IPython.display import HTML, display

    page = html.escape((out / GALLERY).read_text(encoding="utf-8"), quote=True)
    packed = Path(shutil.make_archive(str(out), "zip", out))
    style = "width: 100%; height: 620px; border: 0"
    parts = [f'<iframe srcdoc="{page}" style="{style}" title="Gallery"></iframe>']
    if packed.stat().st_size < _LARGEST_DOWNLOAD:
        data = base64.b64encode(packed.read_bytes()).decode("ascii")
        link = f'<a download="{packed.name}" href="data:application/zip;base64,{data}">'
        parts.insert(0, f"<p>{link}<button>Download all results</button></a></p>")
    else:
        print("All results, too large for a button:", packed)
    display(HTML("\n".join(parts)))


def _stages(model: keras.Model) -> list[tuple[int, int]]:
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


def _draw_node(axes: Axes, level: int, column: int, depth: int) -> None:
    here, supervised = _place(level, column), level == 0 and column > 0
    face, ink = (BLUE, "white") if supervised else ("white", INK)
    circle = {"boxstyle": "circle", "facecolor": face, "edgecolor": BLUE}
    style = {"ha": "center", "va": "center", "fontsize": SMALL, "color": ink, "bbox": circle}
    axes.text(*here, f"{level},{column}", zorder=3, **style)
    if column == 0 and level < depth:
        _draw_arrow(axes, here, _place(level + 1, 0), color=_DOWN)
    if column > 0:
        _draw_arrow(axes, _place(level + 1, column - 1), here, color=GREEN)
    for earlier in range(column):
        curve = f"arc3,rad={-0.12 * (column - earlier - 1)}"
        skip = {"color": ORANGE, "linestyle": "--", "connectionstyle": curve}
        _draw_arrow(axes, _place(level, earlier), here, **skip)


def _place(level: int, column: int) -> tuple[float, float]:
    return 2 * column + level, -1.2 * level


def _draw_arrow(axes: Axes, start: tuple, end: tuple, **style: str) -> None:
    arrow = {"arrowstyle": "-|>", "shrinkA": 13, "shrinkB": 13, **style}
    axes.annotate("", end, start, arrowprops=arrow)


def _row(*panels: tuple[Callable, np.ndarray, str]) -> NotebookFigure:
    """A row of pictures, each with the function that draws it and its title."""
    height, width = np.shape(panels[0][1])[:2]
    down = min(WIDTH / 2, WIDTH * height / width / len(panels)) + 0.3
    figure = NotebookFigure(figsize=(WIDTH, down), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False).flat
    for axes, (draw, picture, title) in zip(all_axes, panels, strict=True):
        draw(axes, picture, title)
        axes.set_axis_off()
    return figure


def _draw_probability(axes: Axes, probability: np.ndarray, title: str) -> None:
    shown = axes.imshow(probability, cmap="cividis", vmin=0, vmax=1)
    axes.set_title(title, fontsize=SMALL, color=INK, pad=4)
    axes.figure.colorbar(shown, ax=axes, shrink=0.7)
