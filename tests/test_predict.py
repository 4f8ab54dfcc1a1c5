"""Predictions that no longer belong to the run or to the X-rays are never scored."""

from __future__ import annotations

import shutil

import pytest

from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import StaleOutputError
from lungseg_utils.phantom.sets import write_phantom_bundle
from lungseg_utils.preparation.arrays import load_prepared, prepare
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.segment.predict import check_predictions, predict_split
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.train import train
from lungseg_utils.workspace import Workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("workspace")
    workspace = Workspace(root, root / "scratch")
    bundle = write_phantom_bundle(root / "bundle", count=8, size=64, unlabelled=2)
    for size in (32, 64):
        prepare(pair_bundle(bundle), workspace, size)
    train_run(workspace, epochs=1)
    return workspace


def train_run(workspace, epochs):
    cases = load_prepared(workspace, 32)
    config = TrainingConfig(
        size=32,
        model_options={"base_filters": 4, "depth": 2},
        batch_size=4,
        epochs=epochs,
        augmentation=NONE,
    )
    run = train(config, cases.select("train"), cases.select("val"), workspace.run("unet"))
    return run, cases


@pytest.fixture
def workspace(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace", tmp_path / "workspace" / "scratch")


def test_current_predictions_pass_and_those_of_older_weights_do_not(workspace):
    run, cases = train_run(workspace, epochs=1)
    predict_split(run, cases, "test")
    check_predictions(workspace, run, "test", 64)

    run.best_weights.write_bytes(run.best_weights.read_bytes() + b"later")

    with pytest.raises(StaleOutputError, match="older than the best weights"):
        check_predictions(workspace, run, "test", 64)


def test_predictions_of_other_xrays_under_the_same_ids_are_refused(workspace):
    run, cases = train_run(workspace, epochs=1)
    predict_split(run, cases, "test")
    other = write_phantom_bundle(workspace.root / "other", count=8, seed=1, size=64, unlabelled=2)

    prepare(pair_bundle(other), workspace, 64, overwrite=True)
    with pytest.raises(StaleOutputError, match="X-rays of one size"):
        check_predictions(workspace, run, "test", 64)
    prepare(pair_bundle(other), workspace, 32, overwrite=True)
    with pytest.raises(StaleOutputError, match="04_train_unet"):
        check_predictions(workspace, run, "test", 64)
