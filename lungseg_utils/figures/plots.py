"""All figures of the series; each function returns a matplotlib `Figure` and draws nothing else.

The figures never pass through pyplot, so none stays in memory; a notebook shows one as the last
value of a cell, and `save_figure` writes it.
"""

from lungseg_utils.figures.drawing import save_figure
from lungseg_utils.figures.images import (
    compare_models,
    overlap_colours,
    overlap_map,
    overlay,
    prediction_grid,
    show_augmentations,
    show_cleaning,
    show_pairs,
    show_unlabelled,
    show_worst_cases,
)
from lungseg_utils.figures.scores import (
    differences,
    distributions,
    learning_curves,
    per_lung,
    subgroups,
)

__all__ = [
    "compare_models",
    "differences",
    "distributions",
    "learning_curves",
    "overlap_colours",
    "overlap_map",
    "overlay",
    "per_lung",
    "prediction_grid",
    "save_figure",
    "show_augmentations",
    "show_cleaning",
    "show_pairs",
    "show_unlabelled",
    "show_worst_cases",
    "subgroups",
]
