"""A person's chest projected along parallel rays: centimetres of each tissue at each pixel.

Coordinates are centimetres: x to the image's right, which is the patient's left; y downwards from
the apex of the lungs. `lateral` is the distance from the spine on one side, positive on that side.
Proportions are those of an adult's frontal chest X-ray, varied within what is seen in practice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SIDES = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Person:
    """What the reading says about the patient, as far as it shapes the phantom.

    Args:
        sex: `M` or `F`.
        age_years: Under 16 the chest is smaller, rounder, with a relatively larger heart.
        abnormal: Whether the lungs show disease; their outlines do not change.
    """

    sex: str = "M"
    age_years: float = 40.0
    abnormal: bool = False


@dataclass(frozen=True)
class Anatomy:
    """One patient's measures in centimetres, and the outlines that follow from them.

    Args:
        person: Whose chest it is.
        scale: Of all lengths; 1 for an average man.
        height: From the lungs' apex to the usual height of the right diaphragm.
        half_width: Of the rib cage inside, for each side.
        dome: Y of the diaphragm's highest point, for each side.
        bulges: What heart and great vessels are made of on each side: level and half-height as
            parts of `height`, and distance from the spine.
        wall: Soft tissue around the rib cage.
        breast: Thickness of a breast.
    """

    person: Person
    scale: float
    height: float
    half_width: dict[str, float]
    dome: dict[str, float]
    bulges: dict[str, list[tuple[float, float, float]]]
    wall: float
    breast: float

    def cage_width(self, y: np.ndarray, side: str) -> np.ndarray:
        """Distance of the rib cage's inner border from the midline."""
        below = np.clip(y / self.height - 0.85, 0.0, 1.0)
        shape = (0.38 + 0.62 * _bulge(y / (0.78 * self.height))) * (1.0 - 0.25 * below**2)
        return self.half_width[side] * shape

    def mediastinal_border(self, y: np.ndarray, side: str) -> np.ndarray:
        """Distance of the border of heart and great vessels from the midline."""
        level, powers = y / self.height, 0.0
        for centre, half_height, extent in self.bulges[side]:
            # The heart rests on the diaphragm: below its widest level it narrows little.
            stretch = np.where(level < centre, 1.0, 1.0 + 0.5 * centre**4 / half_height)
            away = np.clip((level - centre) / (half_height * stretch), -1.0, 1.0)
            powers = powers + (extent**2 * (1.0 - away**2)) ** 2
        # The apex is a round cap: its inner side swings out to meet the rib cage at y = 0.
        apex = 0.38 * self.half_width[side]
        return apex - (apex - np.sqrt(np.sqrt(powers))) * _bulge(level / 0.16)

    def diaphragm(self, lateral: np.ndarray, side: str) -> np.ndarray:
        """Y of the diaphragm's dome at a distance from the midline."""
        outwards = lateral / self.half_width[side] - 0.44
        fall = 4.7 * np.clip(outwards / 0.56, 0.0, 1.2) ** 3 + np.clip(-outwards, 0.0, 0.6) ** 2
        return self.dome[side] + self.scale * fall

    def cavity_depth(self, y: np.ndarray) -> np.ndarray:
        """Front-to-back depth of the chest cavity at height y."""
        depth = 17.5 * self.scale * (0.5 + 0.5 * _bulge(y / (0.7 * self.height)))
        return depth * _bulge(y / (0.16 * self.height))


