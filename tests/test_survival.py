"""A training that is interrupted, loses its drive or its memory costs no epoch and no exactness."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from lungseg_utils import workspace
from lungseg_utils.errors import LockedError, MemoryExhaustedError, StorageError
from lungseg_utils.files import records, storage
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.segment.predict import predict_split
from lungseg_utils.training import callbacks
from lungseg_utils.training.checkpoints import LAST, local_path
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.memory import explained_exhaustion, is_exhaustion
from lungseg_utils.training.runs import BEST, Run
from lungseg_utils.training.train import train
from tests.tiny import tiny_cases

TRAIN, VAL = tiny_cases(4, size=32), tiny_cases(2, seed=1, split="val")
NETWORKS = {
    "unet": {"base_filters": 2, "depth": 1, "dropout": 0.2},
    "unetpp": {"base_filters": 2, "depth": 1},
    "pix2pix": {"base_filters": 1, "discriminator_filters": 1, "depth": 4},
}


class InterruptionError(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def exact_and_step_by_step():
    """The same bits every time; without graphs, whose tracing takes longer than these steps."""
    tf.config.experimental.enable_op_determinism()
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", 0)
        yield
    tf.config.run_functions_eagerly(False)
    disable_op_determinism()


@pytest.fixture(autouse=True)
def local_disk(tmp_path, monkeypatch) -> Path:
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    return tmp_path / "local"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return train(tiny_config(), TRAIN, VAL, tmp_path_factory.mktemp("undisturbed") / "unet")


def tiny_config(**changes) -> TrainingConfig:
    values = {
        "size": 32,
        "model_options": NETWORKS["unet"],
        "batch_size": 2,
        "epochs": 3,
        "schedule": "cosine",
        "learning_rate": 0.01,
        "augmentation": Augmentation(),
    }
    return TrainingConfig(**values | changes)


def arrays_of(run: Run) -> dict[str, np.ndarray]:
    """All that a training leaves, save for its times."""
    with np.load(run.folder / LAST) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "progress"}
    for index, array in enumerate(run.load_model().get_weights()):
        arrays[f"best weights {index}"] = array
    return arrays


def check_same(run: Run, other: Run) -> None:
    pd.testing.assert_frame_equal(
        run.history.drop(columns="seconds"), other.history.drop(columns="seconds"), check_exact=True
    )
    for name in ("best_epoch", "best_val_dice", "epochs_run", "stopped_early"):
        assert run.record[name] == other.record[name]
    arrays, others = arrays_of(run), arrays_of(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def interrupt_at(patch, kind: str, number: int) -> None:
    """Break off at a training step, or before or after a file of the run is written."""
    owner, name = {
        "step": (callbacks.DivergenceGuard, "on_train_batch_end"),
        "before file": (records, "_write_once"),
        "after file": (records, "_write_once"),
    }[kind]
    original, calls = getattr(owner, name), []

    def interrupting(*arguments, **options):
        calls.append(1)
        if kind != "after file" and len(calls) == number:
            raise InterruptionError
        original(*arguments, **options)
        if len(calls) == number:
            raise InterruptionError

    patch.setattr(owner, name, interrupting)


def train_interrupted(monkeypatch, config: TrainingConfig, folder: Path, points: list) -> Run:
    for kind, number in points:
        with monkeypatch.context() as patch, pytest.raises(InterruptionError):
            interrupt_at(patch, kind, number)
            train(config, TRAIN, VAL, folder)
    return train(config, TRAIN, VAL, folder)


def test_interruptions_change_no_bit_of_what_is_trained(tmp_path, monkeypatch, undisturbed):
    # run.json at the start (and what a checkpoint brings back), then each epoch's best weights
    # where they are better, its history, its checkpoint.
    points = [("step", 1), ("after file", 2), ("step", 3), ("after file", 3), ("before file", 7)]
    run = train_interrupted(monkeypatch, tiny_config(), tmp_path / "unet", points)
    check_same(run, undisturbed)


@pytest.mark.parametrize("network", ["unetpp", "pix2pix"])
def test_the_other_networks_survive_likewise(tmp_path, monkeypatch, network):
    config = tiny_config(model=network, model_options=NETWORKS[network], epochs=2)
    whole = train(config, TRAIN, VAL, tmp_path / "undisturbed")
    check_same(train_interrupted(monkeypatch, config, tmp_path / network, [("step", 3)]), whole)


def test_best_and_patience_are_kept_over_an_interruption(tmp_path, monkeypatch):
    # A rate this small changes no pixel, so no epoch after the first is better.
    config = tiny_config(learning_rate=1e-12, epochs=9, patience=2, batch_size=4)

    run = train_interrupted(monkeypatch, config, tmp_path / "unet", [("step", 3)])

    assert run.record["epochs_run"] == 3 and run.record["stopped_early"]
    assert run.record["best_epoch"] == 1


def test_results_later_than_the_checkpoint_are_brought_back_to_it(tmp_path, monkeypatch):
    config = tiny_config()
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        interrupt_at(patch, "step", 3)
        train(config, TRAIN, VAL, tmp_path / "unet")
    weights = (tmp_path / "unet" / BEST).read_bytes()
    # As if the lost machine had gone on to an epoch that this one does not reach again.
    (tmp_path / "unet" / BEST).write_bytes(b"of a later epoch")
    (tmp_path / "unet" / "history.csv").write_text("epoch\n1\n2\n")
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        interrupt_at(patch, "step", 1)
        train(config, TRAIN, VAL, tmp_path / "unet")

    assert (tmp_path / "unet" / BEST).read_bytes() == weights
    assert len(pd.read_csv(tmp_path / "unet" / "history.csv")) == 1


def lose_folder(patch, folder: Path, epoch: int) -> None:
    """Unmount the drive, as it were, before an epoch's files are written."""
    original = callbacks.Checkpointing.on_epoch_end

    def losing(self, index, logs=None):
        if index + 1 == epoch:
            folder.parent.rename(folder.parent.with_name("away"))
        original(self, index, logs)

    patch.setattr(callbacks.Checkpointing, "on_epoch_end", losing)


