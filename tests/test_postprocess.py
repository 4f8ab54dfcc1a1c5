from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.postprocess import (
    Outlines,
    clean_mask,
    disagreement,
    doubt,
    lungs_are_bright,
    missing_lung,
    to_mask,
)

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


def lungs(width: int = 38, height: int = 100, shift: float = 0, turn: float = 0) -> np.ndarray:
    mask = np.zeros((256, 256), np.uint8)
    for side in (-1, 1):
        middle = round(128 + side * 52 + shift), round(120 + shift)
        cv2.ellipse(mask, middle, (width, height), 8 * side, 0, 360, 1, -1)
    if turn:
        turned = cv2.getRotationMatrix2D((128, 120), turn, 1)
        mask = cv2.warpAffine(mask, turned, mask.shape, flags=cv2.INTER_NEAREST)
    return mask


@pytest.fixture(scope="module")
def outlines() -> Outlines:
    return Outlines.of_masks([lungs(w, h) for w in (30, 36, 42) for h in (80, 95, 110)], 3)


@pytest.mark.parametrize("pose", [{}, {"shift": 20}, {"turn": 8}, {"width": 33, "height": 85}])
def test_usual_lungs_are_found_wherever_and_however_they_lie(outlines, pose):
    found = outlines.fit(lungs(**pose).astype(np.float32)) > 0
    assert disagreement(found, lungs(**pose)) < 0.04
    assert disagreement(found, np.roll(lungs(**pose), 12, axis=1)) > 0.1


@pytest.mark.parametrize("cut", [np.s_[150:, :128], np.s_[:115, 128:], np.s_[100:130, :128]])
def test_a_lung_that_is_cut_off_is_completed(outlines, cut):
    whole = lungs(shift=6)
    seen = whole.copy()
    seen[cut] = 0
    missing = missing_lung(seen * np.float32(0.9), outlines)
    completed = clean_mask(seen | to_mask(missing))
    assert disagreement(completed, whole) < 0.35 * disagreement(clean_mask(seen), whole)
    # What is a guess stays within the outline.
    assert (to_mask(missing) > whole).sum() < 0.02 * whole.sum()


@given(st.floats(-12, 12), st.floats(-4, 4), st.integers(32, 40), st.integers(85, 105))
@settings(max_examples=25, deadline=None)
def test_usual_lungs_and_no_lungs_are_left_as_they_are(outlines, shift, turn, width, height):
    probability = cv2.GaussianBlur(lungs(width, height, shift, turn).astype(np.float32), (0, 0), 3)
    assert missing_lung(probability, outlines) is None
    assert missing_lung(np.zeros_like(probability), outlines) is None
