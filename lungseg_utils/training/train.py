"""Training: one call for the three networks, that goes on where it was interrupted."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
from pathlib import Path

import keras

from lungseg_utils.environment import git_commit, versions
from lungseg_utils.errors import LungsegError, StaleOutputError
from lungseg_utils.files.records import (
    check_reusable,
    discard_folder,
    file_sha256,
    remove_partial,
    write_json,
)
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.models.losses import DiceCoefficient, get_loss
from lungseg_utils.models.registry import build_model
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.training import devices
from lungseg_utils.training.callbacks import (
    Checkpointing,
    DivergenceGuard,
    EpochClock,
    Progress,
    ProgressBar,
    restore_checkpoint,
    settle_best,
    write_history,
)
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import (
    BEST,
    HALF_SIZE,
    HISTORY,
    LAST,
    RECORD,
    Run,
    adopt_former,
    load_run,
    read_run_record,
)

_OF_HALF_SIZE = ("epochs_run", "best_epoch", "best_val_dice", "training_seconds")


class BatchDataset(keras.utils.PyDataset):
    """`CaseBatches` as Keras wants them; `epoch` is set before an epoch begins."""

    def __init__(self, batches: CaseBatches, epoch: int = 0, workers: int = 2) -> None:
        # With workers of its own, Keras turns off tf.data's autotuning, whose shutdown at the
        # end of an epoch was seen to stall for up to a minute on a busy machine.
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=4)
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        return self.batches.batch(self.epoch, index)


def train(
    config: TrainingConfig,
    train_cases: Cases,
    val_cases: Cases,
    run_folder: Path | str,
    overwrite: bool = False,
    tensorboard: bool = False,
) -> Run:
    """Train a network, or go on with its training.

    Writes into the run's folder: `run.json`, `history.csv`, `best.npz` (best validation
    Dice), `last.npz` (to go on from). A second call with the same arguments continues an
    interrupted run and returns a finished one, also one of an earlier version; `epochs` may be
    raised. A first stage at half the size is a run of its own, in the folder `half_size` inside.

    On the CPU a resumed training ends with the same bits as an uninterrupted one if
    `tf.config.experimental.enable_op_determinism()` was called before; else up to rounding.

    Args:
        config: What to train, and how.
        train_cases: Cases at `config.size`, all with a mask.
        val_cases: Likewise; the best epoch is chosen on them.
        run_folder: `runs/<name>` of the workspace.
        overwrite: Delete what an earlier run of this name left, if it was trained with other
            parameters or data; the same run still goes on.
        tensorboard: Write TensorBoard's log too, where it is installed.

    Returns:
        The run.

    Raises:
        StaleOutputError: The folder holds a run with other parameters or data.
        LungsegError: `run.json` or the checkpoint is damaged; says what to delete.
        TrainingDivergedError: The loss became NaN or infinite.
        MemoryExhaustedError: The network or a batch does not fit; names what to lower.
        StorageError: The folder is full, read-only or gone; the last checkpoint is as it was.
        LockedError: Another process trains this run.
    """
    _check_cases(config, train_cases, val_cases)
    folder, cases = Path(run_folder), (train_cases, val_cases)
    size, batch_size = config.size, config.batch_size
    explained_memory = devices.explained_exhaustion(
        f"A step of {batch_size} images of {size} × {size} pixels",
        f"Lower BATCH_SIZE (now {batch_size}) first, then BASE_FILTERS or SIZE (now {size}). A run "
        "that has finished epochs needs another RUN_NAME for that, or OVERWRITE.",
    )
    with hold(folder, "training"), explained(folder), explained_memory:
        return _train(config, cases, folder, overwrite, tensorboard)


def _train(
    config: TrainingConfig,
    cases: tuple[Cases, Cases],
    folder: Path,
    overwrite: bool,
    tensorboard: bool,
) -> Run:
    for place in (folder, folder / HALF_SIZE):
        adopt_former(place)
    record = _open_record(folder, config, *cases, overwrite)
    remove_partial(folder)
    if record.get("finished") and (folder / BEST).is_file():
        print(f"Run {folder.name} is trained already; its best weights are used.")
        return load_run(folder)
    half = None
    if config.half_size_epochs and not (folder / LAST).is_file():
        # On disk before the first stage begins, so that a change of parameters is noticed.
        write_json(folder / RECORD, record)
        print(f"First stage, at {config.size // 2} × {config.size // 2}:")
        halved = [part.halved() for part in cases]
        half = train(config.half_size(), *halved, folder / HALF_SIZE)
        record["half_size"] = {name: half.record[name] for name in _OF_HALF_SIZE}
    print(devices.describe_device())
    keras.utils.set_random_seed(config.seed)
    batches = _batches(config, *cases)
    # A run goes on in the precision it began with, also when Colab gives it another GPU.
    policy = record.get("dtype_policy") or devices.resolve_precision(config.precision)
    with devices.distribution_scope(config.distribute):
        model = compile_model(config, steps=len(batches[0]), policy=policy)
    progress = Progress()
    if (folder / LAST).is_file():
        progress = restore_checkpoint(folder / LAST, model)
        # A killed process may have left what is later than its checkpoint.
        settle_best(folder, progress)
        write_history(folder, progress)
        print(f"Going on after epoch {progress.epoch}.")
    elif half:
        model.set_weights(half.load_model().get_weights())
    record |= {
        "sources": sorted(set(cases[0].index["source"])),
        "versions": versions(),
        "backend": keras.backend.backend(),
        "dtype_policy": policy,
        "gpus": devices.list_gpus(),
        "git_commit": git_commit(),
    }
    write_json(folder / RECORD, record)
    if progress.epoch < config.epochs and not progress.stopped_early:
        keeper = Checkpointing(folder, progress, config.epochs, config.patience)
        _fit(model, config, batches, keeper, _tensorboard(folder) if tensorboard else [])
    record |= {
        "finished": _now(),
        "epochs_run": progress.epoch,
        "stopped_early": progress.stopped_early,
        "best_epoch": progress.best_epoch,
        "best_val_dice": progress.best,
        "best_weights_sha256": file_sha256(folder / BEST),
        "training_seconds": round(sum(row["seconds"] for row in progress.history), 1),
    }
    write_json(folder / RECORD, record, make_folder=False)
    return load_run(folder)


def compile_model(config: TrainingConfig, steps: int, policy: str = "float32") -> keras.Model:
    """Build and compile a configuration's network.

    Args:
        config: The configuration.
        steps: Steps an epoch, for the cosine schedule.
        policy: Keras dtype policy, such as `mixed_bfloat16`.

    Returns:
        The model, its optimizer built.
    """
    with devices.dtype_policy(policy):
        model = build_model(config.model, config.size, config.model_options)
        optimizer = _optimizer(config, steps)
        loss = None if config.model == "pix2pix" else get_loss(config.loss)
        model.compile(optimizer=optimizer, loss=loss, metrics=[DiceCoefficient()])
    # Built before the first step, so that a checkpoint can be restored into it.
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(
    model: keras.Model,
    config: TrainingConfig,
    batches: tuple[CaseBatches, CaseBatches],
    keeper: Checkpointing,
    more: list[keras.callbacks.Callback],
) -> None:
    train_batches, val_batches = batches
    first_epoch = keeper.progress.epoch
    # Under MirroredStrategy, Keras' workers draw on past an epoch's end, before the next is set.
    workers = 1 if config.distribute == "mirrored" else 2
    dataset = BatchDataset(train_batches, first_epoch, workers)
    bar = ProgressBar(len(train_batches), config.epochs, first_epoch)
    with contextlib.closing(bar):
        model.fit(
            dataset,
            validation_data=BatchDataset(val_batches),
            # The order of batches follows from seed and epoch; Keras would draw its own.
            shuffle=False,
            initial_epoch=first_epoch,
            epochs=config.epochs,
            callbacks=[EpochClock(dataset), DivergenceGuard(), bar, keeper, *more],
            verbose=0,
        )


def _optimizer(config: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps * config.epochs)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, beta_1=config.beta_1)
    optimizer = keras.optimizers.AdamW(rate, config.weight_decay, beta_1=config.beta_1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _batches(config: TrainingConfig, train: Cases, val: Cases) -> tuple[CaseBatches, CaseBatches]:
    size, preprocessing, seed = config.batch_size, config.preprocessing, config.seed
    return (
        CaseBatches(train, size, config.augmentation, preprocessing, seed, shuffle=True),
        CaseBatches(val, size, NONE, preprocessing, seed, shuffle=False),
    )


def _open_record(
    folder: Path, config: TrainingConfig, train: Cases, val: Cases, overwrite: bool
) -> dict:
    inputs = {
        "config": config.to_dict(),
        "data": {
            "train_digest": train.digest,
            "train_cases": len(train),
            "val_digest": val.digest,
            "val_cases": len(val),
        },
    }
    if (folder / RECORD).is_file():
        record = read_run_record(folder, *inputs)
        try:
            return _continued(record, inputs, f"runs/{folder.name}")
        except StaleOutputError:
            # A run that failed before its first whole epoch has nothing to lose.
            trained = any((folder / name).exists() for name in (LAST, HISTORY, HALF_SIZE))
            if trained and not overwrite:
                raise
        discard_folder(folder)
    return {"name": folder.name, **inputs, "started": _now()}


def _continued(record: dict, inputs: dict, name: str) -> dict:
    """The record of a run that goes on with these inputs, its epochs perhaps raised."""
    advice = "Choose another RUN_NAME, or pass OVERWRITE to delete the old run."
    known = {key: record[key] for key in inputs}
    check_reusable(known, inputs, name, advice, ignore=["config.epochs"])
    former, epochs = record["config"]["epochs"], inputs["config"]["epochs"]
    if epochs == former:
        return record
    rule = "The epochs of a run can be raised, as long as it did not stop early."
    if epochs < former:
        raise StaleOutputError(rule, f"EPOCHS was {former}, now {epochs}", advice)
    if record.get("stopped_early"):
        stopped = f"EPOCHS was {former}, now {epochs}; it stopped after {record['epochs_run']}"
        raise StaleOutputError(rule, stopped, "Raise PATIENCE under another RUN_NAME.")
    # A cosine schedule stretches to the new end, so the rate rises where training goes on.
    record.setdefault("epochs_raised_after", []).append(former)
    record.pop("finished", None)
    record["config"]["epochs"] = epochs
    return record


def _check_cases(config: TrainingConfig, train: Cases, val: Cases) -> None:
    for name, cases in (("training", train), ("validation", val)):
        if not len(cases) or cases.size != config.size:
            raise LungsegError(
                f"Training needs {name} cases prepared at its own size, {config.size}.",
                f"{len(cases)} cases at {cases.size}",
                "Run notebook 03_preprocess_and_stitch with this SIZE first.",
            )


def _tensorboard(folder: Path) -> list[keras.callbacks.Callback]:
    if importlib.util.find_spec("tensorboard") is None:
        print("TensorBoard is not installed: no log is written. `pip install tensorboard` adds it.")
        return []
    return [keras.callbacks.TensorBoard(log_dir=str(folder / "tensorboard"))]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
