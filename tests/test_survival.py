"""A training that is interrupted, loses its drive or its memory costs no epoch and no exactness."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from lungseg_utils import errors
from lungseg_utils.files import records, storage
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.segment.predict import predict_split
from lungseg_utils.training import callbacks
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.devices import explained_exhaustion
from lungseg_utils.training.runs import BEST, LAST, Run
from lungseg_utils.training.train import train
from tests.tiny import step_by_step, tiny_cases, tiny_config

TRAIN, VAL = tiny_cases(4, size=32), tiny_cases(2, seed=1, split="val")
WAITING = ".best"  # weights whose checkpoint is not written yet

exact_config = partial(
    tiny_config, batch_size=2, epochs=3, schedule="cosine", augmentation=Augmentation()
)


@pytest.fixture(autouse=True, scope="module")
def exact_and_step_by_step():
    """The same bits every time, and a checkpoint after every epoch."""
    tf.config.experimental.enable_op_determinism()
    with step_by_step(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", 0)
        yield
    disable_op_determinism()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return train(exact_config(), TRAIN, VAL, tmp_path_factory.mktemp("undisturbed") / "unet")


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
    files, others = ({path.name for path in one.folder.iterdir()} for one in (run, other))
    assert files == others
    np.testing.assert_equal(arrays_of(run), arrays_of(other))


def interrupt_at(patch, kind: str, number: int, name: str = "") -> None:
    """Break off after a training step, or before or after a file of that name is written."""
    owner, method = {
        "step": (callbacks.DivergenceGuard, "on_train_batch_end"),
        "before": (records, "_write_once"),
        "after": (records, "_write_once"),
    }[kind]
    original, calls = getattr(owner, method), []

    def interrupting(subject, *arguments, **options):
        if kind == "step" or subject.name.startswith(name):
            calls.append(1)
        if kind == "before" and len(calls) == number:
            raise KeyboardInterrupt
        original(subject, *arguments, **options)
        if len(calls) == number:
            raise KeyboardInterrupt

    patch.setattr(owner, method, interrupting)


def interrupt(config: TrainingConfig, folder: Path, *point) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, *point)
        train(config, TRAIN, VAL, folder)


def test_interruptions_change_no_bit_of_what_is_trained(tmp_path, undisturbed):
    for point in [
        ("step", 1),
        ("after", 1, WAITING),
        ("after", 1, LAST),
        ("step", 1),
        ("before", 1, LAST),
        ("after", 1, "history"),
        ("step", 3),
        ("before", 1, LAST),
        ("after", 1, LAST),
        ("after", 1, "run.json"),
    ]:
        interrupt(exact_config(), tmp_path / "unet", *point)
    check_same(train(exact_config(), TRAIN, VAL, tmp_path / "unet"), undisturbed)


@pytest.mark.parametrize("network", ["unetpp", "pix2pix"])
def test_the_other_networks_survive_likewise(tmp_path, network):
    config = tiny_config(network, epochs=2, augmentation=Augmentation())
    whole = train(config, TRAIN, VAL, tmp_path / "undisturbed")
    interrupt(config, tmp_path / network, "step", 2)
    check_same(train(config, TRAIN, VAL, tmp_path / network), whole)


def test_best_and_patience_are_kept_over_an_interruption(tmp_path):
    # A rate this small changes no pixel, so no epoch after the first is better.
    still = {"learning_rate": 1e-12, "model_options": {"base_filters": 2, "depth": 1}}
    config = exact_config(**still, epochs=9, patience=2, batch_size=4)
    interrupt(config, tmp_path / "unet", "step", 3)

    run = train(config, TRAIN, VAL, tmp_path / "unet")

    assert run.record["epochs_run"] == 3 and run.record["stopped_early"]
    assert run.record["best_epoch"] == 1
    with pytest.raises(errors.StaleOutputError, match="PATIENCE"):
        train(replace(config, epochs=20), TRAIN, VAL, run.folder)


def test_results_later_than_the_checkpoint_are_brought_back_to_it(tmp_path):
    folder = tmp_path / "unet"
    interrupt(exact_config(), folder, "step", 3)
    weights = (folder / BEST).read_bytes()
    # As if the lost machine had gone on to an epoch that this one does not reach again.
    (folder / ".best-of-epoch-2.npz").write_bytes(b"of a later epoch")
    (folder / "history.csv").write_text("epoch\n1\n2\n")
    interrupt(exact_config(), folder, "step", 1)

    assert (folder / BEST).read_bytes() == weights
    assert not list(folder.glob(f"{WAITING}*"))
    assert len(pd.read_csv(folder / "history.csv")) == 1


def test_between_two_checkpoints_the_history_alone_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 300)
    interrupt(exact_config(), tmp_path / "unet", "step", 5)
    assert {path.name for path in (tmp_path / "unet").iterdir()} == {"run.json", "history.csv"}
    assert len(pd.read_csv(tmp_path / "unet" / "history.csv")) == 2


def lose_folder(patch, folder: Path) -> None:
    """Unmount the drive, as it were, before the files of the second epoch are written."""
    original = callbacks.Checkpointing.on_epoch_end

    def losing(self, index, logs=None):
        if index == 1:
            folder.parent.rename(folder.parent.with_name("away"))
        original(self, index, logs)

    patch.setattr(callbacks.Checkpointing, "on_epoch_end", losing)


def fill_disk(patch, folder: Path) -> None:
    """Leave no room for the second epoch's checkpoint."""
    original, writes = records._write_once, []

    def full(path, write, make_folder):
        writes.extend([1] if path.name == LAST else [])
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, write, make_folder)

    patch.setattr(records, "_write_once", full)


