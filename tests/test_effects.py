"""What can befall a film, each against a computation of its own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lungseg_utils.preparation import effects

SIZE = 128
SEEDS = range(20)
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(level: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.full((height, width), level, np.uint8)


def film_and_lungs(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Two dark ellipses in bright tissue, with texture."""
    y, x = np.mgrid[:size, :size] / size
    lungs = np.minimum((x - 0.3) ** 2, (x - 0.7) ** 2) / 0.15**2 + (y - 0.5) ** 2 / 0.35**2 < 1
    texture = rng(0).integers(-15, 16, (size, size))
    return (180 - 120 * lungs + texture).astype(np.uint8), lungs.astype(np.uint8)


def step_edge(dark: int, bright: int, size: int = 64) -> np.ndarray:
    image = flat(dark, size, size)
    image[:, size // 2 :] = bright
    return image


def blurred_step(dark: float, bright: float, deviation: float, size: int = 64) -> np.ndarray:
    """The levels along a row of a step edge under a Gaussian; the step is between two pixels."""
    return dark + (bright - dark) * norm.cdf((np.arange(size) + 0.5 - size / 2) / deviation)


# Exposure


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-0.9, 2), st.floats(-2, 2))
def test_expose_is_gamma_then_contrast_then_brightness(brightness, contrast, gamma):
    wanted = [
        255 * ((level / 255) ** (2**gamma) * (1 + contrast) + brightness - contrast / 2)
        for level in range(256)
    ]
    found = effects.expose(LEVELS, brightness, contrast, gamma).ravel()
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_shade_takes_its_strength_at_one_edge_and_nothing_at_the_opposite_one(strength):
    darkest = set()
    for seed in SEEDS:
        shaded = effects.shade(flat(200, 60, 80), strength, rng(seed)).astype(int)
        assert shaded.max() == 200
        assert shaded.min() == round(200 * (1 - strength))
        dark, bright = (
            np.unravel_index(np.argmin(sign * shaded), shaded.shape) for sign in (1, -1)
        )
        # A corner, and across the film from it the other one.
        assert shaded[59 - dark[0], 79 - dark[1]] == 200
        assert shaded[59 - bright[0], 79 - bright[1]] == shaded.min()
        for axis in (0, 1):  # a plane: equal steps, up to the rounding of each level
            assert np.abs(np.diff(shaded, 2, axis=axis)).max() <= 2
        darkest.add((dark[0] > 30, dark[1] > 40))
    assert len(darkest) == 4


# Texture


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_noise_has_mean_0_and_its_deviation(deviation):
    noisy = effects.add_noise(flat(128, 300, 300), deviation, rng(0)).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=4 * 255 * deviation / 300)
    assert noisy.std() == pytest.approx(255 * deviation, rel=0.02)
    for neighbour in (noisy[1:, :-1], noisy[:-1, 1:]):
        correlation = np.corrcoef(noisy[:-1, :-1].ravel(), neighbour.ravel())[0, 1]
        assert abs(correlation) < 0.02


@pytest.mark.parametrize("deviation", [0.8, 2.0, 5.0])
def test_blur_makes_a_gaussian_of_a_step(deviation):
    blurred = effects.blur(step_edge(20, 220), deviation)
    # Its weights are samples, not areas, of the Gaussian: up to 2 % of the step.
    assert np.abs(blurred - blurred_step(20, 220, deviation)).max() <= 4


def test_sharpen_overshoots_at_a_step_by_its_amount():
    for amount in (0.5, 1.5):
        step = step_edge(100, 150).astype(float)
        wanted = step + amount * (step - blurred_step(100, 150, 1.0))
        sharpened = effects.sharpen(step_edge(100, 150), amount)
        assert np.abs(sharpened - wanted).max() <= 2.5
        assert sharpened.min() < 100 - 10 * amount
        assert sharpened.max() > 150 + 10 * amount


def test_coarsen_averages_blocks_and_draws_lines_between_their_centres():
    # Blocks of four: their centres are at 29.5 and 33.5, left and right of the step.
    wanted = np.interp(np.arange(64), [29.5, 33.5], [0, 200])
    assert np.abs(effects.coarsen(step_edge(0, 200), 4) - wanted).max() <= 1
    chequered = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(effects.coarsen(chequered, 2) - 127.5).max() <= 1
    assert np.ptp(effects.coarsen(film_and_lungs()[0], 1000)) == 0


def test_no_strength_is_no_change():
    image = film_and_lungs()[0]
    for result in (
        effects.blur(image, 0),
        effects.sharpen(image, 0),
        effects.coarsen(image, 1),
        effects.expose(image, 0, 0, 0),
        effects.add_noise(image, 0, rng(3)),
        effects.add_objects(image, 0, rng(5)),
        effects.add_opacities(image, 0 * image, 1, rng(0)),
        effects.shade(image, 0, rng(1)),
    ):
        assert np.array_equal(result, image)


# Disease


def test_opacities_stay_in_the_lungs_and_only_whiten():
    image, lungs = film_and_lungs()
    # The rim's blur has a deviation of one pixel here, and its kernel ends four pixels off.
    near = scipy.ndimage.binary_dilation(lungs, np.ones((3, 3)), iterations=4)
    for seed in SEEDS:
        changed = effects.add_opacities(image, lungs, 1, rng(seed))
        assert np.array_equal(changed[~near], image[~near])
        assert (changed >= image).all()
        # Towards the tissue's level, and no further.
        raised = changed[changed > image]
        assert raised.max() <= np.quantile(image, 0.9) + 0.5


def test_opacities_hide_parts_of_every_size():
    image, lungs = film_and_lungs()
    inside = scipy.ndimage.binary_erosion(lungs, iterations=4)
    shares, sides = [], []
    for seed in range(60):
        changed = effects.add_opacities(image, lungs, 1, rng(seed)).astype(int)
        # Lung has a level of 60 ± 15, tissue one of 180 ± 15.
        hidden = changed > 120
        shares.append(hidden[inside].mean())
        sides.append(hidden[:, : SIZE // 2][inside[:, : SIZE // 2]].mean() - shares[-1])
    assert min(shares) < 0.15
    assert max(shares) > 0.7
    assert min(sides) < -0.1 and max(sides) > 0.1


# Objects


DRAWINGS = {
    # The share of a film that one of them covers at most, and the level on black at least.
    effects._text: (0.2, 150),  # from 170, less where a thin stroke lies between pixels
    effects._tube: (0.1, 45),
    effects._electrode: (0.004, 60),
    effects._plate: (0.035, 0),
}


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__.strip("_"))
def test_objects_are_small_and_bright(draw):
    largest, level = DRAWINGS[draw]
    seen = 0
    for seed in range(60):
        image = flat(0, 256, 256)
        draw(image, rng(seed))
        assert (image > 0).mean() <= largest
        if image.any():
            seen += 1
            assert image.max() >= level
    assert seen >= 50


# All
