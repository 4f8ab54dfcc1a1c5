from __future__ import annotations

import json

import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.preparation.imaging import Preprocessing
from lungseg_utils.training.config import TrainingConfig


def test_configuration_survives_json():
    config = TrainingConfig(
        model="unetpp",
        model_options={"base_filters": 8},
        augmentation=Augmentation(rotation=3.0),
        preprocessing=Preprocessing(clahe=True, normalise="percentile"),
    )

    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "vnet"),
        ("loss", "Dice"),
        ("optimizer", "sgd"),
        ("schedule", "step"),
        ("precision", "float64"),
        ("distribute", "all"),
        ("epochs", 0),
        ("half_size_epochs", -1),
        ("batch_size", 2.0),
        ("patience", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("half_size_learning_rate", float("nan")),
        ("weight_decay", -1e-4),
        ("beta_1", 1.0),
    ],
)
def test_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(LungsegError, match=name):
        TrainingConfig(**{name: value})


def test_an_odd_size_has_no_half():
    with pytest.raises(LungsegError, match="size 255 with half_size_epochs 3"):
        TrainingConfig(size=255, half_size_epochs=3)


def test_unknown_name_of_another_version_is_refused():
    with pytest.raises(LungsegError, match="mixup"):
        TrainingConfig.from_dict({"mixup": 0.2})
