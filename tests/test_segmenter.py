from __future__ import annotations

import errno

import cv2
import numpy as np
import pytest
from PIL import Image

from lungseg_utils.errors import (
    ImageFileError,
    LockedError,
    LungsegError,
    MissingInputError,
    StorageError,
)
from lungseg_utils.files import storage
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.segment import segmenter as module
from lungseg_utils.segment.segmenter import Segmentation, Segmenter, list_images
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


def test_folder_goes_on_past_a_damaged_file_and_names_it(segmenter, xray, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(xray[0]).save(folder / "a.png")
    Image.fromarray(xray[0]).save(folder / "a.jpg", quality=95)
    whole = (folder / "a.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")

    table = segmenter.segment_folder(folder, out).set_index("file")

    assert list(table.index) == ["a.jpg", "a.png", "broken.png"]
    assert table.loc["broken.png", "error"]
    assert (table.loc[["a.jpg", "a.png"], "error"] == "").all()
    masks = sorted(path.name for path in (out / "masks").iterdir())
    assert masks == ["a.jpg_mask.png", "a.png_mask.png"]
    written = np.asarray(Image.open(out / "masks" / "a.png_mask.png"))
    np.testing.assert_array_equal(written, segmenter.segment(folder / "a.png").mask * 255)
    assert Image.open(out / "overlays" / "a.png_overlay.png").size == (80, 96)


def test_every_file_has_a_mask_of_its_own(segmenter, xray, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "a.png.png"):
        Image.fromarray(xray[0]).save(tmp_path / "in" / name)
    segmenter.segment_folder(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def contents(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_full_disk_or_another_process_leaves_what_was_there(
    segmenter, xray, tmp_path, monkeypatch
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(xray[0]).save(folder / "a.png")
    segmenter.segment_folder(folder, out)
    before = contents(out)
    assert set(before) == {"masks/a_mask.png", "overlays/a_overlay.png", "segmented.csv"}
    Image.fromarray(xray[0][::-1]).save(folder / "a.png")
    Image.fromarray(xray[0]).save(folder / "b.png")
    original = module.write_png

    def full(path, image):
        if path.name == "b_mask.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, image)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Free some space"):
        patch.setattr(module, "write_png", full)
        segmenter.segment_folder(folder, out)
    assert contents(out) == before
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    with (
        storage.hold(out / "segmented.csv", "segmenting by the other notebook"),
        pytest.raises(LockedError, match="by process"),
    ):
        segmenter.segment_folder(folder, out)
    assert contents(out) == before

    (folder / "b.png").unlink()
    segmenter.segment_folder(folder, out)
    assert contents(out).keys() == before.keys()
    assert contents(out)["masks/a_mask.png"] != before["masks/a_mask.png"]


def test_overlay_draws_the_contour_and_leaves_the_rest(xray):
    image, mask = xray
    result = Segmentation(image, mask.astype(np.float32), mask.astype(np.uint8))

    changed = (result.overlay != image[..., None]).any(-1)

    inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
    assert changed.any()
    assert not changed[inside].any() and not changed[outside].any()


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)])
def test_array_that_is_no_grey_image_is_refused(segmenter, image):
    with pytest.raises(ImageFileError, match="grey uint8"):
        segmenter.segment(image)


def test_empty_folder_and_wrong_path_are_named(tmp_path):
    with pytest.raises(MissingInputError, match="none in it"):
        list_images(tmp_path)
    with pytest.raises(MissingInputError, match="no such file"):
        list_images(tmp_path / "absent")


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
