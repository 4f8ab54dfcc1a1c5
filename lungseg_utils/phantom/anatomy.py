"""The phantom's anatomy: outlines of lungs, heart and diaphragm as curves, in centimetres.

Coordinates: x to the image's right, which is the patient's left; y downwards from the apex of
the lungs. `lateral` is the distance from the spine's line on one side, positive on that side.
Proportions are those of an adult's frontal chest X-ray, varied within what is seen in practice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = {"right": -1.0, "left": 1.0}
_LEVELS = np.linspace(-20.0, 50.0, 1401)  # y of the tabulated profiles, 0.5 mm apart


@dataclass(frozen=True)
class Person:
    """What the reading says about the patient, as far as it shapes the phantom.

    Args:
        sex: `M` or `F`.
        age_years: Under 16 the chest is smaller, rounder, with a relatively larger heart.
        abnormal: Draws one or more opacities into the lungs; the mask does not change.
    """

    sex: str = "M"
    age_years: float = 40.0
    abnormal: bool = False


@dataclass(frozen=True)
class Anatomy:
    """One patient's measures in centimetres and the profiles that follow from them."""

    person: Person
    scale: float
    height: float
    half_width: dict[str, float]
    dome: dict[str, float]
    depth: float
    wall: float
    neck: float
    shoulder_drop: float
    arm_spread: float
    breast: float
    bend: tuple[float, float]
    apex: dict[str, float]
    rib_slope: float
    mediastinum: dict[str, np.ndarray]
    dome_shape: dict[str, tuple[float, float, float]]

    def midline(self, y: np.ndarray) -> np.ndarray:
        """X of the spine at height y: a gentle curve."""
        amplitude, phase = self.bend
        return amplitude * np.sin(2 * np.pi * (y / (2.2 * self.height)) + phase)

    def cage_width(self, y: np.ndarray, side: str) -> np.ndarray:
        """Distance of the rib cage's inner border from the midline; `apex` at y ≤ 0."""
        reach = np.clip(y / (0.78 * self.height), 0.0, 1.0)
        rise = (1.0 - (1.0 - reach) ** 2.1) ** 0.56
        below = np.clip(y / self.height - 0.85, 0.0, 1.0)
        apex = self.apex[side]
        return (apex + (self.half_width[side] - apex) * rise) * (1.0 - 0.25 * below**2)

    def mediastinal_border(self, y: np.ndarray, side: str) -> np.ndarray:
        """Distance of the heart's and vessels' border from the midline."""
        return np.interp(y, _LEVELS, self.mediastinum[side])

    def diaphragm(self, lateral: np.ndarray, side: str) -> np.ndarray:
        """Y of the diaphragm's dome at a distance from the midline."""
        top, fall_outside, fall_inside = self.dome_shape[side]
        half_width, crest = self.half_width[side], self.dome[side]
        position = lateral / half_width
        outside = np.clip((position - top) / (1.0 - top), 0.0, 1.2)
        inside = np.clip((top - position) / top, 0.0, 1.5)
        return crest + fall_outside * outside**3.0 + fall_inside * inside**2.0

    def shoulder_line(self, aside: np.ndarray) -> np.ndarray:
        """Y of the skin over the shoulder at a distance from the midline."""
        reach = 1.35 * self.half_width["left"] - self.neck
        slope = np.clip((aside - self.neck) / reach, 0.0, None)
        return -4.0 * self.scale + (self.shoulder_drop + 4.4 * self.scale) * slope**1.3

    def cavity_depth(self, y: np.ndarray) -> np.ndarray:
        """Front-to-back depth of the chest cavity at height y."""
        rise = np.clip(y / (0.7 * self.height), 0.0, 1.0)
        cap = 1.0 - np.clip(y / (0.16 * self.height), 0.0, 1.0)
        return self.depth * (0.5 + 0.5 * rise * (2 - rise)) * np.sqrt(1.0 - cap**2)


