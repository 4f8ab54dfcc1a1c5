"""Weights that travel with the package: what is exported is what is loaded, or nothing is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.records import file_sha256, write_json
from lungseg_utils.models.onnx_graph import keras_weights
from lungseg_utils.models.registry import NETWORKS, build_model
from lungseg_utils.phantom.sets import render_phantom
from lungseg_utils.preparation.imaging import resize_mask
from lungseg_utils.segment.network import (
    CROSS_SET,
    SHIPPED,
    WEIGHTS,
    export_onnx,
    load_onnx,
    load_shipped,
    predict_images,
)
from lungseg_utils.segment.segmenter import Segmenter
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.runs import Run
from lungseg_utils.training.train import train
from lungseg_utils.training.weights import save_weights, weights_of
from tests.tiny import tiny_cases, tiny_config
from tools import ship_weights
from tools.ship_weights import LIMIT, main, ship

OPTIONS = {
    "unet": {"base_filters": 4, "depth": 2, "normalisation": "batch"},
    "unetpp": {"base_filters": 4, "depth": 2},
    "pix2pix": {"base_filters": 4, "discriminator_filters": 4},
}
# What the shipped networks, which never saw a phantom, reach on each of these at least.
PHANTOM_SEEDS = (0, 1, 2)
PHANTOM_DICE = 0.85


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """A U-Net trained for a few steps; of the other networks, what their training begins with."""
    folder = tmp_path_factory.mktemp("runs")
    unet = tiny_config("unet", model_options=OPTIONS["unet"], epochs=2)
    trained = train(unet, tiny_cases(8), tiny_cases(2, seed=1, split="val"), folder / "unet")
    runs = {"unet": trained}
    for name in ("unetpp", "pix2pix"):
        config = tiny_config(name, model_options=OPTIONS[name])
        model = build_model(name, 32, OPTIONS[name])
        runs[name] = run_with(model, config, folder / name, trained.record)
    return runs


def run_with(model, config: TrainingConfig, folder: Path, record: dict) -> Run:
    folder.mkdir(exist_ok=True)
    path = save_weights(folder / "best.npz", weights_of(model))
    own = {"config": config.to_dict(), "best_weights_sha256": file_sha256(path)}
    return Run(folder, config, record | own)


@pytest.fixture
def folder(runs, tmp_path) -> Path:
    """The U-Net's weights, shipped."""
    ship(runs["unet"], "unet", tmp_path / "weights")
    return tmp_path / "weights"


def vouch(folder: Path, content: bytes, name: str = "unet") -> None:
    """Replace a file of weights, and the digest that it must have."""
    (folder / f"{name}.onnx").write_bytes(content)
    index = json.loads((folder / "weights.json").read_text())
    index[name] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_json(folder / "weights.json", index)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", OPTIONS)
def test_shipped_weights_predict_what_the_run_predicts(runs, name, tmp_path):
    run = runs[name]
    path = ship(run, name, tmp_path)
    loaded = load_shipped(name, tmp_path)
    images = tiny_cases(4, seed=5).images

    expected = predict_images(run, run.load_predictor(), images)
    untouched = build_model(name, 32, OPTIONS[name])
    found = predict_images(loaded, loaded.load_predictor(), images)

    assert path == tmp_path / f"{name}.onnx"
    assert (loaded.name, loaded.config) == (name, run.config)
    assert np.abs(expected - predict_images(run, untouched, images)).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=5e-3)
    # Beside the halved kernels, nothing differs: the same weights in Keras give the same.
    inputs = images[..., None] / np.float32(255)
    np.testing.assert_allclose(found, loaded.load_model()(inputs)[..., 0], atol=1e-4)
    # Of Pix2Pix the generator alone is kept.
    predicting = getattr(run.load_model(), "generator", run.load_model())
    assert set(loaded.arrays) == {variable.path for variable in predicting.weights}
    assert loaded.record["parameters"] == predicting.count_params()


def test_kernels_are_halved_and_what_normalisations_learnt_is_not(runs, folder):
    stored = keras_weights((folder / "unet.onnx").read_bytes())
    model = runs["unet"].load_model()

    assert set(stored) == {variable.path for variable in model.weights}
    assert {(array.ndim >= 2, array.dtype.name) for array in stored.values()} == {
        (True, "float16"),
        (False, "float32"),
    }
    statistics = model.get_layer("encoder0_norm1").moving_variance.numpy()
    np.testing.assert_array_equal(stored["encoder0_norm1/moving_variance"], statistics)


