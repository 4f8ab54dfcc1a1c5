"""Masks as they come: repaired where only one meaning is possible, else refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage

from lungseg_utils.errors import UnusableMaskError
from lungseg_utils.manifest import load_manifest
from lungseg_utils.preparation.cases import read_pair
from lungseg_utils.preparation.imaging import read_image, read_mask, soft_fraction


def saved(path: Path, values: np.ndarray, **options) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


def lungs(height: int = 96, width: int = 80) -> np.ndarray:
    """Two ellipses {0, 1} (height, width)."""
    rows, columns = np.mgrid[:height, :width]
    y, x = (rows + 0.5) / height, (columns + 0.5) / width
    inside = [((y - 0.5) / 0.35) ** 2 + ((x - middle) / 0.15) ** 2 < 1 for middle in (0.3, 0.7)]
    return (inside[0] | inside[1]).astype(np.uint8)


@pytest.fixture
def xray(tmp_path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (96, 80), dtype=np.uint8)
    return saved(tmp_path / "film.png", noise)


# One file


@pytest.mark.parametrize(
    ("dtype", "levels", "lung"),
    [
        (np.uint8, [0, 1, 127, 128, 129, 255], [0, 0, 0, 1, 1, 1]),
        (np.uint16, [0, 30000, 40000, 65535], [0, 0, 1, 1]),
        *((dtype, [0, 1], [0, 1]) for dtype in (np.uint8, np.uint16)),
        *((np.uint8, [level], [int(level > 0)]) for level in (0, 1, 255)),
        *((np.uint16, [level], [int(level > 0)]) for level in (0, 1, 255)),
        (np.uint8, [0, 2, 100, 127], None),  # too dark to hold lung
    ],
)
def test_lung_is_above_half(tmp_path, dtype, levels, lung):
    # Single pixels in columns of black, where black is among them.
    image = np.full((4, 10 * len(levels)), min(levels), dtype)
    image[0, ::10] = levels
    path = saved(tmp_path / "labels.png", image)
    if lung is None:
        with pytest.raises(UnusableMaskError, match=r"labels\.png: its largest value is 127"):
            read_mask(path)
        return
    mask = read_mask(path)
    assert mask.dtype == np.uint8
    assert mask[0, ::10].tolist() == lung
    assert mask.sum() == (sum(lung) if len(levels) > 1 else mask.size * lung[0])


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 200), (255, 255, 0)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_lung_in_one_colour_whatever_it_is(tmp_path, colour, suffix):
    values = lungs()[..., None] * np.array(colour, np.uint8)
    options = {} if suffix == "png" else {"quality": 95, "subsampling": 0}
    mask = read_mask(saved(tmp_path / f"a.{suffix}", values, **options))
    assert (mask != lungs()).mean() < (0.02 if suffix == "jpg" else 1e-9)


def test_lung_in_two_colours_is_refused_as_one_may_be_the_heart(tmp_path):
    values = lungs()[..., None] * np.array([255, 0, 0], np.uint8)
    values[40:70, 35:45] = 0, 255, 0
    with pytest.raises(UnusableMaskError, match=r"labels\.png: it has several"):
        read_mask(saved(tmp_path / "labels.png", values))


@pytest.mark.parametrize("radius", [0.5, 1, 2])
def test_soft_edges_are_cut_at_one_half(tmp_path, radius):
    image = Image.fromarray(lungs(480, 400) * np.uint8(255))
    path = tmp_path / "soft.png"
    image.filter(ImageFilter.GaussianBlur(radius)).save(path)
    # A blur moves the edge of an ellipse by less than a pixel.
    changed = read_mask(path) != lungs(480, 400)
    edge = ndimage.binary_dilation(lungs(480, 400)) ^ ndimage.binary_erosion(lungs(480, 400))
    assert 0 < soft_fraction(np.asarray(Image.open(path))) < 0.12
    assert not changed[~edge].any()


def test_an_x_ray_is_no_mask(tmp_path, xray):
    with pytest.raises(UnusableMaskError, match=r"film\.png: \d\d% of it is grey, as in an X-ray"):
        read_mask(xray)
    deep = np.random.default_rng(0).integers(0, 4096, (40, 40), dtype=np.uint16)
    with pytest.raises(UnusableMaskError, match="as in an X-ray"):
        read_mask(saved(tmp_path / "deep.png", deep))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(24, 90),
    width=st.integers(24, 90),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    level=st.integers(1, 65535),
    suffix=st.sampled_from(["png", "tiff"]),
)
def test_a_black_and_white_mask_is_read_as_it_is_or_refused_for_its_level(
    tmp_path, height, width, dtype, level, suffix
):
    level = min(level, np.iinfo(dtype).max)
    path = saved(tmp_path / f"any.{suffix}", lungs(height, width) * dtype(level))
    if dtype == np.uint8 and 1 < level <= 127:
        with pytest.raises(UnusableMaskError, match=f"largest value is {level}"):
            read_mask(path)
    else:
        assert np.array_equal(read_mask(path), lungs(height, width))


# Several files


def test_several_masks_become_their_union(tmp_path):
    left = saved(tmp_path / "l.png", np.array([[255, 0, 0, 255]], np.uint8))
    right = saved(tmp_path / "r.png", np.array([[0, 0, 1, 1]], np.uint8))
    assert read_mask(left, right).tolist() == [[1, 0, 1, 1]]


# With their X-ray


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lungs() * 0, "holds no lung"),
        (lungs() * 0 + 255, "lung along 100% of the film's edge"),
        (255 - lungs() * 255, "may be inverted"),
        (np.pad(np.full((94, 78), 255), 1), "too much for lungs"),
        (np.pad(np.full((5, 5), 255), ((0, 91), (0, 75))), "covers 0.33% of the film, too little"),
        (lungs(48, 40) * 255, "another size: 40 × 48 for an X-ray of 80 × 96"),
        (lungs(80, 96) * 255, "another size: 96 × 80 for an X-ray of 80 × 96"),
        (lungs(98, 80) * 255, "another size: 80 × 98 for an X-ray of 80 × 96"),
    ],
)
def test_a_mask_that_cannot_be_that_of_the_x_ray_is_named(tmp_path, xray, values, reason):
    mask = saved(tmp_path / "mask.png", values.astype(np.uint8))
    with pytest.raises(UnusableMaskError, match=rf"the mask mask\.png .*{reason}"):
        read_pair(xray, [mask])


def test_exchanged_files_are_recognised(tmp_path, xray):
    mask = saved(tmp_path / "mask.png", lungs() * np.uint8(255))
    with pytest.raises(UnusableMaskError, match=r"mask\.png is black.*film\.png is not.*exchanged"):
        read_pair(mask, [xray])
    with pytest.raises(UnusableMaskError, match=r"mask\.png is black and white, no X-ray"):
        read_pair(mask, [mask])
    with pytest.raises(UnusableMaskError, match="as in an X-ray"):
        read_pair(xray, [xray])


@pytest.mark.parametrize("side", [(405, 300), (395, 304), (400, 296), (392, 305)])
def test_a_mask_off_by_a_few_pixels_takes_the_nearest_pixels(tmp_path, side):
    noise = np.random.default_rng(0).integers(0, 256, (400, 300), dtype=np.uint8)
    film = saved(tmp_path / "film.png", noise)
    other = lungs(*side)
    mask = saved(tmp_path / "mask.png", other * np.uint8(255))

    _, found, repaired = read_pair(film, [mask])

    centres = [
        ((np.arange(wanted) + 0.5) * had / wanted - 0.5)
        for wanted, had in zip((400, 300), side, strict=True)
    ]
    nearest = ndimage.map_coordinates(
        other, np.meshgrid(*centres, indexing="ij"), order=0, mode="nearest"
    )
    assert found.shape == (400, 300)
    # Where two pixels are equally near, either is right.
    assert (found != nearest).mean() < 0.002
    assert (found != lungs(400, 300)).mean() < 0.01
    assert f"was {side[1]} × {side[0]} for an X-ray of 300 × 400" in repaired


def test_the_limits_lie_far_outside_what_real_cases_have(shared_data):
    """Training and validation cases, as limits are settings: the figures beside the limits."""
    bundle = shared_data / "nlm512"
    cases = load_manifest(splits=["train", "val"])[::3]
    masks = [read_image(bundle / "masks" / case.mask_file) for case in cases]
    lungs = [mask > 127 for mask in masks]
    edges = [np.concatenate([lung[0], lung[-1], lung[:, 0], lung[:, -1]]).mean() for lung in lungs]
    images = [read_image(bundle / "CXR_png" / case.image_file) for case in cases[::4]]

    assert len(cases) == 186
    assert max(soft_fraction(mask) for mask in masks) < 0.0025
    assert min(soft_fraction(image) for image in images) > 0.25
    assert 0.08 < min(lung.mean() for lung in lungs) < max(lung.mean() for lung in lungs) < 0.41
    assert max(edges) < 0.031
