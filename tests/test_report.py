from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scored import lungs, make_cases, make_scores

from lungseg_utils.environment import versions
from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation import report
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.workspace import open_workspace


@pytest.fixture
def scores() -> pd.DataFrame:
    """Two models on twelve cases; the second misses one case, and one truth is in one piece."""
    merged = lungs()
    merged[30:34, 8:56] = 1
    cases = make_cases([lungs()] * 11 + [merged], source=["montgomery"] * 6 + ["shenzhen"] * 6)
    good = cases.masks.astype(np.float32)
    poor = np.roll(good, 2, axis=2)
    poor[3] = 0
    runs = {"unet": good, "pix2pix": poor}
    tables = [
        score_run(name, cases.ids, probability, cases, progress=False)
        for name, probability in runs.items()
    ]
    return pd.concat(tables, ignore_index=True)


def test_the_files_hold_what_was_found(scores, tmp_path):
    workspace = open_workspace(tmp_path)
    written = report.write_report(workspace, scores, {"unet": {"digest": "abc"}})
    assert written.folder == workspace.reports
    assert sorted(path.name for path in workspace.reports.iterdir()) == [
        "cases.csv",
        "differences.csv",
        "postprocessing.csv",
        "summary.csv",
        "summary.json",
    ]
    for name in ("cases", "summary", "differences", "postprocessing"):
        read = pd.read_csv(workspace.reports / f"{name}.csv", keep_default_na=True)
        table = getattr(written, name)
        assert list(read.columns) == list(table.columns)
        numbers = table.select_dtypes("number").columns
        np.testing.assert_allclose(read[numbers], table[numbers].astype(float))


def test_the_record_names_inputs_gaps_and_protocol(scores, tmp_path):
    workspace = open_workspace(tmp_path)
    report.write_report(workspace, scores, {"unet": {"digest": "abc"}})
    text = (workspace.reports / "summary.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    record = json.loads(text)
    assert record["inputs"] == {"unet": {"digest": "abc"}}
    assert record["without_two_lungs"] == ["case11"]
    assert {
        (row["model"], row["stage"], row["region"], row["image_id"])
        for row in record["empty_predictions"]
    } == {
        ("pix2pix", stage, region, "case03")
        for stage in ("raw", "post")
        for region in ("both", "right", "left")
    }
    assert record["protocol"]["threshold"] == 0.5
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"] == versions()
    cases_file = (workspace.reports / "cases.csv").read_bytes()
    assert record["cases_sha256"] == hashlib.sha256(cases_file).hexdigest()
    headline = {(row["model"], row["stage"]): row for row in record["headline"]}
    assert headline["unet", "post"]["dice"] == {"mean": 1, "low": 1, "high": 1}
    assert headline["unet", "post"]["hd95_mm"] == {"mean": 0, "low": None, "high": None}
    poor = scores.query("model == 'pix2pix' and stage == 'raw' and region == 'both'")
    assert headline["pix2pix", "raw"]["dice"]["mean"] == pytest.approx(poor["dice"].mean())
    assert (headline["pix2pix", "raw"]["n"], headline["pix2pix", "raw"]["empty"]) == (12, 1)


def test_nothing_to_report_is_refused(tmp_path):
    workspace = open_workspace(tmp_path)
    scores = make_scores({"unet": [0.9, 0.8]})
    with pytest.raises(LungsegError, match="no rows"):
        report.write_report(workspace, scores.head(0))
    assert not workspace.reports.exists()
