"""Chests of other shapes: bent, tilted, smaller, a diaphragm raised; film and mask alike."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GRID = 64
"""Fields that vary slowly are computed on a grid of this side, and enlarged."""


def deform(
    image: np.ndarray,
    mask: np.ndarray,
    bend: float,
    lift: float,
    tilt: float,
    margins: Sequence[float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Change the shape of a chest: bent, a diaphragm raised, narrower towards one end, smaller.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        bend: Largest displacement of a smooth random field, as a fraction of the side.
        lift: How far the base of one lung is raised, as a fraction of that lung's height.
        tilt: How much narrower one end of the film is than the other, as a fraction of it.
        margins: What is added beside the chest and above or below it, as fractions of the side:
            both alike keep its proportions, more of the second makes it a child's.
        rng: Draws the field, which lung, and on which side the margins are.

    Returns:
        uint8 (H, W) and uint8 {0, 1} (H, W). What comes from outside repeats the film's edge.
    """
    height, width = image.shape
    cells = int(rng.integers(3, 6))
    knots = rng.uniform(-bend, bend, (cells, cells, 2)).astype(np.float32)
    field = cv2.resize(knots, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    across, down = np.meshgrid(*[(np.arange(GRID, dtype=np.float32) + 0.5) / GRID] * 2)
    field[..., 0] += (across - 0.5) * (down - 0.5) * np.float32(tilt * rng.choice([-1, 1]))
    for axis, (places, margin) in enumerate(zip((across, down), margins, strict=True)):
        field[..., axis] += (places - np.float32(rng.random())) * np.float32(margin)
    lungs = two_lungs(mask)
    if lift and lungs:
        field[..., 1] += _lifted(lungs[rng.integers(len(lungs))], lift, across, down)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    x = np.arange(width, dtype=np.float32)[None] + field[..., 0] * width
    y = np.arange(height, dtype=np.float32)[:, None] + field[..., 1] * height
    moved = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved, cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


def _lifted(lung: np.ndarray, lift: float, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How far below itself each place of the grid looks, so that a lung's base comes up."""
    rows, columns = (np.flatnonzero(lung.any(axis=axis)) / GRID for axis in (1, 0))
    top, base = rows[0], rows[-1] + 1 / GRID
    rise = lift * (base - top)
    middle = (columns[0] + columns[-1]) / 2
    reach = max((columns[-1] - columns[0]) / 2, 0.05)
    beside = np.exp(-(((across - middle) / reach) ** 2) / 2)
    # From the lung's middle to its base the film is pressed together, and stretched below that.
    start, raised = (top + base) / 2, base - rise
    pressed = (down - start) / max(raised - start, 0.05)
    stretched = (1 - down) / max(1 - raised, 0.05)
    return rise * np.clip(np.minimum(pressed, stretched), 0, 1) * beside


def two_lungs(mask: np.ndarray) -> list[np.ndarray]:
    """The two largest pieces of a mask, on the grid: bool (GRID, GRID) each."""
    small = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA)
    if not small.any():
        small = cv2.resize(mask * np.uint8(255), (GRID, GRID), interpolation=cv2.INTER_AREA)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats((small > 0).astype(np.uint8))
    order = 1 + np.argsort(-statistics[1:count, cv2.CC_STAT_AREA], kind="stable")[:2]
    return [labels == number for number in order]
