"""Handmade bundles for the tests, in the layouts and with the texts of the real ones."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path


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
