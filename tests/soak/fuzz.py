"""Damaged and hostile bytes, many thousands of them: each is read rightly or refused with a reason.

`run(count, folder, seed)` draws its cases from the seed alone. They run in processes of their own,
so that a crash, a hang or a run on the memory is found, and its case named, instead of ending the
search. A case is one of

- an image: a drawn PNG, JPEG, TIFF, GIF or BMP with bytes flipped, cut, spliced or edited;
- an archive: a zip file treated likewise, or one with names and sizes that mean harm;
- weights: a `.npz` treated likewise, with its SHA-256 vouched for;
- a manifest: its text treated likewise.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

import cv2
import numpy as np
from PIL import Image

from lungseg_utils.acquire.archives import unpack_zip
from lungseg_utils.errors import ImageFileError, LungsegError
from lungseg_utils.manifest import default_manifest_path, load_manifest
from lungseg_utils.preparation.imaging import read_image, read_mask
from lungseg_utils.training.weights import read_weights

BATCH = 500
SECONDS = 10  # the longest that one case of a few kilobytes may take
MEGABYTES = 1024  # the most that a process may grow over its first case
KINDS = ("image",) * 6 + ("archive",) * 2 + ("weights", "manifest")
OUTSIDE = Path(tempfile.gettempdir()) / "lungseg-fuzz-outside.png"
HOSTILE_NAMES = [str(OUTSIDE), "../outside.png", "a/../../outside.png", "C:\\outside.png", "CON"]
HOSTILE_NAMES += ["..\\outside.png", "dir/", "./a", "a//b", ".", "A.png", "é.png", "e\u0301.png"]
HOSTILE_NAMES += [" ", "", "a\0b.png", "a" * 300]


def run(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Try a number of cases.

    Args:
        count: Cases in all.
        folder: For the files of a case; `found.txt` there names the cases that failed.
        seed: Gives the cases; one case again: `python tests/soak/fuzz.py FOLDER SEED NUMBER 1`.

    Returns:
        How many cases there were of each kind, how many were `read` and how many `refused`, and
        what must be 0: `crashed`, `hung`, `wrong` (another error, a wrong result, a file outside
        or too much memory).
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter(crashed=0, hung=0, wrong=0)
    number = 0
    while number < count:
        number += _run_batch(folder, seed, number, min(BATCH, count - number), counts)
    return dict(counts)


def _run_batch(folder: Path, seed: int, first: int, cases: int, counts: Counter) -> int:
    """Run cases in a process; returns how many are done, up to the one that ended it."""
    place = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, __file__, *map(str, (place, seed, first, cases))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    ended = ""
    try:
        output, _ = process.communicate(timeout=60 + cases * SECONDS / 10)
        ended = "crashed" if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ended = "hung"
    shutil.rmtree(place, ignore_errors=True)
    lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    for line in lines:
        counts.update([line["kind"], line["outcome"]])
        if line["outcome"] not in {"read", "refused"}:
            _note(folder, seed, line["number"], line["outcome"], line.get("said", ""))
    if ended:
        counts[ended] += 1
        _note(folder, seed, first + len(lines), ended, f"exit code {process.returncode}")
        return len(lines) + 1
    return cases


def _note(folder: Path, seed: int, number: int, outcome: str, said: str) -> None:
    with (folder / "found.txt").open("a", encoding="utf-8") as file:
        file.write(f"seed {seed} case {number}: {outcome}: {said}\n")


# What runs in the process of a batch


def run_case(place: Path, seed: int, number: int) -> dict[str, object]:
    """Run one case; returns its kind and outcome."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[rng.integers(len(KINDS))]
    started = time.perf_counter()
    result: dict[str, object] = {"number": number, "kind": kind}
    try:
        CASES[kind](rng, place)
        result["outcome"] = "read"
    except LungsegError as error:
        # An error that explains nothing is none.
        explained = error.rule and str(error.received) and error.advice
        result["outcome"] = "refused" if explained else "wrong"
    except Exception as error:
        result |= {"outcome": "wrong", "said": f"{type(error).__name__}: {error}"}
    if (seconds := time.perf_counter() - started) > SECONDS:
        result |= {"outcome": "hung", "said": f"{kind}: {seconds:.0f} s"}
    return result


