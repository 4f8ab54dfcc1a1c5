"""Bones, airways, vessels and disease, added to the phantom's projected soft parts."""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.phantom.anatomy import SIDES, Anatomy
from lungseg_utils.phantom.projection import Chest, View, add_tube

_RIB_DROP = (4.4, 6.0, 7.4, 8.4, 9.0, 9.4, 9.4, 9.2, 8.6, 7.8, 6.5)  # cm from spine to breastbone


def add_bones(chest: Chest, anatomy: Anatomy, view: View, rng: np.random.Generator) -> None:
    """Add spine, ribs, clavicles, shoulder blades and arm bones to `chest.bone`."""
    density = rng.uniform(0.8, 1.2)
    bone = np.zeros_like(chest.bone)
    _add_spine(bone, anatomy, view)
    for side, sign in SIDES.items():
        for number in range(len(_RIB_DROP)):
            _add_rib(bone, anatomy, view, side, sign, number)
        _add_shoulder(bone, anatomy, view, sign, rng)
    chest.bone += density * bone


def _add_spine(bone: np.ndarray, anatomy: Anatomy, view: View) -> None:
    scale = anatomy.scale
    y = -9.0 * scale
    while y < anatomy.height + 14 * scale:
        part = np.clip(y / anatomy.height, -0.3, 1.2)
        tall = scale * (1.55 + 0.75 * part)
        half = scale * (1.25 + 0.45 * part)
        middle = float(anatomy.midline(np.array(y + tall / 2)))
        _add_vertebra(bone, view, middle, y, half, tall, scale)
        y += tall + 0.38 * scale


def _add_vertebra(bone, view, middle, y, half, tall, scale) -> None:
    """A body with dense end plates, two pedicles, a spinous and two transverse processes."""
    centre = np.array([middle, y])
    body = np.array([[0, 0.12 * tall], [0, 0.5 * tall], [0, 0.88 * tall]])
    add_tube(bone, view, centre + body, half, 0.55 * scale)
    across = np.linspace(-0.85 * half, 0.85 * half, 5)
    waist = 0.08 * scale * np.cos(np.pi * across / half)
    for level in (0.06 * tall + waist, 0.94 * tall - waist):
        plate = np.stack([across, level], axis=1)
        add_tube(bone, view, centre + plate, 0.13 * scale, 0.22 * scale)
    for sign in (-1, 1):
        pedicle = np.array([[sign * 0.62 * half, 0.25 * tall], [sign * 0.62 * half, 0.5 * tall]])
        add_tube(bone, view, centre + pedicle, 0.32 * scale, 0.4 * scale, hollow=0.7)
        process = np.array([[sign * half, 0.3 * tall], [sign * 1.9 * half, 0.2 * tall]])
        add_tube(bone, view, centre + process, 0.36 * scale, 0.25 * scale)
    spinous = np.array([[0, 0.6 * tall], [0, 1.05 * tall]])
    add_tube(bone, view, centre + spinous, 0.22 * scale, 0.3 * scale)


def _add_rib(bone, anatomy: Anatomy, view: View, side: str, sign: float, number: int) -> None:
    """One rib: an arc in a tilted plane, from the spine round the side to the front."""
    scale, height = anatomy.scale, anatomy.height
    spacing = height / 22.0
    start = spacing * (-1.0 + 1.9 * number + 0.035 * number**2)
    drop = _RIB_DROP[number] * spacing * anatomy.rib_slope
    turn = np.linspace(0.12, 2.65 - 0.11 * max(number - 5, 0), 32)
    rise = 0.5 * spacing * np.sin(2 * turn) * (turn < np.pi / 2)
    y = start + drop * (1 - np.cos(turn)) / 2 - rise
    # The power makes the rib hug the side wall for a while, as it does around a broad chest.
    reach = anatomy.cage_width(np.maximum(y, 0.03 * height), side) + 0.3 * scale
    x = anatomy.midline(y) + sign * reach * np.sin(turn) ** 0.8
    # Where the rib runs towards the detector the ray stays in it for longer.
    depth = 0.5 * float(anatomy.cavity_depth(np.array(start + 0.5 * drop + 2 * scale)))
    flat = np.hypot(reach * np.cos(turn), 0.5 * drop * np.sin(turn))
    steep = np.hypot(flat, depth * np.sin(turn)) / np.maximum(flat, 0.1)
    front = np.clip((turn - np.pi / 2) / 1.0, 0, 1)
    neck = np.clip((turn - 0.12) / 0.3, 0.35, 1)
    end = np.clip((turn[-1] - turn) / 0.7, 0.0, 1.0)
    thickness = scale * (0.55 if number == 0 else 0.9) * np.minimum(steep, 2.0)
    thickness = thickness * neck * (0.2 + 0.8 * end)
    radius = scale * (0.62 * np.sqrt(neck) + 0.22 * front)
    add_tube(bone, view, np.stack([x, y], axis=1), radius, thickness, hollow=0.72)


