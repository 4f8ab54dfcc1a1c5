"""What half precision costs, on masks whose Dice is worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.half_precision import cost
from tests.scored import lungs, make_cases


def cutting(*rows: int) -> SimpleNamespace:
    """Segments what is bright, but cuts so many rows off: another number for each level."""

    def segment(image: np.ndarray) -> SimpleNamespace:
        mask = (image > 0).astype(np.uint8)
        mask[16 : 16 + rows[image.max() - 1]] = 0
        return SimpleNamespace(mask=mask)

    return SimpleNamespace(segment=segment)


def test_means_and_the_largest_difference_are_of_the_same_cases():
    # The lungs are 32 rows high: without 16 of them, Dice is 2·16 / (16 + 32) = 2/3.
    cases = make_cases([lungs()] * 3)
    cases.images[:] = cases.masks * np.uint8([1, 2, 3])[:, None, None]

    found = cost(cutting(0, 16, 0), cutting(0, 0, 16), cases)

    assert found["dice_float32"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found["dice_half"] == pytest.approx(found["dice_float32"])
    assert found["largest_difference"] == pytest.approx(1 / 3)
    assert found["cases"] == 3
