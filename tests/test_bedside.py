"""Films of the very ill, each against what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from lungseg_utils.preparation import bedside, effects, shapes
from tests.test_effects import SIZE, film_and_lungs, flat, rng

SEEDS = range(12)
RIGHT = np.s_[:, : SIZE // 2]
LEFT = np.s_[:, SIZE // 2 :]


def step_over_the_border(image: np.ndarray, mask: np.ndarray) -> float:
    """Level just outside the lungs against just inside, as at their flanks."""
    rows = slice(SIZE // 2 - 8, SIZE // 2 + 8)
    columns = np.flatnonzero(mask[SIZE // 2])
    outer = [columns[0] - 3, columns[-1] + 3]
    inner = [columns[0] + 2, columns[-1] - 2]
    return float(image[rows][:, outer].mean() - image[rows][:, inner].mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hidden_lung_leaves_no_edge(seed):
    image, mask = film_and_lungs()
    hidden = bedside.hide_lungs(image, mask, 1.0, rng(seed), ("whole",), both=True)
    assert step_over_the_border(image, mask) > 100
    assert abs(step_over_the_border(hidden, mask)) < 20
    # The tissue there has 180, changed by a tenth at most; that of the rest stays.
    assert hidden[mask == 1].mean() == pytest.approx(180, abs=25)
    assert np.array_equal(hidden[:8], image[:8]) and np.array_equal(hidden[-8:], image[-8:])


def test_density_is_the_share_of_the_lungs_own_level_that_is_gone():
    image, mask = film_and_lungs()
    found = [
        bedside.hide_lungs(image, mask, density, rng(3), ("whole",), both=True)[mask == 1].mean()
        for density in (0, 0.5, 1)
    ]
    assert found[0] == pytest.approx(image[mask == 1].mean(), abs=0.1)
    assert found[1] == pytest.approx((found[0] + found[2]) / 2, abs=1.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_lung_or_both(seed):
    image, mask = film_and_lungs()
    one = bedside.hide_lungs(image, mask, 1.0, rng(seed), ("whole",), both=False)
    both = bedside.hide_lungs(image, mask, 1.0, rng(seed), ("whole",), both=True)
    darkest = [
        [film[side][mask[side] == 1].mean() < 80 for side in (RIGHT, LEFT)] for film in (one, both)
    ]
    assert sorted(darkest[0]) == [False, True] and darkest[1] == [False, False]


@pytest.mark.parametrize(
    ("zone", "first"), [("lower", "base"), ("effusion", "base"), ("upper", "")]
)
def test_zones_are_where_their_names_say(zone, first):
    image, mask = film_and_lungs()
    films = [bedside.hide_lungs(image, mask, 1.0, rng(s), (zone,), both=True) for s in range(30)]
    gained = np.mean(films, axis=0) - image
    top, base = (gained[rows][mask[rows] == 1].mean() for rows in (slice(0, 40), slice(88, None)))
    assert (base > top + 40) if first == "base" else (top > base + 40)


def film_with_a_heart() -> tuple[np.ndarray, np.ndarray]:
    """The left lung's lower half begins farther from the middle."""
    image, mask = film_and_lungs()
    heart = np.s_[SIZE // 2 :, SIZE // 2 : round(0.66 * SIZE)]
    image[heart], mask[heart] = 180, 0
    return image, mask


@pytest.mark.parametrize("seed", SEEDS)
def test_a_soft_heart_is_grey_beside_its_lung_and_nothing_else_changes(seed):
    image, mask = film_with_a_heart()
    soft = bedside.soften_heart(image, mask, 1.0, rng(seed))
    changed = (soft != image) & (np.abs(soft.astype(int) - image) > 1)
    assert not changed[mask == 1].any() and not changed[RIGHT].any()
    assert not changed[: SIZE // 3].any()  # from 0.3 of the lungs' height downwards
    # Tissue of 180 comes near to the lung's 60 at its edge, and less so at the middle.
    row, edge = round(0.72 * SIZE), round(0.66 * SIZE)
    assert soft[row, edge - 1] < 105 and soft[row, SIZE // 2 + 1] > 120
    turned = bedside.soften_heart(image[:, ::-1], mask[:, ::-1], 1.0, rng(seed))[:, ::-1]
    changed_by, apart = np.abs(soft.astype(int) - image), np.abs(soft.astype(int) - turned)
    assert apart.mean() < 0.2 * changed_by.mean()


def test_softness_is_the_share_of_the_way_to_the_lungs_level():
    image, mask = film_with_a_heart()
    none, half, whole = (
        bedside.soften_heart(image, mask, softness, rng(1)).astype(float)
        for softness in (0, 0.5, 1)
    )
    assert np.array_equal(none, image)
    assert np.abs(half - (none + whole) / 2).max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_gas_is_dark_and_outside_the_lungs(seed):
    image, mask = film_and_lungs()
    gassed = bedside.add_gas(image, mask, rng(seed)).astype(int)
    # What was blurred over the thin wall changes a lung's own edge by little.
    assert np.abs(gassed - image)[mask == 1].max() <= 12
    changed = (gassed - image)[mask == 0]
    assert changed.min() < -40 and changed.mean() < 0
    assert np.flatnonzero((gassed - image < -40).any(axis=1)).min() > SIZE // 4


def test_devices_are_drawn_over_the_lungs():
    image, mask = film_and_lungs()
    assert np.array_equal(effects.add_devices(image, mask, 0, rng(0)), image)
    films = [effects.add_devices(image, mask, 6, rng(seed)) for seed in SEEDS]
    shares = [np.mean(film[mask == 1] > image[mask == 1] + 20) for film in films]
    assert 0.05 < np.mean(shares) < 0.6
    assert all(film.dtype == np.uint8 and film.shape == image.shape for film in films)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_collimated_beam_leaves_the_lungs(seed):
    image, mask = film_and_lungs()
    cut = bedside.collimate(image, mask, rng(seed)).astype(int)
    assert np.mean(np.abs(cut - image)[mask == 1] <= 2) > 0.9
    corner = np.concatenate([cut[:4, :4].ravel(), cut[-4:, -4:].ravel()])
    assert corner.std() < 0.2 * np.concatenate([image[:4, :4], image[-4:, -4:]]).std() + 2


def test_grain_is_stronger_where_the_film_is_dense():
    dark, bright = (
        np.std([bedside.add_mottle(flat(level), 0.05, rng(seed)) for seed in SEEDS])
        for level in (60, 200)
    )
    assert bright / dark == pytest.approx(np.sqrt((0.2 + 200 / 255) / (0.2 + 60 / 255)), rel=0.03)
    assert np.mean([bedside.add_mottle(flat(128), 0.05, rng(s)) for s in SEEDS]) == pytest.approx(
        128, abs=0.3
    )


def test_nothing_moves_without_strength():
    image, mask = film_and_lungs()
    for moved, before in zip(
        shapes.deform(image, mask, 0, 0, 0, (0, 0), rng(0)), (image, mask), strict=True
    ):
        assert np.array_equal(moved, before)


@pytest.mark.parametrize("seed", SEEDS)
def test_film_and_mask_are_deformed_alike(seed):
    _, mask = film_and_lungs()
    film, moved = shapes.deform(255 * mask, mask, 0.03, 0.3, 0.3, (0.3, 0.5), rng(seed))
    assert np.mean((film > 127) != (moved > 0)) < 0.01
    assert 0.3 < moved.sum() / mask.sum() < 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_one_diaphragm_is_raised_by_its_share(seed):
    image, mask = film_and_lungs()
    _, moved = shapes.deform(image, mask, 0, 0.3, 0, (0, 0), rng(seed))
    rows = [np.flatnonzero(mask[side].any(axis=1)) for side in (RIGHT, LEFT)]
    after = [np.flatnonzero(moved[side].any(axis=1)) for side in (RIGHT, LEFT)]
    raised = sorted((b[-1] - a[-1]) / len(b) for a, b in zip(after, rows, strict=True))
    assert raised[0] < 0.12 and raised[1] == pytest.approx(0.3, abs=0.06)
    assert all(abs(a[0] - b[0]) <= 1 for a, b in zip(after, rows, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_befalls_a_film_it_stays_one(seed):
    image, mask = film_and_lungs(96)
    film, lungs = bedside.simulate(image, mask, rng(seed))
    assert (film.shape, film.dtype, lungs.dtype) == (image.shape, np.uint8, np.uint8)
    assert set(np.unique(lungs)) == {0, 1} and lungs.sum() > 0.2 * mask.sum()
    again = bedside.simulate(image, mask, rng(seed))
    assert np.array_equal(film, again[0]) and np.array_equal(lungs, again[1])


def test_a_film_without_lungs_is_taken():
    image, none = film_and_lungs()[0], np.zeros((SIZE, SIZE), np.uint8)
    assert np.array_equal(bedside.hide_lungs(image, none, 1.0, rng(0)), image)
    assert np.array_equal(bedside.add_gas(image, none, rng(0)), image)
    assert np.array_equal(bedside.soften_heart(image, none, 1.0, rng(0)), image)
    for seed in SEEDS:
        assert not bedside.simulate(image, none, rng(seed))[1].any()
