from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from scored import lungs, make_scores

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.summaries import paired_differences, risk_coverage, summarise
from lungseg_utils.figures import images, scores
from lungseg_utils.figures.drawing import (
    MODEL_COLOURS,
    PREDICTION,
    SHARED,
    TRUTH,
    NotebookFigure,
    save_figure,
)

SIZE = 64
GREY = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
TRUE = lungs(SIZE)
SHIFTED = np.roll(TRUE, 2, axis=1)
DICE = f"Dice {2 * (TRUE & SHIFTED).sum() / (TRUE.sum() + SHIFTED.sum()):.3f}"


pytestmark = pytest.mark.filterwarnings("error")


def shown(axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def outlines(axes) -> dict[tuple, np.ndarray]:
    """Colour and points of every outline in the axes."""
    return {
        tuple(contour.get_edgecolor()[0]): contour.get_paths()[0].vertices
        for contour in axes.collections
    }


def overlay(truth: np.ndarray, prediction: np.ndarray, name: str = "a") -> NotebookFigure:
    """Both outlines on one X-ray."""
    return images.show_worst_cases([GREY], [truth], [prediction], [name])


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


# Pictures


def test_overlap_colours_by_hand():
    image = np.array([[0, 100, 200, 255]], np.uint8)
    truth = np.array([[1, 1, 0, 0]], np.uint8)
    prediction = np.array([[1, 0, 1, 0]], np.uint8)
    coloured = images.overlap_colours(image, truth, prediction)
    assert coloured.dtype == np.uint8
    mixed = [
        np.rint(0.45 * grey + 0.55 * 255 * np.array(to_rgb(colour)))
        for grey, colour in ((0, SHARED), (100, TRUTH), (200, PREDICTION))
    ]
    np.testing.assert_array_equal(coloured[0, :3], mixed)
    assert coloured[0, 3].tolist() == [255, 255, 255]


def test_outlines_run_halfway_between_mask_and_background():
    truth, prediction = np.zeros((2, SIZE, SIZE), np.uint8)
    truth[10:20, 30:50] = 1
    prediction[0:20, 0:15] = 1  # touches two edges of the image: its outline is closed all the same
    figure = overlay(truth, prediction)
    (axes,), (legend,) = figure.axes, figure.legends
    colours = [to_rgba(line.get_color()) for line in legend.get_lines()]
    assert colours == [to_rgba(TRUTH), to_rgba(PREDICTION)]
    found = outlines(axes)
    assert set(found) == {to_rgba(TRUTH), to_rgba(PREDICTION)}
    for colour, box in ((TRUTH, [29.5, 9.5, 49.5, 19.5]), (PREDICTION, [-0.5, -0.5, 14.5, 19.5])):
        points = found[to_rgba(colour)]
        assert [*points.min(axis=0), *points.max(axis=0)] == box
        assert points[0].tolist() == points[-1].tolist()
    assert axes.get_xlim() == (-0.5, SIZE - 0.5)
    assert axes.get_ylim() == (SIZE - 0.5, -0.5)
    assert axes.get_title() == "a · Dice 0.000"


def test_prediction_grid_is_input_truth_prediction_overlay():
    figure = images.prediction_grid([GREY, 255 - GREY], [TRUE] * 2, [SHIFTED, TRUE], ["a", "b"])
    panels = np.array(figure.axes).reshape(2, 4)
    for row, (image, prediction) in zip(panels, [(GREY, SHIFTED), (255 - GREY, TRUE)], strict=True):
        np.testing.assert_array_equal(shown(row[0]), image)
        np.testing.assert_array_equal(shown(row[1]), 255 * TRUE)
        np.testing.assert_array_equal(shown(row[2]), 255 * prediction)
        np.testing.assert_array_equal(shown(row[3]), image)
        assert set(outlines(row[3])) == {to_rgba(TRUTH), to_rgba(PREDICTION)}
    assert titles(figure) == [
        *("a", "Truth", "Prediction", DICE),
        *("b", "Truth", "Prediction", "Dice 1.000"),
    ]


@pytest.mark.parametrize("draw", [images.show_pairs, images.show_cleaning, images.show_unlabelled])
def test_a_figure_of_no_images_is_refused(draw):
    with pytest.raises(LungsegError, match="at least one"):
        draw([], [], [])


# Numbers


def history(epochs: int, best: int, scale: float = 1.0) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    dice = 0.9 - 0.01 * np.abs(epoch - best)
    loss = scale / epoch
    columns = {"epoch": epoch, "loss": loss, "val_loss": 1.1 * loss}
    return pd.DataFrame({**columns, "dice": dice + 0.01, "val_dice": dice})


def test_learning_curves_mark_the_best_epoch_of_each_run_and_stage():
    half = {"pix2pix": history(6, best=6)}
    full = {"unet": history(9, best=7), "pix2pix": history(4, best=2)}
    figure = scores.learning_curves({"at half the size": half, "at full size": full})
    stages = ["at half the size", "at full size"]
    assert titles(figure) == [f"{what} {stage}" for stage in stages for what in ("Loss", "Dice")]
    lines = [line.get_xydata() for line in figure.axes[2].get_lines()]
    np.testing.assert_allclose(lines[0], full["unet"][["epoch", "loss"]])
    np.testing.assert_allclose(lines[3], full["pix2pix"][["epoch", "val_loss"]])
    marks = [
        [(*line.get_xydata()[0], line.get_markeredgecolor()) for line in axes.get_lines()[2::3]]
        for axes in figure.axes[1::2]
    ]
    # As in the other figures: the first run's colour is the first, though it lacks a stage.
    first, second = MODEL_COLOURS[:2]
    assert marks == [[(6, 0.9, second)], [(7, 0.9, first), (2, 0.9, second)]]
    texts = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert texts == ["unet: 0.900 at epoch 7", "pix2pix: 0.900 at epoch 2"]


def table_of_scores() -> pd.DataFrame:
    random = np.random.default_rng(3)
    values = {name: list(random.uniform(0.8, 1, 24)) for name in ("unet", "unetpp")}
    source = ["montgomery"] * 12 + ["shenzhen"] * 12
    return make_scores(values, source=source, hd95_px=list(random.uniform(0, 700, 24)))


def clouds(axes) -> list[np.ndarray]:
    """The points of each model and group, in the order drawn."""
    return [
        line.get_xydata()
        for line in axes.get_lines()
        if line.get_marker() == "o" and line.get_linestyle() == "None"
    ]


def test_distributions_show_every_case_of_source_and_model():
    table = table_of_scores()
    (axes,) = scores.distributions(table).axes
    # By source, the models side by side within it.
    wanted = [
        table[(table["source"] == source) & (table["model"] == model)]["dice"]
        for source in ("montgomery", "shenzhen")
        for model in ("unet", "unetpp")
    ]
    means = [line.get_xydata()[0] for line in axes.get_lines() if line.get_marker() == "D"]
    parts = zip((0, 0, 1, 1), wanted, clouds(axes), means, strict=True)
    for place, values, points, mean in parts:
        np.testing.assert_allclose(points[:, 1], values)
        assert mean[1] == pytest.approx(values.mean())
        assert np.abs(points[:, 0] - mean[0]).max() < 0.15
        assert abs(mean[0] - place) < 0.5
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["Montgomery\nn = 12", "Shenzhen\nn = 12"]
    # Distances are drawn on a scale that holds both ends.
    (axes,) = scores.distributions(table, "hd95_px").axes
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 700


def test_differences_are_points_with_intervals():
    table = paired_differences(table_of_scores())
    table.loc[table["group"] == "source=shenzhen", ["low", "high"]] = np.nan
    (axes,) = scores.differences(table).axes
    rows = table.query("metric == 'dice'")
    np.testing.assert_allclose([points[0, 0] for points in clouds(axes)], rows["mean"])
    bars = [line.get_xdata() for line in axes.get_lines() if line.get_linewidth() > 2]
    np.testing.assert_allclose(bars, rows[["low", "high"]].dropna())
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        "unetpp − unet, all cases (n = 24)",
        "unetpp − unet, source: montgomery (n = 12)",
        "unetpp − unet, source: shenzhen (n = 12)",
    ]
    assert "right of 0" in axes.get_xlabel()
    assert "left of 0" in scores.differences(table, "hd95_px").axes[0].get_xlabel()


