"""Opened out of order, a notebook names the one to run first, or needs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lungseg_utils.errors import MissingInputError

pytestmark = pytest.mark.slow


def run_cells(notebook: Path, **parameters: object) -> None:
    """Run a notebook's code within this process, where TensorFlow is imported once for all."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace |= parameters


@pytest.mark.parametrize(
    ("name", "named", "parameters"),
    [
        ("03_preprocess_and_stitch", "02_download_and_pair", {}),
        ("04_train_unet", "03_preprocess_and_stitch", {}),
        ("05_train_unetpp", "03_preprocess_and_stitch", {}),
        ("06_train_pix2pix", "03_preprocess_and_stitch", {}),
        ("07_evaluate", "03_preprocess_and_stitch", {}),
        ("08_segment_your_own", "04_train_unet", {"RUN_NAME": "unet"}),
    ],
)
def test_a_notebook_without_its_input_names_the_one_to_run_first(
    tmp_path, repository, name, named, parameters
):
    notebook = repository / "notebooks" / f"{name}.ipynb"
    with pytest.raises(MissingInputError, match=f"Run notebook {named}"):
        run_cells(notebook, WORKSPACE=str(tmp_path), **parameters)


def test_notebook_08_segments_without_any_other_having_run(tmp_path, repository):
    run_cells(repository / "notebooks" / "08_segment_your_own.ipynb", WORKSPACE=str(tmp_path))
    segmented = tmp_path / "segmented" / "shipped-unet"
    masks = sorted(path.name for path in (segmented / "masks").iterdir())
    assert masks == [f"drawn_{number}_mask.png" for number in range(4)]
    assert (segmented / "lungs.csv").is_file()
