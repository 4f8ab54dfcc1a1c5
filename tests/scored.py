"""Small tables of cases and scores for the evaluation's tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lungseg_utils.evaluation.metrics import METRICS
from lungseg_utils.evaluation.scoring import SCORE_COLUMNS
from lungseg_utils.preparation.cases import Cases

SIZE = 64


def lungs(size: int = SIZE) -> np.ndarray:
    """Two rectangles, the right lung one eighth of the image wide and the left one too."""
    mask = np.zeros((size, size), np.uint8)
    eighth = size // 8
    mask[2 * eighth : 6 * eighth, eighth : 3 * eighth] = 1
    mask[2 * eighth : 6 * eighth, 5 * eighth : 7 * eighth] = 1
    return mask


def make_cases(masks: list[np.ndarray], **columns: list) -> Cases:
    """Cases of these masks; every column of the index can be replaced."""
    count = len(masks)
    defaults = {
        "image_id": [f"case{number:02d}" for number in range(count)],
        "source": ["shenzhen"] * count,
        "split": ["test"] * count,
        "tuberculosis": [number % 2 for number in range(count)],
        "sex": ["F"] * count,
        "age_years": pd.array([40] * count, dtype="Int64"),
        "questionable_mask": [0] * count,
        "patient_group": [f"patient{number:02d}" for number in range(count)],
        "original_width": [4020] * count,
        "original_height": [4892] * count,
        "has_mask": [1] * count,
    }
    index = pd.DataFrame(defaults | columns)
    return Cases(np.zeros_like(masks), np.stack(masks), index, "digest")


def make_scores(dice: dict[str, list[float]], **columns: list) -> pd.DataFrame:
    """Rows of `score_run` (both lungs, post) whose Dice is as given for each model."""
    rows = []
    for model, values in dice.items():
        for number, value in enumerate(values):
            row = {
                "model": model,
                "image_id": f"case{number:02d}",
                "source": "shenzhen",
                "split": "test",
                "tuberculosis": 0,
                "sex": "F",
                "age_years": 40.0,
                "age_band": "40-64",
                "questionable_mask": 0,
                "patient_group": f"patient{number:02d}",
                "stage": "post",
                "region": "both",
                "empty_prediction": 0,
                **dict.fromkeys(METRICS, 0.5),
                "hd95_mm": np.nan,
                "assd_mm": np.nan,
                "dice": value,
            }
            rows.append(row | {name: values[number] for name, values in columns.items()})
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
