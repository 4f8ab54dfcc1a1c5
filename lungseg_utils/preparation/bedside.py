"""Films of the very ill: lungs hidden to the chest wall, gas below them, what is attached to them.

Portable films of intensive care differ from those of a screening in what hides the lung's border.
Every function takes a grey film and the mask of its lungs, and returns a new film. The mask stays
that of the whole lung, as a reader draws it who knows where a chest's wall is.
"""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.preparation.effects import add_devices, add_noise, points, to_levels
from lungseg_utils.preparation.shapes import GRID, deform, two_lungs

# How often each happens to a film of a bedside, in the order of `simulate`.
_OFTEN = (0.7, 0.35, 0.25, 0.4, 0.6, 0.3, 0.5, 0.2, 0.3)
ZONES = ("whole", "lower", "upper", "central", "outer", "patchy", "effusion")


def simulate(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make a film one of a bedside: some of what is below, each at a strength of its own.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        rng: Draws everything.

    Returns:
        uint8 (H, W) and uint8 {0, 1} (H, W).
    """
    happens = rng.random(len(_OFTEN)) < _OFTEN
    deformed, raised, small, soft, hidden, gassed, attached, cut, starved = happens
    bend, lift, tilt, *margins = rng.uniform(0, (0.04, 0.35, 0.35, 0.6, 0.9))
    softness, density, noise = rng.uniform(0, (1, 0.65, 0.15))
    if deformed or raised or small:
        shape = (bend * deformed, lift * raised, tilt * deformed)
        image, mask = deform(image, mask, *shape, np.array(margins) * small, rng)
    if soft:
        image = soften_heart(image, mask, softness, rng)
    if hidden:
        image = hide_lungs(image, mask, 1 - density, rng)
    for _ in range(rng.integers(1, 4) if gassed else 0):
        image = add_gas(image, mask, rng)
    if attached:
        image = add_devices(image, mask, int(rng.integers(1, 7)), rng)
    if cut:
        image = collimate(image, mask, rng)
    return (add_mottle(image, noise, rng) if starved else image), mask


def hide_lungs(
    image: np.ndarray,
    mask: np.ndarray,
    density: float,
    rng: np.random.Generator,
    zones: tuple[str, ...] = ZONES,
    both: bool | None = None,
) -> np.ndarray:
    """Hide a zone of one lung or of both, the border included, as dense disease does.

    The hidden part gets the level that the soft tissue around the lungs would have there, so that
    no edge is left where lung meets chest wall, heart or diaphragm.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        density: How much of the lung's own level is gone, in [0, 1].
        rng: Draws side, zone and its extent.
        zones: Of `ZONES`, what may be hidden.
        both: Whether both lungs are; None: drawn.

    Returns:
        uint8 (H, W).
    """
    lungs = two_lungs(mask)
    if not lungs:
        return image
    both = rng.random() < 0.5 if both is None else both
    chosen = lungs if both else [lungs[rng.integers(len(lungs))]]
    hidden = np.zeros((GRID, GRID), np.float32)
    for lung in chosen:
        zone = zones[rng.integers(len(zones))]
        hidden = np.maximum(hidden, _zone(lung, zone, rng))
    tissue = _tissue(image, mask, rng)
    hidden = _enlarge(hidden * np.float32(density), image.shape)
    # Ribs are seen through disease, and the grain of the film is that of its surroundings.
    detail = _detail(image, mask) * np.float32(rng.uniform(0.1, 0.9))
    return to_levels(image + hidden * (tissue + detail - image))


def soften_heart(
    image: np.ndarray, mask: np.ndarray, softness: float, rng: np.random.Generator
) -> np.ndarray:
    """Make the heart's edge as grey as a veiled lung, which it is not.

    Lungs that are hidden up to the heart would teach that whatever is grey beside them is lung.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W); the lung that the heart lies in gives its side.
        softness: Share of the way from the heart's level to that of the lung beside it, at most.
        rng: Draws how fast that fades towards the middle of the chest, and upwards.

    Returns:
        uint8 (H, W); as it was where there are no two lungs.
    """
    lungs = two_lungs(mask)
    if len(lungs) < 2:
        return image
    middle = round(np.mean([lung.nonzero()[1].mean() for lung in lungs]) / GRID * image.shape[1])
    # Both sides as seen from the middle; the heart keeps the lung of its side farther away.
    sides = [(mask[:, middle:], False), (mask[:, :middle][:, ::-1], True)]
    lung, mirrored = max(sides, key=lambda side: _apart(side[0]).sum())
    rows = np.flatnonzero(lung.any(axis=1))
    if not len(rows):
        return image
    down = (np.arange(len(lung)) - rows[0]) / len(rows)
    across = np.arange(lung.shape[1]) / np.maximum(np.argmax(lung, axis=1), 1)[:, None]
    fade, start = rng.uniform((0.3, 0.3), (5, 0.6))
    # Not below the dome of the diaphragm, where only the lung's outer angle is left.
    reach = np.clip((down - start) / 0.2, 0, 1) * np.clip((0.9 - down) / 0.1, 0, 1)
    field = np.where(across < 1, across**fade, 0) * (reach * lung.any(axis=1))[:, None]
    part = slice(None, middle) if mirrored else slice(middle, None)
    field = field[:, ::-1] if mirrored else field
    level = np.float32(np.median(image[:, part][mask[:, part] > 0]))
    softened = image.astype(np.float32)
    softened[:, part] += softness * field.astype(np.float32) * (level - softened[:, part])
    return to_levels(softened)


def _apart(lung: np.ndarray) -> np.ndarray:
    """How far from the middle a lung begins, in the rows of its lower half: (rows,)."""
    rows = np.flatnonzero(lung.any(axis=1))
    return np.argmax(lung[rows[len(rows) // 2 :]], axis=1) if len(rows) else np.zeros(1)


def add_gas(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put bowel gas below a lung: dark bubbles with folds, as dark as lung, a thin wall away.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        rng: Draws side, places and sizes.

    Returns:
        uint8 (H, W).
    """
    lungs = two_lungs(mask)
    if not lungs:
        return image
    height, width = image.shape
    lung = lungs[rng.integers(len(lungs))]
    columns = np.flatnonzero(lung.any(axis=0)) / GRID
    levels = np.quantile(image[mask > 0], rng.uniform(0.02, 0.6, 2))
    gas = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 6)):
        across = rng.uniform(columns[0] - 0.05, columns[-1] + 0.05)
        column = lung[:, int(np.clip(across, 0, 0.999) * GRID)]
        base = (np.flatnonzero(column)[-1] + 1) / GRID if column.any() else rng.uniform(0.5, 0.9)
        radii = rng.uniform(0.03, 0.14), rng.uniform(0.03, 0.1)
        centre = across * width, (base + radii[1] * rng.uniform(0.6, 1.8)) * height
        axes = radii[0] * width, radii[1] * height
        box = (centre, (2 * axes[0], 2 * axes[1]), float(rng.uniform(-40, 40)))
        bubble = np.zeros_like(gas)
        cv2.ellipse(bubble, box, float(rng.uniform(0.5, 1.0)), -1, cv2.LINE_AA)
        for _ in range(rng.integers(0, 5)):  # haustral folds
            x = centre[0] + rng.uniform(-1, 1) * axes[0]
            ends = (x, centre[1] - axes[1]), (x + rng.uniform(-0.03, 0.03) * width, centre[1])
            thickness = max(1, round(width / 200))
            cv2.line(bubble, *points(ends), 0.1, thickness, cv2.LINE_AA)
        np.maximum(gas, bubble, out=gas)
    gas = cv2.GaussianBlur(gas, (0, 0), width * rng.uniform(0.002, 0.012))
    wall = max(1, round(width * rng.uniform(0.004, 0.025)))
    gas[cv2.dilate(mask, np.ones((wall, wall), np.uint8)) > 0] = 0
    gas = cv2.GaussianBlur(gas, (0, 0), width * 0.002)
    return to_levels(image + gas * (np.linspace(*levels, height)[:, None] - image))


