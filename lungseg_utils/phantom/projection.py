"""The phantom's anatomy projected along parallel rays: centimetres of each tissue at each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lungseg_utils.phantom.anatomy import SIDES, Anatomy


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
        columns = (np.arange(self.width, dtype=np.float32) - (self.width - 1) / 2)[None, :]
        rows = (np.arange(self.height, dtype=np.float32) - (self.height - 1) / 2)[:, None]
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        step = np.float32(1.0 / self.pixels_per_cm)
        x = (cosine * columns + sine * rows) * step + np.float32(self.centre[0])
        y = (cosine * rows - sine * columns) * step + np.float32(self.centre[1])
        return x, y

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the anatomy in cm as columns and rows, float32 (N, 2)."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x, y = (np.asarray(points, float) - self.centre).T * self.pixels_per_cm
        column = cosine * x - sine * y + (self.width - 1) / 2
        row = sine * x + cosine * y + (self.height - 1) / 2
        return np.stack([column, row], axis=1).astype(np.float32)


@dataclass
class Chest:
    """Thickness maps in centimetres, float32 (H, W), and the lungs' outlines.

    Args:
        body: Front to back, everything included.
        lung: Air-filled lung along the ray, also behind heart and diaphragm.
        air: Gas without tissue: windpipe, stomach.
        bone: Compact bone.
        blood: Vessels inside the lung, which displace air.
        disease: Lung filled with fluid or tissue.
        outlines: For each side the lung field as read on a film, bool (H, W): between the rib
            cage, the diaphragm and the border of heart and mediastinum.
    """

    body: np.ndarray
    lung: np.ndarray
    air: np.ndarray
    bone: np.ndarray
    blood: np.ndarray
    disease: np.ndarray
    outlines: dict[str, np.ndarray]


def project_soft_parts(anatomy: Anatomy, view: View) -> Chest:
    """Project body and lungs.

    Args:
        anatomy: The patient's measures.
        view: How the patient lies on the film.

    Returns:
        Thickness maps; air, bone, blood and disease still empty.
    """
    x, y = view.grid()
    offset = x - anatomy.midline(y).astype(np.float32)
    lung = np.zeros_like(x)
    outlines = {}
    for side, sign in SIDES.items():
        outline, thickness = _project_lung(anatomy, sign * offset, y, side)
        outlines[side] = outline
        lung += thickness
    empty = {name: np.zeros_like(x) for name in ("air", "bone", "blood", "disease")}
    body = _project_body(anatomy, offset, y, view)
    return Chest(body=body, lung=np.minimum(lung, 0.9 * body), outlines=outlines, **empty)


def _project_lung(
    anatomy: Anatomy, lateral: np.ndarray, y: np.ndarray, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """Outline and thickness of one lung, float32 cm."""
    cage = anatomy.cage_width(y, side).astype(np.float32)
    border = anatomy.mediastinal_border(y, side).astype(np.float32)
    below = y - anatomy.diaphragm(lateral, side).astype(np.float32)
    outline = (y > 0) & (lateral > border) & (lateral < cage) & (below < 0)
    depth = anatomy.cavity_depth(y).astype(np.float32)
    cavity = depth * np.sqrt(np.clip(1 - (np.abs(lateral) / cage) ** 2.4, 0, None))
    cavity *= (lateral > 0) & (y > 0)
    # Above the heart the vessels of the neck leave no lung; beside it lung lies before and behind.
    share = np.interp(y / anatomy.height, [0.05, 0.3, 0.9], [1.0, 0.85, 0.75])
    heart = depth * share.astype(np.float32) * _bulge(1 - lateral / np.maximum(border, 0.1))
    beside = np.clip((lateral / anatomy.scale - 0.3) / 6.5, 0, 1)
    cavity *= beside * beside * (3 - 2 * beside)
    abdomen = 1.1 * depth * _bulge(below / (0.24 * anatomy.height))
    return _largest_part(outline), np.clip(cavity - heart - abdomen, 0, None)


def _largest_part(outline: np.ndarray) -> np.ndarray:
    """Drop pixels that the grid cuts off where the outline's tip is thinner than a pixel."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(
        outline.astype(np.uint8), connectivity=4
    )
    return parts == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()


def _bulge(inwards: np.ndarray) -> np.ndarray:
    """Chord of an ellipse, 0 at its edge and 1 from its centre on; `inwards` from 0 to 1."""
    inwards = np.clip(inwards, 0, 1)
    return np.sqrt(inwards * (2 - inwards))


