"""Weights of a run that were damaged, exchanged or made to do harm: refused, never executed."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_json
from lungseg_utils.models.registry import NETWORKS, build_model
from lungseg_utils.training.runs import load_run
from lungseg_utils.training.weights import save_weights, weights_of
from tests.networks import predict, tiny_arrays
from tests.tiny import TINY, tiny_config

# Two levels, so that there are several heads.
OPTIONS = TINY | {"unetpp": {"base_filters": 2, "depth": 2}}


def write_run(folder: Path, name: str = "unet") -> tuple[Path, keras.Model]:
    folder.mkdir()
    write_json(
        folder / "run.json", {"config": tiny_config(name, model_options=OPTIONS[name]).to_dict()}
    )
    model = build_model(name, 32, OPTIONS[name])
    save_weights(folder / "best.npz", weights_of(model))
    return folder, model


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "unet")[0]


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "unet"))


def refusal(folder: Path) -> str:
    with pytest.raises(LungsegError, match="whole and fit the network") as caught:
        load_run(folder).load_model()
    assert "best.npz" in caught.value.received
    assert caught.value.advice.startswith(f"Delete the folder {folder} ")
    return caught.value.received


def stored(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "best.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_weights_are_loaded_as_they_were_saved(tmp_path, name):
    folder, model = write_run(tmp_path / name, name)
    untouched = build_model(name, 32, OPTIONS[name])

    loaded = load_run(folder).load_model()

    # No two variables of a network share a path: all of Pix2Pix's two networks are there.
    assert len(stored(folder)) == len(model.weights)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = tiny_arrays(2)[0]
    np.testing.assert_array_equal(predict(loaded, x), predict(model, x))
    assert np.abs(predict(untouched, x) - predict(model, x)).max() > 1e-4


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999, 1])
def test_truncated_weights_and_a_flipped_bit_are_refused(folder, share):
    path = folder / "best.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY")] ^= share == 1
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probability/bias": None}, r"probability/bias is (absent) in the file, [1] in the"),
        ({"probability/bias": np.zeros(2, "f4")}, "probability/bias is [2] in the file, [1] in"),
        ({"more/bias": np.zeros(2, "f4")}, "more/bias is [2] in the file, (absent) in the network"),
        ({"probability/bias": np.full(1, np.nan, "f4")}, "values of probability/bias are not fini"),
        ({"probability/bias": np.zeros(1, "i4")}, "no plain array of numbers"),
        ({"probability/bias": np.zeros(1, "S5")}, "no plain array of numbers"),
        ({"probability/bias": np.zeros(1, [("a", "f4")])}, "no plain array of numbers"),
    ],
)
def test_what_is_not_exactly_this_network_is_named(folder, change, said):
    weights = {
        name: array for name, array in (stored(folder) | change).items() if array is not None
    }
    np.savez(folder / "best.npz", **weights)
    assert said in refusal(folder)


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["a pickle", "a pickle inside"])
def test_a_pickle_is_refused_and_never_executed(folder, tmp_path, kind):
    trap, path = tmp_path / "executed", folder / "best.npz"
    if kind == "a pickle":
        path.write_bytes(pickle.dumps(Payload(trap)))
    else:
        np.savez(path, **{"probability/bias": np.array([Payload(trap)], dtype=object)})

    assert "no whole .npz file of plain arrays" in refusal(folder)

    assert not trap.exists()
    live = np.load(path, allow_pickle=True)
    _ = live["probability/bias"] if kind == "a pickle inside" else live
    assert trap.exists()


@pytest.mark.parametrize("claim", ["unpacks to more", "holds less than its header says"])
def test_an_array_larger_than_the_file_is_refused(folder, claim):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    content.write(bytes(10_000_000 if claim == "unpacks to more" else 4))
    with zipfile.ZipFile(folder / "best.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probability/bias.npy", content.getvalue())
    said = refusal(folder)
    assert ("would unpack to 10,000,128 bytes" in said) == (claim == "unpacks to more")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_damaged_record_is_named(folder, text):
    (folder / "run.json").write_text(text)
    with pytest.raises(LungsegError, match=r"run\.json"):
        load_run(folder)
