from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from lungseg_utils.errors import (
    LungsegError,
    MissingInputError,
    StaleOutputError,
    TrainingDivergedError,
)
from lungseg_utils.preparation.augmentation import NONE, Augmentation
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.segment.predict import load_predictions, predict_split, predictions_path
from lungseg_utils.training.callbacks import EpochClock
from lungseg_utils.training.checkpoints import LAST, Progress, restore_checkpoint, save_checkpoint
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import load_run, stage_histories
from lungseg_utils.training.train import BatchDataset, compile_model, train
from tests.tiny import tiny_cases

TRAIN, VAL = tiny_cases(8, seed=0), tiny_cases(4, seed=1, split="val")
MORE = tiny_cases(12)  # six batches of two, more than Keras' queue of four holds
OPTIONS = {"base_filters": 4, "depth": 2, "normalisation": "batch", "dropout": 0.2}
# Before a batch normalisation a bias has no gradient but rounding errors, which Adam blows up to
# full steps: where weights are compared, there is none.
COMPARABLE = {"base_filters": 4, "depth": 2, "normalisation": "none", "dropout": 0.2}


def tiny_config(**changes) -> TrainingConfig:
    values = {
        "size": 32,
        "model_options": OPTIONS,
        "learning_rate": 0.01,
        "batch_size": 4,
        "epochs": 3,
        "augmentation": NONE,
    }
    return TrainingConfig(**values | changes)


def weights_of(run) -> list[np.ndarray]:
    return run.load_model().get_weights()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unet"
    return train(tiny_config(epochs=15, patience=15), TRAIN, VAL, folder)


def test_training_learns_and_records_what_it_did(trained):
    history = trained.history
    assert list(history["epoch"]) == list(range(1, 16))
    assert history["val_dice"].max() > 0.8
    assert trained.record["best_val_dice"] == pytest.approx(history["val_dice"].max(), abs=1e-6)
    assert history["epoch"][history["val_dice"].idxmax()] == trained.record["best_epoch"]
    assert trained.record["data"]["train_cases"] == 8
    assert trained.record["versions"]["keras"] == keras.__version__
    assert trained.config == tiny_config(epochs=15, patience=15)


def test_best_weights_are_those_of_the_best_epoch(trained):
    truth = VAL.masks.astype(bool)
    found = trained.load_model().predict(VAL.images[..., None] / 255.0, verbose=0)[..., 0] > 0.5
    overlap = 2 * (truth & found).sum((1, 2)) / (truth.sum((1, 2)) + found.sum((1, 2)))

    assert overlap.mean() == pytest.approx(trained.record["best_val_dice"], abs=1e-4)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    config = tiny_config(size=64, half_size_epochs=6, half_size_learning_rate=0.01, epochs=2)
    cases = tiny_cases(8, size=64), tiny_cases(4, size=64, seed=1, split="val")
    return train(config, *cases, tmp_path_factory.mktemp("runs") / "unet"), cases


def test_the_first_stage_is_a_training_at_half_the_size_that_the_second_goes_on_from(two_stages):
    run, cases = two_stages
    half = load_run(run.folder / "half_size")
    assert (half.config.size, half.config.epochs, half.record["epochs_run"]) == (32, 6, 6)
    assert run.record["half_size"]["best_val_dice"] == half.record["best_val_dice"]
    drawn = stage_histories([run])
    assert [len(histories["unet"]) for histories in drawn.values()] == [6, 2]

    alone = train(replace(run.config, half_size_epochs=0), *cases, run.folder.parent / "alone")

    assert run.history["loss"][0] < 0.8 * alone.history["loss"][0]


def test_a_second_stage_goes_on_without_its_first(two_stages):
    run, cases = two_stages
    shutil.rmtree(run.folder / "half_size")

    raised = train(replace(run.config, epochs=3), *cases, run.folder)

    assert raised.record["epochs_run"] == 3
    assert raised.record["half_size"] == run.record["half_size"]


def test_an_interrupted_first_stage_goes_on_and_notices_other_parameters(tmp_path, monkeypatch):
    config = tiny_config(size=64, half_size_epochs=2, epochs=1)
    cases = tiny_cases(8, size=64), tiny_cases(4, size=64, seed=1, split="val")
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(
            EpochClock, "on_epoch_begin", lambda self, epoch, logs=None: _break_in(1, epoch)
        )
        train(config, *cases, tmp_path / "unet")

    with pytest.raises(StaleOutputError, match="seed was 0, now 1"):
        train(replace(config, seed=1), *cases, tmp_path / "unet")
    assert train(config, *cases, tmp_path / "unet").record["half_size"]["epochs_run"] == 2


