from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.filters import threshold_otsu

from lungseg_utils.errors import LockedError, LungsegError, MissingInputError, StaleOutputError
from lungseg_utils.files import storage
from lungseg_utils.phantom.sets import write_secondary_set
from lungseg_utils.preparation.imaging import read_mask, resize_mask
from lungseg_utils.segment import cleaning
from lungseg_utils.segment.cleaning import COLUMNS, clean_folder, clean_image


def disc(size: int = 120, inside: int = 200, outside: int = 20) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size // 2
    return np.where(rows**2 + columns**2 < (size // 3) ** 2, inside, outside).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_objects_of_the_phantom_are_cut_out(tmp_path, seed):
    folder = write_secondary_set(tmp_path / "set", seed=seed)
    table = clean_folder(folder / "images", tmp_path / "out").set_index("file")
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


def test_colour_becomes_grey_and_every_step_is_square():
    picture = np.stack([disc()] * 3, axis=2)[:, :90]
    cleaned = clean_image(picture, size=64)
    for step in (cleaned.original_grey, cleaned.denoised, cleaned.mask, cleaned.masked):
        assert step.shape == (64, 64) and step.dtype == np.uint8
    assert set(np.unique(cleaned.mask)) == {0, 1}


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


def test_a_damaged_file_is_named_and_the_rest_goes_on(tmp_path):
    good = save(tmp_path / "in" / "a.png", disc())
    (tmp_path / "in" / "b.png").write_bytes(good.read_bytes()[:60])
    save(tmp_path / "in" / "c.jpg", disc())
    table = clean_folder(tmp_path / "in", tmp_path / "out")
    assert list(table["file"]) == ["a.png", "b.png", "c.jpg"]
    assert [bool(error) for error in table["error"]] == [False, True, False]
    with (tmp_path / "out" / "cleaned.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[1]["width"] == "" and rows[1]["error"]
    assert rows[0]["width"] == rows[0]["height"] == "120"
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"a.png", "c.png"}


def test_names_that_would_collide_stay_apart(tmp_path):
    save(tmp_path / "in" / "a.png", disc())
    save(tmp_path / "in" / "a.jpg", disc())
    save(tmp_path / "in" / "more" / "a.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out")
    masks = tmp_path / "out" / "masks"
    written = {path.relative_to(masks).as_posix() for path in masks.rglob("*.png")}
    assert written == {"a.png.png", "a.jpg.png", "more/a.png"}


def test_every_file_has_an_output_of_its_own(tmp_path):
    for name in ("a.jpg", "a.png", "a.png.png"):
        save(tmp_path / "in" / name, disc())
    clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_a_second_call_cleans_only_what_changed(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png", disc())
    save(tmp_path / "in" / "b.png", disc())
    first = clean_folder(tmp_path / "in", tmp_path / "out")
    cleaned = []
    original = cleaning.clean_image
    monkeypatch.setattr(
        cleaning, "clean_image", lambda *a, **k: cleaned.append(1) or original(*a, **k)
    )
    again = clean_folder(tmp_path / "in", tmp_path / "out")
    assert cleaned == [] and again.equals(first)
    save(tmp_path / "in" / "b.png", disc(inside=150))
    clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(cleaned) == 1
    (tmp_path / "out" / "masks" / "a.png").unlink()
    clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(cleaned) == 2 and (tmp_path / "out" / "masks" / "a.png").is_file()


def test_an_interrupted_call_is_continued(tmp_path, monkeypatch):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", disc())
    original, calls = cleaning.clean_image, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(cleaning, "clean_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clean_folder(tmp_path / "in", tmp_path / "out")
    table = clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(calls) == 4 and len(table) == 3


def test_outputs_of_vanished_files_go_too(tmp_path):
    save(tmp_path / "in" / "a.png", disc())
    gone = save(tmp_path / "in" / "b.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out")
    gone.unlink()
    assert list(clean_folder(tmp_path / "in", tmp_path / "out")["file"]) == ["a.png"]
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["a.png"]


def test_other_parameters_need_another_folder_or_overwrite(tmp_path):
    save(tmp_path / "in" / "a.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out", size=64)
    with pytest.raises(StaleOutputError, match="size was 64, now 32"):
        clean_folder(tmp_path / "in", tmp_path / "out", size=32)
    clean_folder(tmp_path / "in", tmp_path / "out", size=32, overwrite=True)
    assert read_mask(tmp_path / "out" / "masks" / "a.png").shape == (32, 32)


def test_overwriting_leaves_nothing_of_another_input_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save(tmp_path / "first" / "a.png", disc())
    save(tmp_path / "second" / "b.png", disc())
    clean_folder(tmp_path / "first", out)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cleaning, "clean_image", lambda *_, **__: raise_interrupt())
        clean_folder(tmp_path / "second", out, overwrite=True)
    assert not (out / "cleaned.csv").exists() and not list(out.rglob("*.png"))

    clean_folder(tmp_path / "first", out, overwrite=True)
    clean_folder(tmp_path / "second", out, overwrite=True)
    assert [path.relative_to(out).as_posix() for path in sorted(out.rglob("*.png"))] == [
        "images/b.png",
        "masks/b.png",
    ]


def raise_interrupt():
    raise KeyboardInterrupt


def test_a_killed_call_leaves_nothing_that_counts_for_other_parameters(tmp_path, monkeypatch):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out", size=64)
    original, calls = cleaning.clean_image, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            # A killed process records nothing more.
            patch.setattr(cleaning, "_save", lambda *_: None)
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cleaning, "clean_image", killed)
        clean_folder(tmp_path / "in", tmp_path / "out", size=32, overwrite=True)
    assert read_mask(tmp_path / "out" / "masks" / "a.png").shape == (32, 32)

    with pytest.raises(StaleOutputError, match="size was 32, now 64"):
        clean_folder(tmp_path / "in", tmp_path / "out", size=64)


def test_a_folder_that_another_process_cleans_is_left_alone(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png", disc())
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    with (
        storage.hold(tmp_path / "out" / "cleaned.csv", "cleaning of the other notebook"),
        pytest.raises(LockedError, match="by process"),
    ):
        clean_folder(tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_outputs_inside_the_input_folder_are_not_cleaned_again(tmp_path):
    save(tmp_path / "a.png", disc())
    clean_folder(tmp_path, tmp_path / "cleaned")
    assert list(clean_folder(tmp_path, tmp_path / "cleaned")["file"]) == ["a.png"]


def test_a_damaged_record_is_explained_and_overwritten(tmp_path):
    save(tmp_path / "in" / "a.png", disc())
    clean_folder(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "record.json").write_text("{")
    with pytest.raises(LungsegError, match=r"record\.json(.|\n)*OVERWRITE"):
        clean_folder(tmp_path / "in", tmp_path / "out")
    assert len(clean_folder(tmp_path / "in", tmp_path / "out", overwrite=True)) == 1


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(MissingInputError, match="no image in it"):
        clean_folder(tmp_path, tmp_path / "out")
    with pytest.raises(MissingInputError, match="no such folder"):
        clean_folder(tmp_path / "absent", tmp_path / "out")
