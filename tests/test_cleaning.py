from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.filters import threshold_otsu

from lungseg_utils.errors import LungsegError, StaleOutputError
from lungseg_utils.phantom.sets import write_secondary_set
from lungseg_utils.preparation.imaging import read_mask, resize_mask
from lungseg_utils.segment import cleaning
from lungseg_utils.segment.cleaning import clean_folder, clean_image


def disc(size: int = 120, inside: int = 200, outside: int = 20) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size // 2
    return np.where(rows**2 + columns**2 < (size // 3) ** 2, inside, outside).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize("seed", range(2))
def test_objects_of_the_phantom_are_cut_out(tmp_path, seed):
    folder = write_secondary_set(tmp_path / "set", seed=seed)
    table = clean_folder(folder / "images", tmp_path / "out").set_index("file")
    figures = ["width", "height", "background", "threshold", "foreground_fraction", "error"]
    assert list(table.columns) == figures
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(table) == len(rows) == 12
    for row in rows:
        truth = resize_mask(read_mask(folder / "annotations" / row["annotation"]), 256)
        mask = read_mask(tmp_path / "out" / "masks" / Path(row["image"]).with_suffix(".png"))
        assert (mask & truth).sum() / (mask | truth).sum() >= 0.95, row["image"]
        assert table.loc[row["image"], "background"] == row["background"]
        assert table.loc[row["image"], "foreground_fraction"] == pytest.approx(
            mask.mean(), abs=1e-4
        )


@pytest.mark.parametrize(("inside", "outside"), [(200, 20), (30, 240)])
def test_background_is_what_the_border_shows(inside, outside):
    picture = disc(inside=inside, outside=outside)
    cleaned = clean_image(picture, size=120, sigma=0)
    np.testing.assert_array_equal(cleaned.mask, picture == inside)
    assert cleaned.inverted == (outside > inside)
    np.testing.assert_array_equal(cleaned.masked, np.where(picture == inside, inside, 0))


def test_large_objects_are_not_taken_for_the_background():
    picture = np.full((100, 100), 230, np.uint8)
    picture[8:92, 8:92] = 60  # 71 % of the picture, but none of its border
    cleaned = clean_image(picture, size=100)
    assert cleaned.inverted
    assert cleaned.mask[50, 50] == 1 and cleaned.mask[2, 2] == 0


def test_threshold_is_otsus():
    rng = np.random.default_rng(0)
    picture = np.clip(disc() + rng.normal(0, 12, (120, 120)), 0, 255).astype(np.uint8)
    cleaned = clean_image(picture, size=120, sigma=0)
    assert cleaned.threshold == pytest.approx(threshold_otsu(picture), abs=1)


def test_denoising_lowers_the_noise():
    noisy = np.random.default_rng(1).integers(90, 110, (64, 64)).astype(np.uint8)
    cleaned = clean_image(noisy, size=64, sigma=2.0)
    assert cleaned.denoised.std() < 0.3 * cleaned.original_grey.std()


def test_highlights_are_filled_and_dust_is_removed():
    picture = disc()
    picture[58:64, 58:64] = 20
    picture[4:6, 4:6] = 200
    cleaned = clean_image(picture, size=120, sigma=0)
    np.testing.assert_array_equal(cleaned.mask, disc() == 200)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_level_has_no_object(level):
    assert not clean_image(np.full((50, 50), level, np.uint8), size=32).mask.any()


@pytest.mark.parametrize("wrong", [{"size": 0}, {"sigma": -1}, {"smallest_part": 1.0}])
def test_parameters_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(LungsegError, match="usual"):
        clean_image(disc(), **wrong)
    save(tmp_path / "in" / "a.png", disc())
    with pytest.raises(LungsegError, match="usual"):
        clean_folder(tmp_path / "in", tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_other_parameters_need_another_folder_or_overwrite(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save(tmp_path / "first" / "a.png", disc())
    save(tmp_path / "second" / "more" / "b.png", disc())
    clean_folder(tmp_path / "first", out, size=64)
    with pytest.raises(StaleOutputError, match="size was 64, now 32"):
        clean_folder(tmp_path / "second", out, size=32)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cleaning, "clean_image", raise_interrupt)
        clean_folder(tmp_path / "second", out, size=32, overwrite=True)
    assert [path.name for path in out.iterdir() if path.is_file()] == ["record.json"]
    with pytest.raises(StaleOutputError, match="size was 32, now 64"):
        clean_folder(tmp_path / "first", out, size=64)

    clean_folder(tmp_path / "second", out, size=32)
    written = [path.relative_to(out).as_posix() for path in sorted(out.rglob("*.png"))]
    assert written == ["images/more/b.png", "masks/more/b.png"]
    assert read_mask(out / "masks" / "more" / "b.png").shape == (32, 32)


def raise_interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_a_damaged_record_is_overwritten(tmp_path):
    save(tmp_path / "in" / "a.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "record.json").write_text("{")
    with pytest.raises(LungsegError, match="OVERWRITE"):
        clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(clean_folder(tmp_path / "in", tmp_path / "out", overwrite=True)) == 1
