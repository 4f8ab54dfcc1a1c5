"""What can befall a chest film besides its geometry: exposure, texture, disease, foreign objects.

Every function here takes a grey image and returns a new one; none of them moves a pixel, so a mask
stays true. Strengths are arguments; only patterns and places come from the random generator.
"""

from __future__ import annotations

import cv2
import numpy as np

# Places of a film where text is burnt in, as fractions of width and height.
_CORNERS = ((0.03, 0.08), (0.75, 0.08), (0.03, 0.96), (0.75, 0.96))
_LETTERS = np.array(list("ABCDEFGHIKLMNOPRSTUVXYZ0123456789:.-/"))


def expose(image: np.ndarray, brightness: float, contrast: float, gamma: float) -> np.ndarray:
    """Change the exposure: gamma, then contrast about mid-grey, then brightness.

    Args:
        image: uint8 (H, W).
        brightness: Added to the level, as a fraction of the full range.
        contrast: Change of slope about mid-grey: -0.5 halves it.
        gamma: Exponent of two in level^(2^gamma): 1 darkens, -1 brightens.

    Returns:
        uint8 (H, W).
    """
    levels = np.linspace(0, 1, 256) ** 2.0**gamma
    levels = (levels - 0.5) * (1 + contrast) + 0.5 + brightness
    return cv2.LUT(image, np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8))


def shade(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Darken one side of the film smoothly, as an uneven beam does; the side is random.

    Args:
        image: uint8 (H, W).
        strength: Share of the level that is taken away at the darkest edge, in [0, 1].
        rng: Draws the direction.

    Returns:
        uint8 (H, W).
    """
    height, width = image.shape
    angle = rng.uniform(0, 2 * np.pi)
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
    ramp = down[:, None] + across[None]
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    return to_levels(image * (1 - strength * ramp))


def add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to every pixel.

    Args:
        image: uint8 (H, W).
        deviation: Standard deviation, as a fraction of the full range.
        rng: Draws the noise.

    Returns:
        uint8 (H, W).
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return to_levels(image + noise * np.float32(255 * deviation))


def blur(image: np.ndarray, deviation: float) -> np.ndarray:
    """Blur by a Gaussian.

    Args:
        image: uint8 (H, W).
        deviation: Standard deviation in pixels; 0 leaves the image as it is.

    Returns:
        uint8 (H, W).
    """
    return cv2.GaussianBlur(image, (0, 0), deviation) if deviation > 0 else image


def sharpen(image: np.ndarray, amount: float) -> np.ndarray:
    """Sharpen by an unsharp mask of one pixel, as resampling by a cubic kernel does.

    Args:
        image: uint8 (H, W).
        amount: How often the difference to the blurred image is added.

    Returns:
        uint8 (H, W).
    """
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)


def coarsen(image: np.ndarray, factor: float) -> np.ndarray:
    """Take away detail: shrink by a factor, and enlarge again.

    Args:
        image: uint8 (H, W).
        factor: 1 leaves the image as it is, 2 halves its resolution.

    Returns:
        uint8 (H, W).
    """
    height, width = image.shape
    small = max(1, round(width / factor)), max(1, round(height / factor))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)


def add_opacities(
    image: np.ndarray, mask: np.ndarray, density: float, rng: np.random.Generator
) -> np.ndarray:
    """Whiten parts of the lungs, as consolidation, effusion or collapse does.

    A smooth random field decides where; it is weighted towards one random direction, so that a
    base, an apex or a whole side may be hidden. There the level moves towards that of the soft
    tissue around the lungs. The mask stays true: diseased lung is lung.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        density: How far the level moves at most, in [0, 1]; 1 hides the lung there.
        rng: Draws the places.

    Returns:
        uint8 (H, W).
    """
    if not mask.any():
        return image
    height, width = mask.shape
    cells = int(rng.integers(2, 9))
    field = rng.random((cells, cells), dtype=np.float32)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1.5)
    across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle) * tilt)
    down = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle) * tilt)
    field = field + across[None] + down[:, None]
    lung = mask > 0
    threshold = np.quantile(field[lung], rng.uniform(0.1, 0.9))
    softness = rng.uniform(0.05, 0.4)
    hidden = np.clip((field - threshold) / np.float32(softness), 0, 1)
    # The border of an opacity at the lung's own edge is as soft as that edge is on a film.
    hidden *= cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(width / 128, 0.5))
    tissue = np.float32(np.quantile(image, rng.uniform(0.6, 0.9)))
    return to_levels(image + hidden * np.float32(density) * np.maximum(tissue - image, 0))


def add_objects(image: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw what lies on or in a patient, or is burnt into a film: text, tubes, discs, plates.

    Args:
        image: uint8 (H, W).
        count: How many objects.
        rng: Draws their kinds, places and levels.

    Returns:
        uint8 (H, W).
    """
    drawn = image.copy()
    draw = (_text, _tube, _tube, _electrode, _plate)
    for kind in rng.integers(0, len(draw), count):
        draw[kind](drawn, rng)
    return drawn


def _text(image: np.ndarray, rng: np.random.Generator) -> None:
    height, width = image.shape
    right, down = _CORNERS[rng.integers(len(_CORNERS))]
    text = "".join(rng.choice(_LETTERS, rng.integers(1, 9)))
    right, down = right + rng.uniform(0, 0.1), down + rng.uniform(-0.03, 0.03)
    place = int(right * width), int(down * height)
    scale = width / 512 * rng.uniform(0.5, 2.5)
    thickness = max(1, round(scale * 2))
    level = int(rng.integers(170, 256))
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, level, thickness, cv2.LINE_AA)


