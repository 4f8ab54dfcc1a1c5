from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import skimage.exposure
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from lungseg_utils.errors import ImageFileError, LungsegError
from lungseg_utils.files import images as image_files
from lungseg_utils.preparation.imaging import (
    Preprocessing,
    read_image,
    resize_image,
    resize_mask,
    resize_probability,
    to_grey,
    to_model_input,
)
from lungseg_utils.preparation.preprocess import preprocess

binary_masks = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 1)
)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)


def saved(path, values, mode=None, **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# Reading: kinds of file


def test_twelve_bits_in_sixteen_are_windowed_by_their_own_range(tmp_path):
    film = np.linspace(100, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    for name in ("film.png", "film.tiff"):
        values = read_image(saved(tmp_path / name, film))
        exact = (film.astype(int) - 100) * 255 / 3995
        assert values.dtype == np.uint8
        assert np.abs(values - exact).max() <= 0.5 + 1e-4
        assert len(np.unique(values)) == 256


def test_numbers_with_a_fraction_are_windowed(tmp_path):
    values = np.array([[-1.0, 0.0], [0.5, 1.0]], np.float32)
    assert read_image(saved(tmp_path / "a.tiff", values)).tolist() == [[0, 128], [191, 255]]
    values[0, 0] = np.nan
    with pytest.raises(ImageFileError, match="NaN"):
        read_image(saved(tmp_path / "b.tiff", values))


def test_one_bit_becomes_black_and_white(tmp_path):
    pattern = np.array([[True, False, True], [False, False, True]])
    assert read_image(saved(tmp_path / "a.png", pattern)).tolist() == [[255, 0, 255], [0, 0, 255]]


def test_colour_becomes_grey_with_the_weights_of_rec_601(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 200]]], np.uint8)
    path = saved(tmp_path / "a.png", colours)
    assert read_image(path).tolist() == [[76, 150, 29, 200]]
    assert to_grey(colours).tolist() == [[76, 150, 29, 200]]


def test_transparent_pixels_lie_on_black(tmp_path):
    colour = np.array([[[255, 255, 255, 0], [255, 255, 255, 128], [255, 0, 0, 255]]], np.uint8)
    grey = np.array([[[255, 0], [255, 128], [90, 255]]], np.uint8)
    assert read_image(saved(tmp_path / "rgba.png", colour)).tolist() == [[0, 128, 76]]
    assert to_grey(colour).tolist() == [[0, 128, 76]]
    assert read_image(saved(tmp_path / "la.png", Image.fromarray(grey))).tolist() == [[0, 128, 90]]


# Reading: rotation


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.flipud(np.rot90(stored, -1)),
    8: np.rot90,
    0: lambda stored: stored,  # there is none of that number
    9: lambda stored: stored,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg"])
def test_exif_orientation_is_honoured(tmp_path, noise, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise
    if suffix == ".jpg":
        stored = np.asarray(Image.open(saved(tmp_path / "loss.jpg", noise)))
    path = saved(tmp_path / f"a{suffix}", noise, exif=exif)
    expected = UPRIGHT[orientation](stored)
    assert np.array_equal(read_image(path), expected)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), expected)


def test_sixteen_bits_of_colour_keep_their_low_bytes_and_their_channels(tmp_path):
    ramp = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    opaque = np.full_like(ramp, 65535)
    opaque[0] = 0
    colours = np.zeros((1, 4, 3), np.uint16)  # blue, green and red are OpenCV's order
    colours[0, [0, 1, 2], [2, 1, 0]] = colours[0, 3] = 1000
    expected = np.arange(256.0).reshape(16, 16)
    transparent = expected * (opaque > 0)
    # Windowed from 114 (blue) to 1000 (white).
    weights = [[(value - 114) * 255 / 886 for value in (299, 587, 114, 1000)]]
    for picture, wanted in (
        (np.dstack([ramp] * 3), expected),
        (np.dstack([ramp] * 3 + [opaque]), transparent),
        (colours, weights),
    ):
        for suffix in (".png", ".tiff"):
            path = tmp_path / f"film{suffix}"
            path.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
            assert np.abs(read_image(path) - wanted).max() <= 1


# Reading: what cannot be read


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageFileError, match="there is no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageFileError, match="it is a folder"):
        read_image(tmp_path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff"])
def test_truncated_files_are_refused_wherever_they_end(tmp_path, noise, suffix):
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, suffix)
    whole = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    for length in range(1, len(whole) * 9 // 10, 29):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageFileError, match=r"a\.\w+: it is (damaged|text|of a kind)"):
            read_image(path)


def test_the_pixel_limit_itself_is_allowed(tmp_path, noise, monkeypatch):
    path = saved(tmp_path / "a.png", noise)
    monkeypatch.setattr(image_files, "PIXEL_LIMIT", noise.size)
    assert read_image(path).shape == noise.shape
    monkeypatch.setattr(image_files, "PIXEL_LIMIT", noise.size - 1)
    with pytest.raises(ImageFileError):
        read_image(path)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (2, 4, 4, 3), (0, 4)])
def test_arrays_that_are_no_image(shape):
    with pytest.raises(LungsegError, match="An image is an array"):
        to_grey(np.zeros(shape, np.uint8))
    with pytest.raises(LungsegError, match="finite"):
        to_grey(np.full((2, 2), np.nan))


# Resizing


def overlaps(old: int, new: int) -> np.ndarray:
    """Whole numbers (new, old): the overlap of new pixel i with old pixel j; rows sum to `old`."""
    first = np.arange(new)[:, np.newaxis] * old
    second = np.arange(old) * new
    return np.clip(np.minimum(first + old, second + new) - np.maximum(first, second), 0, None)


