from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest

from lungseg_utils import errors
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.models import registry
from lungseg_utils.phantom.sets import write_phantom_bundle
from lungseg_utils.preparation.arrays import load_prepared, prepare
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.segment.predict import check_predictions, load_predictions, predict_split
from lungseg_utils.training import devices
from lungseg_utils.training.callbacks import EpochClock
from lungseg_utils.training.runs import LAST, load_run, stage_histories
from lungseg_utils.training.train import BatchDataset, compile_model, train
from lungseg_utils.workspace import Workspace
from tests.tiny import step_by_step, tiny_cases, tiny_config

TRAIN, VAL = tiny_cases(8, seed=0), tiny_cases(4, seed=1, split="val")
MORE = tiny_cases(12)  # six batches of two, more than Keras' queue of four holds
# Before a batch normalisation a bias has no gradient but rounding errors, which Adam blows up to
# full steps: there is none.
PLAIN = {"model_options": {"base_filters": 4, "depth": 1}, "augmentation": Augmentation()}
two_device_config = partial(tiny_config, batch_size=2, **PLAIN)


@pytest.fixture(autouse=True, scope="module")
def without_graphs():
    with step_by_step():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unet"
    return train(tiny_config(epochs=8), TRAIN, VAL, folder)


def test_training_learns_and_records_what_it_did(trained):
    history = trained.history
    assert list(history["epoch"]) == list(range(1, 9))
    assert history["val_dice"].max() > 0.8
    assert trained.record["best_val_dice"] == pytest.approx(history["val_dice"].max(), abs=1e-6)
    assert history["epoch"][history["val_dice"].idxmax()] == trained.record["best_epoch"]
    assert trained.record["data"]["train_cases"] == 8
    assert trained.record["versions"]["keras"] == keras.__version__
    assert trained.config == tiny_config(epochs=8)
    assert list(stage_histories([trained])) == ["at full size"]
    # The weights that are kept are those of the best epoch.
    truth = VAL.masks.astype(bool)
    found = trained.load_model().predict(VAL.images[..., None] / 255.0, verbose=0)[..., 0] > 0.5
    overlap = 2 * (truth & found).sum((1, 2)) / (truth.sum((1, 2)) + found.sum((1, 2)))
    assert overlap.mean() == pytest.approx(trained.record["best_val_dice"], abs=1e-4)


def test_the_first_stage_is_a_training_at_half_the_size_that_the_second_goes_on_from(tmp_path):
    config = tiny_config(half_size_epochs=6, half_size_learning_rate=0.01)
    run = train(config, TRAIN, VAL, tmp_path / "unet")

    half = load_run(run.folder / "half_size")
    assert (half.config.size, half.config.epochs, half.record["epochs_run"]) == (16, 6, 6)
    assert run.record["half_size"]["best_val_dice"] == half.record["best_val_dice"]
    drawn = stage_histories([run])
    assert list(drawn) == ["at half the size", "at full size"]
    assert [len(histories["unet"]) for histories in drawn.values()] == [6, 1]
    alone = train(replace(config, half_size_epochs=0), TRAIN, VAL, tmp_path / "alone")
    assert run.history["loss"][0] < 0.8 * alone.history["loss"][0]

    # The second stage goes on without the first.
    shutil.rmtree(run.folder / "half_size")
    raised = train(replace(config, epochs=2), TRAIN, VAL, run.folder)
    assert raised.record["epochs_run"] == 2
    assert raised.record["half_size"] == run.record["half_size"]


def test_an_interrupted_first_stage_goes_on_and_notices_other_parameters(tmp_path, monkeypatch):
    def break_in(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    config = tiny_config(half_size_epochs=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochClock, "on_epoch_begin", break_in)
        train(config, TRAIN, VAL, tmp_path / "unet")

    with pytest.raises(errors.StaleOutputError, match="seed was 0, now 1"):
        train(replace(config, seed=1), TRAIN, VAL, tmp_path / "unet")
    assert train(config, TRAIN, VAL, tmp_path / "unet").record["half_size"]["epochs_run"] == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_finished_run_is_not_trained_again(trained, capsys, overwrite):
    before = (trained.folder / LAST).stat().st_mtime_ns

    again = train(tiny_config(epochs=8), TRAIN, VAL, trained.folder, overwrite)

    assert (trained.folder / LAST).stat().st_mtime_ns == before
    assert again.record["finished"] == trained.record["finished"]
    assert "trained already" in capsys.readouterr().out


def test_raised_epochs_go_on_and_lowered_ones_are_refused_unless_overwritten(tmp_path):
    train(tiny_config(), TRAIN, VAL, tmp_path / "unet")

    longer = train(tiny_config(epochs=2), TRAIN, VAL, tmp_path / "unet")

    assert list(longer.history["epoch"]) == [1, 2]
    assert longer.record["epochs_raised_after"] == [1]
    with pytest.raises(errors.StaleOutputError, match="EPOCHS was 2, now 1"):
        train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    run = train(tiny_config(seed=5), TRAIN, VAL, tmp_path / "unet", overwrite=True)
    assert (run.config.seed, len(run.history)) == (5, 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "config.learning_rate was 0.01, now 0.02"),
        ({"preprocessing": Preprocessing(clahe=True)}, "config.preprocessing.clahe was False"),
        ({"augmentation": Augmentation()}, "config.augmentation.rotation"),
        ({"model_options": {"base_filters": 8}}, "config.model_options.base_filters was 4, now 8"),
    ],
)
def test_changed_parameters_never_reuse_a_run(trained, changes, named):
    with pytest.raises(errors.StaleOutputError, match=re.escape(named)):
        train(tiny_config(epochs=8, **changes), TRAIN, VAL, trained.folder)
    with pytest.raises(errors.StaleOutputError, match="train_digest"):
        train(trained.config, tiny_cases(8, seed=9), VAL, trained.folder)