@dataclass(frozen=True)
class View:
    """How the patient lies on the film.

    Args:
        height: Of the image in pixels.
        width: Of the image in pixels.
        pixels_per_cm: Magnification.
        centre: Point of the anatomy (x, y in cm) at the middle of the image.
        angle: Rotation of the patient in the image plane, in radians.
    """

    height: int
    width: int
    pixels_per_cm: float
    centre: tuple[float, float]
    angle: float = 0.0

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Anatomical x and y in centimetres of every pixel, float32 (H, W) each."""
        columns = np.arange(self.width, dtype=np.float32)[None, :] - (self.width - 1) / 2
        rows = np.arange(self.height, dtype=np.float32)[:, None] - (self.height - 1) / 2
        cosine, sine = float(np.cos(self.angle)), float(np.sin(self.angle))
        x = (cosine * columns + sine * rows) / self.pixels_per_cm + self.centre[0]
        return x, (cosine * rows - sine * columns) / self.pixels_per_cm + self.centre[1]

    def to_corners(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the anatomy as columns and rows in sixteenths of a pixel, int32."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = (points - self.centre) @ np.array([[cosine, sine], [-sine, cosine]])
        middle = np.array([self.width - 1, self.height - 1]) / 2
        return np.round(16 * (turned * self.pixels_per_cm + middle)).astype(np.int32)


@dataclass(frozen=True)
class Chest:
    """Thickness maps in centimetres, float32 (H, W), and the lungs' outlines.

    Args:
        tissue: Everything that is neither lung nor air, bone included.
        lung: Lung filled with air, also behind heart and diaphragm.
        bone: Compact bone.
        outlines: For each side the lung field as read on a film, bool (H, W): between the rib
            cage, the diaphragm and the border of heart and mediastinum.
    """

    tissue: np.ndarray
    lung: np.ndarray
    bone: np.ndarray
    outlines: dict[str, np.ndarray]


def draw_person(rng: np.random.Generator) -> Person:
    """Draw sex, age and whether disease is shown, children included."""
    age = rng.uniform(1, 15) if rng.random() < 0.08 else rng.uniform(16, 85)
    return Person(str(rng.choice(["M", "F"])), age, rng.random() < 0.5)


def draw_anatomy(rng: np.random.Generator, person: Person | None = None) -> Anatomy:
    """Draw the measures of a person's chest; the person too where none is given."""
    person = person or draw_person(rng)
    young = float(np.interp(person.age_years, [4.0, 16.0], [1.0, 0.0]))
    scale = float(np.interp(person.age_years, [0.0, 2.0, 8.0, 16.0], [0.42, 0.55, 0.74, 1.0]))
    scale *= (0.93 if person.sex == "F" else 1.0) * rng.uniform(0.92, 1.08)
    height = scale * rng.uniform(20.5, 25.5) * (1.0 - 0.12 * young)
    turn = rng.normal(0.0, 0.025)
    width = scale * rng.uniform(12.4, 14.4)
    half_width = {side: width * (1.0 + sign * turn) for side, sign in SIDES.items()}
    dome = {"right": height, "left": height + scale * rng.uniform(0.0, 2.0)}
    if rng.random() < 0.1:  # a raised diaphragm, as after disease of one side
        dome[str(rng.choice(list(SIDES)))] -= scale * rng.uniform(2.0, 4.5)
    column = scale * rng.uniform(2.1, 2.9) * (1.0 + 0.4 * young)
    atrium = scale * (rng.uniform(3.2, 4.6) + 0.8 * young - 12.0 * turn)
    ventricle = scale * (rng.uniform(6.2, 9.0) + young + 12.0 * turn)
    arch, trunk = column + scale * rng.uniform(0.5, 1.6, 2) * (1.0 - young)
    bulges = {
        "right": [(0.5, 9.0, column), (0.42, 0.2, column + 0.4 * scale), (0.79, 0.27, atrium)],
        "left": [
            (0.5, 9.0, column),
            (0.27, 0.12, arch),
            (0.44, 0.16, trunk),
            (0.81, 0.3, ventricle),
        ],
    }
    wall, breast = scale * rng.uniform([2.4, 0.8], [5.4, 2.8])
    breast *= person.sex == "F" and person.age_years >= 14
    return Anatomy(person, scale, height, half_width, dome, bulges, wall, breast)