def collimate(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut the beam to a turned rectangle about the lungs; outside is black, white or grey.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W); the rectangle leaves it whole, but for its corners.
        rng: Draws margins, angle and level.

    Returns:
        uint8 (H, W).
    """
    height, width = image.shape
    left, top, wide, high = cv2.boundingRect(mask) if mask.any() else (0, 0, width, height)
    before, after = rng.uniform(0, 0.12, (2, 2)) * (width, height)
    sides = np.array([wide, high]) + before + after
    centre = np.array([left, top]) - before + sides / 2
    box = cv2.boxPoints((centre.tolist(), sides.tolist(), float(rng.uniform(-6, 6))))
    beam = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(beam, points(box), 1.0, cv2.LINE_AA)
    beam = cv2.GaussianBlur(beam, (0, 0), width * rng.uniform(0.0005, 0.006))
    level = rng.choice([0, 0, 10, 40, 128, 255]) + rng.uniform(-5, 5)
    outside = level + np.float32(rng.uniform(0, 0.15)) * image
    return to_levels(outside + beam * (image - outside))


def add_mottle(image: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Add quantum mottle, the grain of too low an exposure, stronger where the film is dense.

    Args:
        image: uint8 (H, W).
        noise: Standard deviation where the film is brightest, as a fraction of the full range.
        rng: Draws the noise and how coarse it is.

    Returns:
        uint8 (H, W).
    """
    grey = add_noise(np.full_like(image, 128), noise, rng).astype(np.float32) - 128
    coarse = rng.uniform(0, image.shape[0] / 300)
    if coarse > 0.3:
        # Blurring takes contrast away, which is given back.
        grey = cv2.GaussianBlur(grey, (0, 0), coarse) * np.float32(1 + 2 * coarse)
    return to_levels(image + grey * np.sqrt(np.float32(0.2) + image / np.float32(255)))


