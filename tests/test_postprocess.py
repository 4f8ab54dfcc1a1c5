from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.postprocess import clean_mask, doubt, lungs_are_bright, to_mask

EIGHT = np.ones((3, 3))
masks = arrays(
    np.uint8, st.tuples(st.integers(2, 24), st.integers(2, 24)), elements=st.integers(0, 1)
)


def test_half_is_background_and_anything_above_is_lung():
    probability = np.array([[0.0, 0.5, np.nextafter(0.5, 1), 1.0]])
    mask = to_mask(probability)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 0, 1, 1]]


def test_float16_predictions_threshold_as_float32_ones():
    probability = np.linspace(0, 1, 2048, dtype=np.float16)
    np.testing.assert_array_equal(to_mask(probability), to_mask(probability.astype(np.float32)))


def test_a_nan_is_refused():
    with pytest.raises(LungsegError, match="1 NaN"):
        to_mask(np.array([[0.2, np.nan]]))


def test_a_second_component_is_a_lung_from_one_percent_on():
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 10:40] = 1
    crumb = mask.copy()
    crumb[50:61, 60:69] = 1  # 99 pixels of 10,000
    np.testing.assert_array_equal(clean_mask(crumb), mask)
    small_lung = mask.copy()
    small_lung[50:60, 60:70] = 1  # 100 pixels
    np.testing.assert_array_equal(clean_mask(small_lung), small_lung)


@settings(deadline=None, max_examples=150)
@given(masks)
def test_agrees_with_scipy(mask):
    labels, count = ndimage.label(mask, EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = sorted(areas, reverse=True)[:2]
    if len(kept) == 2 and kept[1] < 0.01 * mask.size:
        kept = kept[:1]
    cleaned = clean_mask(mask)
    assert cleaned.dtype == np.uint8
    np.testing.assert_array_equal(clean_mask(mask.astype(bool)), cleaned)
    np.testing.assert_array_equal(clean_mask(cleaned), cleaned)
    _, found_count = ndimage.label(cleaned, EIGHT)
    np.testing.assert_array_equal(cleaned, ndimage.binary_fill_holes(cleaned))
    # Filling may swallow the smaller component; it never leaves more than two.
    assert found_count <= len(kept)
    assert (cleaned & mask).sum() >= max(kept, default=0)
    # What is kept was there, or was enclosed by what was there.
    assert not (cleaned & ~ndimage.binary_fill_holes(mask)).any()
    if len(set(areas)) == len(areas) and count:
        keep = np.isin(labels, 1 + np.flatnonzero(np.isin(areas, kept)))
        np.testing.assert_array_equal(cleaned, ndimage.binary_fill_holes(keep))


PROBABILITY = np.zeros((64, 64), np.float32)
PROBABILITY[20:50, 10:25] = PROBABILITY[20:50, 40:55] = 1
LUNGS = PROBABILITY > 0


@pytest.mark.parametrize(("lung", "bright"), [(40, False), (160, True)])
def test_lungs_are_compared_with_what_lies_around_them(lung, bright):
    image = np.where(LUNGS, lung, 100).astype(np.uint8)
    # The film's border, brighter or darker than all, is not around the lungs.
    image[:8] = 255 - lung
    assert lungs_are_bright(image, PROBABILITY) is bright
    assert lungs_are_bright(255 - image, PROBABILITY) is not bright


@pytest.mark.parametrize("level", [0, 1])
def test_without_lungs_or_surroundings_nothing_is_said(level):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert not lungs_are_bright(noise, np.full((64, 64), level, np.float32))


def test_doubt_is_the_variance_a_pixel_of_lung():
    assert doubt(PROBABILITY) == 0
    unsure = np.full((4, 4), 0.75, np.float32)
    unsure[0] = 0
    assert doubt(unsure) == pytest.approx(0.25 * 0.75)
    assert doubt(np.zeros((4, 4), np.float32)) == 0