def _add_shoulder(bone, anatomy: Anatomy, view: View, sign: float, rng) -> None:
    """Clavicle, shoulder blade and upper arm of one side."""
    scale, width = anatomy.scale, anatomy.half_width["left"]
    lift = rng.normal(0, 0.3) * scale

    def below_skin(part: float, depth: float) -> tuple[float, float]:
        """Point at a part of the chest's half-width, so many cm below the shoulder's skin."""
        return part * width, float(anatomy.shoulder_line(np.array(part * width))) + depth * scale

    def curve(knots: list[tuple[float, float]]) -> np.ndarray:
        return through(np.array(knots) * [sign, 1.0] + [0.0, lift], 24)

    middle = below_skin(0.9, 2.2)
    inner = (0.5 * width, 2.2 * scale + 0.4 * middle[1])
    clavicle = [(1.7 * scale, 4.4 * scale), inner, middle, below_skin(1.18, 1.8)]
    taper = scale * np.linspace(0.85, 0.6, 24)
    add_tube(bone, view, curve(clavicle), taper, 1.1 * scale, hollow=0.72)
    joint = np.array(below_skin(1.33, 3.4))
    reach = 22 * scale * np.array([anatomy.arm_spread, 1.0])
    arm = [tuple(joint + part * reach) for part in (0.0, 0.04, 0.2, 0.5, 1.0)]
    radius = scale * np.interp(np.linspace(0, 4, 24), [0.0, 1.0, 2.0, 4.0], [2.2, 2.1, 1.2, 1.1])
    add_tube(bone, view, curve(arm), radius, 1.7 * scale, hollow=0.72)
    _add_blade(bone, view, curve, joint, width, scale)


def _add_blade(bone, view: View, curve, joint: np.ndarray, width: float, scale: float) -> None:
    x, y = joint[0] - 2.6 * scale, joint[1]
    outline = [(x, y - scale), (x + 0.3 * scale, y + 2 * scale), (x - 1.5 * scale, y + 7 * scale)]
    tip = (0.98 * width, y + 11.5 * scale)
    outline += [tip, (0.92 * width, y + 8 * scale), (0.9 * width, y + 0.5 * scale)]
    outline += [(0.95 * width, y - 1.2 * scale), (x, y - scale)]
    plate = np.zeros_like(bone)
    corners = np.round(view.to_pixels(curve(outline)) * 16).astype(np.int32)
    cv2.fillPoly(plate, [corners], 0.3 * scale, cv2.LINE_8, 4)
    bone += cv2.GaussianBlur(plate, (0, 0), 0.15 * scale * view.pixels_per_cm)
    fading = scale * np.linspace(0.6, 0.15, 24)
    add_tube(bone, view, curve(outline[1:4]), 0.4 * scale, 0.8 * fading)
    ridge = [(x + 2.2 * scale, y - 2.6 * scale), (x, y - 1.2 * scale), outline[-3]]
    add_tube(bone, view, curve(ridge), 0.6 * scale, fading)
    add_tube(bone, view, curve(outline[:2]), 0.5 * scale, 0.3 * scale)


def through(knots: np.ndarray, steps: int) -> np.ndarray:
    """Points of a Catmull-Rom curve through knots (N, 2); float (steps, 2)."""
    padded = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    position = np.linspace(0, len(knots) - 1 - 1e-9, steps)
    index = position.astype(int)
    t = (position - index)[:, None]
    a, b, c, d = (padded[index + shift] for shift in range(4))
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


def add_airways(chest: Chest, anatomy: Anatomy, view: View, rng: np.random.Generator) -> None:
    """Add the windpipe and the main bronchi to `chest.air`, and at times gas in the stomach."""
    scale, height = anatomy.scale, anatomy.height
    carina = 0.29 * height
    y = np.linspace(-10 * scale, carina, 30)
    shift = rng.normal(-0.15, 0.2) * scale
    closing = 1.7 * scale * np.clip(np.linspace(6, 0.3, 30), 0, 1)
    middle = anatomy.midline(y) + shift * np.clip(y / carina, 0, 1)
    add_tube(chest.air, view, np.stack([middle, y], 1), 0.85 * scale, closing)
    fork = np.array([middle[-1], carina])
    for end, radius in (((-3.2, 3.6), 0.6), ((4.2, 2.9), 0.5)):
        line = fork + np.linspace(0, 1, 12)[:, None] * np.array(end) * scale
        add_tube(chest.air, view, line, radius * scale, scale * np.linspace(0.8, 0.3, 12))
    if rng.random() < 0.75:
        _add_stomach_gas(chest.air, anatomy, view, rng)
    chest.air[:] = np.minimum(chest.air, np.maximum(chest.body - chest.lung, 0))


def _add_stomach_gas(air, anatomy: Anatomy, view: View, rng) -> None:
    scale = anatomy.scale
    lateral = anatomy.half_width["left"] * rng.uniform(0.35, 0.6)
    dome = float(anatomy.diaphragm(np.array(lateral), "left"))
    half_width, half_height = scale * rng.uniform(1.6, 3.6), scale * rng.uniform(0.8, 2.2)
    x, y = view.grid()
    across = (x - lateral) / half_width
    down = (y - dome - half_height - 0.7 * scale) / half_height
    if rng.random() < 0.5:  # standing: fluid below gives a level
        down = np.where(down > rng.uniform(-0.2, 0.5), 9.0, down)
    lumps = 1 + 0.25 * np.sin(3 * np.arctan2(down, across) + rng.uniform(0, 6))
    chord = np.clip(1 - (across**2 + down**2) * lumps, 0, None) ** 0.5
    air += (scale * rng.uniform(2.5, 6.0) * chord).astype(np.float32)