def test_a_lost_drive_costs_nothing_once_it_is_back(tmp_path, monkeypatch, capsys, undisturbed):
    config, folder = tiny_config(), tmp_path / "drive" / "unet"
    with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
        lose_folder(patch, folder, epoch=2)
        train(config, TRAIN, VAL, folder)
    [kept] = (tmp_path / "local").rglob("*.npz")
    assert str(kept) in caught.value.advice and "up to epoch 2" in caught.value.advice
    assert not folder.parent.exists()  # nothing was written below the empty mount point

    (tmp_path / "away").rename(folder.parent)
    run = train(config, TRAIN, VAL, folder)

    assert "Going on after epoch 2." in capsys.readouterr().out
    assert not kept.exists()
    check_same(run, undisturbed)


def test_a_full_drive_leaves_the_checkpoint_of_before_and_keeps_the_last_one(tmp_path, monkeypatch):
    config, folder = tiny_config(epochs=2), tmp_path / "unet"
    original, writes = records._write_once, []

    def full(path, write, make_folder):
        if folder in path.parents and len(writes) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        writes.append(path.name)
        original(path, write, make_folder)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Free some space") as e:
        patch.setattr(records, "_write_once", full)
        train(config, TRAIN, VAL, folder)
    assert "kept in" in e.value.advice
    assert writes[:4] == ["run.json", BEST, "history.csv", LAST]
    with np.load(folder / LAST) as stored:
        assert '"epoch": 1' in str(stored["progress"])
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    shutil.rmtree(tmp_path / "local" / "lungseg_scratch")
    assert train(config, TRAIN, VAL, folder).record["epochs_run"] == 2


@pytest.mark.parametrize("fault", ["no room", "no folder"])
def test_a_full_local_disk_is_named_and_costs_nothing(
    tmp_path, monkeypatch, local_disk, undisturbed, fault
):
    config, folder = tiny_config(), tmp_path / "unet"

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
        if fault == "no room":
            patch.setattr(workspace.shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
        else:
            patch.setattr(tempfile, "mkdtemp", full)
        train(config, TRAIN, VAL, folder)
    assert str(local_disk) in caught.value.received
    assert f"up to epoch 1 is kept in {folder / LAST}" in caught.value.advice
    assert not list(local_disk.rglob("*.npz"))

    check_same(train(config, TRAIN, VAL, folder), undisturbed)


def test_a_checkpoint_on_the_local_disk_is_taken_by_its_own_run_only(tmp_path):
    folder = tmp_path / "unet"
    assert local_path(folder, "yesterday") != local_path(folder, "today")
    assert local_path(folder, "today") != local_path(tmp_path / "other" / "unet", "today")


def test_a_drive_that_fails_in_passing_does_not_stop_a_training(tmp_path, monkeypatch):
    original, failed = Path.replace, []

    def passing(self, target):
        if len(failed) < 3 and Path(target).name == LAST:
            failed.append(1)
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return original(self, target)

    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Path, "replace", passing)
    assert train(tiny_config(epochs=1), TRAIN, VAL, tmp_path / "unet").record["epochs_run"] == 1
    assert len(failed) == 3


def test_a_run_that_another_process_trains_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    with (
        storage.hold(tmp_path / "unet", "training of the other notebook"),
        pytest.raises(LockedError, match="by process"),
    ):
        train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def exhausted(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16]")


def test_out_of_memory_says_what_to_lower_and_lowering_it_needs_no_new_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(MemoryExhaustedError) as caught:
        patch.setattr(keras.Model, "train_step", exhausted)
        train(tiny_config(), TRAIN, VAL, tmp_path / "unet")
    assert "2 images of 32 × 32" in caught.value.rule
    assert "OOM when allocating tensor" in caught.value.received
    assert all(name in caught.value.advice for name in ("BATCH_SIZE (now 2)", "SIZE", "BASE_"))
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)

    run = train(tiny_config(batch_size=1, epochs=1), TRAIN, VAL, tmp_path / "unet")

    assert run.config.batch_size == 1
    monkeypatch.setattr(Run, "load_model", lambda self: exhausted)
    with pytest.raises(MemoryExhaustedError, match=r"batch of 2 X-rays(.|\n)*Lower batch_size"):
        predict_split(run, VAL, "val")
    assert not (tmp_path / "unet" / "predictions").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), True),  # torch
        (type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of"), True),  # JAX
        (type("XlaRuntimeError", (RuntimeError,), {})("INVALID_ARGUMENT: shapes"), False),
        (np._core._exceptions._ArrayMemoryError((9, 9), np.dtype("u1")), True),
        (RuntimeError("the memory of it"), False),
    ],
)
def test_out_of_memory_is_known_by_its_name_on_every_backend(error, expected):
    assert is_exhaustion(error) == expected
    with (
        pytest.raises(MemoryExhaustedError if expected else RuntimeError),
        explained_exhaustion("It", "Lower it."),
    ):
        raise error
