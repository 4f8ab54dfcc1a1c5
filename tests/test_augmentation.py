from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from lungseg_utils.errors import LungsegError
from lungseg_utils.preparation import effects
from lungseg_utils.preparation.augmentation import (
    COUNTED_AT,
    EFFECTS,
    FLIP,
    MILD,
    NONE,
    PRESETS,
    STRONG,
    Augmentation,
    get_augmentation,
)

# The strong augmentation's moves, without a change of level.
GEOMETRY = replace(STRONG, brightness=0, contrast=0, gamma=0, invert=0, effects=0)
SIZE = 96
# Far enough from each other and from the frame to stay apart and inside: x and y in pixels.
DOTS = np.array([[34.0, 36.0], [62.0, 40.0], [44.0, 63.0]])


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def noise() -> tuple[np.ndarray, np.ndarray]:
    image = rng(0).integers(0, 256, (31, 40), dtype=np.uint8)
    return image, (image > 100).astype(np.uint8)


def smooth_image(size: int = SIZE) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return (120 + 50 * np.sin(5 * x + 2 * y) + 50 * np.cos(4 * y - x)).round().astype(np.uint8)


def affine_found_in(options: Augmentation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How the options moved three dots, measured in the X-ray: (2, 2) matrix about the centre of
    the frame, and shift in pixels. The dots in the mask must have moved alike."""
    y, x = np.mgrid[:SIZE, :SIZE]
    moved = []
    for dot_x, dot_y in DOTS:
        squared = (x - dot_x) ** 2 + (y - dot_y) ** 2
        image = (255 * np.exp(-squared / 32)).round().astype(np.uint8)
        disc = (squared < 36).astype(np.uint8)
        image, disc = options.apply(image, disc, rng(seed))
        centre = [(image * axis).sum() / image.sum() for axis in (x, y)]
        assert np.allclose(centre, [x[disc == 1].mean(), y[disc == 1].mean()], atol=0.6)
        moved.append(centre)
    centre = (SIZE - 1) / 2
    known = np.column_stack([DOTS - centre, np.ones(3)])
    solution = np.linalg.solve(known, np.array(moved) - centre)
    return solution[:2].T, solution[2]


SEEDS = range(12)


def test_rotation_turns_about_the_centre_both_ways():
    angles = []
    for seed in SEEDS:
        matrix, shift = affine_found_in(replace(NONE, rotation=15), seed)
        angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        assert np.allclose(matrix, [[cosine, -sine], [sine, cosine]], atol=0.01)
        assert np.allclose(shift, 0, atol=0.15)
        angles.append(angle)
    assert -15 <= min(angles) < -5
    assert 5 < max(angles) <= 15


def test_zoom_scales_about_the_centre_both_ways():
    scales = []
    for seed in SEEDS:
        matrix, shift = affine_found_in(replace(NONE, zoom=0.2), seed)
        assert np.allclose(matrix, np.eye(2) * matrix[0, 0], atol=0.01)
        assert np.allclose(shift, 0, atol=0.15)
        scales.append(matrix[0, 0])
    assert 0.795 <= min(scales) < 0.93
    assert 1.07 < max(scales) <= 1.205


def test_shift_moves_along_both_axes_both_ways():
    shifts = []
    for seed in SEEDS:
        matrix, shift = affine_found_in(replace(NONE, shift=0.1), seed)
        assert np.allclose(matrix, np.eye(2), atol=0.01)
        shifts.append(shift)
    limit = 0.1 * SIZE + 0.1
    assert (np.min(shifts, axis=0) < -3).all()
    assert (np.max(shifts, axis=0) > 3).all()
    assert np.abs(shifts).max() <= limit


def test_stretch_changes_the_proportions_both_ways_and_keeps_the_area():
    proportions = []
    for seed in SEEDS:
        matrix, shift = affine_found_in(replace(NONE, stretch=0.2), seed)
        assert np.allclose(matrix, np.diag(np.diag(matrix)), atol=0.01)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=0.02)
        assert np.allclose(shift, 0, atol=0.15)
        proportions.append(matrix[0, 0] / matrix[1, 1])
    assert 0.79 <= min(proportions) < 0.93
    assert 1.07 < max(proportions) <= 1.21


def test_stretch_and_zoom_multiply():
    for seed in SEEDS:
        matrix, _ = affine_found_in(replace(NONE, stretch=0.2, zoom=0.2), seed)
        zoomed, _ = affine_found_in(replace(NONE, zoom=0.2), seed)
        assert np.linalg.det(matrix) == pytest.approx(np.linalg.det(zoomed), abs=0.02)
        assert np.allclose(matrix, np.diag(np.diag(matrix)), atol=0.01)


def test_everything_but_stretch_is_one_similarity():
    options = replace(GEOMETRY, stretch=0, padding=0, rotation=8, zoom=0.15, shift=0.03)
    for seed in SEEDS:
        matrix, _ = affine_found_in(options, seed)
        scale = np.sqrt(abs(np.linalg.det(matrix)))
        assert 0.84 <= scale <= 1.16
        assert np.allclose(matrix @ matrix.T, np.eye(2) * scale**2, atol=0.03)


def test_flip_is_numpys_flip(noise):
    for image, mask in (noise, [part[:, 1:] for part in noise]):
        flipped = replace(NONE, flip=1).apply(image, mask, rng(0))
        assert np.array_equal(flipped[0], np.fliplr(image))
        assert np.array_equal(flipped[1], np.fliplr(mask))


def test_flip_happens_as_often_as_asked(noise):
    image, mask = noise
    options = replace(NONE, flip=0.25)
    results = [options.apply(image, mask, rng(seed))[0] for seed in range(800)]
    count = sum(not np.array_equal(result, image) for result in results)
    assert 150 < count < 250  # 200 expected, four standard deviations of 12.


def test_nothing_is_changed_when_all_is_off(noise):
    image, mask = NONE.apply(*noise, rng(3))
    assert np.array_equal(image, noise[0])
    assert np.array_equal(mask, noise[1])


def test_padding_shrinks_the_frame_inside_a_border_without_lung():
    options = replace(NONE, padding=0.3, padding_probability=1)
    image, mask = np.full((60, 80), 200, np.uint8), np.ones((60, 80), np.uint8)
    borders = []
    for seed in range(40):
        padded, lungs = options.apply(image, mask, rng(seed))
        rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
        box = np.zeros_like(lungs)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
        assert np.array_equal(lungs, box)
        assert len(rows) >= 60 / 1.6 - 1
        assert len(columns) >= 80 / 1.6 - 1
        assert (padded[rows[1] : rows[-1], columns[1] : columns[-1]] == 200).all()
        # One pixel at the frame's edge is a mixture with the black border.
        outside = padded[scipy.ndimage.binary_dilation(lungs, np.ones((3, 3))) == 0]
        assert len(np.unique(outside)) == 1
        borders.append(int(outside[0]))
    assert set(borders) == {0, 200}
    assert 8 < borders.count(0) < 32


def test_padding_widths_are_drawn_for_each_side():
    options = replace(NONE, padding=0.3, padding_probability=1)
    mask = np.ones((SIZE, SIZE), np.uint8)
    sides = []
    for seed in range(40):
        lungs = options.apply(mask, mask, rng(seed))[1]
        rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
        before = np.array([columns[0], rows[0]])
        after = SIZE - 1 - np.array([columns[-1], rows[-1]])
        frame = np.array([len(columns), len(rows)])
        sides.append(np.concatenate([before, after]) / np.tile(frame, 2))
    assert np.max(sides) < 0.3 + 2 / 60
    assert (np.mean(sides, axis=0) > 0.09).all()
    assert (np.abs(np.corrcoef(np.array(sides).T) - np.eye(4)) < 0.6).all()


def test_outside_the_frame_is_black_and_no_lung():
    image, mask = np.full((SIZE, SIZE), 255, np.uint8), np.ones((SIZE, SIZE), np.uint8)
    image, mask = replace(NONE, rotation=45).apply(image, mask, rng(0))
    assert (image[20:-20, 20:-20] == 255).all()
    corners = np.ix_([0, -1], [0, -1])
    assert not image[corners].any()
    assert not mask[corners].any()


def test_the_warp_agrees_with_scipy():
    image = smooth_image()
    mask = (image > 120).astype(np.uint8)
    options = replace(GEOMETRY, padding_probability=0, jitter=9)
    for seed in SEEDS:
        matrix, _ = options._draw_geometry(SIZE, SIZE, rng(seed))
        # SciPy counts rows first.
        matrix = matrix[[1, 0, 2]][:, [1, 0, 2]]
        linear = scipy.ndimage.affine_transform(image.astype(float), matrix, order=1)
        nearest = scipy.ndimage.affine_transform(mask, matrix, order=0)
        warped, lungs = options.apply(image, mask, rng(seed))
        inside = scipy.ndimage.affine_transform(np.ones((SIZE, SIZE)), matrix, order=1) > 0.999
        assert np.abs(warped - linear)[inside].max() <= 2
        assert (lungs != nearest)[inside].mean() < 0.001


def test_jitter_is_a_random_crop_of_the_enlarged_image():
    image = smooth_image(48)
    mask = (image > 120).astype(np.uint8)
    enlarged = skimage.transform.resize(
        image, (52, 52), order=1, mode="edge", anti_aliasing=False, preserve_range=True
    )
    crops = {(y, x): enlarged[y : y + 48, x : x + 48] for y in range(5) for x in range(5)}
    found = set()
    for seed in range(60):
        jittered, lungs = replace(NONE, jitter=4).apply(image, mask, rng(seed))
        # The outermost row may reach half a pixel outside the frame.
        error = {place: np.abs(jittered - crop)[1:-1, 1:-1].max() for place, crop in crops.items()}
        best = min(error, key=error.get)
        assert error[best] <= 2
        found.add(best)
        assert (lungs != (jittered > 120)).mean() < 0.05
    assert len(found) > 15
    assert {y for y, _ in found} == {x for _, x in found} == set(range(5))


# Exposure


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
LUNGS = (RAMP % 3 == 0).astype(np.uint8)


def levels_under(seed: int, **options: float) -> np.ndarray:
    image, mask = replace(NONE, **options).apply(RAMP, LUNGS, rng(seed))
    assert np.array_equal(mask, LUNGS)
    return image.ravel().astype(int)


def test_brightness_moves_all_levels_alike():
    moves = []
    for seed in SEEDS:
        levels = levels_under(seed, brightness=0.1)
        move = levels[128] - 128
        assert np.abs(levels - np.clip(np.arange(256) + move, 0, 255)).max() <= 1
        moves.append(move)
    assert -26 <= min(moves) < -8
    assert 8 < max(moves) <= 26


def test_contrast_turns_about_mid_grey():
    slopes = []
    for seed in SEEDS:
        levels = levels_under(seed, contrast=0.3)
        slope = (levels[178] - levels[78]) / 100
        expected = np.clip((np.arange(256) - 127.5) * slope + 127.5, 0, 255)
        assert np.abs(levels - expected).max() <= 2
        slopes.append(slope)
    assert 0.69 <= min(slopes) < 0.9
    assert 1.1 < max(slopes) <= 1.31


def test_gamma_keeps_black_and_white():
    exponents = []
    for seed in SEEDS:
        levels = levels_under(seed, gamma=0.5)
        assert (levels[0], levels[255]) == (0, 255)
        exponent = np.log(levels[128] / 255) / np.log(128 / 255)
        expected = 255 * (np.arange(256) / 255) ** exponent
        assert np.abs(levels - expected).max() <= 2
        exponents.append(exponent)
    assert 2**-0.52 <= min(exponents) < 0.9
    assert 1.1 < max(exponents) <= 2**0.52


def test_levels_never_change_their_order():
    for seed in range(50):
        levels = levels_under(seed, brightness=0.5, contrast=0.9, gamma=2)
        assert (np.diff(levels) >= 0).all()


def test_inversion_exchanges_black_and_white_as_often_as_asked():
    options = replace(NONE, invert=0.25)
    results = [options.apply(RAMP, LUNGS, rng(seed)) for seed in range(800)]
    assert all(np.array_equal(mask, LUNGS) for _, mask in results)
    inverted = [bool(image[0, 0]) for image, _ in results]
    for (image, _), exchanged in zip(results, inverted, strict=True):
        assert np.array_equal(image, 255 - RAMP if exchanged else RAMP)
    assert 150 < sum(inverted) < 250  # 200 expected, four standard deviations of 12.


def test_inversion_comes_after_the_exposure():
    for seed in SEEDS:
        exposed = levels_under(seed, gamma=1)
        assert np.array_equal(levels_under(seed, gamma=1, invert=1), 255 - exposed)


# Effects


# The function that each option of Augmentation asks for.
FUNCTIONS = {
    "opacity": "add_opacities",
    "objects": "add_objects",
    "shade": "shade",
    "blur": "blur",
    "coarsen": "coarsen",
    "sharpen": "sharpen",
    "noise": "add_noise",
}
STRENGTHS = {
    "opacity": 0.8,
    "objects": 5,
    "shade": 0.6,
    "blur": 3.0,
    "coarsen": 2.0,
    "sharpen": 1.5,
    "noise": 0.2,
}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, float, np.ndarray]]:
    """Every call of an effect: its option, its strength, and what it returned."""
    made = []

    def watch(option: str, function):
        def watched(image, *rest):
            result = function(image, *rest)
            strengths = [value for value in rest if isinstance(value, float | int)]
            made.append((option, strengths[0], result))
            return result

        return watched

    for option, name in {**FUNCTIONS, "exposure": "expose"}.items():
        monkeypatch.setattr(effects, name, watch(option, getattr(effects, name)))
    return made


@pytest.fixture
def film() -> tuple[np.ndarray, np.ndarray]:
    image = np.tile(smooth_image(64), (4, 4))
    assert image.shape == (COUNTED_AT, COUNTED_AT)
    return image, (image > 120).astype(np.uint8)


def test_every_effect_is_tested_here():
    assert set(FUNCTIONS) == set(STRENGTHS) == set(EFFECTS)


@pytest.mark.parametrize("option", EFFECTS)
def test_an_effect_alone_changes_the_image_and_not_the_mask(option, calls, film):
    options = replace(NONE, effects=1, **{option: STRENGTHS[option]})
    changed = 0
    for seed in range(20):
        image, mask = options.apply(*film, rng(seed))
        assert np.array_equal(mask, film[1])
        changed += not np.array_equal(image, film[0])
        assert np.array_equal(image, calls[-1][2])
    assert changed >= 18
    assert {name for name, *_ in calls} == {option, "exposure"}


@pytest.mark.parametrize("option", EFFECTS)
def test_strengths_are_drawn_from_nothing_to_what_was_asked(option, calls, film):
    options = replace(NONE, effects=1, **{option: STRENGTHS[option]})
    for seed in range(300):
        options.apply(*film, rng(seed))
    strengths = np.array([strength for name, strength, _ in calls if name == option])
    assert len(strengths) == 300
    if option == "objects":
        assert all(40 < (strengths == count).sum() < 80 for count in range(1, 6))
        assert set(strengths) == {1, 2, 3, 4, 5}
        return
    shares = (strengths - (option == "coarsen")) / STRENGTHS[option]
    assert 0 <= shares.min() < 0.03
    assert 0.97 < shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.07)  # four deviations of the mean


@pytest.mark.parametrize("side", [64, 512])
def test_blur_and_loss_of_resolution_grow_with_the_image(side, calls, film):
    options = replace(NONE, effects=1, blur=2, coarsen=1.5)
    options.apply(*film, rng(0))
    at_256 = {name: strength for name, strength, _ in calls}
    calls.clear()
    image = smooth_image(side)
    options.apply(image, np.zeros_like(image), rng(0))
    grown = {name: strength for name, strength, _ in calls}
    assert grown["blur"] == pytest.approx(at_256["blur"] * side / 256)
    assert grown["coarsen"] - 1 == pytest.approx((at_256["coarsen"] - 1) * side / 256)


def test_effects_happen_on_their_own_as_often_as_asked(calls, film):
    options = replace(NONE, effects=0.25, **STRENGTHS)
    happened = np.zeros((800, len(EFFECTS)), bool)
    for seed in range(800):
        calls.clear()
        options.apply(*film, rng(seed))
        for name, *_ in calls:
            if name != "exposure":
                happened[seed, EFFECTS.index(name)] = True
    counts = happened.sum(axis=0)
    assert ((counts > 150) & (counts < 250)).all(), counts
    assert (np.abs(np.corrcoef(happened.T) - np.eye(len(EFFECTS))) < 0.15).all()


def test_the_patient_comes_before_the_exposure_and_the_film_after_it(calls, film):
    replace(NONE, effects=1, **STRENGTHS).apply(*film, rng(0))
    assert [name for name, *_ in calls] == [
        "opacity",
        "objects",
        "exposure",
        "shade",
        "blur",
        "coarsen",
        "sharpen",
        "noise",
    ]


def test_opacities_follow_the_lungs_where_they_moved_to():
    image, mask = np.full((64, 64), 60, np.uint8), np.zeros((64, 64), np.uint8)
    image[:32], mask[40:60, 8:56] = 180, 1
    moved = replace(NONE, rotation=90)
    for seed in SEEDS:
        plain, lungs = moved.apply(image, mask, rng(seed))
        options = replace(moved, effects=1, opacity=1)
        whitened = options.apply(image, mask, rng(seed))[0]
        assert not (whitened != plain)[
            scipy.ndimage.binary_dilation(lungs, iterations=4) == 0
        ].any()
        assert (whitened != plain)[lungs == 1].any()


# The whole


strengths = {
    "opacity": st.floats(0, 1),
    "objects": st.integers(0, 8),
    "shade": st.floats(0, 1),
    "blur": st.floats(0, 10),
    "coarsen": st.floats(0, 10),
    "sharpen": st.floats(0, 10),
    "noise": st.floats(0, 1),
}


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    options=st.just(STRONG)
    | st.builds(
        Augmentation,
        rotation=st.floats(0, 180),
        zoom=st.floats(0, 0.9),
        stretch=st.floats(0, 0.9),
        shift=st.floats(0, 1),
        padding=st.floats(0, 1),
        padding_probability=st.floats(0, 1),
        jitter=st.integers(0, 40),
        gamma=st.floats(0, 3),
        invert=st.floats(0, 1),
        effects=st.floats(0, 1),
        **strengths,
    ),
)
def test_masks_stay_zero_and_one(height, width, seed, options):
    image = rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    mask = (image > 90).astype(np.uint8)
    before = image.copy(), mask.copy()
    changed, lungs = options.apply(image, mask, rng(seed))
    assert changed.shape == lungs.shape == (height, width)
    assert changed.dtype == lungs.dtype == np.uint8
    assert lungs.max() <= 1
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def test_the_mask_follows_the_image():
    lungs = (smooth_image() > 120).astype(np.uint8)
    options = replace(GEOMETRY, padding_probability=0.5)
    for seed in SEEDS:
        image, mask = options.apply(lungs * 255, lungs, rng(seed))
        frame = options.apply(lungs * 0 + 255, lungs * 0 + 1, rng(seed))[1] == 1
        assert ((image > 127) != mask)[frame].mean() < 0.02
        assert not mask[~frame].any()


def test_the_same_state_gives_the_same_result_and_another_does_not(noise):
    first, again, other = (Augmentation().apply(*noise, rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


def test_one_option_leaves_the_draws_of_another(noise):
    image, mask = noise
    turned = replace(NONE, rotation=20).apply(image, mask, rng(2))
    darker = replace(NONE, rotation=20, brightness=0.1).apply(image, mask, rng(2))
    assert np.array_equal(turned[1], darker[1])
    # A jitter of 1 at random changes the place, but the levels stay those drawn without it.
    flat = np.full((9, 9), 100, np.uint8), np.ones((9, 9), np.uint8)
    levels = replace(NONE, brightness=0.3).apply(*flat, rng(2))[0][4, 4]
    assert replace(NONE, brightness=0.3, jitter=1).apply(*flat, rng(2))[0][4, 4] == levels


def test_options_survive_their_record():
    options = Augmentation(rotation=3, jitter=30)
    assert Augmentation.from_dict(options.to_dict()) == options
    assert Augmentation.from_dict({"zoom": 0.1}) == replace(NONE, zoom=0.1)
    with pytest.raises(LungsegError, match="shear"):
        Augmentation.from_dict({"shear": 1})
    assert set(NONE.to_dict().values()) == {0}


def test_one_effect_leaves_the_draws_of_another(calls, film):
    for seed in SEEDS:
        replace(NONE, effects=1, noise=0.1, shade=0.5).apply(*film, rng(seed))
        first = [(name, strength) for name, strength, _ in calls]
        calls.clear()
        replace(NONE, effects=1, noise=0.1, shade=0.5, blur=2, rotation=9).apply(*film, rng(seed))
        second = [(name, strength) for name, strength, _ in calls if name != "blur"]
        calls.clear()
        assert [name for name, _ in first] == ["exposure", "shade", "noise"]
        assert first == second


def test_presets():
    assert PRESETS == {"none": NONE, "flip": FLIP, "mild": MILD, "strong": STRONG}
    assert all(get_augmentation(name) is preset for name, preset in PRESETS.items())
    used = {name: {k for k, v in preset.to_dict().items() if v} for name, preset in PRESETS.items()}
    assert used["none"] == set()
    assert used["flip"] == {"flip"}
    assert used["mild"].isdisjoint({"stretch", "invert", "effects", "jitter", *EFFECTS})
    assert used["strong"] == set(STRONG.to_dict()) - {"jitter"}
    assert Augmentation() == STRONG
    # Each is contained in the next.
    for weaker, stronger in ((NONE, FLIP), (FLIP, MILD), (MILD, STRONG)):
        reach = stronger.to_dict()
        assert all(value <= reach[option] for option, value in weaker.to_dict().items())


def test_the_flip_preset_mirrors_every_second_time(noise):
    image, mask = noise
    mirrored = 0
    for seed in range(400):
        changed, lungs = FLIP.apply(image, mask, rng(seed))
        if not np.array_equal(changed, image):
            mirrored += 1
            assert np.array_equal(changed, np.fliplr(image))
            assert np.array_equal(lungs, np.fliplr(mask))
    assert 160 < mirrored < 240  # 200 expected, four standard deviations of 10.


def test_an_unknown_preset_is_refused():
    with pytest.raises(LungsegError, match=r"none, flip, mild, strong\.\n.*'wild'\n.*Choose"):
        get_augmentation("wild")


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": -1},
        {"zoom": 1},
        {"stretch": 1},
        {"flip": 1.5},
        {"invert": -0.1},
        {"effects": 2},
        {"objects": 1.5},
        {"shade": 1.1},
        {"jitter": 2.5},
        {"gamma": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(LungsegError, match=f"Augmentation's {next(iter(options))}"):
        Augmentation(**options)
