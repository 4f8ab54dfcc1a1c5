from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lungseg_utils.errors import LungsegError
from lungseg_utils.segment import network as shipped
from lungseg_utils.segment.films import Film
from lungseg_utils.segment.lungs import Segmentation
from lungseg_utils.segment.segmenter import Segmenter
from lungseg_utils.training import runs
from tests.tiny import Darkness, tiny_cases


@pytest.fixture
def segmenter():
    return Segmenter(Darkness())


@pytest.fixture
def xray():
    """Image (96, 80) of dark lungs, and their mask: larger than the network and not square."""
    cases = tiny_cases(1, size=160, seed=3)
    image = cv2.resize(255 - cases.images[0], (80, 96), interpolation=cv2.INTER_AREA)
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


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA"])
def test_files_and_arrays_in_grey_or_colour_give_the_same(segmenter, xray, tmp_path, kind):
    film = Image.fromarray(xray[0]).convert(kind)
    film.save(tmp_path / "film.png")

    for given in (tmp_path / "film.png", np.asarray(film)):
        result = segmenter.segment(given)
        np.testing.assert_array_equal(result.image, xray[0])
        np.testing.assert_array_equal(result.mask, segmenter.segment(xray[0]).mask)


def test_a_folder_gets_masks_overlays_and_a_table(segmenter, xray, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(xray[0]).save(folder / "a.png")
    Image.fromarray(xray[0]).save(folder / "a.jpg", quality=95)

    table = segmenter.segment_folder(folder, out)

    assert list(table["file"]) == ["a.jpg", "a.png"]
    result = segmenter.segment(folder / "a.png")
    row = table.iloc[1]
    found = [row[key] for key in ("width", "height", "lung_fraction", "inverted", "error")]
    assert found == [80, 96, round(result.lung_fraction, 4), False, ""]
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    masks = {f"masks/a.{suffix}_mask.png" for suffix in ("jpg", "png")}
    overlays = {f"overlays/a.{suffix}_overlay.png" for suffix in ("jpg", "png")}
    assert written == {"lungs.csv", "run.json", "record.json", *masks, *overlays}
    mask = np.asarray(Image.open(out / "masks" / "a.png_mask.png"))
    np.testing.assert_array_equal(mask, result.mask * 255)
    overlay = np.asarray(Image.open(out / "overlays" / "a.png_overlay.png"))
    np.testing.assert_array_equal(overlay, result.overlay)
    # A file alone stands for a folder of one.
    assert list(segmenter.segment_folder(folder / "a.png", out)["file"]) == ["a.png"]


def test_overlay_draws_the_contour_and_leaves_the_rest(xray):
    image, mask = xray
    result = Segmentation(Film(image, ""), mask.astype(np.float32), mask.astype(np.uint8))

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


def test_a_name_loads_shipped_weights_and_a_path_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LungsegError, match="unet, unetpp, pix2pix"):
        Segmenter.load("u-net")

    def told(loader):
        return lambda given: loaded.append((loader, given)) or Darkness()

    loaded = []
    for module, loader in ((shipped, "load_shipped"), (runs, "load_run")):
        monkeypatch.setattr(module, loader, told(loader))
    # A folder of a network's name, wherever Python happens to stand, is not meant by the name.
    for name in ("unet", "u-net"):
        (tmp_path / name).mkdir()
    folders = [tmp_path / "unet", str(tmp_path / "unet"), "u-net"]
    for given in ("unet", *folders):
        Segmenter.load(given)
    Segmenter.load()
    by_name = [("load_shipped", name) for name in ("unet", "unetpp", "pix2pix")]
    of_folders = [("load_run", Path(folder)) for folder in folders]
    assert loaded == [*by_name, *of_folders, *by_name]
