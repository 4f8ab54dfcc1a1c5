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
    BEDSIDE,
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


def turned_by(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine], [sine, cosine]])


@pytest.mark.parametrize(
    ("option", "limit", "measured", "expected"),
    [
        ("rotation", 15, lambda m: np.degrees(np.arctan2(m[1, 0], m[0, 0])), turned_by),
        ("zoom", 0.2, lambda m: m[0, 0] - 1, lambda drawn: np.eye(2) * (1 + drawn)),
        # The proportions change, the area does not.
        (
            "stretch",
            0.2,
            lambda m: m[0, 0] / m[1, 1] - 1,
            lambda drawn: np.diag([(1 + drawn) ** 0.5, (1 + drawn) ** -0.5]),
        ),
    ],
)
def test_a_move_is_about_the_centre_both_ways(option, limit, measured, expected):
    drawn = []
    for seed in SEEDS:
        matrix, shift = affine_found_in(replace(NONE, **{option: limit}), seed)
        drawn.append(measured(matrix))
        assert np.allclose(matrix, expected(drawn[-1]), atol=0.015)
        assert np.allclose(shift, 0, atol=0.15)
    assert -1.05 * limit <= min(drawn) < -limit / 3
    assert limit / 3 < max(drawn) <= 1.05 * limit


def test_flip_is_numpys_flip_as_often_as_asked(noise):
    options = replace(NONE, flip=0.25)
    for image, mask in (noise, [part[:, 1:] for part in noise]):
        flipped = 0
        for seed in range(800):
            result = options.apply(image, mask, rng(seed))
            if not np.array_equal(result, (image, mask)):
                flipped += 1
                assert np.array_equal(result, (np.fliplr(image), np.fliplr(mask)))
        assert 150 < flipped < 250  # 200 expected, four standard deviations of 12.


def test_padding_shrinks_the_frame_inside_a_border_without_lung():
    options = replace(NONE, padding=0.3, padding_probability=1)
    image, mask = np.full((60, 80), 200, np.uint8), np.ones((60, 80), np.uint8)
    borders, sides = [], []
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
        free = rows[0], columns[0], 59 - rows[-1], 79 - columns[-1]
        sides.append(np.array(free) / np.tile([len(rows), len(columns)], 2))
    assert np.max(sides) < 0.3 + 2 / 37
    assert (np.mean(sides, axis=0) > 0.09).all()
    # Each side has a width of its own.
    assert (np.abs(np.corrcoef(np.array(sides).T) - np.eye(4)) < 0.6).all()
    assert set(borders) == {0, 200}
    assert 8 < borders.count(0) < 32


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
        # Outside the frame is black and no lung.
        outside = ~scipy.ndimage.binary_dilation(inside, iterations=3)
        assert not warped[outside].any()
        assert not lungs[outside].any()


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


def test_inversion_exchanges_black_and_white_after_the_exposure_as_often_as_asked():
    inverted = 0
    for seed in range(800):
        exposed, levels = (
            replace(NONE, gamma=1, invert=invert).apply(RAMP, LUNGS, rng(seed))[0]
            for invert in (0, 0.25)
        )
        if not np.array_equal(levels, exposed):
            inverted += 1
            assert np.array_equal(levels, 255 - exposed)
    assert 150 < inverted < 250  # 200 expected, four standard deviations of 12.


# Effects


# For each option of Augmentation, the function that it asks for and a strength.
OPTIONS = {
    "opacity": ("add_opacities", 0.8),
    "objects": ("add_objects", 5),
    "shade": ("shade", 0.6),
    "blur": ("blur", 3.0),
    "coarsen": ("coarsen", 2.0),
    "sharpen": ("sharpen", 1.5),
    "noise": ("add_noise", 0.2),
}
STRENGTHS = {option: strength for option, (_, strength) in OPTIONS.items()}


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

    for option, (name, _) in {**OPTIONS, "exposure": ("expose", 0)}.items():
        monkeypatch.setattr(effects, name, watch(option, getattr(effects, name)))
    return made


@pytest.fixture
def film() -> tuple[np.ndarray, np.ndarray]:
    image = np.tile(smooth_image(64), (4, 4))
    assert image.shape == (COUNTED_AT, COUNTED_AT)
    return image, (image > 120).astype(np.uint8)


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
        options.apply(*(part[:64, :64] for part in film), rng(seed))
        for name, *_ in calls:
            if name != "exposure":
                happened[seed, EFFECTS.index(name)] = True
    counts = happened.sum(axis=0)
    assert ((counts > 150) & (counts < 250)).all(), counts
    assert (np.abs(np.corrcoef(happened.T) - np.eye(len(EFFECTS))) < 0.15).all()


def test_the_patient_comes_before_the_exposure_and_the_film_after_it(calls, film):
    replace(NONE, effects=1, **STRENGTHS).apply(*film, rng(0))
    order = ["opacity", "objects", "exposure", "shade", "blur", "coarsen", "sharpen", "noise"]
    assert [name for name, *_ in calls] == order


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


SHARES = ("opacity", "shade", "noise", "shift", "padding", "padding_probability", "invert")
LARGEST = {"rotation": 180, "zoom": 0.9, "stretch": 0.9, "gamma": 3, "effects": 1}
LARGEST |= dict.fromkeys(SHARES, 1) | dict.fromkeys(("blur", "coarsen", "sharpen"), 10)


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    options=st.just(STRONG)
    | st.builds(
        Augmentation,
        jitter=st.integers(0, 40),
        objects=st.integers(0, 8),
        **{option: st.floats(0, largest) for option, largest in LARGEST.items()},
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


def test_options_survive_their_record():
    options = Augmentation(rotation=3, jitter=30)
    assert Augmentation.from_dict(options.to_dict()) == options
    assert Augmentation.from_dict({"zoom": 0.1}) == replace(NONE, zoom=0.1)
    with pytest.raises(LungsegError, match="shear"):
        Augmentation.from_dict({"shear": 1})
    assert set(NONE.to_dict().values()) == {0}


def test_presets():
    presets = {"none": NONE, "flip": FLIP, "mild": MILD, "strong": STRONG, "bedside": BEDSIDE}
    assert presets == PRESETS
    assert all(get_augmentation(name) is preset for name, preset in PRESETS.items())
    used = {name: {k for k, v in preset.to_dict().items() if v} for name, preset in PRESETS.items()}
    with pytest.raises(
        LungsegError, match=r"none, flip, mild, strong, bedside\.\n.*'wild'\n.*Correct"
    ):
        get_augmentation("wild")
    assert used["none"] == set()
    assert used["flip"] == {"flip"}
    assert used["mild"].isdisjoint({"stretch", "invert", "effects", "jitter", *EFFECTS})
    assert used["strong"] == set(STRONG.to_dict()) - {"jitter", "bedside"}
    assert used["bedside"] == used["strong"] | {"bedside"}
    assert Augmentation() == STRONG
    # Each is contained in the next.
    for weaker, stronger in ((NONE, FLIP), (FLIP, MILD), (MILD, STRONG)):
        reach = stronger.to_dict()
        assert all(value <= reach[option] for option, value in weaker.to_dict().items())


@pytest.mark.parametrize(
    "options", [{"rotation": -1}, {"zoom": 1}, {"objects": 1.5}, {"gamma": float("nan")}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(LungsegError, match=f"Augmentation's {next(iter(options))}"):
        Augmentation(**options)
