from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from handmade import AGE_UNKNOWN, CASES, case_of

from lungseg_utils.errors import LungsegError
from lungseg_utils.manifest import COLUMNS, to_row
from lungseg_utils.preparation.cases import (
    Cases,
    index_of,
    index_text,
    read_index,
    row_texts,
)


@pytest.fixture
def cases() -> Cases:
    index = index_of([case_of(image_id) for image_id in CASES], [True] * 6 + [False])
    images = np.arange(7, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.ones((4, 4), np.uint8)
    return Cases(images, images % 2, index, "digest")


def test_the_index_has_the_manifests_columns_and_their_types(cases):
    assert tuple(cases.index.columns) == (*COLUMNS, "has_mask")
    row = cases.index.iloc[1]
    assert row["image_id"] == AGE_UNKNOWN
    assert (row["sex"], row["published_split"]) == ("", "")
    assert row["age_years"] is pd.NA
    assert cases.index["age_years"].dtype == "Int64"
    assert cases.index["age_years"].sum() == 6 * 34
    for column in ("tuberculosis", "questionable_mask", "has_mask", "original_width"):
        assert cases.index[column].dtype == np.int64
    assert cases.index["tuberculosis"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert cases.index["has_mask"].tolist() == [1] * 6 + [0]


def test_the_index_is_read_back_as_it_was(cases, tmp_path):
    index = cases.index.copy()
    # Words that pandas would take for missing values.
    index["patient_group"] = ["NA", "None", "nan", "null", "0012", 'é, "quoted"', ""]
    path = tmp_path / "index.csv"
    for table in (index, index.assign(age_years=pd.array([None] * 7, "Int64"))):
        path.write_text(index_text(table), encoding="utf-8")
        pd.testing.assert_frame_equal(read_index(path), table)
    assert row_texts(cases.index) == [to_row(case_of(image_id)) for image_id in CASES]


def test_halved_cases_average_images_and_ask_masks_for_a_majority(cases):
    image = np.array([[0, 10, 20, 20], [20, 30, 20, 20]] * 2, np.uint8)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]] * 2, np.uint8)
    rows = np.ones((7, 1, 1), np.uint8)

    half = Cases(image * rows, mask * rows, cases.index, "digest").halved()

    assert half.size == 2
    np.testing.assert_array_equal(half.images[6], [[15, 20], [15, 20]])
    np.testing.assert_array_equal(half.masks[6], [[1, 0], [1, 0]])
    assert half.ids == cases.ids
    assert half.digest != "digest"


def test_selection_keeps_rows_together(cases):
    chosen = cases.select(["train", "test"])
    assert chosen.ids == ["CHNCXR_0001_0", "CHNCXR_0002_1", "MCUCXR_0001_0", "MCUCXR_0002_1"]
    assert chosen.images[:, 0, 0].tolist() == [0, 1, 4, 5]
    assert chosen.masks[:, 0, 0].tolist() == [0, 1, 0, 1]
    assert chosen.index.index.tolist() == [0, 1, 2, 3]
    assert (len(chosen), chosen.size, chosen.digest) == (4, 4, "digest")
    assert cases.select("val").ids == ["CHNCXR_0003_0"]
    assert len(cases.select("val").select("test")) == 0
    with pytest.raises(LungsegError, match="'training'"):
        cases.select(["train", "training"])
    assert cases.take([6, 0]).ids == ["CHNCXR_0005_0", "CHNCXR_0001_0"]
    chosen.images[:] = 9
    assert cases.images.max() == 6


def test_cases_of_one_source(cases):
    montgomery, shenzhen = (cases.of_source(name) for name in ("montgomery", "shenzhen"))
    assert montgomery.ids == ["MCUCXR_0001_0", "MCUCXR_0002_1"]
    assert montgomery.images[:, 0, 0].tolist() == [4, 5]
    assert montgomery.index.index.tolist() == [0, 1]
    assert shenzhen.ids == [name for name in cases.ids if name.startswith("CHNCXR")]
    assert set(shenzhen.index["source"]) == {"shenzhen"}
    assert cases.of_source("all") is cases
    assert len(montgomery.of_source("shenzhen")) == 0
    assert montgomery.select("train").ids == cases.select("train").of_source("montgomery").ids
    with pytest.raises(LungsegError, match=r"all, montgomery, shenzhen\.\n.*'jsrt'\n.*Correct"):
        cases.of_source("jsrt")


def test_arrays_and_index_belong_together(cases):
    with pytest.raises(LungsegError, match="one row a case"):
        Cases(cases.images, cases.masks, cases.index[:3], "")
    with pytest.raises(LungsegError, match="one row a case"):
        Cases(cases.images, cases.masks[:, :2], cases.index, "")
