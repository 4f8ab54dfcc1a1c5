from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from lungseg_utils.errors import LungsegError, MissingInputError
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.segment import segmenter as module
from lungseg_utils.segment.segmenter import Segmentation, Segmenter
from lungseg_utils.segment.shipped import load_shipped, ship
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.train import train
from tests.tiny import tiny_cases


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    config = TrainingConfig(
        size=32,
        model_options={"base_filters": 4, "depth": 2, "normalisation": "batch"},
        learning_rate=0.01,
        batch_size=4,
        epochs=20,
        patience=20,
        augmentation=NONE,
    )
    folder = tmp_path_factory.mktemp("runs") / "unet"
    train(config, tiny_cases(16), tiny_cases(4, seed=1, split="val"), folder)
    return Segmenter.load(folder)


@pytest.fixture
def xray():
    """Image (96, 80) and mask, larger than the network and not square."""
    cases = tiny_cases(1, size=160, seed=3)
    image = cv2.resize(cases.images[0], (80, 96), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(cases.masks[0] * 255, (80, 96), interpolation=cv2.INTER_AREA) > 127
    return image, mask


def test_mask_comes_at_the_own_size_and_finds_the_lungs(segmenter, xray):
    image, truth = xray

    result = segmenter.segment(image)

    assert result.mask.shape == result.probability.shape == image.shape
    assert set(np.unique(result.mask)) == {0, 1}
    found = result.mask.astype(bool)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    assert result.lung_fraction == pytest.approx(found.mean())


def test_a_file_gives_what_its_array_gives(segmenter, xray, tmp_path):
    Image.fromarray(xray[0]).save(tmp_path / "film.png")

    from_file = segmenter.segment(tmp_path / "film.png")

    np.testing.assert_array_equal(from_file.mask, segmenter.segment(xray[0]).mask)


@pytest.mark.parametrize("channels", [3, 4])
def test_an_array_in_colour_gives_what_its_grey_gives(segmenter, xray, channels):
    colour = np.stack([xray[0]] * channels, axis=2)
    colour[..., 3:] = 255

    result = segmenter.segment(colour)

    np.testing.assert_array_equal(result.image, xray[0])
    np.testing.assert_array_equal(result.mask, segmenter.segment(xray[0]).mask)


def test_a_folder_gets_masks_overlays_and_a_table(segmenter, xray, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(xray[0]).save(folder / "a.png")
    Image.fromarray(xray[0]).save(folder / "a.jpg", quality=95)

    table = segmenter.segment_folder(folder, out)

    assert list(table.columns) == ["file", "width", "height", "lung_fraction", "inverted", "error"]
    assert list(table["file"]) == ["a.jpg", "a.png"]
    result = segmenter.segment(folder / "a.png")
    assert list(table.iloc[1])[1:] == [80, 96, round(result.lung_fraction, 4), False, ""]
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    masks = {f"masks/a.{suffix}_mask.png" for suffix in ("jpg", "png")}
    overlays = {f"overlays/a.{suffix}_overlay.png" for suffix in ("jpg", "png")}
    assert written == {"segmented.csv", "record.json", *masks, *overlays}
    mask = np.asarray(Image.open(out / "masks" / "a.png_mask.png"))
    np.testing.assert_array_equal(mask, result.mask * 255)
    overlay = np.asarray(Image.open(out / "overlays" / "a.png_overlay.png"))
    np.testing.assert_array_equal(overlay, result.overlay)
    # A file alone stands for a folder of one.
    assert list(segmenter.segment_folder(folder / "a.png", out)["file"]) == ["a.png"]


def test_overlay_draws_the_contour_and_leaves_the_rest(xray):
    image, mask = xray
    result = Segmentation(image, mask.astype(np.float32), mask.astype(np.uint8))

    changed = (result.overlay != image[..., None]).any(-1)

    inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
    assert changed.any()
    assert not changed[inside].any() and not changed[outside].any()


@pytest.mark.parametrize(
    ("shape", "told"), [((40, 40, 2), "RGB"), ((40,), "RGB"), ((8, 8, 3), "32 pixels")]
)
def test_array_that_is_no_xray_is_refused(segmenter, shape, told):
    with pytest.raises(LungsegError, match=told):
        segmenter.segment(np.zeros(shape, np.uint8))


def test_missing_run_names_the_notebook(tmp_path):
    with pytest.raises(MissingInputError, match="04_train_unet"):
        Segmenter.load(tmp_path / "unet")


def test_a_name_loads_shipped_weights_and_a_path_a_run(segmenter, xray, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    ship(segmenter.run, "unet", weights)
    monkeypatch.setattr(module, "load_shipped", lambda name: load_shipped(name, weights))
    # A folder of that name, wherever Python happens to stand, is not meant.
    (tmp_path / "unet").mkdir()
    monkeypatch.chdir(tmp_path)

    shipped = Segmenter.load("unet")

    assert shipped.run.record["file"] == "unet.npz"
    expected = segmenter.segment(xray[0]).probability
    np.testing.assert_allclose(shipped.segment(xray[0]).probability, expected, atol=5e-3)
    assert Segmenter.load().run.record == shipped.run.record
    with pytest.raises(MissingInputError, match="04_train_unet"):
        Segmenter.load(tmp_path / "unet")
    assert Segmenter.load(str(segmenter.run.folder)).run == segmenter.run


def test_a_word_that_is_neither_a_name_nor_a_folder_gets_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LungsegError, match="unet, unetpp, pix2pix"):
        Segmenter.load("u-net")
    (tmp_path / "u-net").mkdir()
    with pytest.raises(MissingInputError, match="04_train_unet"):
        Segmenter.load("u-net")
