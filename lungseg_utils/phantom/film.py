"""From thickness to film: Beer-Lambert attenuation, scatter, noise, exposure, border, marker."""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.phantom.projection import Chest, View

# Linear attenuation in 1/cm at an effective energy of about 60 keV (Hubbell and Seltzer, NISTIR
# 5632): water 0.206, cortical bone 0.60; inflated lung is tissue of a quarter of the density.
TISSUE, LUNG, BONE = 0.206, 0.052, 0.60


def attenuation(chest: Chest) -> np.ndarray:
    """Line integral of attenuation, float32 (H, W), without unit."""
    solid = chest.blood + chest.disease
    lung = np.clip(chest.lung - solid, 0, None)
    tissue = np.clip(chest.body - lung - chest.air, 0, None)
    return TISSUE * tissue + LUNG * lung + (BONE - TISSUE) * chest.bone


def expose(chest: Chest, view: View, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Logarithm of what reaches the detector, with scattered rays and quantum noise."""
    beam = np.exp(-attenuation(chest))
    coarse = cv2.resize(beam, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 0.125 * 3.0 * scale * view.pixels_per_cm)
    scatter = cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
    beam = cv2.GaussianBlur(beam, (0, 0), max(0.03 * view.pixels_per_cm, 0.3))
    beam = beam + rng.uniform(0.05, 0.16) * scatter
    grain = rng.standard_normal(beam.shape, dtype=np.float32)
    quanta = rng.uniform(3e4, 2e5)
    return np.log(np.clip(beam + np.sqrt(beam / quanta) * grain, 1e-5, None))


def develop_film(log_beam: np.ndarray, chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """A scanned film: steep curve, so air goes black and the abdomen white.

    Returns:
        Brightness, float32 (H, W) in [0, 1].
    """
    lungs = chest.outlines["right"] | chest.outlines["left"]
    lung = np.median(log_beam[lungs])
    # The exposure follows the patient: thin children get as much contrast as adults.
    contrast = lung - np.percentile(log_beam[chest.body > 0.6 * chest.body.max()][::17], 5)
    middle = lung - rng.uniform(0.2, 0.32) * contrast
    steepness = rng.uniform(4.0, 5.6) / contrast
    return 1 / (1 + np.exp(np.clip(steepness * (log_beam - middle), -60, 60)))


def develop_digital(
    log_beam: np.ndarray, chest: Chest, view: View, rng: np.random.Generator
) -> np.ndarray:
    """A computed radiograph: large contrasts flattened, edges lifted, range filled.

    Returns:
        Brightness, float32 (H, W) in [0, 1].
    """
    dense = -log_beam
    small = cv2.resize(dense, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.125 * 2.5 * view.pixels_per_cm)
    broad = cv2.resize(small, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
    mixed = rng.uniform(0.45, 0.75) * broad + rng.uniform(1.0, 1.3) * (dense - broad)
    body = mixed[chest.body > 1.0]
    low, high = np.percentile(body[::17], [1.0, 99.7])
    low -= rng.uniform(0.0, 0.25) * (high - low)
    return np.clip((mixed - low) / (high - low), 0, 1) ** rng.uniform(0.75, 1.3)


def add_film_border(bright: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken what lies outside a slightly crooked exposed field that holds both lungs."""
    height, width = bright.shape
    rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
    room = {
        "top": rows[0] * rng.uniform(0.0, 0.25) * (rng.random() < 0.3),
        "bottom": height - (height - rows[-1]) * rng.uniform(0.0, 0.85),
        "left": columns[0] * rng.uniform(0.0, 0.7) * (rng.random() < 0.4),
        "right": width - (width - columns[-1]) * rng.uniform(0.0, 0.7) * (rng.random() < 0.4),
    }
    skew = rng.normal(0, 0.012, 4) * [width, height, width, height]
    corners = np.array(
        [
            [room["left"], room["top"]],
            [room["right"], room["top"]],
            [room["right"] + 0.3 * skew[1], room["bottom"] + 0.5 * skew[0]],
            [room["left"] + 0.3 * skew[3], room["bottom"]],
        ]
    )
    field = np.zeros(bright.shape, np.uint8)
    cv2.fillPoly(field, [np.round(corners * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return np.where(field > 0, bright, np.float32(rng.uniform(0.0, 0.03)))


def add_marker(
    grey: np.ndarray, lungs: np.ndarray, rng: np.random.Generator, labelled: bool
) -> None:
    """Print the side letter, and for `labelled` a plate, where no lung is; changes `grey`."""
    height, width = grey.shape
    size = max(height, width)
    letter = str(rng.choice(["R", "L"])) if not labelled else "R"
    column = rng.uniform(0.04, 0.14) if letter == "R" else rng.uniform(0.82, 0.9)
    place = (int(column * width), int(rng.uniform(0.06, 0.12) * height))
    _print(grey, letter, place, size / 620, int(rng.integers(200, 256)), lungs)
    if labelled and rng.random() < 0.8:
        for text, row in (("PA", 0.06), ("ERECT", 0.11)):
            _print_plate(grey, text, (int(0.82 * width), int(row * height)), size / 1300, lungs)


def _print(grey, text, place, size, brightness, lungs) -> None:
    layer = np.zeros_like(grey)
    thickness = max(round(2.2 * size), 1)
    cv2.putText(layer, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, thickness, cv2.LINE_AA)
    layer[lungs > 0] = 0
    blend = layer.astype(np.float32) / 255
    grey[:] = np.round(grey * (1 - blend) + brightness * blend).astype(np.uint8)


def _print_plate(grey, text, place, size, lungs) -> None:
    thickness = max(round(2.2 * size), 1)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    plate = np.zeros_like(grey)
    corner = (place[0] - 2, place[1] - height - 2)
    cv2.rectangle(plate, corner, (place[0] + width + 2, place[1] + 3), 255, -1)
    grey[(plate > 0) & (lungs == 0)] = 250
    ink = np.zeros_like(grey)
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, thickness, cv2.LINE_AA)
    grey[(ink > 127) & (lungs == 0)] = 5