@pytest.mark.parametrize("size", [(17, 11), (53, 20), (10, 37), (52, 36), (1, 1)])
def test_shrinking_averages_areas(noise, size):
    width, height = size
    sums = overlaps(37, height) @ noise.astype(int) @ overlaps(53, width).T
    resized = resize_image(noise, size)
    assert resized.shape == (height, width)
    assert np.abs(resized - sums / noise.size).max() <= 1


@pytest.mark.parametrize("size", [(106, 74), (53, 60), (80, 37), (200, 201)])
def test_enlarging_is_linear(noise, size):
    expected = skimage.transform.resize(
        noise, size[::-1], order=1, mode="edge", anti_aliasing=False, preserve_range=True
    )
    assert np.abs(resize_image(noise, size) - expected).max() <= 1


@settings(max_examples=150, deadline=None)
@given(mask=binary_masks, data=st.data())
def test_shrunk_masks_are_lung_where_at_least_half_of_the_area_is(mask, data):
    height, width = (data.draw(st.integers(1, side)) for side in mask.shape)
    doubled = 2 * (overlaps(mask.shape[0], height) @ mask @ overlaps(mask.shape[1], width).T)
    expected = doubled >= mask.size
    resized = resize_mask(mask, (width, height))
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, expected)


@settings(deadline=None)
@given(mask=binary_masks, width=st.integers(1, 60), height=st.integers(1, 60))
def test_resized_masks_are_zero_and_one_and_mirror(mask, width, height):
    resized = resize_mask(mask, (width, height))
    assert resized.shape == (height, width)
    assert resized.dtype == np.uint8
    assert resized.max() <= 1
    assert np.array_equal(resize_mask(mask[::-1, ::-1], (width, height)), resized[::-1, ::-1])
    assert np.array_equal(resize_mask(1 - mask, (width, height)) | resized, np.ones_like(resized))


def test_probabilities_are_resized_linearly():
    probability = np.random.default_rng(0).random((16, 16), np.float32)
    expected = skimage.transform.resize(
        probability, (40, 31), order=1, mode="edge", anti_aliasing=False
    )
    resized = resize_probability(probability, (31, 40))
    assert resized.dtype == np.float32
    assert np.abs(resized - expected).max() < 1e-5
    assert np.array_equal(resize_probability(np.ones((5, 5)), 8), np.ones((8, 8), np.float32))


# Preprocessing


def test_minmax_by_hand():
    image = np.array([[50, 100], [150, 200]], np.uint8)
    stretched = Preprocessing(normalise="minmax").apply(image)
    assert stretched.dtype == np.uint8
    assert stretched.tolist() == [[0, 85], [170, 255]]


def test_percentiles_agree_with_scikit_image(noise):
    dull = (noise // 4 + 60).astype(np.uint8)
    dull[0, :3] = 0, 255, 255
    low, high = np.percentile(dull, (1, 99))
    expected = skimage.exposure.rescale_intensity(dull, (low, high), (0, 255))
    assert np.abs(Preprocessing(normalise="percentile").apply(dull) - expected).max() <= 1


def test_clahe_widens_local_contrast_and_uses_its_options():
    y, x = np.mgrid[:64, :64]
    image = (100 + 40 * (x > 32) + (x + y) % 5).astype(np.uint8)
    equalised = Preprocessing(clahe=True, clip_limit=4.0, tiles=4).apply(image)
    assert image[:16, :16].std() * 2 < equalised[:16, :16].std()
    assert np.array_equal(equalised, cv2.createCLAHE(4.0, (4, 4)).apply(image))
    assert not np.array_equal(equalised, Preprocessing(clahe=True).apply(image))


@pytest.mark.parametrize(
    "options",
    [{"normalise": "zscore"}, {"clip_limit": 0}, {"clip_limit": float("nan")}, {"tiles": 0}],
)
def test_unknown_options_are_refused(options):
    with pytest.raises(LungsegError):
        Preprocessing(**options)


def test_model_input_is_a_255th_of_the_levels():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = to_model_input(levels)
    assert values.shape == (1, 16, 16, 1)
    assert values.dtype == np.float32
    assert np.abs(values.ravel() - np.arange(256) / 255).max() < 1e-7
    assert values.max() == 1
    assert to_model_input(np.zeros((3, 4, 5), np.uint8)).shape == (3, 4, 5, 1)


def test_one_call_prepares_files_and_arrays_alike(tmp_path, noise):
    lungs = (noise > 100).astype(np.uint8)
    image_file = saved(tmp_path / "a.png", noise)
    mask_file = saved(tmp_path / "m.png", lungs * 255)
    options = Preprocessing(normalise="minmax")
    x, y = preprocess(image_file, mask_file, 16, options)
    assert x.shape == (16, 16, 1)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    assert np.array_equal(y, resize_mask(lungs, 16))
    for mask in (lungs, lungs * 255, lungs.astype(bool)):
        from_arrays = preprocess(noise, mask, 16, options)
        assert np.array_equal(from_arrays[0], x)
        assert np.array_equal(from_arrays[1], y)
    assert preprocess(image_file)[0].shape == (256, 256, 1)
    assert preprocess(image_file)[1] is None


def test_one_call_refuses_what_does_not_fit(noise):
    with pytest.raises(ImageFileError, match="X-ray 53 × 37 pixels, mask 37 × 53 pixels"):
        preprocess(noise, noise.T > 9)
    with pytest.raises(LungsegError, match="Threshold it first"):
        preprocess(noise, noise)