@pytest.mark.parametrize("draw", [scores.distributions, scores.per_lung, scores.differences])
def test_nothing_to_draw_is_said(draw):
    table = table_of_scores()
    table = paired_differences(table) if draw is scores.differences else table
    with pytest.raises(LungsegError, match="at least one row"):
        draw(table.assign(stage="raw"))


def test_risk_rises_with_coverage_where_trust_is_right():
    curve = risk_coverage(np.array([0.5, 0.9, 0.7]), np.array([1, 3, 2]))
    (axes,) = scores.trust_curves({"unet": curve}).axes
    (line,) = axes.get_lines()
    assert line.get_label() == "unet"
    assert line.get_xdata() == pytest.approx([1 / 3, 2 / 3, 1])
    assert line.get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(LungsegError, match="at least one row"):
        scores.trust_curves({})


# Every figure


def figures() -> dict[str, object]:
    long = "a_rather_long_file_name_of_a_photograph_0001.jpeg"
    table, one = table_of_scores(), {"unet": history(9, 7)}
    return {
        "pairs": images.show_pairs([GREY] * 4, [TRUE] * 4, [long] * 4),
        "overlap": images.overlap_map(GREY, TRUE, SHIFTED, "MCUCXR_9001_0"),
        "narrow": images.compare_models([GREY], [TRUE], {"unet": [TRUE]}, [long]),
        "unlabelled": images.show_unlabelled([GREY] * 7, [TRUE] * 7, [long] * 7),
        "one": images.show_worst_cases([GREY], [TRUE], [TRUE], [long]),
        "curves": scores.learning_curves({"at half the size": one, "at full size": one}),
        "distributions": scores.distributions(table),
        "differences": scores.differences(paired_differences(table)),
        "subgroups": scores.subgroups(summarise(table), "unet"),
        "risk": scores.trust_curves({long: risk_coverage(np.linspace(0, 1), np.ones(50))}),
    }


