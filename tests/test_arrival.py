from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_utils.acquire.arrival import check_bundle, require_whole
from lungseg_utils.errors import DownloadError, MissingInputError
from tests.bundles import cut_short, png_header, small_cases, write_image
from tests.bundles import write_small_bundle as write_bundle

CASES = small_cases()
IMAGE, MASK = "CXR_png/MCUCXR_0001_0.png", "masks/MCUCXR_0001_0.png"


def test_every_file_is_hashed_and_measured(tmp_path: Path):
    bundle = write_bundle(tmp_path / "Lung Segmentation")
    for side in ("leftMask", "rightMask"):
        shutil.copytree(bundle / "masks", bundle / "ManualMask" / side)
    (bundle / "ClinicalReadings").mkdir()
    (bundle / "ClinicalReadings" / "MCUCXR_0001_0.txt").write_text("normal, <3 cm")
    # Kaggle's bundle holds itself once more in `data/`, and its unmasked X-rays in `test/`.
    write_bundle(tmp_path / "data" / "Lung Segmentation")
    shutil.copytree(bundle / "CXR_png", bundle / "test")
    arrival = check_bundle(tmp_path, CASES)
    assert arrival.folder == bundle
    assert len(arrival.files) == 13
    for name, file in arrival.files.items():
        assert file.sha256 == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    assert arrival.files["masks/CHNCXR_0001_0_mask.png"].size == (40, 42)
    assert arrival.files["ClinicalReadings/MCUCXR_0001_0.txt"].size is None
    assert arrival.summary() == (
        "3 X-rays, 3 lung masks, 6 masks of single lungs and 1 readings; every image decodes."
    )
    require_whole(arrival)


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (lambda size: (16, 16), "16 × 16"),
        (lambda size: (size[0] // 2, size[1] // 2), "50 % of their size"),
        # To 24 pixels along the longer side:
        (lambda size: tuple(round(side * 24 / max(size)) for side in size), "50–67 % of their"),
    ],
)
def test_a_resized_copy_is_recognised(tmp_path: Path, resize, expected: str):
    arrival = check_bundle(write_bundle(tmp_path, resize), CASES)
    assert arrival.resized.startswith(expected)
    assert arrival.odd_sizes == {}
    [line] = arrival.summary().splitlines()
    assert line.endswith(f"Not the originals: a copy resized to {arrival.resized}.")


@pytest.mark.parametrize(("kind", "resized"), [("nlm512", "512 × 512"), ("originals", "")])
def test_real_files_are_recognised(tmp_path: Path, shared_data: Path, kind: str, resized: str):
    for folder in ("CXR_png", "masks"):
        (tmp_path / folder).mkdir()
        for path in sorted((shared_data / kind / folder).glob("MCUCXR_*.png"))[:2]:
            (tmp_path / folder / path.name).symlink_to(path)
    arrival = check_bundle(tmp_path)
    assert (arrival.resized, arrival.odd_sizes, arrival.damaged) == (resized, {}, {})
    assert arrival.count("CXR_png") == arrival.count("masks") == 2


def test_an_odd_size_is_named(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    write_image(bundle / IMAGE, (40, 48))
    write_image(bundle / MASK, (40, 48))
    write_image(bundle / "masks" / "CHNCXR_0002_1_mask.png", (36, 31))
    write_image(bundle / "CXR_png" / "stranger.png", (5, 5))
    arrival = check_bundle(bundle, CASES)
    assert arrival.resized == ""
    assert arrival.odd_sizes == {
        IMAGE: "40 × 48, as published 48 × 40",
        "masks/CHNCXR_0002_1_mask.png": "36 × 31, its X-ray 36 × 30",
    }
    assert f"Of another size (2): {IMAGE} is 40 × 48" in arrival.summary()
    require_whole(arrival)
    # And an original among resized ones:
    shutil.rmtree(bundle / "masks")
    write_bundle(bundle, lambda size: (16, 16))
    write_image(bundle / IMAGE, (48, 40))
    arrival = check_bundle(bundle, CASES)
    assert arrival.resized == "16 × 16"
    assert [*arrival.odd_sizes] == [IMAGE, MASK]


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


DAMAGES = [
    # Of its end, the decoder would not miss the last 12 bytes, nor the last row's tail;
    *[("png", lambda content, cut=cut: content[:-cut]) for cut in (1, 4, 12, 13, 40, 2000)],
    # nor a wrong bit.
    *[("png", lambda content, at=at: flip(content, at)) for at in (9, 20, 45, 1000, 3000, -6, -2)],
    *[("jpg", lambda content, cut=cut: content[:-cut]) for cut in (1, 30, 1000)],
    ("png", lambda content: b"a mask"),
    ("jpg", lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("png", lambda content: png_header(30_000, 30_000)),
]


def test_damage_of_any_kind_is_named(tmp_path: Path):
    # Of this one the decoder makes other pixels, without a word, where bit 2 of byte 1000 is wrong.
    image = np.multiply.outer(np.arange(200), np.arange(200)) // 50 % 256
    paths = [tmp_path / f"CXR_png/{n}.{suffix}" for n, (suffix, _) in enumerate(DAMAGES)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(image.astype(np.uint8)).save(path)
    assert check_bundle(tmp_path, CASES).damaged == {}
    for path, (_, damage) in zip(paths, DAMAGES, strict=True):
        path.write_bytes(damage(path.read_bytes()))
    damaged = check_bundle(tmp_path, CASES).damaged
    assert len(damaged) == len(DAMAGES)


def test_every_damaged_file_is_named_with_its_reason(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    (bundle / "ClinicalReadings").mkdir()
    page = "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    names = [IMAGE, MASK, "ClinicalReadings/MCUCXR_0001_0.txt"]
    (bundle / IMAGE).write_text(page)
    (bundle / MASK).write_bytes(png_header(9000, 9000))
    (bundle / names[2]).write_text(page)
    (bundle / "CXR_png" / "CHNCXR_0003_0.png").touch()
    cut_short(bundle / "CXR_png" / "CHNCXR_0001_0.png")
    arrival = check_bundle(bundle, CASES)
    assert len(arrival.damaged) == 5
    assert "9000 × 9000 pixels" in arrival.damaged[MASK]
    assert arrival.damaged["CXR_png/CHNCXR_0003_0.png"] == "an empty file"
    assert "5 files are damaged" in arrival.summary()
    with pytest.raises(DownloadError, match=r"page") as caught:
        require_whole(arrival)
    assert "SOURCE" in caught.value.advice
    for name in arrival.damaged:
        assert f"\n    {name}: " in caught.value.received
    assert "CHNCXR_0002" not in caught.value.received


def test_a_bundle_without_images_is_refused(tmp_path: Path):
    (tmp_path / "CXR_png").mkdir()
    with pytest.raises(DownloadError, match="no image file"):
        check_bundle(tmp_path)
    with pytest.raises(MissingInputError, match="CXR_png"):
        check_bundle(tmp_path / "CXR_png")
