"""The fixed set of hard films: whose they are, and that nothing but their names decides them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import hard
from benchmarks.hard import HARD, harden
from lungseg_utils.errors import LungsegError
from lungseg_utils.preparation.cases import Cases
from tests.tiny import tiny_cases

MOVING = {"gas", "supine", "collimated", "child", "intensive"}
each = pytest.mark.parametrize("name", HARD)


@pytest.fixture(scope="module")
def cases() -> Cases:
    return tiny_cases(5, 128)


@each
def test_every_film_changes_and_masks_only_where_it_moves(name, cases):
    images, masks = cases.images.copy(), cases.masks.copy()
    bad = harden(cases, name)
    assert np.array_equal(cases.images, images) and np.array_equal(cases.masks, masks)
    assert bad.ids == cases.ids and bad.images.dtype == bad.masks.dtype == np.uint8
    for row in range(len(cases)):
        assert np.mean(bad.images[row] != images[row]) > 0.005
        assert np.array_equal(bad.masks[row], masks[row]) != (name in MOVING)
    assert set(np.unique(bad.masks)) == {0, 1}


@each
def test_a_film_depends_on_its_id_and_the_version_alone(name, cases, monkeypatch):
    whole, chosen = harden(cases, name), harden(cases.take([3, 0]), name)
    assert np.array_equal(chosen.images, whole.images[[3, 0]])
    assert np.array_equal(chosen.masks, whole.masks[[3, 0]])
    monkeypatch.setattr(hard, "VERSION", hard.VERSION + 1)
    assert not np.array_equal(harden(cases, name).images, whole.images)


def test_a_child_is_smaller_and_shorter(cases):
    small = harden(cases, "child").masks
    spans = [
        [np.ptp(np.flatnonzero(mask.any(axis=axis))) for axis in (0, 1)]
        for mask in (*cases.masks, *small)
    ]
    before, after = np.array(spans[: len(cases)]), np.array(spans[len(cases) :])
    assert (after[:, 0] < 0.97 * before[:, 0]).all() and (after[:, 1] < 0.75 * before[:, 1]).all()


def test_an_unknown_scenario_is_refused(cases):
    with pytest.raises(LungsegError, match=r"A scenario.*white out"):
        harden(cases, "grey out")