def _tube(image: np.ndarray, rng: np.random.Generator) -> None:
    """A smooth curve between two random points: catheter, tube or wire, half transparent."""
    height, width = image.shape
    ends = rng.uniform(-0.1, 1.1, (3, 2)) * (width, height)
    layer = image.copy()
    thickness = max(1, round(width / 256 * rng.uniform(0.7, 3.5)))
    level = int(rng.integers(150, 256))
    cv2.polylines(layer, [_curve(ends)], False, level, thickness, cv2.LINE_AA)
    _blend(image, layer, rng.uniform(0.3, 1.0))


def _electrode(image: np.ndarray, rng: np.random.Generator) -> None:
    height, width = image.shape
    centre = tuple(int(v) for v in rng.uniform(0.1, 0.9, 2) * (width, height))
    radius = max(1, round(width * rng.uniform(0.008, 0.03)))
    layer = image.copy()
    cv2.circle(layer, centre, radius, int(rng.integers(150, 256)), -1, cv2.LINE_AA)
    _blend(image, layer, rng.uniform(0.4, 1.0))


def _plate(image: np.ndarray, rng: np.random.Generator) -> None:
    """A turned rectangle: pacemaker, marker, clip or shield."""
    height, width = image.shape
    centre = rng.uniform(0.0, 1.0, 2) * (width, height)
    sides = rng.uniform(0.02, 0.16, 2) * (width, height)
    corners = cv2.boxPoints((centre.tolist(), sides.tolist(), float(rng.uniform(0, 90))))
    layer = image.copy()
    cv2.fillConvexPoly(layer, corners.round().astype(np.int32), int(rng.integers(0, 256)))
    _blend(image, layer, rng.uniform(0.4, 1.0))


def _blend(image: np.ndarray, layer: np.ndarray, weight: float) -> None:
    cv2.addWeighted(image, 1 - weight, layer, weight, 0, dst=image)


