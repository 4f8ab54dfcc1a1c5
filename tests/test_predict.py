"""Predictions that no longer belong to the run or to the X-rays are never scored."""

from __future__ import annotations

import pytest

from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import StaleOutputError
from lungseg_utils.phantom.sets import write_phantom_bundle
from lungseg_utils.preparation.arrays import load_prepared, prepare
from lungseg_utils.segment.predict import check_predictions, predict_split
from lungseg_utils.training.train import train
from lungseg_utils.workspace import Workspace
from tests.tiny import tiny_config


def test_predictions_of_other_weights_or_other_xrays_are_not_scored(tmp_path):
    workspace = Workspace(tmp_path, tmp_path / "scratch")
    bundle = write_phantom_bundle(tmp_path / "bundle", count=8, size=64, unlabelled=2)
    for size in (32, 64):
        prepare(pair_bundle(bundle), workspace, size)
    cases = load_prepared(workspace, 32)
    run = train(tiny_config(), cases.select("train"), cases.select("val"), workspace.run("unet"))
    predict_split(run, cases, "test")
    check_predictions(workspace, run, "test", 64)

    weights = run.best_weights.read_bytes()
    run.best_weights.write_bytes(weights + b"later")
    with pytest.raises(StaleOutputError, match="older than the best weights"):
        check_predictions(workspace, run, "test", 64)
    run.best_weights.write_bytes(weights)

    # The same ids, but other X-rays.
    other = write_phantom_bundle(tmp_path / "other", count=8, seed=1, size=64, unlabelled=2)
    for size, said in ((64, "X-rays of one size"), (32, "04_train_unet")):
        prepare(pair_bundle(other), workspace, size, overwrite=True)
        with pytest.raises(StaleOutputError, match=said):
            check_predictions(workspace, run, "test", 64)
