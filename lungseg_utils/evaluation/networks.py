"""A shipped network with its model: its probabilities, and what they cost."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from lungseg_utils.environment import versions
from lungseg_utils.evaluation.scoring import score_run
from lungseg_utils.segment.predict import predict_images

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from lungseg_utils.preparation.cases import Cases
    from lungseg_utils.segment.shipped import ShippedRun

_BATCH = 8
_TIMED = 7


@dataclass(frozen=True)
class Network:
    """A network ready to predict.

    Args:
        run: Gives name, size, preprocessing and the record of the weights.
        model: What `run.load_model()` returned.
    """

    run: ShippedRun
    model: keras.Model

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.run.config.size

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of many images, with a progress bar.

        Args:
            images: uint8 `(N, size, size)` grey.

        Returns:
            float32 `(N, size, size)` in [0, 1].
        """
        probability = np.empty(images.shape, np.float32)
        title = f"Predicting {self.run.name}"
        for start in tqdm(range(0, len(images), _BATCH), desc=title, unit="batch"):
            part = slice(start, start + _BATCH)
            probability[part] = predict_images(self.run, self.model, images[part])
        return probability

    def score(self, images: np.ndarray, truth: Cases) -> pd.DataFrame:
        """Rows of `score_run`, of what the network makes of some cases.

        Args:
            images: What it sees of each case, uint8 `(N, size, size)`.
            truth: The same cases in the same order, at the size to score at.
        """
        return score_run(self.run.name, truth.ids, self.predict(images), truth)

    def cost(self) -> dict[str, float]:
        """Parameters, bytes of the weights' file, and seconds an image, one at a time.

        The seconds are the median of some calls on the machine at hand, so they say little about
        another one.
        """
        image = np.zeros((1, self.size, self.size), np.uint8)
        predict_images(self.run, self.model, image)  # the first call prepares
        seconds = []
        for _ in range(_TIMED):
            start = time.perf_counter()
            predict_images(self.run, self.model, image)
            seconds.append(time.perf_counter() - start)
        record = self.run.record
        return {
            "parameters": record["parameters"],
            "bytes": record["bytes"],
            "seconds_an_image": round(median(seconds), 3),
        }


def load_networks(runs: Iterable[ShippedRun]) -> dict[str, Network]:
    """Build each run's model; by name."""
    return {run.name: Network(run, run.load_model()) for run in runs}


def made_with(networks: Mapping[str, Network], inputs: str) -> dict[str, object]:
    """What a part of the results was made with: weights, data, versions and machine.

    Args:
        networks: The networks that were scored.
        inputs: Digest of the X-rays and masks.
    """
    import keras

    from lungseg_utils.training.devices import list_gpus

    return {
        "weights": {name: network.run.record["sha256"] for name, network in networks.items()},
        "inputs": inputs,
        "versions": versions(),
        "backend": keras.backend.backend(),
        "processor": processor_name(),
        "gpus": list_gpus(),
    }


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux states it, else the kind of machine."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
