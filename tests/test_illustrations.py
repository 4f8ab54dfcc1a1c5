from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lungseg_utils.figures import lessons as illustrations
from lungseg_utils.manifest import count_splits, load_manifest
from lungseg_utils.models.unet import build_unet


def test_bars_of_the_manifest_are_as_long_as_their_splits():
    cases = load_manifest()
    figure = illustrations.plot_manifest(pd.DataFrame([vars(case) for case in cases]))

    drawn = {
        bars.get_label(): sum(bar.get_width() for bar in bars) for bars in figure.axes[0].containers
    }

    assert drawn == count_splits(cases)


def test_each_variant_is_shown_above_its_own_histogram():
    dark, bright = np.full((8, 8), 3, np.uint8), np.full((8, 8), 250, np.uint8)
    figure = illustrations.show_variants({"dark": dark, "bright": bright})
    shown = [axes for axes in figure.axes if axes.images]
    histograms = [axes for axes in figure.axes if axes.patches]

    assert [axes.get_title() for axes in shown] == ["dark", "bright"]
    np.testing.assert_array_equal(shown[1].images[0].get_array(), bright)
    fullest = [np.argmax([bar.get_height() for bar in axes.patches]) for axes in histograms]
    assert fullest == [0, 62]


def test_stages_of_a_unet_halve_and_double():
    stages = illustrations._stages(build_unet(64, base_filters=4, depth=2))

    assert stages == [(64, 1), (64, 4), (32, 8), (16, 16), (32, 8), (64, 4), (64, 1)]


def test_stages_of_a_network_of_patches_step_in_and_out():
    stages = illustrations._stages(build_unet(64, base_filters=4, depth=1, patch_size=4))
    assert stages == [(64, 1), (16, 4), (8, 8), (16, 4), (64, 1)]


@pytest.mark.parametrize("depth", [2, 4])
def test_nested_skips_draw_every_node_of_the_triangle(depth):
    figure = illustrations.plot_nested_skips(depth)
    texts = {text.get_text() for text in figure.axes[0].texts}

    expected = {f"{i},{j}" for i in range(depth + 1) for j in range(depth + 1 - i)}
    assert expected <= texts


def test_judgements_carry_their_mean():
    image, mask = np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)
    figure = illustrations.show_judgements(
        image, {"manual": mask}, {"manual": np.array([[0.25, 0.75], [0.5, 1.0]])}
    )

    assert any("0.62" in axes.get_title() for axes in figure.axes)
