from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation import metrics

spacings = st.tuples(st.floats(0.1, 5), st.floats(0.1, 5))


@st.composite
def mask_pairs(draw):
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    values = arrays(np.uint8, shape, elements=st.integers(0, 1))
    return draw(values), draw(values)


def square(top: int, left: int, side: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def brute_force(one, other, spacing):
    """The definition, by SciPy: erosion for the surface, all distances, no shortcut."""
    cross = ndimage.generate_binary_structure(2, 1)

    def points(mask):
        inner = ndimage.binary_erosion(mask, cross, border_value=0)
        return np.argwhere(mask.astype(bool) & ~inner) * (spacing[1], spacing[0])

    distances = cdist(points(one), points(other))
    return distances.min(axis=1), distances.min(axis=0)


# Two squares of side 10, one 5 to the right of the other: 50 pixels shared of 100 + 100.


def test_overlap_of_two_squares():
    one, other = square(10, 10, 10), square(10, 15, 10)
    assert metrics.dice(one, other) == 0.5
    assert metrics.iou(one, other) == pytest.approx(50 / 150)
    assert metrics.accuracy(one, other) == pytest.approx(1 - 100 / 1600)


def test_agreement_is_the_mean_of_all_pairs():
    rows = np.zeros((3, 12, 12), np.uint8)
    rows[0, :4], rows[1, :8], rows[2, :] = 1, 1, 1
    # Dice 2·4/12, 2·4/16 and 2·8/20.
    assert metrics.agreement(rows) == pytest.approx((2 / 3 + 1 / 2 + 4 / 5) / 3)


def test_distances_of_two_shifted_squares():
    one, other = square(10, 10, 10), square(10, 15, 10)
    there, back = metrics.surface_distances(one, other)
    # The ring of a square of side 10 has 36 pixels. Columns 0-4 of the one are 5, 4, 3, 2, 1 away
    # in the top and bottom rows; the left side (8 more) is 5 away; the right side, at column 9,
    # lies inside the other: its rows 1-8 are nearest to the top, the bottom or the left side.
    assert len(there) == len(back) == 36
    inside = [min(row, 9 - row, 4) for row in range(1, 9)]
    wanted = 2 * [5, 4, 3, 2, 1, 0, 0, 0, 0, 0] + 8 * [5] + inside
    assert sorted(there) == sorted(wanted)
    assert sorted(back) == sorted(wanted)
    assert metrics.hd95(one, other) == 5
    assert metrics.assd(one, other) == pytest.approx(np.mean(wanted))


def test_spacing_is_across_then_down():
    one, right, below = square(10, 10, 1), square(10, 13, 1), square(14, 10, 1)
    assert metrics.hd95(one, right, (2.0, 0.5)) == pytest.approx(6.0)
    assert metrics.hd95(one, below, (2.0, 0.5)) == pytest.approx(2.0)
    assert metrics.assd(one, square(14, 13, 1), (2.0, 0.5)) == pytest.approx(math.hypot(6, 2))


def test_hd95_takes_the_larger_direction():
    truth = square(5, 5, 10)
    spill = truth.copy()
    spill[5:15, 25:35] = 1
    there, back = metrics.surface_distances(spill, truth)
    assert back.max() == 0
    assert metrics.hd95(spill, truth) == np.percentile(there, 95) == metrics.hd95(truth, spill)
    # Pooled: the mean of the two directions' means would weigh the shorter outline more.
    assert metrics.assd(spill, truth) == pytest.approx(there.sum() / (72 + 36))


def test_beyond_the_images_edge_is_outside():
    ring = metrics.surface(np.ones((5, 6), np.uint8))
    wanted = np.ones((5, 6), bool)
    wanted[1:-1, 1:-1] = False
    np.testing.assert_array_equal(ring, wanted)


def test_empty_masks():
    empty, lung = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    lung[5:9, 5:9] = 1
    assert metrics.dice(empty, empty) == metrics.iou(empty, empty) == 1
    assert metrics.hd95(empty, empty) == metrics.assd(empty, empty) == 0
    assert metrics.dice(empty, lung) == metrics.iou(empty, lung) == 0
    assert metrics.hd95(empty, lung) == metrics.assd(empty, lung) == 50
    assert metrics.hd95(lung, empty, (2.0, 0.5)) == pytest.approx(math.hypot(80, 15))


@settings(deadline=None, max_examples=200)
@given(mask_pairs(), spacings)
def test_distances_agree_with_brute_force(pair, spacing):
    one, other = pair
    assume(one.any() and other.any())
    there, back = metrics.surface_distances(one, other, spacing)
    brute_there, brute_back = brute_force(one, other, spacing)
    np.testing.assert_allclose(there, brute_there, rtol=1e-12)
    np.testing.assert_allclose(back, brute_back, rtol=1e-12)
    both = np.concatenate([brute_there, brute_back])
    farthest = max(np.percentile(brute_there, 95), np.percentile(brute_back, 95))
    assert metrics.hd95(one, other, spacing) == pytest.approx(farthest)
    assert metrics.assd(one, other, spacing) == pytest.approx(both.mean())


def test_the_largest_distance_is_scikit_images():
    one, other = np.zeros((2, 90, 110), np.uint8)
    one[20:60, 30:70], other[25:80, 33:61] = 1, 1
    largest = max(distances.max() for distances in metrics.surface_distances(one, other))
    assert largest == hausdorff_distance(metrics.surface(one), metrics.surface(other))


@settings(deadline=None, max_examples=100)
@given(mask_pairs())
def test_range_symmetry_and_identities(pair):
    one, other = pair
    for score in (metrics.dice, metrics.iou, metrics.accuracy):
        assert 0 <= score(one, other) <= 1
        assert score(one, other) == score(other, one)
        assert score(one, one) == 1
    for distance in (metrics.hd95, metrics.assd):
        assert 0 <= distance(one, other) <= math.hypot(*one.shape)
        assert distance(one, other) == pytest.approx(distance(other, one))
        assert distance(one, one) == 0
    iou = metrics.iou(one, other)
    assert metrics.dice(one, other) == pytest.approx(2 * iou / (1 + iou))


@pytest.mark.parametrize(
    ("prediction", "truth", "said"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), r"\(4, 4\) and \(4, 5\)"),
        (np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8), r"\(1, 4, 4\)"),
        (np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), "from 255 to 255"),
        (np.full((4, 4), 0.7), np.zeros((4, 4), np.uint8), "float64"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(prediction, truth, said):
    with pytest.raises(LungsegError, match=said):
        metrics.dice(prediction, truth)


def test_the_patients_right_lung_is_on_the_images_left():
    right, left = square(10, 5, 10), square(10, 25, 10)
    territories = metrics.split_lungs(right | left)
    assert territories is not None
    assert territories[0][right == 1].all()
    assert territories[1][left == 1].all()
    # Columns 5-14 and 25-34: column 19 is 5 from the one and 6 from the other; 20 is 6 and 5.
    np.testing.assert_array_equal(territories[0][12], np.arange(40) <= 19)


def test_a_tie_goes_to_the_right_lung():
    territories = metrics.split_lungs(square(10, 5, 10) | square(10, 24, 10))
    assert territories is not None
    assert territories[0][12, 19]  # 5 from column 14, 5 from column 24


@pytest.mark.parametrize("lungs", [[], [(5, 5, 8)], [(5, 5, 8), (5, 25, 8), (25, 5, 8)]])
def test_other_than_two_lungs_are_not_split(lungs):
    truth = np.zeros((40, 40), np.uint8)
    for lung in lungs:
        truth |= square(*lung)
    assert metrics.split_lungs(truth) is None


def test_specks_under_one_percent_are_no_lungs_but_belong_to_the_nearest():
    truth = square(10, 5, 10) | square(10, 25, 10)
    truth[2, 36:39] = 1  # 3 of 1,600 pixels
    territories = metrics.split_lungs(truth)
    assert territories is not None
    assert territories[1][2, 36:39].all()


def test_rows_of_a_case():
    truth = square(10, 5, 10) | square(10, 25, 10)
    prediction = square(10, 5, 10)
    prediction[10:20, 17:25] = 1  # spill: columns 17-19 to the right lung, 20-24 to the left
    rows = {row["region"]: row for row in metrics.score_case(prediction, truth, (0.5, 0.5))}
    assert list(rows) == ["both", "right", "left"]
    assert rows["both"]["dice"] == pytest.approx(2 * 100 / (180 + 200))
    assert rows["right"]["dice"] == pytest.approx(2 * 100 / (130 + 100))
    assert rows["left"]["dice"] == 0
    assert rows["left"]["empty_prediction"] == 0
    # 30 wrong of the right territory's 800 pixels (columns 0-19), 150 of the left's.
    assert rows["right"]["accuracy"] == pytest.approx(1 - 30 / 800)
    assert rows["left"]["accuracy"] == pytest.approx(1 - 150 / 800)
    for row in rows.values():
        assert row["hd95_mm"] == pytest.approx(row["hd95_px"] / 2)
        assert row["assd_mm"] == pytest.approx(row["assd_px"] / 2)


def test_a_missed_lung_is_an_empty_prediction_there_alone():
    truth = square(10, 5, 10) | square(10, 25, 10)
    rows = {row["region"]: row for row in metrics.score_case(square(10, 5, 10), truth)}
    assert [rows[region]["empty_prediction"] for region in metrics.REGIONS] == [0, 0, 1]
    assert rows["left"]["hd95_px"] == pytest.approx(math.hypot(40, 40))
    assert rows["right"]["dice"] == 1
    assert all(math.isnan(row["hd95_mm"]) and math.isnan(row["assd_mm"]) for row in rows.values())


def test_one_lung_is_scored_as_a_whole_only():
    assert [row["region"] for row in metrics.score_case(square(5, 5, 9), square(5, 5, 9))] == [
        "both"
    ]


def test_real_masks_have_two_lungs(shared_data):
    cv2 = pytest.importorskip("cv2")
    paths = sorted((shared_data / "nlm512" / "masks").glob("*.png"))
    masks = ((cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127) for path in paths[::10])
    areas = []
    for mask in masks:
        territories = metrics.split_lungs(mask)
        assert territories is not None
        areas.append([(mask & territory).sum() for territory in territories])
    # The right lung is the larger one in most people.
    right, left = np.median(areas, axis=0)
    assert right > left