def test_the_index_tells_what_was_shipped_and_where_it_comes_from(runs, folder):
    added = {"epochs_raised_after": [1, 2], "half_size": {"epochs_run": 3}}
    run = runs["unet"]
    raised = Run(run.folder, run.config, run.record | added | {"unknown": 4})
    ship(raised, "unet-shenzhen", folder)
    ship(runs["unetpp"], "unetpp", folder)

    index = json.loads((folder / "weights.json").read_text())

    assert list(index) == ["unet", "unetpp", "unet-shenzhen"]
    assert {key: index["unet-shenzhen"][key] for key in added} == added
    assert "unknown" not in index["unet-shenzhen"] and not set(added) & set(index["unet"])
    entry, content = index["unet"], (folder / "unet.onnx").read_bytes()
    assert (entry["file"], entry["bytes"]) == ("unet.onnx", len(content))
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert TrainingConfig.from_dict(entry["config"]) == run.config
    assert (entry["data"]["train_digest"], entry["data"]["val_cases"]) == ("0-train-32", 2)
    assert entry["best_val_dice"] == pytest.approx(run.history["val_dice"].max(), abs=1e-6)
    assert entry["epochs_run"] == 2 and entry["best_epoch"] in (1, 2)
    assert entry["training_seconds"] > 0
    assert entry["sources"] == ["montgomery", "shenzhen"]
    assert entry["versions"]["keras"] and entry["backend"] == "tensorflow"
    assert entry["dtype_policy"] == "float32" and "git_commit" in entry


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_of_ones_own_is_exported_and_opened_without_keras(runs, name, tmp_path):
    path = export_onnx(runs[name], tmp_path / "mine.onnx")
    images = tiny_cases(2, seed=6).images
    opened = load_onnx(path)
    assert (opened.name, opened.config) == ("mine", runs[name].config)
    found = predict_images(opened, opened.load_predictor(), images)
    expected = predict_images(runs[name], runs[name].load_predictor(), images)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert Segmenter.load(str(path)).segment(np.kron(images[0], np.ones((2, 2)))).mask.any()
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(LungsegError, match="Export it again"):
        load_onnx(path)
    with pytest.raises(MissingInputError, match="Correct the path"):
        load_onnx(tmp_path / "absent.onnx")


def test_what_was_altered_is_refused(folder):
    content = (folder / "unet.onnx").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for altered in (flipped, content[:1000]):
        (folder / "unet.onnx").write_bytes(altered)
        with pytest.raises(LungsegError, match=f"SHA-256 .* of {len(altered):,} bytes, not "):
            load_shipped("unet", folder)


def test_what_the_index_was_altered_with_is_refused_all_the_same(runs, folder):
    vouch(folder, ship(runs["unetpp"], "unetpp", folder).read_bytes())
    with pytest.raises(LungsegError, match=r"unet: node0_0_conv1/kernel is .* in the file, .*abse"):
        load_shipped("unet", folder).load_model()
    vouch(folder, b"\x80\x04N.")
    with pytest.raises(LungsegError, match=r"unet \(.*[Pp]rotobuf"):
        load_shipped("unet", folder).load_predictor()


def test_weights_that_are_not_there_are_named(folder, tmp_path):
    with pytest.raises(LungsegError, match="unet-montgomery"):
        load_shipped("../unet", folder)
    with pytest.raises(MissingInputError, match="no entry for unetpp"):
        load_shipped("unetpp", folder)
    with pytest.raises(MissingInputError, match="no entry for unet in"):
        load_shipped("unet", tmp_path / "nowhere")
    (folder / "unet.onnx").unlink()
    with pytest.raises(MissingInputError, match=r"no unet\.onnx in"):
        load_shipped("unet", folder)


