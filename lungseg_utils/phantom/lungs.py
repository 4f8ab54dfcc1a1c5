"""What is inside the phantom's lungs: vessels, fine texture and disease."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from lungseg_utils.phantom.anatomy import SIDES, Anatomy
from lungseg_utils.phantom.projection import Chest, View, add_tube
from lungseg_utils.phantom.skeleton import through


def add_vessels(chest: Chest, anatomy: Anatomy, view: View, rng: np.random.Generator) -> None:
    """Add the branching vessels that leave each hilum, and the lungs' fine texture."""
    scale, height = anatomy.scale, anatomy.height
    branches: list[tuple[np.ndarray, float]] = []
    blood = np.zeros_like(chest.blood)
    for side, sign in SIDES.items():
        level = height * (0.46 if side == "right" else 0.42)
        border = float(anatomy.mediastinal_border(np.array(level), side))
        hilum = np.array([sign * (border + 0.2 * scale), level])
        trunk = through(np.array([[0.0, -1.2], [sign * 0.4, 0.4], [sign * 0.6, 3.4]]), 16)
        thick = scale * np.sin(np.linspace(0.5, 2.9, 16))
        add_tube(blood, view, hilum + scale * trunk, 0.95 * thick, 2.0 * thick)
        for angle in np.radians(np.linspace(-80, 84, 9) + rng.normal(0, 7, 9)):
            start = hilum + np.array([0.0, scale * 1.4 * np.sin(angle)])
            length = height * (0.27 + 0.2 * max(np.sin(angle), 0.0))
            _grow(branches, rng, start, angle, sign, length, 0.32 * scale)
    blood += _draw_branches(branches, view, 0.32 * scale)
    inside = chest.lung / (chest.lung + 2.0 * scale)
    texture = _noise(rng, view, 0.25 * scale) + 0.8 * _noise(rng, view, 0.7 * scale)
    chest.blood += np.clip(1.5 * blood + 0.3 * scale * texture, 0, None) * inside


def _grow(branches, rng, start, angle, sign, length, radius, generation: int = 0) -> None:
    """Append a vessel (points in cm, radius) and its branches, each thinner than its parent."""
    bend = rng.normal(0, 0.3)
    angles = angle + bend * np.linspace(0, 1, 6)
    moves = np.stack([sign * np.cos(angles), np.sin(angles)], axis=1) * length / 6
    line = start + np.concatenate([[[0, 0]], np.cumsum(moves, axis=0)])
    branches.append((line, radius))
    if generation == 3:
        return
    for _ in range(2):
        place = rng.integers(2, 7)
        turned = angle + bend * place / 7 + rng.choice([-1, 1]) * rng.uniform(0.3, 0.8)
        shorter, thinner = 0.66 * length, 0.64 * radius
        _grow(branches, rng, line[place], turned, sign, shorter, thinner, generation + 1)


def _draw_branches(branches, view: View, largest: float) -> np.ndarray:
    """Thickness of the vessels in cm, float32 (H, W): thick ones drawn over thin ones."""
    layer = np.zeros((view.height, view.width), np.uint8)
    branches = sorted(branches, key=lambda branch: branch[1])
    lines = view.to_pixels(np.concatenate([line for line, _ in branches]))
    corners = np.round(lines * 16).astype(np.int32).reshape(len(branches), -1, 2)
    for line, (_, radius) in zip(corners, branches, strict=True):
        for part, (begin, end) in enumerate(itertools.pairwise(line)):
            tapered = radius * (1 - 0.07 * part)
            width = 2 * tapered * view.pixels_per_cm
            # Below a pixel's width a vessel gets fainter instead of thinner.
            level = 235 * tapered / largest * min(width, 1.0)
            cv2.line(layer, begin, end, level, max(round(width), 1), cv2.LINE_AA, 4)
    layer = cv2.GaussianBlur(layer, (0, 0), max(0.04 * view.pixels_per_cm, 0.4))
    return layer.astype(np.float32) * (4.2 * largest / 255)