def project_chest(anatomy: Anatomy, view: View, rng: np.random.Generator) -> Chest:
    """Project a chest with bones, vessels and, where the person is abnormal, disease.

    Args:
        anatomy: The patient's measures.
        view: How the patient lies on the film.
        rng: Source of what varies from film to film.

    Returns:
        Thickness maps and the lungs' outlines.
    """
    (x, y), scale = view.grid(), anatomy.scale
    body = _project_body(anatomy, np.abs(x), y, view)
    lungs = {side: _project_lung(anatomy, sign * x, y, side) for side, sign in SIDES.items()}
    lung = np.minimum(lungs["right"][1] + lungs["left"][1], 0.9 * body)
    filled = _project_vessels(anatomy, view, rng) * lung / (lung + 2.0 * scale)
    if anatomy.person.abnormal:
        for kind in rng.choice(["infiltrate", "cloud", "nodules", "effusion"], rng.integers(1, 3)):
            filled += _project_disease(str(kind), lung, anatomy, view, rng)
    lung = np.clip(lung - filled, 0.15 * lung, lung)
    windpipe = 1.4 * scale * _round(x / (0.9 * scale)) * _bulge(7.5 - y / scale)
    tissue = np.clip(body - lung - windpipe, 0, None)
    bone = rng.uniform(0.8, 1.2) * _project_bones(anatomy, view)
    return Chest(tissue, lung, bone, {side: outline for side, (outline, _) in lungs.items()})


def _bulge(inwards: np.ndarray) -> np.ndarray:
    """Chord of an ellipse, 0 at its edge and 1 from its centre on; `inwards` from 0 to 1."""
    inwards = np.clip(inwards, 0, 1)
    return np.sqrt(inwards * (2 - inwards))


