"""Opened out of order, a notebook names the one to run first, or needs none."""

from __future__ import annotations

import pytest

from lungseg_utils.segment.shipped import INDEX, WEIGHTS
from tools.series import FailedStepError, run_series

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "named"),
    [
        ("03", "02_download_and_pair"),
        ("04", "03_preprocess_and_stitch"),
        ("05", "03_preprocess_and_stitch"),
        ("06", "03_preprocess_and_stitch"),
        ("07", "03_preprocess_and_stitch"),
        ("08", "04_train_unet"),
    ],
)
def test_a_notebook_without_its_input_names_the_one_to_run_first(
    tmp_path, repository, number, named
):
    with pytest.raises(FailedStepError) as failed:
        run_series(tmp_path, recipe=repository / "recipes" / "test.yaml", only=[number])

    assert f"Run notebook {named}" in str(failed.value)
    assert list((tmp_path / "executed").glob(f"{number}_*.ipynb"))


@pytest.mark.skipif(
    not (WEIGHTS / INDEX).is_file(), reason="no weights have been shipped yet: no weights.json"
)
def test_notebook_08_segments_without_any_other_having_run(tmp_path):
    run_series(tmp_path, only=["08"])

    segmented = tmp_path / "segmented" / "shipped-unet"
    masks = sorted(path.name for path in (segmented / "masks").iterdir())
    assert masks == [f"drawn_{number}_mask.png" for number in range(4)]
    assert (segmented / "segmented.csv").is_file()
