"""How far a mask can be trusted: what is measured, how it is weighed, and what is then said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmarks import quality as benchmark
from benchmarks.hard import harden
from lungseg_utils import Segmenter
from lungseg_utils.__main__ import lungseg
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.dicom_header import Header
from lungseg_utils.files.images import write_png
from lungseg_utils.phantom.film import render_phantom
from lungseg_utils.phantom.sets import write_secondary_set
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.segment.films import Film
from lungseg_utils.segment.network import NETWORKS, load_quality, load_shipped
from lungseg_utils.segment.postprocess import Outlines, disagreement, signed_distance
from lungseg_utils.segment.quality import (
    LOOK_BELOW,
    MEASURES,
    Quality,
    logarithms,
    measure,
)
from lungseg_utils.segment.segmenter import COMPLETED

masks = arrays(np.uint8, (6, 7), elements=st.integers(0, 1))


def two_lungs(side: int = 96, top: int = 20, height: int = 50, gap: int = 12) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    middle = side // 2
    for left in (middle - gap // 2 - 24, middle + gap // 2):
        mask[top : top + height, left : left + 24] = 1
    return mask


@pytest.fixture(scope="module")
def outlines() -> Outlines:
    return Outlines.of_masks([two_lungs(height=h, gap=g) for h in (44, 50, 56) for g in (8, 16)], 3)


# What is measured


@given(masks, masks)
def test_disagreement_is_what_dice_leaves(first, second):
    assert disagreement(first, second) == pytest.approx(1 - dice(first, second))


def test_signed_distance_does_not_tell_where_a_mask_lies_nor_its_size():
    mask = two_lungs()
    moved = np.roll(mask, (9, -7), axis=(0, 1))
    large = cv2.resize(mask, (288, 288), interpolation=cv2.INTER_NEAREST)
    distance = signed_distance(mask)
    assert np.array_equal(signed_distance(moved), distance)
    assert np.abs(signed_distance(large) - distance).max() < 0.02


def test_signed_distance_of_a_filled_box_is_that_to_its_nearest_side():
    # The box takes 24 of 32 cells; distances are counted in its sides, and end at a quarter.
    distance = signed_distance(np.ones((10, 10), np.uint8)).reshape(32, 32)
    cells = np.arange(32) + 0.5
    inwards = np.minimum(cells - 4, 28 - cells) / 24
    inside = np.minimum(inwards[:, None], inwards[None])[4:28, 4:28]
    assert np.abs(distance[4:28, 4:28] - np.minimum(inside, 0.25)).max() < 0.02
    assert distance[0, 16] == pytest.approx(inwards[0], abs=0.02)
    assert (signed_distance(np.zeros((9, 9), np.uint8)) == -0.25).all()


def test_outlines_are_the_main_components_of_what_they_learn_from():
    known = [two_lungs(gap=gap) for gap in (6, 12, 18) for _ in range(3)]
    for number, mask in enumerate(known):
        mask[20 : 25 + 5 * number, 40:48] = 0
    whole = Outlines.of_masks(known, len(known))
    assert max(whole.distance(mask) for mask in known) < 1e-5
    offsets = np.array([signed_distance(mask) for mask in known]) - whole.mean
    np.testing.assert_allclose(whole.spread, (offsets @ whole.components.T).std(axis=0), atol=1e-3)

    # With fewer, what is left is what least squares leave.
    few = Outlines.of_masks(known, 2)
    offset = signed_distance(known[0]) - few.mean
    left = offset - few.components.T @ np.linalg.lstsq(few.components.T, offset, rcond=None)[0]
    assert few.distance(known[0]) == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-4)
    assert few.distance(np.ones((96, 96), np.uint8)) > 3 * few.distance(known[0])


def test_nothing_speaks_against_agreeing_networks_and_usual_lungs(outlines):
    mask = two_lungs()
    found = measure(mask, mask, [mask, mask], mask.astype(np.float32), outlines)
    assert list(found[:3]) == [0, 0, 0] and found[3] < 0.02


def test_each_measure_sees_its_own_fault(outlines):
    mask = two_lungs()
    smaller = two_lungs(height=25)  # Dice to the mask: 2·25 / (25 + 50) = 2/3
    notched = mask.copy()
    notched[30:60, 34:42] = 0

    def measured(mask=mask, mirrored=mask, others=(mask, mask), probability=None):
        probability = mask.astype(np.float32) if probability is None else probability
        return dict(
            zip(MEASURES, measure(mask, mirrored, others, probability, outlines), strict=True)
        )

    sound = measured()
    assert measured(others=(mask, smaller))["others"] == pytest.approx(1 / 6)
    assert measured(mirrored=smaller)["mirrored"] == pytest.approx(1 / 3)
    # 0.6 · 0.4 a pixel of lung.
    assert measured(probability=mask * np.float32(0.6))["doubt"] == pytest.approx(0.24, abs=1e-4)
    assert measured(mask=notched)["outline"] > 1.5 * sound["outline"]


# What is made of it


def quality(outlines: Outlines, weights=(1, 0, 0.5, 0)) -> Quality:
    scores, dices = np.array([0.0, 2.0, 8.0]), np.array([0.98, 0.9, 0.3])
    fitted = np.array(weights, float), scores, dices, np.array(0.05)
    return Quality(outlines, *fitted, {"unet": "abc"})


def test_a_score_is_the_weighed_sum_and_gives_a_dice_by_interpolation(outlines):
    # 0.005 is doubled once, 0.015 twice, and 0.035 three times.
    assert logarithms(np.array([0, 0.005, 0.015, 0.035])) == pytest.approx([0, 1, 2, 3])
    judge = quality(outlines).judge
    assert judge(np.zeros(4)) == (0.98, "")
    assert judge(np.array([0.005, 9, 0, 9]))[0] == pytest.approx(0.94)
    expected, reason = judge(np.array([0.035, 9, 0.015, 0]))
    assert expected == pytest.approx(0.7) and reason == "networks disagree"
    assert judge(np.array([0, 9, 0.155, 0.05]))[1] == "the network is undecided"
    assert judge(np.array([0, 9, 0.155, 0.051]))[1] == "not a frontal chest film"
    assert judge(np.array([0, 9, 0, 0.051]))[1] == ""


def test_a_file_holds_all_of_it(outlines):
    saved = quality(outlines)
    read = Quality.from_bytes(saved.to_bytes())
    assert read.networks == {"unet": "abc"} and read.sha256 == saved.sha256
    assert read.judge(np.full(4, 0.01)) == saved.judge(np.full(4, 0.01))
    assert np.abs(read.outlines.mean - outlines.mean).max() < 1e-3
    for damaged in (b"", b"no", saved.to_bytes()[:-200]):
        with pytest.raises(ValueError):
            Quality.from_bytes(damaged)


def observed(count: int = 300) -> pd.DataFrame:
    """Films whose networks disagree the more, the more of their Dice they lost; the rest varies."""
    rng = np.random.default_rng(0)
    lost = np.r_[np.zeros(count), rng.uniform(0, 0.5, count)]
    found = rng.uniform(0, 0.02, (2 * count, len(MEASURES)))
    found[:, 0] = lost * rng.uniform(0.8, 1.2, 2 * count)
    names = [str(number % count) for number in range(2 * count)]
    return pd.DataFrame(
        {
            "network": "unet",
            "image_id": names,
            "condition": np.repeat(["sound", "dark"], count),
            "dice": 0.97 - lost,
            "unusual": False,
            "measures": list(found),
        }
    )


def test_what_is_fitted_never_rises_and_finds_what_speaks(outlines):
    rows = observed()
    fitted = benchmark.fit(rows, outlines, {"unet": "abc"})
    assert (fitted.weights >= 0).all() and np.argmax(fitted.weights) == 0
    assert (np.diff(fitted.scores) > 0).all() and (np.diff(fitted.dices) < 0).all()
    figures = benchmark.figures(benchmark.judged(rows, fitted))
    assert figures["error"] < 0.03 and figures["auroc"] > 0.97


def test_figures_of_ten_films_by_hand():
    # Two of ten are bad; one comes last, the other third from last.
    truth = np.array([0.97, 0.96, 0.95, 0.95, 0.95, 0.95, 0.95, 0.8, 0.95, 0.5])
    expected = np.array([0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.91, 0.89, 0.6])
    look = expected < 0.92
    # The one third from last was bad before anything was done to it.
    sound = np.r_[np.full(7, 0.95), 0.85, 0.95, 0.95]
    columns = {"dice": truth, "sound_dice": sound, "expected_dice": expected, "look": look}
    figures = benchmark.figures(pd.DataFrame(columns))
    assert figures["n"] == 10 and figures["bad"] == 2
    assert figures["error"] == pytest.approx(np.mean(np.abs(truth - expected)))
    assert figures["auroc"] == pytest.approx(15 / 16)  # of 16 pairs, one is the wrong way round
    assert figures["auroc_worse"] == 1
    assert figures["looked_at"] == 0.3
    assert figures["flagged"] == 0.3 and figures["bad_flagged"] == 1
    assert figures["risk_50"] == pytest.approx((0.03 + 0.04 + 3 * 0.05) / 5)
    assert figures["risk_100"] == pytest.approx(1 - truth.mean())


def test_without_bad_films_nothing_is_told_apart():
    good = [0.95, 0.96]
    rows = pd.DataFrame({"dice": good, "sound_dice": good, "expected_dice": good, "look": False})
    assert np.isnan(benchmark.figures(rows)["auroc"])
    assert benchmark.figures(rows)["bad"] == 0
    assert LOOK_BELOW == 0.9


# What is said of films


def test_the_command_says_of_a_film_what_the_benchmark_does(tmp_path):
    drawn = [render_phantom(np.random.default_rng(seed), (512, 512)) for seed in (1, 2)]
    images, lungs = (np.stack(one) for one in zip(*drawn, strict=True))
    sound = Cases(images, lungs.max(axis=1), pd.DataFrame({"image_id": ["one", "two"]}), "")
    judged, quality = {}, load_quality()
    segmenters = {name: Segmenter(load_shipped(name)) for name in NETWORKS}
    for condition, cases in {"sound": sound, "intensive": harden(sound, "intensive")}.items():
        rows = benchmark.observe(segmenters, cases, quality.outlines)
        rows = rows.query("network == 'unet'").assign(condition="sound")
        rows = benchmark.judged(rows, quality)
        for image, row in zip(cases.images, rows.itertuples(), strict=True):
            name = f"{condition}_{row.image_id}.png"
            write_png(tmp_path / name, image)
            judged[name] = round(row.expected_dice, 4), row.look

    assert lungseg([str(tmp_path), str(tmp_path / "out"), "--save", ""]) == 0

    table = pd.read_csv(tmp_path / "out/lungs.csv").set_index("file")
    assert table[["expected_dice", "look"]].apply(tuple, axis=1).to_dict() == judged


def test_a_lung_that_the_network_cuts_off_is_completed_and_to_be_looked_at():
    image, lungs = render_phantom(np.random.default_rng(4), (512, 512))
    whole = Cases(image[None], np.max(lungs, axis=0)[None], pd.DataFrame({"image_id": ["d"]}), "")
    hidden = harden(whole, "grafted")
    film = cv2.resize(hidden.images[0], (800, 900), interpolation=cv2.INTER_CUBIC)
    truth = cv2.resize(hidden.masks[0], (800, 900), interpolation=cv2.INTER_NEAREST)

    alone = Segmenter(load_shipped("unetpp")).segment(film)
    completed = Segmenter.load("unetpp", fast=True).segment(film)

    assert dice(completed.mask, truth) > dice(alone.mask, truth) + 0.05
    assert (alone.mask <= completed.mask).all()
    np.testing.assert_array_equal(alone.probability, completed.probability)
    assert completed.look == COMPLETED
    np.testing.assert_array_equal(Segmenter.load("unetpp").segment(film).mask, completed.mask)
    # Seen from behind, as its file may say.
    mirrored = Film(np.ascontiguousarray(film[:, ::-1]), "mirrored", Header(orientation=("R", "F")))
    found = Segmenter.load("unetpp", fast=True).segment(mirrored)
    np.testing.assert_array_equal(found.mask, completed.mask[:, ::-1])


def test_what_is_no_frontal_chest_film_is_to_be_looked_at(tmp_path):
    photographs = Path(skimage.__file__).parent / "data"
    drawn = write_secondary_set(tmp_path) / "images"
    files = [*photographs.glob("*.png"), *photographs.glob("*.jpg"), *drawn.iterdir()]
    pictures = [Image.open(file).convert("RGB") for file in files]
    rng = np.random.default_rng(0)
    pictures += [rng.normal(128, 20 * k, (300, 400)).clip(0, 255) for k in range(1, 7)]
    pictures += [rng.uniform(0, 255, (side, side)).repeat(10, 0).repeat(10, 1) for side in (9, 30)]
    segmenter = Segmenter.load("unet")
    looks = [segmenter.segment(np.asarray(picture, np.uint8)).look for picture in pictures]
    assert len(looks) > 40
    assert np.mean([look != "" for look in looks]) >= 0.95