def to_levels(values: np.ndarray) -> np.ndarray:
    """Round and clip to grey levels, uint8 of the same shape."""
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def add_devices(
    image: np.ndarray, mask: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw what lies over the lungs at a bedside: electrodes with cables, pacemaker, scapula, tube.

    Args:
        image: uint8 (H, W).
        mask: uint8 {0, 1} (H, W).
        count: How many.
        rng: Draws kinds, places and levels.

    Returns:
        uint8 (H, W).
    """
    drawn = image.copy()
    inside = np.argwhere(mask) if mask.any() else np.argwhere(np.ones_like(mask))
    draw = (_cabled_electrode, _cabled_electrode, _pacemaker, _scapula, _tube_over_lungs)
    for kind in rng.integers(0, len(draw), count):
        down, right = inside[rng.integers(len(inside))]
        layer = drawn.copy()
        draw[kind](layer, (float(right), float(down)), rng)
        opaque = rng.uniform(0.15, 0.5) if draw[kind] is _scapula else rng.uniform(0.4, 1.0)
        cv2.addWeighted(drawn, 1 - opaque, layer, opaque, 0, dst=drawn)
    return drawn


def _cabled_electrode(
    layer: np.ndarray, place: tuple[float, float], rng: np.random.Generator
) -> None:
    """A disc, or a ring, and its cable to an edge of the film."""
    width = layer.shape[1]
    radius, level = max(2, round(width * rng.uniform(0.01, 0.035))), int(rng.integers(150, 256))
    filled = -1 if rng.random() < 0.7 else max(1, radius // 3)
    cv2.circle(layer, points([place])[0].tolist(), radius, level, filled, cv2.LINE_AA)
    _line(layer, place, level, width * rng.uniform(0.002, 0.012), rng)


def _tube_over_lungs(
    layer: np.ndarray, place: tuple[float, float], rng: np.random.Generator
) -> None:
    width = layer.shape[1]
    _line(layer, place, int(rng.integers(140, 256)), width * rng.uniform(0.004, 0.025), rng)


def _pacemaker(layer: np.ndarray, place: tuple[float, float], rng: np.random.Generator) -> None:
    """A rounded box in the upper half of the chest, and a lead from it."""
    height, width = layer.shape
    place = place[0], min(place[1], height * rng.uniform(0.15, 0.5))
    level = int(rng.integers(200, 256))
    side = width * rng.uniform(0.06, 0.13)
    box = (place, (side, side * rng.uniform(0.6, 1.0)), float(rng.uniform(0, 90)))
    corners = points(cv2.boxPoints(box))
    cv2.fillConvexPoly(layer, corners, level, cv2.LINE_AA)
    # The corners are round: a broad line around the box.
    cv2.polylines(layer, [corners], True, level, max(1, round(side / 4)), cv2.LINE_AA)
    heart = width * rng.uniform(0.4, 0.65), height * rng.uniform(0.5, 0.75)
    _line(layer, place, level, width * rng.uniform(0.003, 0.008), rng, heart)


def _scapula(layer: np.ndarray, place: tuple[float, float], rng: np.random.Generator) -> None:
    """The blade of a shoulder: a triangle over the outer upper lung, soft at its edges."""
    height, width = layer.shape
    outer = np.sign(place[0] - width / 2) or 1.0
    top = np.array([place[0] + outer * 0.06 * width, height * rng.uniform(0.02, 0.3)])
    blade = [[0, 0], [outer * 0.16, 0.05], [-outer * 0.06, 0.12], [0, 0.36]]
    corners = top + np.array(blade) * rng.uniform(0.7, 1.2) * (width, height)
    cv2.fillPoly(layer, [points(corners)], int(rng.integers(150, 230)), cv2.LINE_AA)
    layer[:] = cv2.GaussianBlur(layer, (0, 0), width * rng.uniform(0.002, 0.01))


def _line(
    layer: np.ndarray,
    start: tuple[float, float],
    level: int,
    thickness: float,
    rng: np.random.Generator,
    end: tuple[float, float] | None = None,
) -> None:
    """A bent line from a place to another, or to an edge of the film."""
    height, width = layer.shape
    if end is None:
        end = (rng.choice([-0.05, 1.05]) * width, rng.uniform(0, 1) * height)
    bent = np.array([start, rng.uniform(0, 1, 2) * (width, height), end])
    thickness = max(1, round(thickness))
    cv2.polylines(layer, [_curve(bent)], False, level, thickness, cv2.LINE_AA)


def _curve(ends: np.ndarray) -> np.ndarray:
    """The quadratic Bézier curve of three places (3, 2), as whole pixels."""
    t = np.linspace(0, 1, 24)[:, None]
    return points((1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2])


def points(places: object) -> np.ndarray:
    """Places (x, y) as whole pixels, int32 (N, 2)."""
    return np.rint(np.asarray(places)).astype(np.int32)