def test_divergence_stops_with_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def broken_loss(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=(1, 2, 3)) * float("nan")

    monkeypatch.setattr("lungseg_utils.training.train.get_loss", lambda name: broken_loss)

    with pytest.raises(errors.TrainingDivergedError, match="LEARNING_RATE"):
        train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet" / "best.npz").exists()


def test_cases_of_another_size_are_refused(tmp_path):
    with pytest.raises(errors.LungsegError, match="03_preprocess_and_stitch"):
        train(tiny_config(size=64), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def test_keras_trains_on_the_batches_in_their_order():
    trained_on = []

    class Recording(keras.Model):
        def train_step(self, data):
            trained_on.append(float(keras.ops.sum(data[0])))
            return {"loss": keras.ops.zeros(())}

    batches = CaseBatches(TRAIN, 2, Augmentation(), Preprocessing(), seed=0)
    inputs = keras.Input((32, 32, 1))
    model = Recording(inputs, keras.layers.Conv2D(1, 1)(inputs))
    model.compile(run_eagerly=True)
    dataset = BatchDataset(batches)
    model.fit(dataset, epochs=2, callbacks=[EpochClock(dataset)], shuffle=False, verbose=0)

    expected = [batches.batch(epoch, index)[0].sum() for epoch in (0, 1) for index in range(4)]
    assert trained_on == pytest.approx(expected, rel=1e-5)


def test_weight_decay_spares_biases_and_normalisation():
    model = compile_model(tiny_config(optimizer="adamw", weight_decay=0.1), steps=2)
    decayed = {
        variable.path.split("/")[-1]
        for variable in model.trainable_variables
        if model.optimizer._use_weight_decay(variable)
    }

    assert decayed == {"kernel"}


def test_cosine_schedule_ends_at_zero_after_all_epochs():
    model = compile_model(tiny_config(schedule="cosine", epochs=4, learning_rate=0.5), steps=10)
    rates = [float(model.optimizer._learning_rate(step)) for step in (0, 20, 40)]

    assert rates == pytest.approx([0.5, 0.25, 0.0], abs=1e-6)


def test_mixed_precision_trains_goes_on_and_keeps_float32_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "resolve_precision", lambda wanted: "mixed_float16")
    train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    # On another GPU, which would train in another precision.
    monkeypatch.setattr(devices, "resolve_precision", lambda wanted: "float32")

    run = train(tiny_config(epochs=2), TRAIN, VAL, tmp_path / "unet")

    assert run.record["dtype_policy"] == "mixed_float16"
    assert len(run.history) == 2 and np.isfinite(run.history["loss"]).all()
    assert {weight.dtype for weight in run.load_model().get_weights()} == {np.dtype(np.float32)}
    assert keras.config.dtype_policy().name == "float32"


def test_two_devices_train_and_go_on_as_one(tmp_path):
    # Logical devices are set before TensorFlow starts, so this runs in a process of its own, which
    # can hold one strategy only.
    script = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU"))
tf.distribute.MirroredStrategy = lambda devices: strategy
from tests.test_training import MORE, VAL, two_device_config
from lungseg_utils.training.train import train
for epochs in (1, 3):  # the second call must change its batches between two epochs
    train(two_device_config(distribute="mirrored", epochs=epochs), MORE, VAL, sys.argv[1])
