"""A handmade pairing of seven small X-rays of every kind that a bundle can hold."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lungseg_utils.bundle import Pair, Pairing
from lungseg_utils.manifest import Case
from tests.bundles import make_case

# Width and height of each X-ray, all multiples of 16; the last one has no mask.
CASES = {
    "CHNCXR_0001_0": ("train", 64, 48),
    "CHNCXR_0002_1": ("train", 48, 64),
    "CHNCXR_0003_0": ("val", 32, 32),
    "CHNCXR_0004_1": ("excluded", 16, 16),
    "MCUCXR_0001_0": ("test", 80, 64),
    "MCUCXR_0002_1": ("train", 64, 80),
    "CHNCXR_0005_0": ("unlabelled", 32, 48),
}
TWELVE_BIT = "MCUCXR_0001_0"
LEFT_AND_RIGHT = "MCUCXR_0002_1"
AGE_UNKNOWN = "CHNCXR_0002_1"


def case_of(image_id: str) -> Case:
    split, width, height = CASES[image_id]
    unknown = image_id == AGE_UNKNOWN
    return replace(
        make_case(image_id, (width, height), split),
        mask_file="" if split == "unlabelled" else f"{image_id}_mask.png",
        tuberculosis=image_id.endswith("1"),
        sex="" if unknown else "F",
        age_years=None if unknown else 34,
        patient_group=image_id[:-2],
        questionable_mask=image_id == "CHNCXR_0003_0",
    )


def arrays_of(image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The X-ray as stored, and its mask {0, 1} (all 0 where it has none)."""
    split, width, height = CASES[image_id]
    rng = np.random.default_rng(list(image_id.encode()))
    image = rng.integers(0, 256, (height, width), dtype=np.uint8)
    if image_id == TWELVE_BIT:
        # From 0 to 4080, so that windowing gives back these levels.
        image[0, :2] = 0, 255
        image = image.astype(np.uint16) * 16
    mask = np.zeros((height, width), np.uint8)
    if split != "unlabelled":
        mask[height // 4 : height // 2, 1 : width // 3] = 1
        mask[height // 4 : height // 2, width // 2 : -3] = 1
    return image, mask


def write_pairing(folder: Path) -> Pairing:
    """Write the files and pair them; deliberately not in the order of the ids."""
    pairing = Pairing()
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in reversed(CASES):
        case, (image, mask) = case_of(image_id), arrays_of(image_id)
        path = folder / case.image_file
        Image.fromarray(image).save(path)
        if not case.mask_file:
            pairing.unlabelled.append(Pair(case, path))
            continue
        masks = {"mask": mask}
        if image_id == LEFT_AND_RIGHT:
            right = mask * (np.arange(mask.shape[1]) < mask.shape[1] // 2)
            masks = {"left": mask - right, "right": right}
        files = tuple(folder / f"{image_id}_{name}.png" for name in masks)
        for file, values in zip(files, masks.values(), strict=True):
            Image.fromarray((values * 255).astype(np.uint8)).save(file)
        pairing.pairs.append(Pair(case, path, files))
    return pairing


def tiff(values: np.ndarray, photometric: int, orientation: int = 1) -> bytes:
    """An uncompressed TIFF of grey (H, W) or RGB (H, W, 3), with tags as one wants them."""
    (height, width), channels = values.shape[:2], values[0, 0].size
    bits, pixels = 8 * values.itemsize, values.astype(values.dtype.newbyteorder("<")).tobytes()
    long, short, tags = 4, 3, 11
    after_tags = 8 + 2 + 12 * tags + 4
    fields = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits if channels == 1 else after_tags),
        (259, short, 1, 1),  # Not compressed.
        (262, short, 1, photometric),
        (273, long, 1, after_tags + 2 * channels),
        (274, short, 1, orientation),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, len(pixels)),
        (284, short, 1, 1),  # Channels interleaved.
    ]
    content = b"II*\0" + struct.pack("<IH", 8, tags)
    content += b"".join(struct.pack("<HHII", *field) for field in fields)
    return content + bytes(4) + struct.pack(f"<{channels}H", *[bits] * channels) + pixels