def test_nothing_is_cut_off_and_no_titles_collide():
    for name, figure in figures().items():
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        assert width <= 9.001, name
        drawn = figure.get_tightbbox()
        assert drawn.x0 > -0.01, name
        assert drawn.y0 > -0.01, name
        assert drawn.x1 < width + 0.01, name
        assert drawn.y1 < height + 0.01, name
        heads = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        pictures = [axes.bbox for axes in figure.axes]
        for number, head in enumerate(heads):
            others = heads[number + 1 :] + pictures
            assert not any(head.overlaps(other) for other in others), name
        for legend in figure.legends:
            assert not any(legend.get_window_extent().overlaps(box) for box in pictures), name


def test_a_notebook_and_a_file_get_the_same_picture(tmp_path):
    figure = overlay(TRUE, SHIFTED)
    path = save_figure(figure, tmp_path / "figures" / "overlay.png", dpi=figure.dpi)
    assert [file.name for file in path.parent.iterdir()] == ["overlay.png"]
    displayed = matplotlib.image.imread(BytesIO(figure._repr_png_()))
    np.testing.assert_array_equal(matplotlib.image.imread(path), displayed)
    wanted = np.rint(figure.get_size_inches() * figure.dpi).astype(int)
    assert np.abs(np.array(displayed.shape[1::-1]) - wanted).max() <= 1


def test_figures_do_without_pyplot_and_the_networks():
    code = (
        "import sys, lungseg_utils.figures.lessons; "
        "print([n for n in ('matplotlib.pyplot', 'keras', 'tensorflow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
