from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_cases

from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.figures import lessons
from lungseg_utils.manifest import count_splits, load_manifest
from lungseg_utils.models.unet import build_unet
from lungseg_utils.preparation.augmentation import NONE
from lungseg_utils.training.config import TrainingConfig

CONFIG = TrainingConfig(
    size=32,
    model_options={"base_filters": 4, "depth": 2},
    # So small a rate leaves the weights as they were drawn.
    learning_rate=1e-12,
    batch_size=4,
    epochs=1,
    seed=3,
    augmentation=NONE,
)


def test_the_untrained_network_is_the_one_that_training_begins_with(tmp_path):
    from lungseg_utils.training.train import train

    val_cases = tiny_cases(6, seed=1, split="val")
    untrained = lessons.score_untrained(CONFIG, val_cases)
    run = train(CONFIG, tiny_cases(4), val_cases, tmp_path / "run")
    assert untrained == pytest.approx(run.record["best_val_dice"], abs=1e-6)
    predicted = run.load_model()(val_cases.images[..., None] / np.float32(255))[..., 0]
    by_hand = [dice(np.array(p) > 0.5, m) for p, m in zip(predicted, val_cases.masks, strict=True)]
    assert untrained == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_a_batch_is_shown_as_the_network_gets_it():
    cases = tiny_cases(3)
    figure = lessons.show_batch(cases, CONFIG)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    wanted = {image.tobytes() for image in cases.images}
    assert {image.tobytes() for image in shown[:3]} == wanted
    assert {image.tobytes() for image in shown[3:6]} == {m.tobytes() for m in 255 * cases.masks}


def test_predictions_are_found_by_the_cases_ids(tmp_path):
    cases = tiny_cases(3, size=16, split="val")
    kept = cases.take([2, 0, 1])
    (tmp_path / "predictions").mkdir()
    arrays = {"ids": np.array(kept.ids), "probability": kept.masks.astype(np.float16)}
    np.savez(tmp_path / "predictions" / "val.npz", **arrays)
    masks = lessons.predicted_masks(tmp_path, "val", cases.ids, 16)
    np.testing.assert_array_equal(masks, cases.masks)
    figure = lessons.show_predictions(SimpleNamespace(folder=tmp_path), cases, "val", count=2)
    assert [axes.get_title() for axes in figure.axes[::4]] == cases.ids[:2]
    np.testing.assert_array_equal(figure.axes[6].get_images()[0].get_array(), 255 * masks[1])


def test_bars_of_the_manifest_are_as_long_as_their_splits():
    cases = load_manifest()
    figure = lessons.plot_manifest(pd.DataFrame([vars(case) for case in cases]))

    drawn = {
        bars.get_label(): sum(bar.get_width() for bar in bars) for bars in figure.axes[0].containers
    }

    assert drawn == count_splits(cases)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"depth": 2}, [(64, 1), (64, 4), (32, 8), (16, 16), (32, 8), (64, 4), (64, 1)]),
        ({"depth": 1, "patch_size": 4}, [(64, 1), (16, 4), (8, 8), (16, 4), (64, 1)]),
    ],
)
def test_feature_maps_halve_and_double(options, stages):
    figure = lessons.plot_feature_maps(build_unet(64, base_filters=4, **options))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [text for side, channels in stages for text in (f"{side}²", f"×{channels}")]


@pytest.mark.parametrize("depth", [2, 4])
def test_nested_skips_draw_every_node_of_the_triangle(depth):
    figure = lessons.plot_nested_skips(depth)
    texts = {text.get_text() for text in figure.axes[0].texts}

    expected = {f"{i},{j}" for i in range(depth + 1) for j in range(depth + 1 - i)}
    assert expected <= texts
