from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from lungseg_utils.acquire.arrival import (
    changed_files,
    check_bundle,
    mark_changed,
    record_arrival,
    record_path,
    recorded_hashes,
    require_whole,
    stamp_of_bundle,
    whole_hashes,
)
from lungseg_utils.errors import DownloadError, LungsegError, MissingInputError
from tests.bundles import png_header, small_cases, write_image
from tests.bundles import write_small_bundle as write_bundle

CASES = small_cases()


def test_every_file_is_hashed_and_measured(tmp_path: Path):
    bundle = write_bundle(tmp_path / "Lung Segmentation")
    for side in ("leftMask", "rightMask"):
        shutil.copytree(bundle / "masks", bundle / "ManualMask" / side)
    (bundle / "ClinicalReadings").mkdir()
    (bundle / "ClinicalReadings" / "MCUCXR_0001_0.txt").write_text("normal")
    arrival = check_bundle(tmp_path, CASES)
    assert arrival.folder == bundle
    for name, file in arrival.files.items():
        assert file.sha256 == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    assert arrival.files["masks/CHNCXR_0001_0_mask.png"].size == (40, 42)
    assert arrival.files["ClinicalReadings/MCUCXR_0001_0.txt"].size is None
    assert arrival.summary() == (
        "3 X-rays, 3 lung masks, 6 masks of single lungs and 1 readings; every image decodes."
    )
    require_whole(arrival)