assert strategy.num_replicas_in_sync == 2
"""
    command = [sys.executable, "-c", script, str(tmp_path / "two")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    two = load_run(tmp_path / "two").history

    one = train(two_device_config(epochs=3), MORE, VAL, tmp_path / "one").history

    assert list(two["epoch"]) == [1, 2, 3]
    np.testing.assert_allclose(two[["loss", "val_loss"]], one[["loss", "val_loss"]], rtol=1e-3)


def test_prediction_file_follows_the_run_and_is_not_made_twice(trained):
    path = predict_split(trained, VAL, "val", batch_size=3)
    first = path.stat().st_mtime_ns
    assert path == trained.folder / "predictions" / "val.npz"

    ids, probability = load_predictions(trained.folder, "val")
    expected = trained.load_model().predict(VAL.images[..., None] / 255.0, verbose=0)[..., 0]
    np.testing.assert_allclose(probability, expected, atol=1e-3)
    assert ids == VAL.ids
    predict_split(trained, VAL, "val")
    assert path.stat().st_mtime_ns == first
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.LungsegError, match=r"val\.npz(.|\n)*Delete the file"):
        load_predictions(trained.folder, "val")
    predict_split(trained, VAL, "val")
    np.testing.assert_allclose(load_predictions(trained.folder, "val")[1], expected, atol=1e-3)


def test_preprocessing_of_the_run_is_replayed(tmp_path):
    config = tiny_config(preprocessing=Preprocessing(normalise="minmax"))
    run = train(config, TRAIN, VAL, tmp_path / "unet")
    predict_split(run, VAL, "val")

    low, high = VAL.images.min((1, 2), keepdims=True), VAL.images.max((1, 2), keepdims=True)
    stretched = np.round((VAL.images - low) * (255.0 / (high - low))) / 255
    expected = run.load_model().predict(stretched[..., None], verbose=0)[..., 0]
    np.testing.assert_allclose(load_predictions(run.folder, "val")[1], expected, atol=5e-3)


def test_missing_run_and_missing_predictions_name_the_notebook(tmp_path, trained):
    with pytest.raises(errors.MissingInputError, match="05_train_unetpp"):
        load_run(tmp_path / "unetpp")
    with pytest.raises(errors.MissingInputError, match="04_train_unet"):
        load_predictions(trained.folder, "test")


def test_a_damaged_run_is_mended_as_its_errors_advise(tmp_path):
    folder, config = tmp_path / "unet", tiny_config()
    run = train(config, TRAIN, VAL, folder)
    run.best_weights.write_bytes(run.best_weights.read_bytes()[:500])
    (folder / "run.json").write_text("{")

    with pytest.raises(errors.LungsegError, match=r"best\.npz \(SHA-256") as weights:
        run.load_model()
    for overwrite in (False, True):
        with pytest.raises(errors.LungsegError, match=r"run\.json \(JSONDecodeError") as record:
            train(config, TRAIN, VAL, folder, overwrite)
    assert weights.value.advice == record.value.advice
    assert record.value.advice.startswith(f"Delete the folder {folder} ")

    shutil.rmtree(folder)
    train(config, TRAIN, VAL, folder).load_model()


def test_a_run_with_a_damaged_checkpoint_starts_anew_without_it(tmp_path):
    run = train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    last = run.folder / LAST
    with np.load(last) as stored:
        progress = stored["progress"]
    content = last.read_bytes()
    run.best_weights.unlink()
    damages = {
        "its best weights": lambda: last.write_bytes(content),
        "must be whole": lambda: last.write_bytes(content[:5000]),
        "fits the architecture": lambda: np.savez(last, variable_0=0, progress=progress),
    }
    for said, damage in damages.items():
        damage()
        with pytest.raises(errors.LungsegError, match=said):
            train(tiny_config(epochs=2), TRAIN, VAL, run.folder, overwrite=True)

    last.unlink()
    assert list(train(tiny_config(epochs=2), TRAIN, VAL, run.folder).history["epoch"]) == [1, 2]


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_writes_into_the_run_where_it_is_installed(
    tmp_path, monkeypatch, capsys, installed
):
    made, silent = [], keras.callbacks.Callback()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(
        keras.callbacks, "TensorBoard", lambda log_dir: made.append(log_dir) or silent
    )

    train(tiny_config(), TRAIN, VAL, tmp_path / "unet", tensorboard=True)

    assert made == ([str(tmp_path / "unet" / "tensorboard")] if installed else [])
    assert ("TensorBoard is not installed" in capsys.readouterr().out) != installed


def test_run_with_a_pretrained_encoder_loads_without_its_file(tmp_path, monkeypatch):
    # VGG16 itself takes long to build; what matters is that its weights are not asked for.
    asked = []
    monkeypatch.setattr(registry, "build_model", lambda name, size, options: asked.append(options))

    registry.build_architecture("unetpp", 64, {"encoder": "vgg16", "encoder_weights": "gone.h5"})

    assert asked == [{"encoder": "vgg16"}]


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
    with pytest.raises(errors.StaleOutputError, match="older than the best weights"):
        check_predictions(workspace, run, "test", 64)
    run.best_weights.write_bytes(weights)

    # The same ids, but other X-rays.
    other = write_phantom_bundle(tmp_path / "other", count=8, seed=1, size=64, unlabelled=2)
    for size, said in ((64, "X-rays of one size"), (32, "04_train_unet")):
        prepare(pair_bundle(other), workspace, size, overwrite=True)
        with pytest.raises(errors.StaleOutputError, match=said):
            check_predictions(workspace, run, "test", 64)
