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

import cv2
import numpy as np

from lungseg_utils.segment.postprocess import doubt

_OUTLINES = ("mean", "components")
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
# Outlines are compared on a grid of this side, each mask's box within a margin.
_GRID, _MARGIN = 32, 4
# Below this, measures say nothing: masks drawn twice by one reader differ by more.
_LEAST = 0.005


@dataclass(frozen=True)
class Outlines:
    """Usual outlines of both lungs: signed distances that `components` vary about a `mean`.

    Args:
        mean: float32 (n,).
        components: float32 (k, n), orthonormal.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of_masks(cls, masks: Sequence[np.ndarray], count: int = 12) -> Outlines:
        """Learn them from masks: the main components of their signed distances."""
        distances = np.array([signed_distance(mask) for mask in masks])
        mean = distances.mean(axis=0)
        _, _, components = np.linalg.svd(distances - mean, full_matrices=False)
        return cls(mean, components[:count])

    def distance(self, mask: np.ndarray) -> float:
        """How far a mask's outline is from the nearest usual one, as a share of the box's side."""
        offset = signed_distance(mask) - self.mean
        left = offset - (self.components @ offset) @ self.components
        return float(np.sqrt(np.mean(left**2)))


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distances to a mask's outline, positive inside, on a grid that fits its bounding box.

    Args:
        mask: uint8 {0, 1} (H, W).

    Returns:
        float32 (n,), in sides of the box, cut at a quarter of it; of an empty mask all negative.
    """
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return np.full(_GRID**2, -0.25, np.float32)
    side = _GRID - 2 * _MARGIN
    box = mask[top : top + height, left : left + width] * np.float32(255)
    box = cv2.resize(box, (4 * side, 4 * side), interpolation=cv2.INTER_AREA) > 127
    box = np.pad(box.astype(np.uint8), 4 * _MARGIN)
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (box, 1 - box))
    fine = np.clip((inside - outside) / (4 * side), -0.25, 0.25)
    return cv2.resize(fine, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


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


def disagreement(first: np.ndarray, second: np.ndarray) -> float:
    """One less Dice of two masks: the pixels of only one of them, of all pixels of both."""
    pixels = np.count_nonzero(first) + np.count_nonzero(second)
    return np.count_nonzero(first != second) / pixels if pixels else 0.0


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
