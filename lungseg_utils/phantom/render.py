"""One synthetic chest radiograph with its exact lung masks.

The thickness of each tissue is projected on the film, attenuated by Beer-Lambert's law and
developed; the mask is the projected outline itself.
"""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy, Person, draw_anatomy
from lungseg_utils.phantom.film import (
    add_film_border,
    add_marker,
    develop_digital,
    develop_film,
    expose,
)
from lungseg_utils.phantom.lungs import add_disease, add_vessels
from lungseg_utils.phantom.projection import View, project_soft_parts
from lungseg_utils.phantom.skeleton import add_airways, add_bones


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
    anatomy = anatomy or draw_anatomy(rng, draw_person(rng))
    view = _draw_view(rng, anatomy, width, height, source)
    chest = project_soft_parts(anatomy, view)
    add_vessels(chest, anatomy, view, rng)
    add_bones(chest, anatomy, view, rng)
    add_airways(chest, anatomy, view, rng)
    if anatomy.person.abnormal:
        add_disease(chest, anatomy, view, rng)
    log_beam = expose(chest, view, rng, anatomy.scale)
    left, right = (chest.outlines[side].astype(np.uint8) for side in ("left", "right"))
    lungs = left | right
    if source == "montgomery":
        bright = add_film_border(develop_film(log_beam, chest, rng), lungs, rng)
    else:
        bright = develop_digital(log_beam, chest, view, rng)
    grey = np.round(255 * np.clip(bright, 0, 1)).astype(np.uint8)
    add_marker(grey, lungs, rng, labelled=source == "montgomery")
    return grey, (left, right)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw sex, age and whether disease is shown, children included."""
    age = rng.uniform(1, 15) if rng.random() < 0.08 else rng.uniform(16, 85)
    return Person(str(rng.choice(["M", "F"])), float(age), bool(rng.random() < 0.5))


def _draw_view(
    rng: np.random.Generator, anatomy: Anatomy, width: int, height: int, source: str
) -> View:
    """Place the patient so that both lungs lie wholly on the film."""
    lowest = max(anatomy.dome[side] + anatomy.dome_shape[side][1] for side in anatomy.dome)
    across = sum(anatomy.half_width.values())
    fill = rng.uniform(0.66, 0.86)
    pixels_per_cm = fill * min(height / (lowest + 1), 1.12 * width / across)
    slack_x = 0.3 * (width / pixels_per_cm - across)
    slack_y = 0.5 * (height / pixels_per_cm - lowest)
    middle = 0.5 * (anatomy.half_width["left"] - anatomy.half_width["right"])
    sideways = middle + slack_x * rng.uniform(-0.5, 0.5)
    # Films of the first kind show more below the lungs than above.
    upward = (0.55 if source == "montgomery" else 0.2) * slack_y
    centre = (sideways, 0.5 * lowest + upward + slack_y * rng.uniform(-0.25, 0.25))
    return View(height, width, pixels_per_cm, centre, float(rng.normal(0, 0.025)))
