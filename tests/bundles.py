"""Handmade bundles for the tests, in the layouts and with the texts of the real ones."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lungseg_utils.manifest import Case


def png_header(width: int, height: int) -> bytes:
    """A grey PNG that has its header but no pixels: enough to learn the size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def reading_text(row: dict[str, str]) -> str:
    """The text of a reading, in the format of the row's source."""
    if row["source"] == "montgomery":
        age = int(row["age_years"])
        return f"Patient's Sex: {row['sex']}\nPatient's Age: {age:03d}Y\n{row['finding']}\n"
    sex = {"M": "male", "F": "female"}[row["sex"]]
    return f"{sex} {row['age_years']}yrs\n{row['finding']}\n"


def write_headers_bundle(folder: Path, rows: Iterable[dict[str, str]]) -> Path:
    """Write a bundle of image headers, readings and empty mask files, all by name."""
    for name in ("CXR_png", "masks", "ClinicalReadings"):
        (folder / name).mkdir(parents=True)
    for row in rows:
        size = int(row["original_width"]), int(row["original_height"])
        (folder / "CXR_png" / row["image_file"]).write_bytes(png_header(*size))
        reading = folder / "ClinicalReadings" / f"{row['image_id']}.txt"
        reading.write_text(reading_text(row), encoding="utf-8")
        if row["mask_file"]:
            (folder / "masks" / row["mask_file"]).touch()
    return folder


def read_index(shared_data: Path) -> list[dict[str, str]]:
    """Rows of the index of the real X-rays."""
    with (shared_data / "nlm512" / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Three cases with sizes as published, of a fiftieth of what a film has.
SMALL_SIZES = {"CHNCXR_0001_0": (40, 42), "CHNCXR_0002_1": (36, 30), "MCUCXR_0001_0": (48, 40)}


def make_case(image_id: str, size: tuple[int, int] = (10, 10), split: str = "train") -> Case:
    """A case under the naming rules of its hospital; unlabelled, it has no mask."""
    chinese = image_id.startswith("CHN")
    mask_file = f"{image_id}{'_mask' * chinese}.png" if split != "unlabelled" else ""
    names = (image_id, "shenzhen" if chinese else "montgomery", f"{image_id}.png", mask_file)
    return Case(*names, False, "M", 40, *size, image_id, "", False, "", split)


def small_cases() -> list[Case]:
    """The cases of `SMALL_SIZES`, one in each learning split."""
    splits = ("train", "val", "test")
    return [
        make_case(image_id, size, split)
        for (image_id, size), split in zip(SMALL_SIZES.items(), splits, strict=True)
    ]


def write_image(path: Path, size: tuple[int, int], value: int = 7) -> None:
    """Write a PNG of one grey value; size is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path)


def write_small_bundle(folder: Path, resize=lambda size: size, value: int = 7) -> Path:
    """Write the bundle of `small_cases`: X-rays of one grey value, masks all lung."""
    for case in small_cases():
        size = resize((case.original_width, case.original_height))
        write_image(folder / "CXR_png" / case.image_file, size, value)
        write_image(folder / "masks" / case.mask_file, size, 255)
    return folder


def cut_short(path: Path) -> None:
    """Cut off the end of a file; of a small PNG, less than its pixels."""
    path.write_bytes(path.read_bytes()[:-20])


def failing(error: Exception) -> Callable:
    """A function that takes anything and raises an error."""

    def fail(*arguments, **keywords):
        raise error

    return fail


def set_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes left."""
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("lungseg_utils.files.storage.shutil.disk_usage", lambda folder: usage)


def read_tree(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, by its name relative to it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
