"""One synthetic chest radiograph with its exact lung masks.

The thickness of each tissue is attenuated by Beer-Lambert's law and developed to a film; the mask
is the projected outline itself.
"""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.phantom.chest import Anatomy, Chest, View, draw_anatomy, project_chest

# Linear attenuation in 1/cm at an effective energy of about 60 keV (Hubbell and Seltzer, NISTIR
# 5632): water 0.206, cortical bone 0.60; inflated lung is tissue of a quarter of the density.
TISSUE, LUNG, BONE = 0.206, 0.052, 0.60


def render_phantom(
    rng: np.random.Generator,
    size: int | tuple[int, int] = 512,
    source: str = "shenzhen",
    anatomy: Anatomy | None = None,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Render one chest X-ray.

    Args:
        rng: Source of every random choice.
        size: Side in pixels, or width and height.
        source: `montgomery` (steep film, black border, plates) or `shenzhen` (digital look).
        anatomy: Whose chest; drawn at random where not given.

    Returns:
        Image, uint8 (H, W), and the masks of the patient's left and right lung, uint8 {0, 1}
        (H, W) each. The patient's left lung is on the image's right.
    """
    width, height = (size, size) if isinstance(size, int) else size
    anatomy = anatomy or draw_anatomy(rng)
    view = _draw_view(rng, anatomy, width, height, source)
    chest = project_chest(anatomy, view, rng)
    density = _cast_shadow(chest, view, rng)
    left, right = (chest.outlines[side].astype(np.uint8) for side in ("left", "right"))
    lungs = (left | right) > 0
    if source == "montgomery":
        bright = _add_film_border(_develop_film(density, chest.tissue, lungs, rng), lungs, rng)
    else:
        bright = _develop_digital(density, chest.tissue, view, rng)
    grey = np.round(255 * np.clip(bright, 0, 1)).astype(np.uint8)
    _add_marker(grey, lungs, rng, labelled=source == "montgomery")
    return grey, (left, right)


def attenuation(chest: Chest) -> np.ndarray:
    """Line integral of attenuation, float32 (H, W), without unit."""
    return TISSUE * chest.tissue + LUNG * chest.lung + (BONE - TISSUE) * chest.bone


def _draw_view(rng, anatomy: Anatomy, width: int, height: int, source: str) -> View:
    """Place the patient so that both lungs lie wholly on the film."""
    lowest = max(anatomy.dome.values()) + 5 * anatomy.scale
    across = sum(anatomy.half_width.values())
    pixels_per_cm = rng.uniform(0.66, 0.86) * min(height / (lowest + 1), 1.12 * width / across)
    slack_x, slack_y = width / pixels_per_cm - across, height / pixels_per_cm - lowest
    # Films of the first kind show more below the lungs than above.
    upward = slack_y * ((0.28 if source == "montgomery" else 0.1) + rng.uniform(-0.12, 0.12))
    centre = (slack_x * rng.uniform(-0.15, 0.15), 0.5 * lowest + upward)
    return View(height, width, pixels_per_cm, centre, rng.normal(0, 0.025))


def _blur_broadly(image: np.ndarray, sigma: float) -> np.ndarray:
    coarse = cv2.resize(image, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 0.125 * sigma)
    return cv2.resize(coarse, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _cast_shadow(chest: Chest, view: View, rng: np.random.Generator) -> np.ndarray:
    """Minus logarithm of what reaches the detector, with scattered rays and quantum noise."""
    beam = np.exp(-attenuation(chest))
    scatter = _blur_broadly(beam, 3.0 * view.pixels_per_cm)
    beam = cv2.GaussianBlur(beam, (0, 0), max(0.03 * view.pixels_per_cm, 0.3))
    beam += rng.uniform(0.05, 0.16) * scatter
    grain = rng.standard_normal(beam.shape, dtype=np.float32)
    return -np.log(np.clip(beam + np.sqrt(beam / rng.uniform(3e4, 2e5)) * grain, 1e-5, None))


def _develop_film(density: np.ndarray, tissue: np.ndarray, lungs: np.ndarray, rng) -> np.ndarray:
    """A scanned film: steep curve, so air goes black and the abdomen white."""
    lung = float(np.median(density[lungs]))
    # The exposure follows the patient: thin children get as much contrast as adults.
    contrast = float(np.percentile(density[tissue > 0.6 * tissue.max()][::17], 90)) - lung
    middle = lung + rng.uniform(0.2, 0.32) * contrast
    steepness = rng.uniform(4.0, 5.6) / contrast
    return 1 / (1 + np.exp(np.clip(steepness * (middle - density), -60, 60)))


def _develop_digital(density: np.ndarray, tissue: np.ndarray, view: View, rng) -> np.ndarray:
    """A computed radiograph: large contrasts flattened, edges lifted, range filled."""
    broad = _blur_broadly(density, 2.5 * view.pixels_per_cm)
    mixed = rng.uniform(0.45, 0.75) * broad + rng.uniform(1.0, 1.3) * (density - broad)
    low, high = np.percentile(mixed[tissue > 1.0][::17], [1.0, 99.7]).tolist()
    low -= rng.uniform(0.0, 0.25) * (high - low)
    return np.clip((mixed - low) / (high - low), 0, 1) ** rng.uniform(0.75, 1.3)


def _add_film_border(bright: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken what lies outside a slightly crooked exposed field that holds both lungs."""
    height, width = bright.shape
    rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
    room = np.array([columns[0], width - columns[-1], rows[0], height - rows[-1]])
    often = rng.random(4) < [0.4, 0.4, 0.3, 1.0]
    left, right, top, bottom = room * often * rng.uniform(0.0, [0.7, 0.7, 0.25, 0.8])
    lower = height - bottom + rng.normal(0, 0.006, 2) * height
    corners = [[left, top], [width - right, top], [width - right, lower[0]], [left, lower[1]]]
    field = np.zeros(bright.shape, np.uint8)
    cv2.fillPoly(field, [np.round(16 * np.array(corners)).astype(np.int32)], 1, cv2.LINE_8, 4)
    return np.where(field > 0, bright, np.float32(rng.uniform(0.0, 0.03)))


def _add_marker(grey: np.ndarray, lungs: np.ndarray, rng, labelled: bool) -> None:
    """Print the side letter, and for `labelled` plates, where no lung is; changes `grey`."""
    (height, width), unmarked = grey.shape, grey.copy()
    size = max(width, height) / 1300
    plates = {"PA": 0.06, "ERECT": 0.11} if labelled and rng.random() < 0.8 else {}
    for text, level in plates.items():
        column, row = int(0.82 * width), int(level * height)
        end = (column + int(20 * len(text) * size), row + int(6 * size))
        cv2.rectangle(grey, (column - 2, row - int(26 * size)), end, 250, -1)
        _print(grey, text, (column, row), size, 5)
    letter = "R" if labelled else str(rng.choice(["R", "L"]))
    column = rng.uniform(0.04, 0.14) + 0.75 * (letter == "L")
    place = (int(column * width), int(rng.uniform(0.06, 0.12) * height))
    _print(grey, letter, place, 2.1 * size, int(rng.integers(200, 256)))
    grey[lungs] = unmarked[lungs]


def _print(grey: np.ndarray, text: str, place: tuple[int, int], size: float, ink: int) -> None:
    thickness = max(round(2.2 * size), 1)
    cv2.putText(grey, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, thickness, cv2.LINE_AA)