def _zone(lung: np.ndarray, zone: str, rng: np.random.Generator) -> np.ndarray:
    """How much of a lung is hidden, and of the rim around it: float32 in [0, 1] on the grid."""
    rows, columns = (np.flatnonzero(lung.any(axis=axis)) for axis in (1, 0))
    v, u = np.meshgrid(
        (np.arange(GRID) - rows[0]) / max(len(rows), 2),
        (np.arange(GRID) - columns[0]) / max(len(columns), 2),
        indexing="ij",
    )
    # u runs from the middle of the chest (0) to its wall (1).
    u = 1 - u if columns.mean() < GRID / 2 else u
    depth, soft = rng.uniform(0.25, 0.85), rng.uniform(0.02, 0.3)
    lean = rng.uniform(-0.4, 0.4) * (u - 0.5)
    cells = int(rng.integers(3, 9))
    noise = rng.random((cells, cells), dtype=np.float32)
    noise = cv2.resize(noise, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    if zone == "effusion":  # fluid climbs at the chest wall, or stands level
        lean, soft = rng.choice([0, 0.4]) * u**2, soft / 4
    place = {
        "whole": np.ones_like(u),
        "lower": v + lean - (1 - depth),
        "effusion": v + lean - (1 - depth),
        "upper": depth - v + lean,
        "central": depth - u + lean,
        "outer": u - (1 - depth) + lean,
        "patchy": noise - np.quantile(noise[lung], 1 - depth),
    }[zone]
    hidden = np.clip(place / soft + 0.5, 0, 1)
    if zone not in ("whole", "effusion"):
        hidden *= 1 - rng.uniform(0, 0.6) * noise
    # The rim: without it the lung's edge would be left as a line.
    reached = cv2.dilate(lung.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float32)
    return (hidden * cv2.GaussianBlur(reached, (0, 0), 1.0)).astype(np.float32)


def _tissue(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The level of soft tissue, continued into the lungs: float32 (H, W)."""
    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    lung = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_NEAREST)
    near = cv2.dilate(lung, np.ones((15, 15), np.uint8)) > 0
    body = near & (cv2.dilate(lung, np.ones((3, 3), np.uint8)) == 0)
    # Air beside the patient, and gas, are no tissue.
    body &= small > np.quantile(small[lung > 0], 0.5) if lung.any() else body
    if not body.any():
        return np.full(image.shape, np.quantile(image, 0.75), np.float32)
    weight = body.astype(np.float32)
    level, total = np.zeros_like(small), np.full_like(small, 1e-6)
    for reach, share in ((2.0, 1.0), (6.0, 0.1), (20.0, 0.01)):
        level += share * cv2.GaussianBlur(small * weight, (0, 0), reach)
        total += share * cv2.GaussianBlur(weight, (0, 0), reach)
    tissue = level / total * np.float32(rng.uniform(0.9, 1.08))
    return _enlarge(tissue, image.shape)


def _detail(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What a film shows besides its coarse levels, but for the border of its lungs."""
    quarter = max(image.shape[1] // 4, 1), max(image.shape[0] // 4, 1)
    small = cv2.resize(image, quarter, interpolation=cv2.INTER_AREA).astype(np.float32)
    lung = cv2.resize(mask.astype(np.float32), quarter, interpolation=cv2.INTER_AREA)
    reach = quarter[1] / 32
    # Lung and tissue each have their own levels, or the step between them would be a detail.
    coarse = []
    for weight in (1 - lung, lung):
        summed = cv2.GaussianBlur(small * weight, (0, 0), reach)
        coarse.append(summed / (cv2.GaussianBlur(weight, (0, 0), reach) + 1e-3))
    edge = cv2.GaussianBlur(lung, (0, 0), max(quarter[1] / 96, 0.5))
    edge = _enlarge(1 - 4 * edge * (1 - edge), image.shape)
    levels = [_enlarge(one, image.shape) for one in coarse]
    return (image - np.where(mask > 0, levels[1], levels[0])) * edge


def _enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