def _noise(rng: np.random.Generator, view: View, grain: float) -> np.ndarray:
    """Smooth noise of unit deviation with grains of `grain` cm, float32 (H, W)."""
    step = max(grain * view.pixels_per_cm, 1.0)
    shape = (int(view.height / step) + 3, int(view.width / step) + 3)
    coarse = rng.standard_normal(shape, dtype=np.float32)
    return cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC)


def add_disease(chest: Chest, anatomy: Anatomy, view: View, rng: np.random.Generator) -> None:
    """Fill parts of the lungs: infiltrate, consolidation, nodules or an effusion."""
    kinds = rng.choice(["infiltrate", "consolidation", "nodules", "effusion"], rng.integers(1, 3))
    for kind in kinds:
        side = str(rng.choice(list(SIDES)))
        chest.disease += _DISEASES[str(kind)](chest, anatomy, view, rng, side)
    chest.disease[:] = np.clip(chest.disease, 0, 0.85 * chest.lung)


def _place(anatomy: Anatomy, rng, side: str, low: float, high: float) -> tuple[float, float]:
    """A point in one lung, between two parts of its height."""
    y = anatomy.height * rng.uniform(low, high)
    inner = anatomy.mediastinal_border(np.array(y), side)
    outer = anatomy.cage_width(np.array(y), side)
    lateral = inner + (outer - inner) * rng.uniform(0.15, 0.85)
    return float(SIDES[side] * lateral), y


def _infiltrate(chest, anatomy, view, rng, side) -> np.ndarray:
    """Patchy shadows in the upper zone, as in tuberculosis."""
    x, y = view.grid()
    at_x, at_y = _place(anatomy, rng, side, 0.1, 0.45)
    spread = anatomy.scale * rng.uniform(2.0, 4.0)
    zone = np.exp(-0.5 * (((x - at_x) / spread) ** 2 + ((y - at_y) / spread) ** 2))
    patches = _noise(rng, view, 0.9 * anatomy.scale) + 0.7 * _noise(rng, view, 0.4 * anatomy.scale)
    return chest.lung * np.clip(rng.uniform(0.1, 0.2) * zone * (1 + patches), 0, 0.4)


def _consolidation(chest, anatomy, view, rng, side) -> np.ndarray:
    """A cloudy, dense region."""
    x, y = view.grid()
    at_x, at_y = _place(anatomy, rng, side, 0.2, 0.85)
    reach = anatomy.scale * rng.uniform(2.0, 5.0, 2)
    rim = ((x - at_x) / reach[0]) ** 2 + ((y - at_y) / reach[1]) ** 2
    rim = rim + 0.35 * _noise(rng, view, 1.3 * anatomy.scale)
    return chest.lung * rng.uniform(0.15, 0.45) / (1 + np.exp(np.clip(3 * (rim - 1), -30, 30)))


def _nodules(chest, anatomy, view, rng, side) -> np.ndarray:
    """Round shadows."""
    x, y = view.grid()
    filled = np.zeros_like(chest.lung)
    for _ in range(rng.integers(1, 7)):
        at_x, at_y = _place(anatomy, rng, side, 0.12, 0.88)
        radius = anatomy.scale * rng.uniform(0.4, 1.6)
        chord = np.clip(1 - ((x - at_x) ** 2 + (y - at_y) ** 2) / radius**2, 0, None)
        filled += 2 * radius * np.sqrt(chord)
    return filled


def _effusion(chest, anatomy, view, rng, side) -> np.ndarray:
    """Fluid at the base, higher at the side wall than in the middle."""
    x, y = view.grid()
    lateral = SIDES[side] * (x - anatomy.midline(y))
    climb = np.clip(lateral / anatomy.half_width[side], 0, 1.1) ** 3
    surface = anatomy.dome[side] + anatomy.scale * (2.0 - rng.uniform(2.5, 7.0) * climb)
    depth = np.clip((y - surface) / (1.6 * anatomy.scale), 0, 1)
    return (chest.lung * 0.85 * depth * (lateral > 0)).astype(np.float32)


_DISEASES = {
    "infiltrate": _infiltrate,
    "consolidation": _consolidation,
    "nodules": _nodules,
    "effusion": _effusion,
}