def _project_lung(anatomy, lateral, y, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Outline and thickness of one lung, bool and float32 cm."""
    cage, border = anatomy.cage_width(y, side), anatomy.mediastinal_border(y, side)
    below = y - anatomy.diaphragm(lateral, side)
    outline = (y > 0) & (lateral > border) & (lateral < cage) & (below < 0)
    # Lung lies before and behind the heart too, less and less towards the spine.
    beside = np.clip((lateral / anatomy.scale - 0.3) / 6.5, 0, 1)
    cavity = _bulge(1 - lateral / cage) * beside * beside * (3 - 2 * beside)
    heart = 0.8 * _bulge(1 - lateral / np.maximum(border, 0.1))
    abdomen = 1.1 * _bulge(below / (0.24 * anatomy.height))
    thickness = anatomy.cavity_depth(y) * np.clip(cavity - heart - abdomen, 0, None)
    # Where the tip is thinner than a pixel the grid cuts pixels off: the largest part stays.
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(outline.astype(np.uint8), connectivity=4)
    return parts == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax(), thickness


def _project_body(anatomy, aside, y, view: View) -> np.ndarray:
    """Thickness of trunk, neck, shoulders and breasts joined."""
    scale, wall, width = anatomy.scale, anatomy.wall, anatomy.half_width["left"]
    level = y / anatomy.height
    trunk = np.maximum(anatomy.cavity_depth(y), 11 * scale) + 0.8 * wall + 1.8 * scale
    trunk *= _round(aside / (1.02 * width + wall), 4)
    trunk *= _bulge((level + 0.13 - 0.14 * (aside / width) ** 2) / 0.3)
    neck = 12 * scale * _round(aside / (5.6 * scale)) * np.clip(1.3 - 2.0 * level, 0, 1)
    fall = np.clip((aside / scale - 5.6) / 12.0, 0, None) ** 1.5
    shoulder = (11 * scale + wall) * _bulge((y / scale + 4.0 - 5.5 * fall) / 6)
    # It passes into the arm: outer border and armpit slope.
    shoulder *= _bulge((1.5 * width + wall - aside + 0.4 * y) / (6 * scale))
    shoulder *= _bulge((aside / width - 0.5 - level) / 0.35)
    # A soft maximum: the parts pass into one another without a crease.
    body = np.sqrt(np.sqrt(sum(part**4 for part in (trunk, neck, shoulder))))
    away = np.hypot(aside - 0.62 * width, y - 0.78 * anatomy.height)
    body += anatomy.breast * _round(away / (5.0 * scale + 0.8 * anatomy.breast))
    return cv2.GaussianBlur(body, (0, 0), 0.25 * scale * view.pixels_per_cm)


def _round(distance: np.ndarray, power: int = 2) -> np.ndarray:
    """Chord of a round body at a distance from its middle, as parts of its radius."""
    return np.sqrt(np.clip(1 - distance**power, 0, None))


def _draw_tube(canvas: np.ndarray, view: View, points: np.ndarray, radius, thickness) -> None:
    """Draw a band along a curve (N, 2) over what lies there; radius and thickness in cm."""
    corners = view.to_corners(points)
    widths = np.broadcast_to(2.0 * view.pixels_per_cm * radius, len(points))
    # Below a pixel's width a band gets fainter instead of thinner.
    levels = np.broadcast_to(thickness, len(points)) * np.minimum(widths, 1.0)
    for begin, end, width, level in zip(corners, corners[1:], widths, levels, strict=False):
        cv2.line(canvas, begin, end, float(level), max(round(float(width)), 1), cv2.LINE_8, 4)


def _draw_bone(canvas: np.ndarray, view: View, points: np.ndarray, radius, thickness) -> None:
    """Draw a long bone: its rim is denser than its marrow."""
    _draw_tube(canvas, view, points, radius, 0.66 * thickness)
    _draw_tube(canvas, view, points, 0.72 * radius, 0.42 * thickness)


def _project_bones(anatomy: Anatomy, view: View) -> np.ndarray:
    """Thickness of spine, ribs and clavicles."""
    scale, width = anatomy.scale, anatomy.half_width["left"]
    part = np.linspace(0, 1, 24)
    # Ribs cross: what lies before adds to what lies behind.
    layers = np.zeros((3, view.height, view.width), np.float32)
    for side, sign in SIDES.items():
        for number in range(11):
            _draw_rib(layers, view, anatomy, side, number)
        x = 1.7 * scale + part * (1.2 * width - 1.7 * scale)
        clavicle = np.stack([sign * x, scale * (2.3 + 2.1 * np.cos(1.25 * np.pi * part))], axis=1)
        _draw_bone(layers[2], view, clavicle, scale * (0.85 - 0.25 * part), 1.1 * scale)
    for number in range(24):  # vertebrae
        middle, tall = -8.3 + 1.8 * number + 0.03 * number**2, 0.74 + 0.03 * number
        block = scale * np.array([[-1.0, middle], [1.0, middle]])
        _draw_bone(layers[2], view, block, scale * tall, 1.4 * scale)
    return cv2.GaussianBlur(layers.sum(axis=0), (0, 0), max(0.1 * scale * view.pixels_per_cm, 0.3))


def _draw_rib(layers: np.ndarray, view: View, anatomy: Anatomy, side: str, number: int) -> None:
    """Draw an arc in a tilted plane, its back on the first layer and its front on the second."""
    scale, spacing = anatomy.scale, anatomy.height / 22.0
    start = spacing * (-1.0 + 1.9 * number + 0.035 * number**2)
    drop = spacing * (9.2 - 0.19 * (number - 5.5) ** 2)
    last = 2.65 - 0.11 * max(number - 5, 0)
    for layer, begin, end in ((layers[0], 0.12, np.pi / 2), (layers[1], np.pi / 2, last)):
        turn = np.linspace(begin, end, 20)
        y = start + drop * (1 - np.cos(turn)) / 2 - 0.5 * spacing * np.clip(np.sin(2 * turn), 0, 1)
        # The power makes the rib hug the side wall for a while, as it does around a broad chest.
        reach = anatomy.cage_width(np.maximum(y, 0.03 * anatomy.height), side) + 0.3 * scale
        points = np.stack([SIDES[side] * reach * np.sin(turn) ** 0.8, y], axis=1)
        # Where the rib runs towards the detector the ray stays in it for longer.
        thickness = 0.9 * scale / np.maximum(np.abs(np.cos(turn)), 0.7)
        thickness *= np.clip((last - turn) / 0.7, 0.2, 1.0)
        radius = scale * (0.5 + 0.22 * np.clip(turn / 1.5, 0, 1))
        _draw_bone(layer, view, points, radius, thickness)


def _project_vessels(anatomy: Anatomy, view: View, rng: np.random.Generator) -> np.ndarray:
    """Thickness of the vessels that leave each hilum, and the lungs' fine texture."""
    scale, height = anatomy.scale, anatomy.height
    blood = np.zeros((view.height, view.width), np.float32)
    part = np.linspace(0, 1, 7)
    for side, sign in SIDES.items():
        hilum = np.array([sign * anatomy.mediastinal_border(0.44 * height, side), 0.44 * height])
        for radius in np.linspace(0.06, 0.34, 50) * scale:  # thick ones over thin ones
            angle = rng.uniform(-1.4, 1.45) + rng.normal(0, 0.35) * part
            length = height * rng.uniform(0.15, 0.5) * (part + rng.uniform(0, 0.3))
            line = hilum + np.stack([sign * length * np.cos(angle), length * np.sin(angle)], axis=1)
            _draw_tube(blood, view, line, radius * (1.3 - part), 4 * radius * (1.3 - part))
    blood = cv2.GaussianBlur(blood, (0, 0), max(0.08 * scale * view.pixels_per_cm, 0.4))
    return np.clip(1.5 * blood + 0.3 * scale * _noise(rng, view, 0.3 * scale), 0, None)


def _noise(rng: np.random.Generator, view: View, grain: float) -> np.ndarray:
    """Smooth noise of unit deviation with grains of `grain` cm, float32 (H, W)."""
    step = max(grain * view.pixels_per_cm, 1.0)
    shape = (int(view.height / step) + 3, int(view.width / step) + 3)
    coarse = rng.standard_normal(shape, dtype=np.float32)
    return cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC)