def draw_anatomy(rng: np.random.Generator, person: Person) -> Anatomy:
    """Draw a patient's measures.

    Args:
        rng: Source of every random choice.
        person: Sex, age and whether disease is shown.

    Returns:
        Measures of one patient.
    """
    age = person.age_years
    growth = float(np.interp(age, [0.0, 2.0, 8.0, 16.0], [0.42, 0.55, 0.74, 1.0]))
    scale = growth * (0.93 if person.sex == "F" else 1.0) * rng.uniform(0.92, 1.08)
    young = float(np.interp(age, [4.0, 16.0], [1.0, 0.0]))
    height = scale * rng.uniform(20.5, 25.5) * (1.0 - 0.12 * young)
    width = scale * rng.uniform(12.4, 14.4)
    turn = rng.normal(0.0, 0.025)
    half_width = {side: width * (1.0 + sign * turn) for side, sign in SIDES.items()}
    dome = {"right": height, "left": height + scale * rng.uniform(0.0, 2.0)}
    if rng.random() < 0.1:  # a raised diaphragm, as after disease of one side
        raised = str(rng.choice(list(SIDES)))
        dome[raised] -= scale * rng.uniform(2.0, 4.5)
    stout = rng.uniform(0.0, 1.0)
    apex = {side: half_width[side] * rng.uniform(0.34, 0.42) for side in SIDES}
    return Anatomy(
        person=person,
        scale=scale,
        height=height,
        half_width=half_width,
        dome=dome,
        depth=scale * rng.uniform(15.5, 19.5),
        wall=scale * (2.4 + 3.0 * stout),
        neck=scale * rng.uniform(5.0, 6.2),
        shoulder_drop=scale * rng.uniform(-1.5, 2.0),
        arm_spread=rng.uniform(0.15, 0.9),
        breast=scale * rng.uniform(0.8, 2.8) if person.sex == "F" and age >= 14 else 0.0,
        bend=(scale * rng.normal(0.0, 0.25), rng.uniform(0, 2 * np.pi)),
        apex=apex,
        rib_slope=rng.uniform(0.8, 1.15) * (1.0 - 0.3 * young),
        mediastinum={
            "right": _right_mediastinum(rng, scale, height, apex["right"], young, turn),
            "left": _left_mediastinum(rng, scale, height, apex["left"], young, turn),
        },
        dome_shape={side: _draw_dome(rng, scale) for side in SIDES},
    )


def _draw_dome(rng: np.random.Generator, scale: float) -> tuple[float, float, float]:
    """Position of the crest (fraction of the half-width), fall outwards and inwards."""
    return rng.uniform(0.36, 0.52), scale * rng.uniform(3.5, 6.0), scale * rng.uniform(0.5, 2.0)


def _right_mediastinum(rng, scale, height, apex, young, turn) -> np.ndarray:
    column = scale * rng.uniform(2.2, 3.0) * (1.0 + 0.4 * young)
    bulges = [
        # upper vena cava and ascending aorta, then the right atrium
        (0.42, 0.20, column + scale * rng.uniform(0.1, 0.8)),
        (0.79, 0.27, scale * (rng.uniform(3.2, 4.6) + 0.8 * young - 12 * turn)),
    ]
    return _border(scale, height, apex, column, bulges)


def _left_mediastinum(rng, scale, height, apex, young, turn) -> np.ndarray:
    column = scale * rng.uniform(2.0, 2.7) * (1.0 + 0.4 * young)
    heart = scale * (rng.uniform(6.2, 9.0) + 1.0 * young + 12 * turn)
    bulges = [
        # aortic arch, pulmonary trunk, auricle and the left ventricle down to the apex
        (0.27, 0.085, column + scale * rng.uniform(0.6, 1.9) * (1.0 - young)),
        (0.40, 0.10, column + scale * rng.uniform(0.4, 1.5)),
        (0.56, 0.20, 0.62 * heart),
        (rng.uniform(0.76, 0.86), rng.uniform(0.27, 0.33), heart),
    ]
    return _border(scale, height, apex, column, bulges)


def _border(
    scale: float,
    height: float,
    apex: float,
    column: float,
    bulges: list[tuple[float, float, float]],
) -> np.ndarray:
    """Tabulate a border: the outermost of ellipses (centre, half-height as parts of height)."""
    level = _LEVELS / height
    border = np.full_like(level, column)
    for centre, half_height, extent in bulges:
        above = np.clip((centre - level) / half_height, 0.0, 1.0)
        # The heart rests on the diaphragm: below its widest level it narrows little.
        below = np.clip((level - centre) / (half_height + 0.5 * centre**4), 0.0, 1.0)
        reach = 1.0 - np.maximum(above, below) ** 2
        border = np.maximum(border, extent * reach**0.5)
    border = _smooth(border, 0.45 * scale)
    # The apex is a round cap: its inner side swings from the apex to the column.
    cap = 1.0 - np.clip(level / 0.16, 0.0, 1.0)
    border = apex - (apex - border) * np.sqrt(1.0 - cap**2)
    return np.where(level <= 0.0, apex, border)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    step = _LEVELS[1] - _LEVELS[0]
    reach = int(np.ceil(3 * sigma / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
    padded = np.pad(values, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
