"""Bones, airways, vessels and disease, added to the phantom's projected soft parts."""

from __future__ import annotations

import cv2
import numpy as np

from lungseg_utils.data.phantom_anatomy import SIDES, Anatomy
from lungseg_utils.data.phantom_projection import Chest, View, add_tube

_RIB_DROP = (4.2, 6.0, 7.4, 8.4, 9.0, 9.4, 9.4, 9.2, 8.8, 8.0)  # cm from spine to breastbone


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
    across = np.linspace(-half, half, 9)
    waist = 0.06 * scale * np.cos(np.pi * across / half)
    body = np.stack([middle + across * 0.9, np.full(9, y + tall / 2)], axis=1)
    add_tube(bone, view, body, 0.5 * tall, 0.85 * scale)
    for level in (y + 0.08 * tall + waist, y + 0.92 * tall - waist):
        add_tube(bone, view, np.stack([middle + across, level], 1), 0.11 * scale, 0.35 * scale)
    for sign in (-1, 1):
        pedicle = np.array([[0, 0.22 * tall], [0, 0.5 * tall]])
        pedicle += np.array([middle + sign * 0.62 * half, y])
        add_tube(bone, view, pedicle, 0.33 * scale, 0.5 * scale, hollow=0.7)
        process = [
            [middle + sign * half, y + 0.3 * tall],
            [middle + sign * 2 * half, y + 0.2 * tall],
        ]
        add_tube(bone, view, np.array(process), 0.35 * scale, 0.35 * scale)
    spinous = np.array([[middle, y + 0.6 * tall], [middle, y + 1.05 * tall]])
    add_tube(bone, view, spinous, 0.22 * scale, 0.6 * scale)


def _add_rib(bone, anatomy: Anatomy, view: View, side: str, sign: float, number: int) -> None:
    """One rib: an arc in a tilted plane, from the spine round the side to the front."""
    scale, height = anatomy.scale, anatomy.height
    spacing = height / 22.0
    start = spacing * (-1.9 + 2.0 * number + 0.035 * number**2)
    drop = _RIB_DROP[number] * spacing * anatomy.rib_slope
    turn = np.linspace(0.12, 2.65 - 0.09 * max(number - 5, 0), 64)
    reach = float(anatomy.cage_width(np.array(start + 0.55 * drop), side)) + 0.25 * scale
    if number == 0:
        reach = 0.85 * reach
    lateral = reach * np.sin(turn)
    rise = 0.5 * spacing * np.sin(2 * turn) * (turn < np.pi / 2)
    y = start + drop * (1 - np.cos(turn)) / 2 - rise
    x = anatomy.midline(y) + sign * lateral
    # Where the rib runs towards the detector the ray stays in it for longer.
    depth = 0.5 * float(anatomy.cavity_depth(np.array(start + 0.5 * drop + 2 * scale)))
    flat = np.hypot(reach * np.cos(turn), 0.5 * drop * np.sin(turn))
    steep = np.hypot(flat, depth * np.sin(turn)) / np.maximum(flat, 0.1)
    front = np.clip((turn - np.pi / 2) / 1.0, 0, 1)
    thickness = scale * 0.62 * np.minimum(steep, 2.6) * (1 - 0.35 * front)
    radius = scale * (0.58 + 0.16 * front)
    add_tube(bone, view, np.stack([x, y], axis=1), radius, thickness, hollow=0.78)


def _add_shoulder(bone, anatomy: Anatomy, view: View, sign: float, rng) -> None:
    scale, width = anatomy.scale, anatomy.half_width["left"]
    drop = anatomy.shoulder_drop

    def curve(points: list[tuple[float, float]], steps: int = 40) -> np.ndarray:
        knots = np.array(points) * [sign * width / 13.4, scale]
        return through(knots, steps)

    tilt = drop / scale + rng.normal(0, 0.3)
    clavicle = [(1.7, 3.6), (4.5, 2.6), (8.5, 1.2 + 0.3 * tilt), (12.5, -0.4 + 0.7 * tilt)]
    clavicle.append((16.4, -1.0 + tilt))
    radius = scale * np.linspace(0.8, 0.6, 40)
    add_tube(bone, view, curve(clavicle), radius, 0.85 * scale, hollow=0.7)
    joint = np.array([18.2, 2.6 + tilt])
    head = [tuple(joint), (joint[0] + 0.3, joint[1] + 0.4)]
    add_tube(bone, view, curve(head), 2.3 * scale, 1.6 * scale, hollow=0.9)
    shaft = np.array([joint * [sign * width / 13.4, scale]]) + np.linspace(0, 1, 30)[
        :, None
    ] * 24 * scale * np.array([sign * anatomy.arm_spread, 1.0])
    add_tube(bone, view, shaft, 1.15 * scale, 1.5 * scale, hollow=0.65)
    blade = [(12.2, 1.2 + tilt), (15.8, 2.8 + tilt), (15.6, 6.0 + tilt), (13.6, 13.5 + tilt)]
    blade += [(12.9, 12.5 + tilt), (12.2, 6.0 + tilt)]
    polygon = view.to_pixels(np.array(blade) * [sign * width / 13.4, scale])
    plate = np.zeros_like(bone)
    cv2.fillPoly(plate, [np.round(polygon * 16).astype(np.int32)], 0.28 * scale, cv2.LINE_8, 4)
    bone += cv2.GaussianBlur(plate, (0, 0), 0.12 * scale * view.pixels_per_cm)
    lateral = [(16.2, 4.0 + tilt), (15.3, 8.0 + tilt), (13.6, 13.3 + tilt)]
    add_tube(bone, view, curve(lateral), 0.42 * scale, 0.55 * scale)
    spine = [(12.4, 2.9 + tilt), (15.0, 1.2 + tilt), (18.0, -0.6 + tilt)]
    add_tube(bone, view, curve(spine), 0.5 * scale, 0.5 * scale)


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
    middle = anatomy.midline(y) + shift * np.clip(y / carina, 0, 1)
    add_tube(chest.air, view, np.stack([middle, y], 1), 0.82 * scale, 1.5 * scale)
    fork = np.array([middle[-1], carina])
    for end, radius in (((-3.2, 3.6), 0.6), ((4.2, 2.9), 0.5)):
        line = fork + np.linspace(0, 1, 12)[:, None] * np.array(end) * scale
        add_tube(chest.air, view, line, radius * scale, 1.0 * scale)
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