def test_kaggles_repeats_are_not_counted(tmp_path: Path):
    """Kaggle's bundle holds itself once more in `data/`, and its unmasked X-rays in `test/`."""
    bundle = write_bundle(tmp_path / "Lung Segmentation")
    write_bundle(tmp_path / "data" / "Lung Segmentation")
    for place in (bundle, tmp_path / "data" / "Lung Segmentation"):
        shutil.copytree(bundle / "CXR_png", place / "test")
    arrival = check_bundle(tmp_path, CASES)
    assert len(arrival.files) == 6
    assert arrival.summary().startswith("3 X-rays, 3 lung masks and 0 readings")


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (lambda size: (16, 16), "16 × 16"),
        (lambda size: (size[0] // 2, size[1] // 2), "50 % of their size"),
        (lambda size: tuple(round(side * 24 / max(size)) for side in size), "24 pixels along"),
        (lambda size: tuple(round(side * 20 / min(size)) for side in size), "20 pixels along"),
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
    write_image(bundle / "CXR_png" / "MCUCXR_0001_0.png", (40, 48))
    write_image(bundle / "masks" / "MCUCXR_0001_0.png", (40, 48))
    write_image(bundle / "masks" / "CHNCXR_0002_1_mask.png", (36, 31))
    write_image(bundle / "CXR_png" / "stranger.png", (5, 5))
    arrival = check_bundle(bundle, CASES)
    assert arrival.resized == ""
    assert arrival.odd_sizes == {
        "CXR_png/MCUCXR_0001_0.png": "40 × 48, as published 48 × 40",
        "masks/CHNCXR_0002_1_mask.png": "36 × 31, its X-ray 36 × 30",
    }
    assert "Of another size (2): CXR_png/MCUCXR_0001_0.png is 40 × 48" in arrival.summary()
    require_whole(arrival)


def test_an_original_among_resized_ones_is_named(tmp_path: Path):
    bundle = write_bundle(tmp_path, lambda size: (16, 16))
    write_image(bundle / "CXR_png" / "MCUCXR_0001_0.png", (48, 40))
    arrival = check_bundle(bundle, CASES)
    assert arrival.resized == "16 × 16"
    assert [*arrival.odd_sizes] == ["CXR_png/MCUCXR_0001_0.png", "masks/MCUCXR_0001_0.png"]


def test_every_damaged_file_is_named(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    cut = bundle / "CXR_png" / "CHNCXR_0001_0.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    (bundle / "CXR_png" / "CHNCXR_0003_0.png").touch()
    (bundle / "CXR_png" / "CHNCXR_0004_0.png").write_bytes(png_header(30_000, 30_000))
    (bundle / "CXR_png" / "CHNCXR_0006_0.png").write_bytes(png_header(9000, 9000))
    (bundle / "masks" / "CHNCXR_0003_0_mask.png").write_text("a mask")
    (bundle / "masks" / "CHNCXR_0005_0_mask.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    arrival = check_bundle(bundle, CASES)
    assert len(arrival.damaged) == 6
    assert arrival.damaged["CXR_png/CHNCXR_0003_0.png"] == "an empty file"
    assert "900000000 pixels" in arrival.damaged["CXR_png/CHNCXR_0004_0.png"]
    assert "9000 × 9000 pixels" in arrival.damaged["CXR_png/CHNCXR_0006_0.png"]
    assert "6 files are damaged" in arrival.summary()
    with pytest.raises(DownloadError) as caught:
        require_whole(arrival)
    assert "6 damaged" in caught.value.received
    for name in arrival.damaged:
        assert f"\n    {name}: " in caught.value.received
    assert "CHNCXR_0002" not in caught.value.received


def test_a_web_page_in_an_image_s_place_is_explained(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    page = "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    (bundle / "CXR_png" / "MCUCXR_0001_0.png").write_text(page)
    with pytest.raises(DownloadError, match="quota is used up") as caught:
        require_whole(check_bundle(bundle, CASES))
    assert "Wait" in caught.value.advice


def test_a_bundle_without_images_is_refused(tmp_path: Path):
    (tmp_path / "CXR_png").mkdir()
    with pytest.raises(DownloadError, match="no image file"):
        check_bundle(tmp_path)
    with pytest.raises(MissingInputError, match="CXR_png"):
        check_bundle(tmp_path / "CXR_png")


def test_a_changed_file_is_known_by_its_hash_though_it_decodes(tmp_path: Path):
    bundle = write_bundle(tmp_path / "bundle")
    request = {"source": "kaggle", "location": "someone/lungs", "options": {}}
    record = record_path(tmp_path, request)
    assert recorded_hashes(record) == {}
    record_arrival(record, request, whole_hashes(check_bundle(bundle, CASES)))
    known = recorded_hashes(record)
    assert len(known) == 6
    write_image(bundle / "masks" / "MCUCXR_0001_0.png", (48, 40), 254)
    arrival = check_bundle(bundle, CASES)
    changed = changed_files(arrival, known)
    assert changed == ["masks/MCUCXR_0001_0.png"]
    with pytest.raises(DownloadError, match=r"masks/MCUCXR_0001_0\.png: not the file") as caught:
        require_whole(mark_changed(arrival, changed))
    assert "OVERWRITE" in caught.value.advice


def test_a_record_is_one_request_s_and_written_only_where_it_changes(tmp_path: Path):
    requests = [
        {"source": source, "location": place, "options": {}}
        for source, place in (("zip", "/a"), ("zip", "/b"), ("folder", "/a"))
    ]
    paths = [record_path(tmp_path, request) for request in requests]
    assert len(set(paths)) == 3
    record_arrival(paths[0], requests[0], {"CXR_png/a.png": "1"})
    before = paths[0].stat()
    record_arrival(paths[0], requests[0], {"CXR_png/a.png": "1"})
    assert paths[0].stat().st_ino == before.st_ino
    record_arrival(paths[0], requests[0], {"CXR_png/a.png": "2"})
    assert recorded_hashes(paths[0]) == {"CXR_png/a.png": "2"}
    paths[0].write_text("{")
    with pytest.raises(LungsegError, match=r"Delete it"):
        recorded_hashes(paths[0])


def test_the_stamp_follows_the_bundle_s_own_files_alone(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    stamp = stamp_of_bundle(bundle)
    (bundle / "fetched.json").touch()
    (bundle / "test").mkdir()
    (bundle / "test" / "a.png").touch()
    assert stamp_of_bundle(bundle) == stamp
    (bundle / "masks" / "MCUCXR_0001_0.png").unlink()
    assert stamp_of_bundle(bundle) != stamp