def test_weights_altered_after_the_training_are_refused(trained, tmp_path):
    run = load_run(shutil.copytree(trained.folder, tmp_path / "unet"))
    model = run.load_model()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save_weights(run.best_weights)

    with pytest.raises(LungsegError, match="SHA-256"):
        run.load_model()


def test_finished_run_is_not_trained_again(trained, capsys):
    before = (trained.folder / LAST).stat().st_mtime_ns

    again = train(tiny_config(epochs=15, patience=15), TRAIN, VAL, trained.folder)

    assert (trained.folder / LAST).stat().st_mtime_ns == before
    assert again.record["finished"] == trained.record["finished"]
    assert "trained already" in capsys.readouterr().out


class InterruptionError(Exception):
    pass


def _break_in(wanted: int, epoch: int) -> None:
    if epoch == wanted:
        raise InterruptionError


def test_raised_epochs_go_on_and_lowered_ones_are_refused(tmp_path):
    train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet")

    longer = train(tiny_config(epochs=2), TRAIN, VAL, tmp_path / "unet")

    assert list(longer.history["epoch"]) == [1, 2]
    assert longer.record["epochs_raised_after"] == [1]
    with pytest.raises(StaleOutputError, match="EPOCHS was 2, now 1"):
        train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "config.learning_rate was 0.01, now 0.02"),
        ({"preprocessing": Preprocessing(clahe=True)}, "config.preprocessing.clahe was False"),
        ({"augmentation": Augmentation()}, "config.augmentation.rotation"),
        ({"model_options": OPTIONS | {"base_filters": 8}}, "config.model_options.base_filters"),
    ],
)
def test_changed_parameters_never_reuse_a_run(trained, changes, named):
    with pytest.raises(StaleOutputError, match=named.replace(".", r"\.")):
        train(tiny_config(epochs=15, patience=15, **changes), TRAIN, VAL, trained.folder)


def test_changed_data_never_reuse_a_run(trained):
    other = tiny_cases(8, seed=9)

    with pytest.raises(StaleOutputError, match="train_digest"):
        train(tiny_config(epochs=15, patience=15), other, VAL, trained.folder)


def test_overwrite_starts_anew(tmp_path):
    train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet")

    run = train(tiny_config(epochs=1, seed=5), TRAIN, VAL, tmp_path / "unet", overwrite=True)

    assert run.config.seed == 5
    assert len(run.history) == 1
    before = (run.folder / LAST).stat().st_mtime_ns
    train(tiny_config(epochs=1, seed=5), TRAIN, VAL, run.folder, overwrite=True)
    assert (run.folder / LAST).stat().st_mtime_ns == before


def test_training_stops_when_patience_runs_out(tmp_path):
    # A rate this small changes no pixel, so no epoch after the first is better.
    config = tiny_config(
        learning_rate=1e-12, epochs=9, patience=2, model_options={"base_filters": 4, "depth": 2}
    )

    run = train(config, TRAIN, VAL, tmp_path / "unet")

    assert run.record["stopped_early"]
    assert len(run.history) == 3
    with pytest.raises(StaleOutputError, match="PATIENCE"):
        train(tiny_config(**{**vars(config), "epochs": 20}), TRAIN, VAL, tmp_path / "unet")


def test_divergence_stops_with_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def broken_loss(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=(1, 2, 3)) * float("nan")

    monkeypatch.setattr("lungseg_utils.training.train.get_loss", lambda name: broken_loss)

    with pytest.raises(TrainingDivergedError, match="LEARNING_RATE"):
        train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet" / "best.weights.h5").exists()


