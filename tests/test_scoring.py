from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import pytest
from scored import SIZE, lungs, make_cases

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.metrics import dice, hd95
from lungseg_utils.evaluation.scoring import (
    SCORE_COLUMNS,
    age_band,
    predicted_mask,
    score_run,
    spacing_mm,
)
from lungseg_utils.segment.postprocess import clean_mask


def score(cases, probability, ids=None, name="unet") -> pd.DataFrame:
    return score_run(name, ids or cases.ids, probability, cases, workers=2, progress=False)


def test_rows_and_columns_of_a_perfect_run():
    cases = make_cases([lungs(), lungs()], source=["montgomery", "shenzhen"])
    scores = score(cases, cases.masks.astype(np.float32))
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert scores[["image_id", "stage", "region"]].apply(tuple, axis=1).tolist() == [
        (image_id, stage, region)
        for image_id in ("case00", "case01")
        for stage in ("raw", "post")
        for region in ("both", "right", "left")
    ]
    assert (scores[["dice", "iou", "accuracy"]] == 1).all(axis=None)
    assert (scores[["hd95_px", "assd_px"]] == 0).all(axis=None)
    assert scores["hd95_mm"].notna().tolist() == [True] * 6 + [False] * 6


def test_the_probability_is_resized_before_it_is_thresholded():
    cases = make_cases([lungs()])
    random = np.random.default_rng(0)
    small = random.random((SIZE // 4, SIZE // 4)).astype(np.float32)
    resized = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    wanted = dice((resized > 0.5).astype(np.uint8), lungs())
    scores = score(cases, small[None])
    assert scores["dice"][0] == pytest.approx(wanted)
    thresholded_first = np.kron(small > 0.5, np.ones((4, 4))).astype(np.uint8)
    assert dice(thresholded_first, lungs()) != pytest.approx(wanted)


def test_post_processing_is_the_second_stage():
    island = lungs()
    island[0:3, 30:34] = 1
    cases = make_cases([lungs()])
    scores = score(cases, island[None].astype(np.float32)).set_index(["stage", "region"])
    assert scores.loc[("raw", "both"), "dice"] == dice(island, lungs())
    assert scores.loc[("post", "both"), "dice"] == 1


def test_predicted_mask_is_the_mask_that_is_scored():
    probability = np.random.default_rng(1).random((16, 16))
    raw = predicted_mask(probability, (40, 30), "raw")
    assert raw.shape == (40, 30)
    np.testing.assert_array_equal(predicted_mask(probability, (40, 30), "post"), clean_mask(raw))


def test_millimetres_follow_the_films_size():
    shifted = np.roll(lungs(), 3, axis=0)
    cases = make_cases(
        [lungs()], source=["montgomery"], original_width=[4892], original_height=[4020]
    )
    row = score(cases, shifted[None].astype(np.float32)).iloc[0]
    wanted = (0.0875 * 4892 / SIZE, 0.0875 * 4020 / SIZE)
    assert spacing_mm(cases.index.iloc[0], (SIZE, SIZE)) == pytest.approx(wanted)
    assert row["hd95_px"] == hd95(shifted, lungs()) == 3
    assert row["hd95_mm"] == pytest.approx(3 * wanted[1])


def test_predictions_find_their_case_by_id():
    other = np.roll(lungs(), 4, axis=1)
    cases = make_cases([lungs(), other], patient_group=["a", "b"])
    scores = score(cases, other[None].astype(np.float32), ids=["case01"])
    assert set(scores["patient_group"]) == {"b"}
    assert scores["dice"].min() == 1


@pytest.mark.parametrize(
    ("ids", "predictions", "said"),
    [
        (["case00"], 2, "1 ids and 2 predictions"),
        (["case00", "stranger"], 2, "no case for stranger"),
        (["case00", "case01"], 2, "no mask for case01"),
    ],
)
def test_what_cannot_be_scored_is_refused(ids, predictions, said):
    cases = make_cases([lungs(), lungs()], has_mask=[1, 0])
    with pytest.raises(LungsegError, match=said):
        score(cases, np.zeros((predictions, 8, 8)), ids=ids)


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "under 16"),
        (15, "under 16"),
        (16, "16-39"),
        (39, "16-39"),
        (40, "40-64"),
        (64, "40-64"),
        (65, "65 and over"),
        (101, "65 and over"),
        (math.nan, "unknown"),
    ],
)
def test_age_bands(age, band):
    assert age_band(age) == band
