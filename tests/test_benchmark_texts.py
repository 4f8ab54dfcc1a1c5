"""README's results and the model card: both are what the recorded figures say."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.score_shipped import CARD, RESULTS
from benchmarks.texts import (
    BEGIN,
    BEST_DICE,
    END,
    difference,
    figure,
    render_model_card,
    render_readme_results,
    split_at_markers,
)
from lungseg_utils.errors import LungsegError
from lungseg_utils.segment.shipped import INDEX, SHIPPED, WEIGHTS
from lungseg_utils.training.config import TrainingConfig


def record(n: int, dice: float, interval: tuple[float, float] | None = None) -> dict:
    def values(mean: float) -> dict:
        low, high = interval if interval and mean == dice else (None, None)
        return {"mean": mean, "low": low, "high": high}

    metrics = {"iou": 0.8765, "accuracy": 0.987, "hd95_px": 13.26, "assd_px": 2.974}
    return {"n": n, "patients": n, "empty": 0, "dice": values(dice)} | {
        metric: values(mean) for metric, mean in metrics.items()
    }


def lungs(n: int, dice: float) -> dict:
    return {"both": record(n, dice), "right": record(n, dice), "left": record(n - 1, dice - 0.02)}


RESULTS_BY_HAND = {
    "data": {
        "figures": {
            "test": {
                name: {
                    "all": lungs(141, dice) | {"both": record(141, dice, (dice - 0.01, 0.9851))},
                    "source=montgomery": lungs(28, 0.971),
                    "age=under 16": {"both": record(9, 0.948)},
                }
                for name, dice in {"unet": 0.9612, "unetpp": 0.9579, "pix2pix": 0.9484}.items()
            },
            "differences": {"pix2pix": {"all": record(141, -0.0128, (-0.0151, -0.0108))}},
            "cross": {
                "unet-shenzhen": {"all": {"both": record(138, 0.9555)}},
                "unet-montgomery": {"all": {"both": record(566, 0.9104)}},
            },
        }
    },
    "external": {
        "figures": {name: lungs(247, 0.9433) for name in ("unet", "unetpp", "pix2pix")},
        "size": [224, 224],
    },
    "cost": {
        "figures": {name: {"seconds_an_image": 0.051} for name in SHIPPED},
        "made_with": {"processor": "A Processor", "gpus": []},
    },
}
WEIGHTS_BY_HAND = {
    "unet": {
        "file": "unet.npz",
        "bytes": 3_700_000,
        "parameters": 1_900_000,
        "config": TrainingConfig(model="unet", model_options={"base_filters": 16}).to_dict(),
        "data": {"train_cases": 498, "val_cases": 58},
        "epochs_run": 25,
        "best_epoch": 21,
        "best_val_dice": 0.96,
        "training_seconds": 2640.0,
        "dtype_policy": "mixed_bfloat16",
    }
}
WEIGHTS_BY_HAND["unetpp"] = WEIGHTS_BY_HAND["unet"] | {"file": "unetpp.npz"}
WEIGHTS_BY_HAND["pix2pix"] = WEIGHTS_BY_HAND["unet"] | {
    "file": "pix2pix.npz",
    "config": TrainingConfig(model="pix2pix", learning_rate=0.0002).to_dict(),
    "epochs_run": 12,
    "half_size": {
        "epochs_run": 30,
        "best_epoch": 29,
        "best_val_dice": 0.95,
        "training_seconds": 600.0,
    },
}

for name, size in {"unet-shenzhen": 256, "unet-montgomery": 128}.items():
    WEIGHTS_BY_HAND[name] = WEIGHTS_BY_HAND["unet"] | {
        "file": f"{name}.npz",
        "config": TrainingConfig(model="unet", size=size).to_dict(),
    }


def test_the_readme_table_says_what_was_recorded():
    lines = render_readme_results(RESULTS_BY_HAND, WEIGHTS_BY_HAND).splitlines()
    assert "| scored on | n | network | Dice | IoU | HD95 | ASSD |" in lines
    assert "| all test images | 141 | U-Net | 0.961 [0.951, 0.985] | 0.876 | 13.3 | 2.97 |" in lines
    assert "| Montgomery | 28 | U-Net++ | 0.971 | 0.876 | 13.3 | 2.97 |" in lines
    assert "| JSRT | 247 | Pix2Pix | 0.943 | 0.876 | 13.3 | 2.97 |" in lines
    # Of the size of the U-Net above, and of another one.
    for cross in (
        "| all of Montgomery, trained on Shenzhen alone | 138 | U-Net | 0.956 |",
        "| all of Shenzhen, trained on Montgomery alone | 566 | U-Net, 128×128 | 0.910 |",
    ):
        assert any(line.startswith(cross) for line in lines)
    assert any("| 0.961 | 0.927 | – | – |" in line and "VGG11" in line for line in lines)
    assert "| right lung | 141 | 0.961 | 0.958 | 0.948 |" in lines
    assert "| left lung | 140 | 0.941 | 0.938 | 0.928 |" in lines
    assert any("Pix2Pix −0.0128 [−0.0151, −0.0108]" in line for line in lines)
    assert "those of JSRT, on which nothing was trained or chosen, at 224×224" in lines[0]


def test_a_difference_is_shown_with_a_digit_more_than_a_mean():
    values = {"mean": -0.0005, "low": -0.0009, "high": -0.0001}
    assert difference({"dice": values}, "dice") == "−0.0005 [−0.0009, −0.0001]"
    assert figure({"dice": values}, "dice") == "−0.001 [−0.001, 0.000]"
    in_pixels = {"mean": 0.54, "low": -0.04, "high": 1.0}
    assert difference({"hd95_px": in_pixels}, "hd95_px") == "0.5 [0.0, 1.0]"


def test_the_card_says_what_was_recorded_and_how_it_was_trained():
    lines = render_model_card(RESULTS_BY_HAND, WEIGHTS_BY_HAND).splitlines()
    assert "| U-Net | unet.npz | 1,900,000 | 3.7 MB | 256×256 | 0.051 |" in lines
    assert (
        "| setting | U-Net | U-Net++ | Pix2Pix | U-Net of Shenzhen | U-Net of Montgomery |" in lines
    )
    assert "| epochs run | 25 | 25 | 12 | 25 | 25 |" in lines
    assert "| `model_options.base_filters` | 16 | 16 | – | – | – |" in lines
    assert "| `learning_rate` | 0.001 | 0.001 | 0.0002 | 0.001 | 0.001 |" in lines
    # Whatever its configuration says, Pix2Pix has a loss of its own.
    assert WEIGHTS_BY_HAND["pix2pix"]["config"]["loss"] == "bce_dice"
    assert "| `loss` | bce_dice | bce_dice | adversarial + L1 | bce_dice | bce_dice |" in lines
    assert any("| Pix2Pix | all | 141 | −0.0128 [−0.0151, −0.0108] |" in line for line in lines)
    (shared,) = [line for line in lines if line.startswith("The same for all: ")]
    assert "training images 498, validation images 58, best epoch 21, " in shared
    assert f"{BEST_DICE} 0.9600, " in shared
    assert "`augmentation.jitter` 0, " in shared
    assert "| minutes of training | 44 | 44 | 54 | 44 | 44 |" in lines
    assert "| epochs run at half the size | – | – | 30 | – | – |" in lines
    assert "| under 16 years | 9 | 0.948 | 0.948 | 0.948 |" in lines
    assert "| Pix2Pix | 247 | 0.943 | 0.876 | 0.987 | 13.3 | 2.97 |" in lines
    montgomery = "| U-Net of Shenzhen | Montgomery | 138 | 0.956 |"
    assert any(line.startswith(montgomery) for line in lines)
    assert any("(A Processor; one image at a time)" in line for line in lines)
    assert any(line.startswith("**Not a medical device.**") for line in lines)


@pytest.mark.parametrize("page", ["nothing", f"{BEGIN}\nno end\n", f"{BEGIN}\n{END}\n" * 2])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(LungsegError, match="Put the two lines back"):
        split_at_markers(page)


@pytest.fixture(scope="module")
def recorded() -> dict:
    if not (WEIGHTS / RESULTS).is_file():
        pytest.skip("no results are recorded yet: `make benchmark` writes them")
    return json.loads((WEIGHTS / RESULTS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def weights(recorded) -> dict:
    return json.loads((WEIGHTS / INDEX).read_text(encoding="utf-8"))


def test_the_readme_shows_the_recorded_results(recorded, weights, repository):
    page = (repository / "README.md").read_text(encoding="utf-8")
    assert split_at_markers(page)[1] == render_readme_results(recorded, weights)


def test_the_card_shows_the_recorded_results(recorded, weights):
    assert (WEIGHTS / CARD).read_text(encoding="utf-8") == render_model_card(recorded, weights)


def test_where_it_fails_was_looked_at_for_the_shipped_weights(recorded, weights):
    """Fails once weights are replaced: look at the worst cases again, then correct the line."""
    card = (WEIGHTS / CARD).read_text(encoding="utf-8")
    (written_for,) = re.findall(r"^Written for the U-Net with the SHA-256 `(\w{12})…`", card, re.M)
    assert written_for == weights["unet"]["sha256"][:12]


def test_the_recorded_results_are_those_of_the_shipped_weights(recorded, weights):
    for part in recorded.values():
        for name, digest in part["made_with"]["weights"].items():
            assert digest == weights[name]["sha256"], name


def test_every_case_is_in_the_recorded_results(recorded):
    figures = recorded["data"]["figures"]
    counts = {group: regions["both"]["n"] for group, regions in figures["test"]["unet"].items()}
    wanted = {"all": 141, "source=montgomery": 28, "source=shenzhen": 113, "questionable=no": 127}
    assert {group: counts[group] for group in wanted} == wanted
    assert figures["cross"]["unet-shenzhen"]["all"]["both"]["n"] == 138
    assert figures["cross"]["unet-montgomery"]["all"]["both"]["n"] == 566
    assert recorded["external"]["figures"]["unet"]["both"]["n"] == 247