def _project_disease(kind: str, lung, anatomy: Anatomy, view: View, rng) -> np.ndarray:
    """Thickness of what fills one lung: infiltrate, cloud, nodules or fluid at the base."""
    scale, (x, y) = anatomy.scale, view.grid()
    side = str(rng.choice(list(SIDES)))
    lateral = SIDES[side] * x
    if kind == "effusion":  # higher at the side wall than in the middle
        climb = np.clip(lateral / anatomy.half_width[side], 0, 1.1) ** 3
        surface = anatomy.dome[side] + scale * (2.0 - rng.uniform(2.5, 7.0) * climb)
        return lung * np.clip((y - surface) / (1.6 * scale), 0, 1) * (lateral > 0)
    filled, round_ones = np.zeros_like(lung), kind == "nodules"
    for _ in range(rng.integers(2, 7) if round_ones else 1):
        level = anatomy.height * rng.uniform(0.1, 0.45 if kind == "infiltrate" else 0.85)
        inner, outer = anatomy.mediastinal_border(level, side), anatomy.cage_width(level, side)
        middle = inner + (outer - inner) * rng.uniform(0.15, 0.85)
        radius = scale * (rng.uniform(0.4, 1.6) if round_ones else rng.uniform(2.5, 5.0))
        away = np.hypot(lateral - middle, y - level) / radius
        patches = 1 + 0.7 * _noise(rng, view, (0.7 if kind == "infiltrate" else 1.5) * scale)
        cloud = rng.uniform(0.15, 0.35) * lung * np.exp(-(away**2)) * np.clip(patches, 0, None)
        filled += 2 * radius * _round(away) if round_ones else cloud
    return filled