def _project_body(anatomy: Anatomy, offset: np.ndarray, y: np.ndarray, view: View) -> np.ndarray:
    """Thickness of the body: trunk, neck, shoulders, arms and breasts joined."""
    scale, wall = anatomy.scale, anatomy.wall
    aside = np.abs(offset)
    level = y / anatomy.height
    width = np.where(offset > 0, anatomy.half_width["left"], anatomy.half_width["right"])
    trunk_width = width * np.interp(level, [0.0, 0.2, 0.6, 1.0, 1.6], [1.0, 1.06, 1.02, 0.99, 1.0])
    trunk_width = trunk_width + wall
    depth = np.maximum(anatomy.cavity_depth(np.maximum(y, 0.05 * anatomy.height)), 11 * scale)
    depth = depth + 0.8 * wall + 1.8 * scale
    trunk = depth * np.clip(1 - (aside / trunk_width) ** 4, 0, None) ** 0.5
    trunk *= _bulge((level + 0.12) / 0.3)
    neck_width = anatomy.neck * (1 + 0.05 * np.clip(-level, 0, 1))
    neck = 12 * scale * np.clip(1 - (aside / neck_width) ** 2, 0, None) ** 0.5
    neck *= np.clip(1.3 - 2.0 * level, 0, 1)
    below_skin = y - anatomy.shoulder_line(aside).astype(np.float32)
    shoulder = (11 * scale + wall) * _bulge(below_skin / (6 * scale))
    shoulder *= _bulge((width * 1.5 + wall - aside) / (6 * scale))
    shoulder *= _bulge((0.5 * anatomy.height - y) / (0.35 * anatomy.height))
    parts = [trunk, neck, shoulder]
    for sign in SIDES.values():
        arm = np.zeros(y.shape, np.float32)
        start = np.array([sign * (1.3 * width.max() + 0.5 * wall), 4.2 * scale])
        reach = 30 * scale * np.array([sign * anatomy.arm_spread, 1.0])
        line = start + np.linspace(0, 1, 12)[:, None] * reach
        taper = np.linspace(1.15, 0.85, 12)
        add_tube(arm, view, line, (4.4 * scale + 0.4 * wall) * taper, 9.5 * scale + 0.6 * wall)
        parts.append(arm)
    # A soft maximum: the parts pass into one another without a crease.
    body = (sum(part**4 for part in parts) ** 0.25).astype(np.float32)
    if anatomy.breast:
        body += sum(_breast(anatomy, sign * offset, y) for sign in SIDES.values())
    return cv2.GaussianBlur(body.astype(np.float32), (0, 0), 0.25 * scale * view.pixels_per_cm)


def _breast(anatomy: Anatomy, lateral: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A hanging half-ellipsoid with a distinct lower fold."""
    radius = 5.0 * anatomy.scale + 0.8 * anatomy.breast
    across = (lateral - 0.62 * anatomy.half_width["left"]) / radius
    down = (y - 0.8 * anatomy.height) / radius
    down = np.where(down < 0, down * 0.62, down)
    return anatomy.breast * np.clip(1 - across**2 - down**2, 0, None) ** 0.6


def add_tube(
    canvas: np.ndarray,
    view: View,
    points: np.ndarray,
    radius: float | np.ndarray,
    thickness: float | np.ndarray,
    hollow: float = 0.0,
) -> None:
    """Add the projection of a round tube along a curve.

    Args:
        canvas: float32 (H, W) cm, changed in place.
        view: Maps centimetres to pixels.
        points: (K, 2) cm along the tube's axis, close enough to look smooth.
        radius: Half-width across the axis in cm, one or K values.
        thickness: Along the ray at the axis in cm, one or K values.
        hollow: Radius of the marrow as a part of `radius`; 0 is solid.
    """
    axis = view.to_pixels(points)
    radii = np.broadcast_to(np.float32(radius), len(axis)) * np.float32(view.pixels_per_cm)
    depths = np.broadcast_to(np.float32(thickness), len(axis))
    if radii.max() < 0.4:
        return  # thinner than a pixel: the grid would hit it here and miss it there
    margin = float(radii.max()) + 1
    left, top = np.maximum(np.floor(axis.min(axis=0) - margin), 0).astype(int)
    right, bottom = np.maximum(np.ceil(axis.max(axis=0) + margin), -1).astype(int) + 1
    patch = canvas[top:bottom, left:right]
    if patch.size == 0:
        return
    rows = np.arange(top, top + patch.shape[0], dtype=np.float32)
    columns = np.arange(left, left + patch.shape[1], dtype=np.float32)
    down = (rows[:, None] - axis[:, 1]) ** 2
    aside = (columns[:, None] - axis[:, 0]) ** 2
    distances = down[:, None] + aside
    nearest = distances.argmin(axis=2)
    steps = np.hypot(*np.diff(axis, axis=0).T).max() if len(axis) > 1 else 0.0
    smallest = np.take_along_axis(distances, nearest[..., None], axis=2)[..., 0]
    close = np.nonzero(smallest <= margin**2 + steps**2)
    pixels = np.stack([columns[close[1]], rows[close[0]]], axis=1)
    squared, position = _across(axis, radii, pixels, nearest[close])
    chord = np.sqrt(np.clip(1 - squared, 0, None))
    if hollow:
        chord -= 0.85 * np.sqrt(np.clip(hollow**2 - squared, 0, None))
    patch[close] += np.interp(position, np.arange(len(axis)), depths).astype(np.float32) * chord


def _across(
    axis: np.ndarray, radii: np.ndarray, pixels: np.ndarray, nearest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels (N, 2) lie in a tube: (distance from the axis / radius)², place along it."""
    last = len(axis) - 1
    along = axis[np.r_[1 : last + 1, last]] - axis[np.r_[0, :last]]
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    along /= length[:, None]
    away = pixels - axis[nearest]
    tangent = along[nearest]
    across = away[:, 0] * tangent[:, 1] - away[:, 1] * tangent[:, 0]
    forward = (away * tangent).sum(axis=1)
    inner = (nearest > 0) & (nearest < last)
    position = np.clip(nearest + forward / length[nearest] * np.where(inner, 2, 1), 0, last)
    # Beyond an end the distance along the axis counts too: the tube ends in a round cap.
    ends = ((nearest == 0) & (forward < 0)) | ((nearest == last) & (forward > 0))
    radius = np.interp(position, np.arange(last + 1), radii)
    squared = (across**2 + np.where(ends, forward**2, 0)) / radius**2
    return squared.astype(np.float32), position
