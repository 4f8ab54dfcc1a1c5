"""How far a mask can be trusted: by other networks, the mirrored film, and the shape of lungs.

Networks that agree are mostly right (Zenk et al. 2025, arXiv 2406.03323; Hann et al. 2021), but
networks that learnt from the same masks also fail alike, so the shape speaks too. Their measures
are weighed into one score, and the score into an expected Dice by a monotone regression, both on
the validation films, sound and made bad (`python -m benchmarks.quality`).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungseg_utils.segment.postprocess import Outlines, disagreement, doubt

_OUTLINES = ("mean", "components", "spread")
_FITTED = ("weights", "scores", "dices", "farthest")
LOOK_BELOW = 0.9
"""Masks of a lower expected Dice are to be looked at."""
# What is measured, and what is said where it weighs most against a mask.
MEASURES = {
    "others": "networks disagree",
    "mirrored": "the mirrored film gives another mask",
    "doubt": "the network is undecided",
    "outline": "the outline is unlike that of lungs",
}
# Below this, measures say nothing: masks drawn twice by one reader differ by more.
_LEAST = 0.005


def measure(
    mask: np.ndarray,
    mirrored: np.ndarray,
    others: Sequence[np.ndarray],
    probability: np.ndarray,
    outlines: Outlines,
) -> np.ndarray:
    """Measure what speaks against a mask; all at the networks' size, of the upright film.

    Args:
        mask: uint8 {0, 1} (S, S), cleaned.
        mirrored: What the same network finds in the mirrored film, mirrored back.
        others: What two other networks find.
        probability: float32 (S, S), from which the mask was made.
        outlines: Of lungs.

    Returns:
        float64, by `MEASURES`: 0 where nothing speaks against it.
    """
    return np.array(
        [
            np.mean([disagreement(mask, other) for other in others]),
            disagreement(mask, mirrored),
            doubt(probability),
            outlines.distance(mask),
        ]
    )


@dataclass(frozen=True)
class Quality:
    """From measures to what is expected of a mask.

    Args:
        outlines: Of lungs.
        weights: float64 (m,), not negative, of the measures' logarithms.
        scores: float64 (k,), growing; the scores between which is interpolated.
        dices: float64 (k,), falling: the expected Dice at each.
        farthest: float64 (): how far an outline may be from that of lungs in a chest film.
        networks: SHA-256 of the networks that it was fitted for, by their names.
    """

    outlines: Outlines
    weights: np.ndarray
    scores: np.ndarray
    dices: np.ndarray
    farthest: np.ndarray
    networks: Mapping[str, str]

    @classmethod
    def from_bytes(cls, content: bytes) -> Quality:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            with np.load(io.BytesIO(content)) as arrays:
                outlines = Outlines(*(arrays[name].astype(np.float32) for name in _OUTLINES))
                fitted = [arrays[name] for name in _FITTED]
                return cls(outlines, *fitted, json.loads(str(arrays["networks"])))
        except (KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(str(error)) from error

    def to_bytes(self) -> bytes:
        """A file of NumPy arrays; the outlines' in half precision."""
        arrays = {name: getattr(self.outlines, name).astype(np.float16) for name in _OUTLINES}
        arrays |= {name: getattr(self, name) for name in _FITTED}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays, networks=json.dumps(dict(self.networks)))
        return file.getvalue()

    @property
    def sha256(self) -> str:
        """SHA-256 of all that decides."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def judge(self, measures: np.ndarray) -> tuple[float, str]:
        """Say what Dice masks of such measures have against readers'.

        Returns:
            The expected Dice, and what speaks most against the mask where that is below
            `LOOK_BELOW`, else nothing.
        """
        weighed = logarithms(measures) * self.weights
        expected = float(np.interp(weighed.sum(), self.scores, self.dices))
        if expected >= LOOK_BELOW:
            return expected, ""
        if measures[list(MEASURES).index("outline")] > self.farthest:
            return expected, "not a frontal chest film"
        return expected, list(MEASURES.values())[int(np.argmax(weighed))]


def logarithms(measures: np.ndarray) -> np.ndarray:
    """How often each measure is doubled, from the least that says something."""
    return np.log2(1 + measures / _LEAST)
