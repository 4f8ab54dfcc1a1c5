"""What all figures share: colours, sizes, grids of images, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_atomically

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), told apart by colour-blind readers:
# truth is blue, a prediction orange, and what they share green, in every figure.
TRUTH = "#56B4E9"
PREDICTION = "#E69F00"
SHARED = "#009E73"
MODEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK = "#333333"

WIDTH = 9.0
"""Width of a figure in inches: that of a notebook's page."""
SMALL, MEDIUM = 8, 10
"""Font sizes in points: of what stands at an image, and of axes."""

Images = Sequence[np.ndarray] | np.ndarray
# Of a grid of images, in inches: between images, for a line of title, for an entry of the legend.
_GAP, _TITLE, _LEGEND_ENTRY = 0.06, 0.25, 1.95
_CHARACTER = 0.58  # mean width of a character, as a fraction of the font's size


class NotebookFigure(Figure):
    """A figure that a notebook shows as the last value of a cell, and that pyplot never holds."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        FigureCanvasAgg(self).print_png(buffer)
        return buffer.getvalue()


def save_figure(figure: Figure, path: Path | str, dpi: int = 150) -> Path:
    """Write a figure atomically; the suffix (`.png`, `.pdf`, `.svg`) says in which format."""
    path = Path(path)
    return write_atomically(
        path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)
    )


def as_grey(image: np.ndarray) -> np.ndarray:
    """An X-ray as it is drawn: uint8 (H, W) from uint8, or float in [0, 1]; (H, W, 1) is taken."""
    image = image[..., 0] if np.ndim(image) == 3 else np.asarray(image)
    if np.issubdtype(image.dtype, np.floating):
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return image


def as_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as it is drawn: bool (H, W) from uint8 {0, 1} or bool; (H, W, 1) is taken too."""
    mask = np.asarray(mask)
    return (mask[..., 0] if mask.ndim == 3 else mask).astype(bool)


def image_grid(
    rows: int,
    columns: int,
    images: Images,
    legend: Sequence[Artist] = (),
    cell: float = 3.0,
) -> tuple[NotebookFigure, np.ndarray]:
    """A figure of rows × columns images without axes, laid out in inches.

    Args:
        rows: Of images.
        columns: Of images.
        images: Of one shape, (H, W) or (H, W, channels), which sets the figure's.
        legend: Entries of the legend below.
        cell: Width of an image in inches, less where the figure would be wider than a page.

    Returns:
        The figure and its axes, (rows, columns).

    Raises:
        LungsegError: There is no image.
    """
    if not len(images):
        raise LungsegError(
            "A figure of images needs at least one.", "none", "See above why none could be read."
        )
    across = min(cell, (WIDTH - _GAP) / columns - _GAP)
    height, width = np.shape(images[0])[:2]
    down = across * height / width
    width = _GAP + columns * (across + _GAP)
    legend_columns = max(1, min(len(legend), int(width / _LEGEND_ENTRY)))
    legend_rows = -(-len(legend) // legend_columns)
    below = 0.1 + 0.2 * legend_rows if legend else _GAP
    height = rows * (_TITLE + down) + below
    figure = NotebookFigure(figsize=(width, height))
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        x = _GAP + column * (across + _GAP)
        y = height - (row + 1) * (_TITLE + down)
        place = (x / width, y / height, across / width, down / height)
        axes[row, column] = figure.add_axes(place, xticks=[], yticks=[], anchor="N")
        axes[row, column].spines[:].set_visible(False)
    if legend:
        figure.legend(
            handles=list(legend),
            loc="lower center",
            ncols=-(-len(legend) // legend_rows),  # rows of even length
            frameon=False,
            fontsize=SMALL,
            handlelength=1.5,
            borderaxespad=0,
        )
    return figure, axes


def draw_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw an X-ray (see `as_grey`) or an RGB image, uint8 (H, W, 3)."""
    image = np.asarray(image)
    if not (image.ndim == 3 and image.shape[-1] == 3):
        image = as_grey(image)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(_shortened(title, axes), fontsize=SMALL, color=INK, pad=4)


def draw_mask(axes: Axes, mask: np.ndarray, title: str = "") -> None:
    """Draw a mask in black and white."""
    draw_image(axes, as_mask(mask).astype(np.uint8) * 255, title)


def draw_outline(axes: Axes, mask: np.ndarray, colour: str, width: float = 1.2) -> None:
    """Draw a mask's outline, halfway between its pixels and those outside; nothing if empty."""
    mask = as_mask(mask)
    if not mask.any():
        return
    height, across = mask.shape
    # A rim of background closes the outline of what touches the image's edge.
    rim = np.pad(mask, 1).astype(np.float32)
    x, y = np.arange(-1, across + 1), np.arange(-1, height + 1)
    axes.contour(x, y, rim, levels=[0.5], colors=[colour], linewidths=[width])
    axes.set_xlim(-0.5, across - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def outline_handles(*names: str) -> list[Artist]:
    """Entries of a legend of outlines: of `Truth`, `Prediction`, or both."""
    colours = {"Truth": TRUTH, "Prediction": PREDICTION}
    return [Line2D([], [], color=colours[name], linewidth=2.5, label=name) for name in names]


def overlap_handles() -> list[Artist]:
    """Entries of the legend of an overlap map."""
    names = {
        "Found (true positive)": SHARED,
        "Too much (false positive)": PREDICTION,
        "Missed (false negative)": TRUTH,
    }
    return [Patch(color=colour, label=name) for name, colour in names.items()]


def _shortened(title: str, axes: Axes) -> str:
    """A title that fits over its image: the middle of a long file name makes way."""
    width = 72 * axes.get_position().width * axes.figure.get_figwidth()
    room = int(width / (_CHARACTER * SMALL))
    if len(title) <= room:
        return title
    end = room // 2
    return f"{title[: room - end - 1]}…{title[-end:]}"