def test_what_cannot_be_shipped_is_refused_and_nothing_is_written(runs, folder, tmp_path):
    before, run = contents(folder), runs["unet"]
    size = len(before["unet.onnx"])
    unfinished = {key: value for key, value in run.record.items() if key != "best_epoch"}
    model = run.load_model()
    kernel = model.get_layer("probability").kernel
    kernel.assign(np.full(kernel.shape, 7e4, np.float32))
    beyond_half = run_with(model, run.config, tmp_path / "beyond", run.record)
    refused = [
        (run, "../unet", LIMIT, "unet-montgomery"),
        (run, "unetpp", LIMIT, "called unetpp are of a unetpp"),
        (runs["unetpp"], "unet-shenzhen", LIMIT, "called unet-shenzhen are of a unet"),
        (Run(run.folder, run.config, unfinished), "unet", LIMIT, r"run\.json without best_epoch"),
        (beyond_half, "unet", LIMIT, "probability/kernel reaches 70000"),
        (run, "unet", size - 1, rf"at most {size - 1:,} bytes(.|\n)*fewer BASE_FILTERS"),
    ]
    for one, name, limit, said in refused:
        for place in (folder, tmp_path / "new"):
            with pytest.raises(LungsegError, match=said):
                ship(one, name, place, limit)
    assert contents(folder) == before
    assert not (tmp_path / "new").exists()
    ship(run, "unet", folder, limit=size)
    assert contents(folder) == before


def test_the_command_ships_a_run_or_says_why_not(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ship_weights, "ship", lambda run, name: ship(run, name, tmp_path))

    assert main([str(runs["unet"].folder), "unet"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'unet.onnx'}: ")
    assert load_shipped("unet", tmp_path).config == runs["unet"].config
    assert main([str(tmp_path / "nowhere"), "unet"]) == 2
    assert "must be trained before" in capsys.readouterr().err
    assert main([str(runs["unet"].folder), "resnet"]) == 2
    assert "Correct the name" in capsys.readouterr().err


@pytest.fixture(scope="module")
def index() -> dict:
    """The index of the weights that come with the package."""
    return json.loads((WEIGHTS / "weights.json").read_text(encoding="utf-8"))


def test_every_shipped_network_is_there_whole_and_small(index):
    assert list(index) == list(SHIPPED)
    assert {path.name for path in WEIGHTS.glob("*.onnx")} == {f"{name}.onnx" for name in SHIPPED}
    for name, entry in index.items():
        content = (WEIGHTS / entry["file"]).read_bytes()
        assert entry["file"] == f"{name}.onnx"
        assert len(content) == entry["bytes"] <= LIMIT == 10_000_000
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert entry["config"]["model"] == name.partition("-")[0]


def test_cross_set_networks_were_trained_on_the_other_set_alone(index):
    for name, scored in CROSS_SET.items():
        assert sorted([*index[name]["sources"], scored]) == index["unet"]["sources"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_find_the_lungs_of_a_phantom(name):
    segmenter = Segmenter.load(name)
    for seed in PHANTOM_SEEDS:
        image, (left, right) = render_phantom(np.random.default_rng(seed), (480, 512))

        result = segmenter.segment(image)

        assert result.mask.shape == (512, 480)
        assert dice(result.mask, left | right) > PHANTOM_DICE, seed


def test_an_inverted_film_is_recognised_and_gets_the_lungs_of_the_film():
    segmenter = Segmenter.load("unet")
    for seed in PHANTOM_SEEDS:
        image, _ = render_phantom(np.random.default_rng(seed), (480, 512))

        film, inverse = segmenter.segment(image), segmenter.segment(255 - image)

        assert (film.inverted, inverse.inverted) == (False, True)
        # Reducing a film rounds its levels up, and those of its inverse too.
        assert dice(inverse.mask, film.mask) > 0.999


@pytest.mark.parametrize("name", NETWORKS)
def test_a_film_and_its_small_copy_get_the_same_lungs(shared_data, name):
    """The copies are resampled by another kernel, and sharper than what a film is reduced to."""
    segmenter = Segmenter.load(name)
    originals = sorted((shared_data / "originals" / "CXR_png").iterdir())
    assert len(originals) == 6
    # Each network its third of the films: all are large, and slow to read.
    for original in originals[list(NETWORKS).index(name) :: len(NETWORKS)]:
        film = segmenter.segment(original).mask
        copy = segmenter.segment(shared_data / "nlm512" / "CXR_png" / original.name).mask
        # An effusion leaves nothing to see of two films' bases: there the outline is a guess.
        least = 0.985 if original.stem in ("MCUCXR_0309_1", "MCUCXR_0311_1") else 0.994
        assert dice(resize_mask(film, 512), copy) >= least, original.name


def test_the_terms_stand_beside_the_weights():
    terms = " ".join((WEIGHTS / "LICENSE").read_text(encoding="utf-8").split())
    for said in (
        "not for commercial use",
        "not a medical device",
        "CC BY-NC-SA 4.0",
        "10.1109/TMI.2013.2284099",
        "10.1109/TMI.2013.2290491",
        "1803.01199",
        "Apache License 2.0",
    ):
        assert said in terms
