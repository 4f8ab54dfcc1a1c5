from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import LungsegError
from lungseg_utils.manifest import Case, load_manifest
from lungseg_utils.phantom.chest import SIDES, Chest, Person, View, draw_anatomy, project_chest
from lungseg_utils.phantom.film import BONE, LUNG, TISSUE, attenuation, render_phantom
from lungseg_utils.phantom.sets import write_phantom_bundle, write_secondary_set
from tools.build_manifest import parse_reading

SIZE = 64
SMALLEST = {"count": 6, "size": 32, "unlabelled": 0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_phantom_bundle(tmp_path_factory.mktemp("merged"), size=SIZE)


@pytest.fixture(scope="module")
def cases(bundle) -> list[Case]:
    return load_manifest(bundle / "data_manifest.csv")


@pytest.fixture(scope="module")
def smallest(tmp_path_factory) -> Path:
    return write_phantom_bundle(tmp_path_factory.mktemp("smallest"), **SMALLEST)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes(tmp_path, smallest):
    first = digests(smallest)
    assert digests(write_phantom_bundle(tmp_path / "again", **SMALLEST)) == first
    other = digests(write_phantom_bundle(tmp_path / "other", seed=1, **SMALLEST))
    images = {digest for name, digest in first.items() if name.startswith("CXR_png")}
    assert len(images) == 6
    assert not images & set(other.values())


def test_masks_are_two_lungs_of_sensible_size_inside_the_film(bundle, cases):
    for case in [case for case in cases if case.mask_file]:
        mask = read(bundle / "masks" / case.mask_file)
        assert set(np.unique(mask)) == {0, 255}
        assert mask.shape == (case.original_height, case.original_width)
        parts, count = ndimage.label(mask)
        assert count == 2, case.image_id
        shares = np.bincount(parts.ravel())[1:] / mask.size
        assert shares.min() > 0.02 and shares.max() < 0.3, case.image_id
        assert ndimage.binary_fill_holes(mask).sum() == (mask > 0).sum()
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not edge.any(), case.image_id


@pytest.mark.parametrize("source", ["montgomery", "shenzhen"])
def test_masks_are_geometry_and_follow_the_resolution(source):
    coarse, fine = (
        sum(render_phantom(np.random.default_rng(8), size, source)[1]) for size in (96, 288)
    )
    shares = fine.reshape(96, 3, 96, 3).mean(axis=(1, 3))
    inside, outside = shares == 1, shares == 0
    assert inside.sum() > 1000
    # The middle of the nine fine pixels is the coarse pixel's own centre.
    np.testing.assert_array_equal(coarse[inside], 1)
    np.testing.assert_array_equal(coarse[outside], 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("source", ["montgomery", "shenzhen"])
def test_lungs_are_darker_than_what_lies_between_and_below_them(source, seed):
    image, (left, right) = render_phantom(np.random.default_rng(seed), 128, source)
    lungs = (left | right) > 0
    middle_left, middle_right = (ndimage.center_of_mass(mask) for mask in (left, right))
    # The patient's left is on the image's right.
    assert middle_right[1] < middle_left[1]
    rows = np.flatnonzero(left.any(axis=1) & right.any(axis=1))
    between = [
        image[row, np.flatnonzero(right[row])[-1] + 1 : np.flatnonzero(left[row])[0]]
        for row in rows
    ]
    assert np.median(np.concatenate(between)) > 1.3 * np.median(image[lungs])
    bottom = np.flatnonzero(lungs.any(axis=1))[-1]
    below = image[bottom : bottom + 4, int(middle_right[1]) : int(middle_left[1])]
    assert np.median(below) > 1.3 * np.median(image[lungs])


def project(seed: int, abnormal: bool = False) -> Chest:
    anatomy = draw_anatomy(np.random.default_rng(seed), Person("M", 40.0, abnormal))
    view = View(256, 256, 9.0, (0.0, 12.0))
    return project_chest(anatomy, view, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_disease_takes_air_from_the_lungs_but_leaves_their_outlines(seed):
    healthy, sick = project(seed), project(seed, abnormal=True)
    for side in SIDES:
        np.testing.assert_array_equal(healthy.outlines[side], sick.outlines[side])
    assert (sick.lung <= healthy.lung + 1e-5).all()
    assert (sick.lung < 0.9 * healthy.lung).sum() > 100


@pytest.mark.parametrize("seed", range(3))
def test_ribs_cross_the_lungs_and_vertebrae_lie_between_them(seed):
    chest = project(seed)
    lung = chest.outlines["right"]
    rows = lung.any(axis=1)
    spine = chest.bone[rows, 128]
    ribs = chest.bone[rows, int(ndimage.center_of_mass(lung)[1])]
    assert spine.min() < 0.5 * spine.max()  # between the vertebrae lie discs
    assert 6 <= ndimage.label(ribs > 0.8 * ribs.mean())[1] <= 14
    assert np.median(spine) > 1.1 * np.median(ribs)


def test_attenuation_is_the_sum_over_the_ray():
    one = np.ones((1, 1), np.float32)
    # 19 cm of body: 7 of lung and 12 of tissue, of which half a centimetre is bone.
    chest = Chest(12 * one, 7 * one, 0.5 * one, {})
    assert attenuation(chest).item() == pytest.approx(7 * LUNG + 11.5 * TISSUE + 0.5 * BONE)


def test_default_bundle_has_both_sources_in_every_split(cases):
    assert len(cases) == 24
    counts = Counter((case.source, case.split) for case in cases)
    assert counts == {
        ("montgomery", "train"): 6,
        ("montgomery", "val"): 2,
        ("montgomery", "test"): 2,
        ("shenzhen", "train"): 6,
        ("shenzhen", "val"): 3,
        ("shenzhen", "test"): 3,
        ("shenzhen", "unlabelled"): 2,
    }
    for split in ("train", "val", "test"):
        assert {case.tuberculosis for case in cases if case.split == split} == {False, True}
    assert any(case.questionable_mask for case in cases)
    assert all(int(case.image_id.split("_")[1]) > 9000 for case in cases)


def test_layout_and_names_are_the_real_ones(bundle, cases):
    modes = Counter()
    for case in cases:
        with Image.open(bundle / "CXR_png" / case.image_file) as image:
            assert image.size == (case.original_width, case.original_height)
            assert max(image.size) == SIZE
            modes[image.mode] += 1
            if image.mode == "P":  # the indices of palette files are not grey values
                grey = np.asarray(image.convert("L"))
                np.testing.assert_array_equal(255 - np.asarray(image), grey)
        suffix = {"montgomery": ".png", "shenzhen": "_mask.png"}[case.source]
        assert case.mask_file == ("" if case.split == "unlabelled" else case.image_id + suffix)
    assert modes["P"] >= 2 and modes["L"] > modes["P"]
    pairing = pair_bundle(bundle)
    assert len(pairing.pairs) == 22 and len(pairing.unlabelled) == 2
    assert not (pairing.missing_images or pairing.missing_masks or pairing.orphan_masks)


def test_readings_say_what_the_manifest_says(bundle, cases):
    texts = []
    for case in cases:
        text = (bundle / "ClinicalReadings" / f"{case.image_id}.txt").read_text(encoding="utf-8")
        texts.append(text)
        assert parse_reading(text, case.source) == (case.sex, case.age_years), text
        assert ("\nnormal" in text) == (not case.tuberculosis)
    everything = "\n".join(texts)
    for oddity in ("femal 32yrs", "16month", "64days", "Patient's Age: 0"):
        assert oddity in everything


def test_separate_masks_are_the_left_and_the_right_of_the_merged_ones(tmp_path, smallest):
    apart = write_phantom_bundle(tmp_path, **SMALLEST, separate_masks=True)
    films = [pair for pair in pair_bundle(apart).pairs if pair.case.source == "montgomery"]
    assert films and all(len(pair.masks) == 2 for pair in films)
    sides = ("left", "right")
    for pair in films:
        name = pair.case.mask_file
        assert not (apart / "masks" / name).exists()
        left, right = (read(apart / "ManualMask" / f"{side}Mask" / name) for side in sides)
        assert not (left & right).any()
        assert ndimage.center_of_mass(left)[1] > ndimage.center_of_mass(right)[1]
        np.testing.assert_array_equal(read(smallest / "masks" / name), left | right)


@pytest.mark.parametrize("arguments", [{"count": 5}, {"count": 7}, {"unlabelled": -1}, {"size": 8}])
def test_bundles_that_cannot_be_are_refused(tmp_path, arguments):
    with pytest.raises(LungsegError, match="What to do"):
        write_phantom_bundle(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_secondary_set_has_exact_annotations(tmp_path):
    folder, again = (
        write_secondary_set(tmp_path / name, count=10, seed=1, size=96) for name in "ab"
    )
    assert digests(folder) == digests(again)
    header, *rows = (folder / "metadata.csv").read_text().splitlines()
    assert header == "image,annotation,background,object"
    assert len(rows) == 10
    suffixes = set()
    for image, annotation, background, _ in (row.split(",") for row in rows):
        picture, mask = read(folder / "images" / image), read(folder / "annotations" / annotation)
        with Image.open(folder / "images" / image) as opened:
            assert opened.mode == "RGB" and max(opened.size) == 96
        suffixes.add(Path(image).suffix)
        assert set(np.unique(mask)) == {0, 255} and mask.shape == picture.shape
        darker = np.median(picture[mask > 0]) < np.median(picture[mask == 0])
        assert darker == (background == "light")
    assert suffixes == {".png", ".jpg"}
    assert {row.split(",")[2] for row in rows} == {"light", "dark"}