def _image_case(rng: np.random.Generator, place: Path) -> None:
    suffix, whole = IMAGES[rng.integers(len(IMAGES))]
    path = place / f"case{suffix}"
    path.write_bytes(damage(whole, rng, [other for _, other in IMAGES]))
    read = read_mask if rng.random() < 0.2 else read_image
    try:
        values = read(path)
    except ImageFileError as error:
        _require(path.name in str(error.received), f"the file is not named in {error.received}")
        raise
    _require(values.ndim == 2 and values.size > 0 and values.dtype == np.uint8, "no grey image")


def _archive_case(rng: np.random.Generator, place: Path) -> None:
    box = place / "archive"
    (box / "outer").mkdir(parents=True)
    archive = box / "case.zip"
    archive.write_bytes(damage(_draw_archive(rng), rng, ARCHIVES, share=0.6))
    try:
        unpack_zip(archive, box / "outer" / "inner")
    finally:
        outside = {path.name for path in [*box.iterdir(), *(box / "outer").iterdir()]}
        outside -= {"case.zip", "outer", "inner"}
        if OUTSIDE.exists():
            OUTSIDE.unlink()
            outside.add(str(OUTSIDE))
        links = [path.name for path in box.rglob("*") if path.is_symlink()]
        shutil.rmtree(box)
        _require(not outside and not links, f"outside: {outside}, links: {links}")


def _weights_case(rng: np.random.Generator, place: Path) -> None:
    content = damage(WEIGHTS, rng, [*ARCHIVES, IMAGES[0][1]])
    (place / "best.npz").write_bytes(content)
    try:
        arrays = read_weights(place / "best.npz", hashlib.sha256(content).hexdigest())
    except ValueError as error:
        # As `Run.load_model` does.
        raise LungsegError("A run's weights must be whole.", error, "Train again.") from error
    _require(all(array.dtype != object for array in arrays.values()), "objects")


def _manifest_case(rng: np.random.Generator, place: Path) -> None:
    path = place / "case.csv"
    path.write_bytes(damage(MANIFEST, rng, [MANIFEST[::-1]]))
    for case in load_manifest(path):
        _require("/" not in case.image_file + case.mask_file, "a folder in a name")


def _require(holds: object, said: str) -> None:
    if not holds:
        raise AssertionError(said)


CASES: dict[str, Callable[[np.random.Generator, Path], None]] = {
    "image": _image_case,
    "archive": _archive_case,
    "weights": _weights_case,
    "manifest": _manifest_case,
}


# Damage


def damage(
    whole: bytes, rng: np.random.Generator, others: list[bytes], share: float = 0.95
) -> bytes:
    """Damage bytes in one to three ways; the share of cases that is damaged at all."""
    content = bytearray(whole)
    if rng.random() < share:
        for _ in range(rng.integers(1, 4)):
            way = DAMAGES[rng.integers(len(DAMAGES))]
            content = way(content, rng, others) or bytearray(b"\0")
    return bytes(content)


