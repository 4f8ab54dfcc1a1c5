from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.corruptions import CORRUPTIONS, corrupt
from lungseg_utils.preparation.cases import Cases
from tests.tiny import tiny_cases

MOVING = {"rotated", "cropped"}
each = pytest.mark.parametrize("name", CORRUPTIONS)


@pytest.fixture(scope="module")
def cases() -> Cases:
    return tiny_cases(6, 128)


def one_film_many_ids(image: np.ndarray, mask: np.ndarray, count: int = 40) -> Cases:
    """The same pair under many ids."""
    cases = tiny_cases(count, len(image))
    return replace(cases, images=np.array([image] * count), masks=np.array([mask] * count))


def place_of(weights: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centre (x, y), mass, and the angle of the long axis to the horizontal, in degrees."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    weights = weights.astype(float)
    mass = weights.sum()
    centre = np.array([(weights * axis).sum() / mass for axis in (x, y)])
    dx, dy = x - centre[0], y - centre[1]
    xx, yy, xy = ((weights * part).sum() for part in (dx * dx, dy * dy, dx * dy))
    return centre, mass, np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))


def ellipse(width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """A white ellipse in the middle of a black film of 128 pixels, and its mask."""
    y, x = (np.mgrid[:128, :128] - 63.5) / [[[height]], [[width]]]
    mask = (x**2 + y**2 < 1).astype(np.uint8)
    return 255 * mask, mask


@each
def test_every_image_changes_and_masks_only_where_it_moves(name, cases):
    images, masks = cases.images.copy(), cases.masks.copy()
    bad = corrupt(cases, name)
    assert np.array_equal(cases.images, images) and np.array_equal(cases.masks, masks)
    assert bad.ids == cases.ids
    assert (bad.images.shape, bad.images.dtype) == (images.shape, np.uint8)
    assert (bad.masks.shape, bad.masks.dtype) == (masks.shape, np.uint8)
    for row in range(len(cases)):
        assert np.mean(bad.images[row] != images[row]) > 0.02
        assert np.array_equal(bad.masks[row], masks[row]) != (name in MOVING)
    assert set(np.unique(bad.masks)) == {0, 1}


@each
def test_a_film_depends_on_its_id_alone(name, cases):
    whole = corrupt(cases, name)
    rows = [4, 0, 3]
    chosen = corrupt(cases.take(rows), name)
    assert chosen.ids == [cases.ids[row] for row in rows]
    assert np.array_equal(chosen.images, whole.images[rows])
    assert np.array_equal(chosen.masks, whole.masks[rows])


def test_levels_change_as_the_names_say(cases):
    def levels(name: str) -> np.ndarray:
        return corrupt(cases, name).images.astype(float)

    good = cases.images.astype(float)
    axes = (1, 2)
    assert (levels("dark").mean(axes) < 0.5 * good.mean(axes)).all()
    assert (levels("bright").mean(axes) > good.mean(axes) + 40).all()
    # A quarter of the contrast; no level here is cut off.
    assert np.allclose(levels("flat").std(axes), 0.25 * good.std(axes), rtol=0.02)


def test_blurred_is_a_gaussian_of_a_hundredth_of_the_side():
    dot = np.zeros((200, 200), np.uint8)
    dot[100, 100] = 255
    blurred = corrupt(one_film_many_ids(dot, dot // 255, 2), "blurred").images[0]
    assert blurred[100, 100] == pytest.approx(255 / (2 * np.pi * 2**2), abs=1.5)


def test_cropped_enlarges_by_1_3_and_moves_by_up_to_an_eighth():
    image, mask = ellipse(20, 20)
    bad = corrupt(one_film_many_ids(image, mask), "cropped")
    shifts = []
    for film, lungs in zip(bad.images, bad.masks, strict=True):
        centre, area, _ = place_of(lungs)
        assert area / mask.sum() == pytest.approx(1.3**2, rel=0.02)
        assert np.allclose(place_of(film)[0], centre, atol=0.3)
        shifts.append((centre - 63.5) / 128)
    assert np.abs(shifts).max() <= 0.12 + 0.003
    assert (np.min(shifts, axis=0) < -0.08).all() and (np.max(shifts, axis=0) > 0.08).all()


def test_opacities_whiten_the_lungs():
    image, mask = ellipse(40, 50)
    image = np.where(mask, 60, 180).astype(np.uint8)
    bad = corrupt(one_film_many_ids(image, mask), "opacities").images
    assert np.mean([film[mask == 1].mean() for film in bad]) > 60 + 25
