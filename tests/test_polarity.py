from __future__ import annotations

import numpy as np
import pytest

from lungseg_utils.segment.polarity import doubt, lungs_are_bright

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