def _flip(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return content


def _cut(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    return content[: rng.integers(len(content))]


def _remove(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    at = rng.integers(len(content))
    return content[:at] + content[at + rng.integers(1, 65) :]


def _repeat(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    at = rng.integers(len(content))
    part = content[at : at + rng.integers(1, 257)]
    return content[:at] + part * int(rng.integers(2, 5)) + content[at:]


def _splice(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    other = others[rng.integers(len(others))]
    at, start = rng.integers(len(content)), rng.integers(len(other))
    return content[:at] + other[start : start + rng.integers(1, 513)] + content[at:]


def _edit_header(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    """Put a telling number where the sizes of an image or a zip file stand."""
    value = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 30_000, 0x7FFFFFFF, 0xFFFFFFFF)[rng.integers(9)]
    form = ("<I", ">I", "<H", ">H", "B")[rng.integers(5)]
    packed = struct.pack(form, value & (256 ** struct.calcsize(form) - 1))
    end = len(content) if rng.random() < 0.3 else min(len(content), 200)
    at = rng.integers(end)
    content[at : at + len(packed)] = packed
    return content


def _mend_png(content: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    """Change a byte of a PNG's chunk, a length sometimes, and make its checksum right again."""
    chunks = _chunks_of(content)
    if not chunks:
        return _flip(content, rng, others)
    start, length = chunks[rng.integers(len(chunks))]
    body = slice(start + 4, start + 8 + length)
    content[rng.integers(body.start, body.stop)] = rng.integers(256)
    if rng.random() < 0.2:
        struct.pack_into(">I", content, start, int(rng.integers(2**32)))
    struct.pack_into(">I", content, body.stop, zlib.crc32(content[body]))
    return content


def _chunks_of(content: bytearray) -> list[tuple[int, int]]:
    """Start and length of a PNG's chunks, as far as they are whole."""
    chunks, start = [], 8
    while content[:4] == b"\x89PNG" and start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        if start + 12 + length > len(content):
            break
        chunks.append((start, length))
        start += 12 + length
    return chunks


DAMAGES = (_flip, _flip, _cut, _remove, _repeat, _splice, _edit_header, _edit_header, _mend_png)


# What is damaged


def _draw_images() -> list[tuple[str, bytes]]:
    """Every kind that is read, in each of its depths and compressions; and files of several."""
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 256, (24, 32), dtype=np.uint8), (5, 5), 0)
    colour = np.dstack([grey, grey // 2, 255 - grey])
    alpha = np.dstack([colour, np.full_like(grey, 200)])
    plain = [Image.fromarray(array) for array in (grey, colour, alpha)]
    palette, black = plain[1].quantize(16), Image.fromarray(grey > 120)
    deep, floats = Image.fromarray(grey.astype(np.uint16) * 16), Image.fromarray(grey / 255.0)
    several = {"save_all": True, "append_images": [Image.fromarray(255 - grey)]}
    compressed = [
        {"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    drawn = [("PNG", picture, {}) for picture in (*plain, palette, deep)]
    drawn += [("PNG", plain[0], several), ("PNG", black, {"transparency": 0})]
    drawn += [("JPEG", picture, {}) for picture in plain[:2]]
    drawn += [("JPEG", plain[1].convert("CMYK"), {"progressive": True})]
    drawn += [("TIFF", picture, {}) for picture in (*plain, palette, deep, floats)]
    drawn += [("TIFF", plain[0], options) for options in (*compressed, several)]
    drawn += [("TIFF", black, {"compression": "group4"})]
    drawn += [("GIF", palette, {}), ("GIF", palette, several), ("WEBP", plain[1], {})]
    drawn += [("BMP", picture, {}) for picture in (*plain, palette)] + [("PPM", plain[0], {})]
    images = [(f".{kind.lower()}", _encode(image, kind, **how)) for kind, image, how in drawn]
    wide = np.dstack([grey.astype(np.uint16) * 200] * 4)
    for suffix, channels in product((".png", ".tiff"), (3, 4)):
        images.append((suffix, cv2.imencode(suffix, wide[..., :channels])[1].tobytes()))
    return images


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    image = image.convert("F") if image.mode == "F" else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _draw_archive(rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return ARCHIVES[rng.integers(len(ARCHIVES))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(rng.integers(1, 4)):
            entry = zipfile.ZipInfo(str(rng.choice(HOSTILE_NAMES)))
            link = rng.random() < 0.2
            entry.external_attr = (0o120777 if link else 0o100644) << 16
            content = b"/tmp" if link else bytes(int(rng.choice([0, 10, 1000, 3_000_000])))
            archive.writestr(entry, content)
    return buffer.getvalue()


def _draw_archives() -> list[bytes]:
    archives = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for folder, (suffix, content) in zip(("CXR_png", "masks"), IMAGES, strict=False):
                archive.writestr(f"bundle/{folder}/CHNCXR_0001_0{suffix}", content)
        archives.append(buffer.getvalue())
    return archives


def _draw_weights() -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    kernel = rng.normal(size=(3, 3, 4, 4)).astype(np.float16)
    np.savez_compressed(buffer, **{"a/kernel": kernel, "a/bias": np.zeros(4, np.float32)})
    return buffer.getvalue()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    IMAGES = _draw_images()
ARCHIVES = _draw_archives()
WEIGHTS = _draw_weights()
MANIFEST = b"\n".join(default_manifest_path().read_bytes().splitlines()[:6]) + b"\n"


def _main(place: str, seed: str, first: str, cases: str) -> None:
    warnings.simplefilter("ignore")
    # Beyond this, an allocation fails where the machine would begin to swap.
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    os.environ["TQDM_DISABLE"] = "1"
    base = None
    for number in range(int(first), int(first) + int(cases)):
        result = run_case(Path(place), int(seed), number)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        base = base or peak
        if peak - base > MEGABYTES:
            result |= {"outcome": "wrong", "said": f"grew by {peak - base:.0f} MB"}
            base = peak
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
