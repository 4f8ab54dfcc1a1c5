"""Weights of a run that were damaged, exchanged or made to do harm: refused, never executed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_json
from lungseg_utils.models.registry import build_model
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import load_run

CONFIGS = {
    "unet": TrainingConfig(size=16, model_options={"base_filters": 2, "depth": 1}),
    "pix2pix": TrainingConfig(
        model="pix2pix", size=32, model_options={"base_filters": 2, "discriminator_filters": 2}
    ),
}


def write_run(folder: Path, config: TrainingConfig) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"config": config.to_dict()})
    model = build_model(config.model, config.size, config.model_options)
    model.save_weights(folder / "best.weights.h5")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "unet", CONFIGS["unet"])


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "unet"))


def refusal(folder: Path) -> str:
    with pytest.raises(LungsegError, match="whole and fit the network") as caught:
        load_run(folder).load_model()
    assert "best.weights.h5" in caught.value.received
    return caught.value.received


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_weights_are_loaded_as_they_were_saved(tmp_path, name):
    run = load_run(write_run(tmp_path / name, CONFIGS[name]))
    model = run.load_model()
    untouched = build_model(name, run.config.size, run.config.model_options)
    assert any(
        np.abs(one - other).max() > 0
        for one, other in zip(model.get_weights(), untouched.get_weights(), strict=True)
    )
    untouched.load_weights(run.best_weights)
    for one, other in zip(model.get_weights(), untouched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights_are_refused(folder, share):
    path = folder / "best.weights.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    with h5py.File(folder / "best.weights.h5", "r+") as file:
        names = []
        file.visititems(lambda name, entry: names.append(name) if hasattr(entry, "dtype") else None)
        file[names[0]][...] = np.nan
    assert "not finite" in refusal(folder)


@pytest.mark.parametrize("options", [{"base_filters": 4}, {"depth": 2}, {"normalisation": "batch"}])
def test_weights_of_another_architecture_are_refused(folder, options):
    model = build_model("unet", 16, CONFIGS["unet"].model_options | options)
    model.save_weights(folder / "best.weights.h5")
    assert "weights, and the network has" in refusal(folder)


def test_weights_of_as_many_numbers_in_other_shapes_are_refused(folder):
    path = folder / "best.weights.h5"
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, entry: names.append(name) if hasattr(entry, "dtype") else None)
        values = file[names[0]][...]
        del file[names[0]]
        file[names[0]] = values.reshape(-1)
    assert refusal(folder)


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_executed(folder, tmp_path):
    trap, path = tmp_path / "executed", folder / "best.weights.h5"
    path.write_bytes(pickle.dumps(Payload(trap)))

    assert "a Python pickle" in refusal(folder)

    assert not trap.exists()
    pickle.loads(path.read_bytes())  # The payload is live.
    assert trap.exists()


@pytest.mark.parametrize(("kind", "said"), [("keras", "zip archive"), ("h5", "a whole model")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_lambda_layer_is_refused_and_never_executed(folder, tmp_path, kind, said):
    trap, saved = tmp_path / "executed", tmp_path / f"model.{kind}"
    inputs = keras.Input((16, 16, 1))
    code = eval(f"lambda x: (__import__('pathlib').Path({str(trap)!r}).touch(), x)[1]")
    outputs = keras.layers.Lambda(code, output_shape=(16, 16, 1))(inputs)
    keras.Model(inputs, outputs).save(saved)
    shutil.copy(saved, folder / "best.weights.h5")
    trap.unlink(missing_ok=True)

    assert said in refusal(folder)

    assert not trap.exists()
    # The payload is live: Keras would have run it, if asked for a whole model.
    loaded = keras.models.load_model(saved, safe_mode=False, compile=False)
    loaded(np.zeros((1, 16, 16, 1), np.float32))
    assert trap.exists()


def test_links_to_other_files_are_refused(folder, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.zeros(3, np.float32)
    with h5py.File(folder / "best.weights.h5", "r+") as file:
        file["layers/more"] = h5py.ExternalLink(tmp_path / "other.h5", "/secret")
    assert "leads elsewhere" in refusal(folder)


@pytest.mark.parametrize("dtype", [h5py.string_dtype(), np.dtype("S5"), np.dtype([("a", "f4")])])
def test_what_is_no_number_is_refused(folder, dtype):
    with h5py.File(folder / "best.weights.h5", "r+") as file:
        file.create_dataset("layers/more", shape=(1,), dtype=dtype)
    assert "no plain array of numbers" in refusal(folder)


def test_an_array_that_claims_more_than_the_file_holds_is_refused(folder):
    with h5py.File(folder / "best.weights.h5", "r+") as file:
        file.create_dataset("layers/more", shape=(10**12,), chunks=(1024,), dtype="f4")
    assert "more values than the file has room for" in refusal(folder)


def test_a_group_inside_itself_ends(folder):
    with h5py.File(folder / "best.weights.h5", "r+") as file:
        file["layers/again"] = file["layers"]
    load_run(folder).load_model()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_damaged_record_is_named(folder, text):
    (folder / "run.json").write_text(text)
    with pytest.raises(LungsegError, match=r"run\.json"):
        load_run(folder)