@pytest.mark.parametrize(
    ("fault", "advice"), [(lose_folder, "Mount Drive again"), (fill_disk, "Free some space")]
)
def test_a_drive_that_fails_is_told_at_once_and_costs_nothing_once_it_is_well(
    tmp_path, capsys, undisturbed, fault, advice
):
    folder = tmp_path / "drive" / "unet"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(errors.StorageError, match=advice):
        fault(patch, folder)
        train(exact_config(), TRAIN, VAL, folder)
    if (tmp_path / "away").exists():
        assert not folder.parent.exists()  # nothing was written below the empty mount point
        (tmp_path / "away").rename(folder.parent)
    with np.load(folder / LAST) as stored:
        assert '"epoch": 1' in str(stored["progress"])
    assert not list(folder.glob(".partial*"))

    run = train(exact_config(), TRAIN, VAL, folder)

    assert "Going on after epoch 1." in capsys.readouterr().out
    check_same(run, undisturbed)


def make_former(run: Run) -> list[np.ndarray]:
    """Turn a run into one of the earlier version, which kept its best weights twice."""
    with np.load(run.folder / LAST) as stored:
        arrays = dict(stored)
    best = run.load_model().get_weights()
    np.savez(run.folder / LAST, **arrays, **{f"best_{i}": array for i, array in enumerate(best)})
    (run.folder / BEST).unlink()
    (run.folder / "best.weights.h5").write_bytes(b"\x89HDF")
    return best


def test_a_run_of_an_earlier_version_is_taken_over_and_goes_on(tmp_path, undisturbed):
    folder = tmp_path / "unet"
    best = make_former(train(exact_config(epochs=1), TRAIN, VAL, folder))

    run = train(exact_config(epochs=1), TRAIN, VAL, folder)

    for one, other in zip(run.load_model().get_weights(), best, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (folder / "best.weights.h5").exists()
    further = train(exact_config(epochs=2), TRAIN, VAL, folder)
    assert further.record["epochs_run"] == 2

    make_former(further)
    (folder / LAST).unlink()
    with pytest.raises(errors.LungsegError, match=f"Delete the folder {folder} "):
        train(exact_config(epochs=2), TRAIN, VAL, folder)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    with (
        storage.hold(tmp_path / "unet", "training of the other notebook"),
        pytest.raises(errors.LockedError, match="by process"),
    ):
        train(exact_config(), TRAIN, VAL, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def exhausted(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16]")


def test_out_of_memory_says_what_to_lower_and_lowering_it_needs_no_new_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(errors.MemoryExhaustedError) as caught:
        patch.setattr(keras.Model, "train_step", exhausted)
        train(exact_config(), TRAIN, VAL, tmp_path / "unet")
    assert "2 images of 32 × 32" in caught.value.rule
    assert "OOM when allocating tensor" in caught.value.received
    assert all(name in caught.value.advice for name in ("BATCH_SIZE (now 2)", "SIZE", "BASE_"))
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)

    run = train(exact_config(batch_size=1, epochs=1), TRAIN, VAL, tmp_path / "unet")

    assert run.config.batch_size == 1
    monkeypatch.setattr(Run, "load_model", lambda self: exhausted)
    with pytest.raises(errors.MemoryExhaustedError, match="Lower batch_size"):
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
    with (
        pytest.raises(errors.MemoryExhaustedError if expected else RuntimeError),
        explained_exhaustion("It", "Lower it."),
    ):
        raise error