def test_cases_of_another_size_are_refused(tmp_path):
    with pytest.raises(LungsegError, match="03_preprocess_and_stitch"):
        train(tiny_config(size=64), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def test_keras_draws_each_batch_of_its_own_epoch():
    seen = []

    class Recording(CaseBatches):
        def batch(self, epoch, index):
            seen.append((epoch, index))
            return super().batch(epoch, index)

    dataset = BatchDataset(Recording(TRAIN, 4, NONE, Preprocessing(), seed=0))
    model = compile_model(tiny_config(), steps=2)
    model.fit(dataset, epochs=3, callbacks=[EpochClock(dataset)], verbose=0)

    # Keras looks at the first batches once to learn their shapes; the last six are trained on,
    # drawn by two threads that may overtake each other.
    drawn = [sorted(seen[-6:][start : start + 2]) for start in (0, 2, 4)]
    assert drawn == [[(epoch, 0), (epoch, 1)] for epoch in range(3)]


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


def test_checkpoint_holds_optimizer_dropout_and_progress(tmp_path):
    config = tiny_config(optimizer="adamw", weight_decay=1e-4, model_options=COMPARABLE)
    model = compile_model(config, steps=2)
    dataset = BatchDataset(CaseBatches(TRAIN, 4, NONE, Preprocessing(), seed=0))
    model.fit(dataset, epochs=1, shuffle=False, verbose=0)
    progress = Progress(epoch=1, best=0.5, best_epoch=1, history=[{"epoch": 1, "loss": 0.3}])
    save_checkpoint(tmp_path / LAST, model, progress)
    other = compile_model(config, steps=2)

    assert restore_checkpoint(tmp_path / LAST, other) == progress
    model.fit(dataset, epochs=1, shuffle=False, verbose=0)
    other.fit(dataset, epochs=1, shuffle=False, verbose=0)
    for left, right in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_truncated_checkpoint_and_foreign_architecture_are_refused(tmp_path):
    model = compile_model(tiny_config(), steps=2)
    save_checkpoint(tmp_path / LAST, model, Progress())
    whole = (tmp_path / LAST).read_bytes()
    other = compile_model(tiny_config(model_options=OPTIONS | {"base_filters": 8}), steps=2)
    with pytest.raises(LungsegError, match="architecture"):
        restore_checkpoint(tmp_path / LAST, other)
    (tmp_path / LAST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LungsegError, match="whole"):
        restore_checkpoint(tmp_path / LAST, model)


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


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_keeps_float32_weights(tmp_path, policy):
    run = train(tiny_config(epochs=1, precision=policy), TRAIN, VAL, tmp_path / policy)

    assert run.record["dtype_policy"] == policy
    assert np.isfinite(run.history["loss"]).all()
    assert {weight.dtype for weight in weights_of(run)} == {np.dtype(np.float32)}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("model", "options", "changes"),
    [
        ("unetpp", {"base_filters": 4, "depth": 2}, {}),
        ("pix2pix", {"base_filters": 4}, {"batch_size": 1, "beta_1": 0.5, "learning_rate": 2e-3}),
    ],
)
def test_the_other_networks_train_resume_and_predict_by_the_same_call(
    tmp_path, model, options, changes
):
    config = tiny_config(model=model, model_options=options, epochs=1, **changes)
    train(config, TRAIN, VAL, tmp_path / model)
    config = tiny_config(model=model, model_options=options, epochs=2, **changes)

    run = train(config, TRAIN, VAL, tmp_path / model)

    assert list(run.history["epoch"]) == [1, 2]
    predict_split(run, VAL, "val")
    ids, probability = load_predictions(run.folder, "val")
    assert ids == VAL.ids
    assert probability.min() >= 0 and probability.max() <= 1


def test_two_devices_train_and_go_on_as_one(tmp_path):
    # Logical devices are set before TensorFlow starts, and a process holds one strategy only: so
    # each part of the training runs in a process of its own.
    script = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.test_training import MORE, VAL, two_device_config
