"""A run's probabilities to a table of scores: a row a case, stage and region."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.metrics import METRICS, Spacing, score_case, split_lungs
from lungseg_utils.preparation.imaging import resize_probability
from lungseg_utils.segment.postprocess import clean_mask, to_mask

if TYPE_CHECKING:
    from lungseg_utils.preparation.cases import Cases

STAGES = ("raw", "post")
AGE_BANDS = {"under 16": 0, "16-39": 16, "40-64": 40, "65 and over": 65}
"""Name of each band and its youngest age in completed years."""
UNKNOWN = "unknown"
PIXEL_SPACING_MM = {"montgomery": 0.0875}
"""Spacing of the original pixels; Shenzhen's is not known."""
CASE_COLUMNS = (
    "image_id",
    "source",
    "split",
    "tuberculosis",
    "sex",
    "age_years",
    "age_band",
    "questionable_mask",
    "patient_group",
)
SCORE_COLUMNS = ("model", *CASE_COLUMNS, "stage", "region", *METRICS, "empty_prediction")


def score_run(
    name: str,
    ids: Sequence[str],
    probability: np.ndarray,
    truth_cases: Cases,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score a run's predictions against the truth, before and after post-processing.

    The probability is resized to the truth's size (bilinear) and thresholded there.

    Args:
        name: The model's name in the table.
        ids: Image ids (N,).
        probability: Float (N, S, S) in [0, 1], at the run's own size.
        truth_cases: Prepared cases at the size to score at; must hold every id, with its mask.
        workers: Threads; None: one a core.
        progress: Show a progress bar.

    Returns:
        `SCORE_COLUMNS`; two rows a case (raw, post), and two more for each lung where the truth
        has two.

    Raises:
        LungsegError: An id is not among the cases or has no mask, or ids and probabilities differ
            in number.
    """
    index = truth_cases.index.reset_index(drop=True)
    positions = _positions(ids, len(probability), index)
    described = describe_cases(index)

    def score(number: int) -> list[dict[str, object]]:
        position = positions[number]
        case = described.iloc[position].to_dict()
        truth = np.asarray(truth_cases.masks[position])
        spacing = spacing_mm(index.iloc[position], truth.shape)
        rows = _score_stages(probability[number], truth, spacing)
        return [{"model": name, **case, **row} for row in rows]

    scored = thread_map(
        score,
        range(len(positions)),
        max_workers=workers or os.cpu_count(),
        desc=f"Scoring {name}",
        unit="case",
        disable=not progress,
    )
    return pd.DataFrame([row for rows in scored for row in rows], columns=list(SCORE_COLUMNS))


def predicted_mask(probability: np.ndarray, size: tuple[int, int], stage: str) -> np.ndarray:
    """The mask that is scored.

    Args:
        probability: Float (S, S) in [0, 1].
        size: Height and width to predict at.
        stage: `raw`, or `post` for the post-processed mask.

    Returns:
        uint8 {0, 1} of that size.
    """
    height, width = size
    mask = to_mask(resize_probability(np.asarray(probability, np.float32), (width, height)))
    return clean_mask(mask) if stage == "post" else mask


def spacing_mm(case: pd.Series, size: tuple[int, int]) -> Spacing | None:
    """Size (x, y) in mm of a pixel of the squashed image; None where the source does not state it.

    Args:
        case: A row of the index: source, original_width and original_height in pixels.
        size: Height and width of the squashed image.
    """
    original = PIXEL_SPACING_MM.get(case["source"])
    if original is None:
        return None
    height, width = size
    return (
        original * float(case["original_width"]) / width,
        original * float(case["original_height"]) / height,
    )


def describe_cases(index: pd.DataFrame) -> pd.DataFrame:
    """What the tables group by: `CASE_COLUMNS` of each case, age in years and its band.

    Args:
        index: The cases' index; age and sex may be missing.
    """
    described = index.copy()
    ages = described["age_years"].to_numpy(dtype=float, na_value=np.nan)
    described["age_years"] = ages
    described["age_band"] = [age_band(age) for age in ages]
    return described[list(CASE_COLUMNS)]


def age_band(age: float) -> str:
    """The band of an age in completed years; `unknown` for NaN."""
    if np.isnan(age):
        return UNKNOWN
    return [name for name, youngest in AGE_BANDS.items() if age >= youngest][-1]


def _score_stages(
    probability: np.ndarray, truth: np.ndarray, spacing: Spacing | None
) -> list[dict[str, object]]:
    territories = split_lungs(truth)
    rows = []
    for stage in STAGES:
        mask = predicted_mask(probability, truth.shape, stage)
        rows += [{"stage": stage, **row} for row in score_case(mask, truth, spacing, territories)]
    return rows


def _positions(ids: Sequence[str], predictions: int, index: pd.DataFrame) -> list[int]:
    if len(ids) != predictions:
        raise LungsegError(
            "Each image id has one prediction.",
            f"{len(ids)} ids and {predictions} predictions",
            "Pass the ids and the probabilities of one file of predictions.",
        )
    place = {image_id: row for row, image_id in enumerate(index["image_id"])}
    absent = [image_id for image_id in ids if image_id not in place]
    if absent:
        raise LungsegError(
            "Every prediction needs its case among the prepared ones.",
            f"no case for {', '.join(absent)}",
            "Run notebook 03_preprocess_and_stitch on the data that the run was trained on.",
        )
    has_mask = index["has_mask"].astype(bool)
    unlabelled = [image_id for image_id in ids if not has_mask[place[image_id]]]
    if unlabelled:
        raise LungsegError(
            "Only cases with a true mask can be scored.",
            f"no mask for {', '.join(unlabelled)}",
            "Score a split with masks: train, val or test.",
        )
    return [place[image_id] for image_id in ids]
