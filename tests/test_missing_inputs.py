"""Opened out of order, every notebook names the one to run first."""

from __future__ import annotations

import pytest

from lungseg_utils.series import FailedStepError, run_series

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "named"),
    [
        ("03", "02_download_and_pair"),
        ("04", "03_preprocess_and_stitch"),
        ("05", "03_preprocess_and_stitch"),
        ("06", "03_preprocess_and_stitch"),
        ("07", "03_preprocess_and_stitch"),
        ("08", "03_preprocess_and_stitch"),
    ],
)
def test_a_notebook_without_its_input_names_the_one_to_run_first(
    tmp_path, repository, number, named
):
    with pytest.raises(FailedStepError) as failed:
        run_series(tmp_path, recipe=repository / "recipes" / "test.yaml", only=[number])

    assert f"Run notebook {named}" in str(failed.value)
    assert list((tmp_path / "executed").glob(f"{number}_*.ipynb"))