from lungseg_utils.training.train import train
train(two_device_config("mirrored", epochs=int(sys.argv[2])), MORE, VAL, sys.argv[1])
assert len(tf.config.list_logical_devices("CPU")) == 2
"""
    # Three epochs in two processes: the second one must change its batches between two epochs.
    for epochs in ("1", "3"):
        command = [sys.executable, "-c", script, str(tmp_path / "two"), epochs]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    two = load_run(tmp_path / "two").history

    one = train(two_device_config("none", epochs=3), MORE, VAL, tmp_path / "one").history

    assert list(two["epoch"]) == [1, 2, 3]
    np.testing.assert_allclose(two[["loss", "val_loss"]], one[["loss", "val_loss"]], rtol=1e-3)


def two_device_config(distribute: str, epochs: int) -> TrainingConfig:
    options = {**COMPARABLE, "dropout": 0.0}
    return tiny_config(
        distribute=distribute,
        epochs=epochs,
        model_options=options,
        batch_size=2,
        augmentation=Augmentation(),
    )


def test_prediction_file_follows_the_run_and_is_not_made_twice(trained):
    path = predict_split(trained, VAL, "val", batch_size=3)
    first = path.stat().st_mtime_ns
    assert path == predictions_path(trained.folder, "val")

    ids, probability = load_predictions(trained.folder, "val")
    expected = trained.load_model().predict(VAL.images[..., None] / 255.0, verbose=0)[..., 0]
    np.testing.assert_allclose(probability, expected, atol=1e-3)
    assert ids == VAL.ids
    predict_split(trained, VAL, "val")
    assert path.stat().st_mtime_ns == first
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LungsegError, match=r"val\.npz(.|\n)*Delete the file"):
        load_predictions(trained.folder, "val")
    predict_split(trained, VAL, "val")
    np.testing.assert_allclose(load_predictions(trained.folder, "val")[1], expected, atol=1e-3)


def test_preprocessing_of_the_run_is_replayed(tmp_path):
    config = tiny_config(epochs=1, preprocessing=Preprocessing(normalise="minmax"))
    run = train(config, TRAIN, VAL, tmp_path / "unet")
    predict_split(run, VAL, "val")

    low, high = VAL.images.min((1, 2), keepdims=True), VAL.images.max((1, 2), keepdims=True)
    stretched = np.round((VAL.images - low) * (255.0 / (high - low))) / 255
    expected = run.load_model().predict(stretched[..., None], verbose=0)[..., 0]
    np.testing.assert_allclose(load_predictions(run.folder, "val")[1], expected, atol=5e-3)


def test_missing_run_and_missing_predictions_name_the_notebook(tmp_path, trained):
    with pytest.raises(MissingInputError, match="05_train_unetpp"):
        load_run(tmp_path / "unetpp")
    with pytest.raises(MissingInputError, match="04_train_unet"):
        load_predictions(trained.folder, "test")


def test_a_damaged_run_is_mended_as_its_errors_advise(tmp_path):
    folder, config = tmp_path / "unet", tiny_config(epochs=1)
    run = train(config, TRAIN, VAL, folder)
    run.best_weights.write_bytes(run.best_weights.read_bytes()[:500])
    (folder / "run.json").write_text("{")

    with pytest.raises(LungsegError, match=r"best\.weights\.h5") as weights:
        run.load_model()
    for overwrite in (False, True):
        with pytest.raises(LungsegError, match=r"run\.json \(JSONDecodeError") as record:
            train(config, TRAIN, VAL, folder, overwrite)
    assert weights.value.advice == record.value.advice
    assert record.value.advice.startswith(f"Delete the folder {folder} ")

    shutil.rmtree(folder)
    train(config, TRAIN, VAL, folder).load_model()


def test_a_run_with_a_damaged_checkpoint_starts_anew_without_it(tmp_path):
    folder = tmp_path / "unet"
    train(tiny_config(epochs=1), TRAIN, VAL, folder)
    (folder / LAST).write_bytes(b"PK")

    with pytest.raises(LungsegError) as caught:
        train(tiny_config(epochs=2), TRAIN, VAL, folder, overwrite=True)
    assert caught.value.advice == "Delete it to start this run anew."

    (folder / LAST).unlink()
    assert list(train(tiny_config(epochs=2), TRAIN, VAL, folder).history["epoch"]) == [1, 2]


def test_tensorboard_writes_into_the_run_where_it_is_installed(tmp_path, monkeypatch):
    made = []

    class Recording(keras.callbacks.Callback):
        def __init__(self, log_dir):
            super().__init__()
            made.append(log_dir)

    monkeypatch.setattr(
        "lungseg_utils.training.train.importlib.util.find_spec", lambda name: object()
    )
    monkeypatch.setattr(keras.callbacks, "TensorBoard", Recording)

    train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet", tensorboard=True)

    assert made == [str(tmp_path / "unet" / "tensorboard")]


def test_a_run_goes_on_in_its_own_precision_on_another_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lungseg_utils.training.train.resolve_precision", lambda wanted: "mixed_float16"
    )
    train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet")
    monkeypatch.setattr("lungseg_utils.training.train.resolve_precision", lambda wanted: "float32")

    run = train(tiny_config(epochs=2), TRAIN, VAL, tmp_path / "unet")

    assert run.record["dtype_policy"] == "mixed_float16"
    assert len(run.history) == 2


def test_tensorboard_is_left_out_with_a_word_where_it_is_not_installed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("lungseg_utils.training.train.importlib.util.find_spec", lambda name: None)

    train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet", tensorboard=True)

    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert not (tmp_path / "unet" / "tensorboard").exists()


def test_run_with_a_pretrained_encoder_loads_without_its_file(tmp_path, monkeypatch):
    # VGG16 itself takes long to build; what matters is that its weights are not asked for.
    from lungseg_utils.models import registry

    asked = []
    monkeypatch.setattr(registry, "build_model", lambda name, size, options: asked.append(options))

    registry.build_architecture("unetpp", 64, {"encoder": "vgg16", "encoder_weights": "gone.h5"})

    assert asked == [{"encoder": "vgg16"}]
