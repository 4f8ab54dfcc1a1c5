"""How far two predictors are apart, on masks whose Dice is worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.parity import compare
from lungseg_utils.preparation.imaging import Preprocessing
from tests.scored import lungs

RUN = SimpleNamespace(name="network", config=SimpleNamespace(preprocessing=Preprocessing()))


def test_each_figure_is_of_its_own_worst_film():
    # The ninth film, in the second batch, is just above the threshold.
    images = np.stack([lungs() * 255] * 8 + [lungs() * 128])

    def other(inputs: np.ndarray) -> np.ndarray:
        if len(inputs) == 8:
            return inputs * 0.75
        # The lungs are 32 rows high: without 16 of them, Dice is 2·16 / (16 + 32) = 2/3.
        return np.where(np.arange(64)[:, None, None] < 32, np.minimum(inputs, 0.5), inputs)

    assert compare(RUN, other, other, images) == (0, 1)
    assert compare(RUN, lambda inputs: inputs, other, images) == pytest.approx((0.25, 2 / 3))
