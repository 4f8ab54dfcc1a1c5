from __future__ import annotations

from pathlib import Path

import pytest

from lungseg_utils.bundle import Pairing, find_bundle, pair_bundle
from lungseg_utils.errors import ManifestError, MissingInputError, compress_ranges
from lungseg_utils.manifest import load_manifest, write_manifest
from tests.bundles import make_case

MCU, CHN, BARE = "MCUCXR_0001_0", "CHNCXR_0001_0", "CHNCXR_0025_0"
MONTGOMERY, SHENZHEN = make_case(MCU), make_case(CHN)
UNLABELLED = make_case(BARE, split="unlabelled")


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def masks_of(pairing: Pairing, bundle: Path) -> dict[str, list[str]]:
    """Each pair's masks by image id, relative to the bundle."""
    return {
        pair.case.image_id: [mask.relative_to(bundle).as_posix() for mask in pair.masks]
        for pair in pairing.pairs
    }


def left_over(pairing: Pairing) -> dict[str, list[str]]:
    return {
        "missing_images": pairing.missing_images,
        "missing_masks": pairing.missing_masks,
        "orphans": pairing.orphan_masks,
        "unknown": pairing.unknown_images,
    }


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        # Both naming rules, and the one that has none:
        (
            [f"CXR_png/{MCU}.png", f"CXR_png/{CHN}.png", f"CXR_png/{BARE}.png"],
            {CHN: [f"masks/{CHN}_mask.png"], MCU: [f"masks/{MCU}.png"]},
        ),
        # Left and right beside merged ones:
        (
            [f"CXR_png/{MCU}.png", f"CXR_png/{CHN}.png"],
            {
                CHN: [f"masks/{CHN}_mask.png"],
                MCU: [f"ManualMask/{side}Mask/{MCU}.png" for side in ("left", "right")],
            },
        ),
        # Suffixes in capitals and other formats:
        (
            [f"CXR_png/{CHN}.PNG", f"CXR_png/{MCU}.jpg"],
            {CHN: [f"masks/{CHN}_mask.PNG"], MCU: [f"masks/{MCU}.Jpeg"]},
        ),
        # Stray files, which are no images:
        (
            [f"CXR_png/{CHN}.png", "CXR_png/Thumbs.db", f"CXR_png/._{CHN}.png", "masks/.DS_Store"],
            {CHN: [f"masks/{CHN}_mask.png"]},
        ),
    ],
)
def test_x_rays_find_their_masks(tmp_path: Path, files: list[str], masks: dict[str, list[str]]):
    make_files(tmp_path, *files, *(name for names in masks.values() for name in names))
    cases = [case for case in (MONTGOMERY, UNLABELLED, SHENZHEN) if case.image_id in str(files)]
    pairing = pair_bundle(tmp_path, cases)
    assert masks_of(pairing, tmp_path) == masks
    assert [pair.image.stem for pair in pairing.pairs] == sorted(masks)
    assert [(pair.case, pair.masks) for pair in pairing.unlabelled] == [
        (UNLABELLED, ()) for case in cases if case is UNLABELLED
    ]
    assert not any(left_over(pairing).values())
    # The order of the manifest changes nothing.
    assert pair_bundle(tmp_path, cases[::-1]) == pairing


def test_what_fits_nowhere_is_named(tmp_path: Path):
    half, mask = f"ManualMask/leftMask/{MCU}.png", "masks/CHNCXR_0003_0_mask.png"
    unpaired, paired = make_case("CHNCXR_0002_1"), make_case("CHNCXR_0003_0")
    orphans = [f"masks/{CHN}_mask.png", f"masks/{BARE}_mask.png", "masks/MCUCXR_9999_0.png"]
    images = [BARE, MCU, unpaired.image_id, paired.image_id, "CHNCXR_0999_0"]
    make_files(tmp_path, *(f"CXR_png/{name}.png" for name in images), half, mask, *orphans)
    pairing = pair_bundle(tmp_path, [SHENZHEN, UNLABELLED, MONTGOMERY, unpaired, paired])
    # By its id, not by its place: pairing two sorted lists would give it another's mask.
    assert masks_of(pairing, tmp_path) == {paired.image_id: [mask]}
    # Masked cases without their mask are not among the unlabelled, and one lung is no mask.
    assert [pair.case for pair in pairing.unlabelled] == [UNLABELLED]
    assert left_over(pairing) == {
        "missing_images": [CHN],
        "missing_masks": [unpaired.image_id, MCU],
        "orphans": [half, *orphans],
        "unknown": ["CHNCXR_0999_0.png"],
    }
    for names in left_over(pairing).values():
        assert all(name in pairing.summary() for name in names)


def test_of_two_files_of_a_case_the_manifests_is_taken_and_the_other_named(tmp_path: Path):
    both = [f"CXR_png/{CHN}.jpg", f"CXR_png/{CHN}.png", f"masks/{CHN}.png", f"masks/{CHN}_mask.png"]
    pairing = pair_bundle(make_files(tmp_path, *both), [SHENZHEN])
    assert masks_of(pairing, tmp_path) == {CHN: [f"masks/{CHN}_mask.png"]}
    assert pairing.pairs[0].image.name == f"{CHN}.png"
    assert pairing.unknown_images == [f"{CHN}.jpg"]
    assert pairing.orphan_masks == [f"masks/{CHN}.png"]


def test_a_bundles_own_manifest_is_used_and_else_the_projects(tmp_path: Path):
    own = make_case("CHNCXR_9001_0")
    make_files(tmp_path, "CXR_png/CHNCXR_9001_0.png", "masks/CHNCXR_9001_0_mask.png")
    assert len(pair_bundle(tmp_path).missing_images) == 800
    write_manifest(tmp_path / "data_manifest.csv", [own])
    assert [pair.case for pair in pair_bundle(tmp_path).pairs] == [own]
    assert pair_bundle(tmp_path, [SHENZHEN]).missing_images == [CHN]
    (tmp_path / "data_manifest.csv").write_text("")
    with pytest.raises(ManifestError):
        pair_bundle(tmp_path)


@pytest.mark.parametrize(
    "places",
    [
        ["."],
        ["a/b/Lung Segmentation"],
        # Kaggle's copies, further down and beside:
        ["Lung Segmentation", "data/Lung Segmentation"],
        ["Lung Segmentation", "data", "__MACOSX", ".cache"],
    ],
)
def test_the_first_and_highest_bundle_is_found(tmp_path: Path, places: list[str]):
    for place in places:
        (tmp_path / place / "CXR_png").mkdir(parents=True)
    assert find_bundle(tmp_path) == tmp_path / places[0]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["MontgomerySet/CXR_png", "ShenzhenSet/CXR_png"], r"MontgomerySet, .*ShenzhenSet"),
        (["a/b/c/d/CXR_png"], "02_download_and_pair"),
        (["masks", "__MACOSX/CXR_png"], "there: __MACOSX, masks"),
    ],
)
def test_no_bundle_and_several_are_explained(tmp_path: Path, places: list[str], message: str):
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(MissingInputError, match=message):
        find_bundle(tmp_path)
    with pytest.raises(MissingInputError, match="no folder"):
        find_bundle(tmp_path / "nowhere")


def test_runs_of_names_are_shortened():
    names = ["X_0025_0", "X_0036_0", "X_0037_0", "X_0038_0", "X_0038_1", "X_0039_1", "Y_0040_1"]
    runs = ["X_0025_0", "X_0036_0–0038_0", "X_0038_1–0039_1", "Y_0040_1"]
    assert compress_ranges(names) == runs
    files = ["masks/X_0009_1_mask.png", "masks/X_0010_1_mask.png", "notes.png"]
    assert compress_ranges(files) == ["masks/X_0009_1_mask.png–0010_1_mask.png", "notes.png"]
    assert compress_ranges(["X_9_0", "X_10_0"]) == ["X_9_0", "X_10_0"]


def test_the_real_bundle(shared_data: Path):
    pairing = pair_bundle(shared_data / "nlm512")
    assert (len(pairing.pairs), len(pairing.unlabelled)) == (704, 96)
    assert not any(left_over(pairing).values())
    assert all(len(pair.masks) == 1 for pair in pairing.pairs)
    summary = pairing.summary()
    assert "800 X-rays of the manifest, 704 with their lung mask" in summary
    assert "without a mask (96)" in summary and "CHNCXR_0341_1–0360_1" in summary
    assert max(map(len, summary.splitlines())) <= 100


def test_the_unlabelled_of_the_manifest_are_the_published_ones():
    unlabelled = [case.image_id for case in load_manifest(splits="unlabelled")]
    normal = [25, *range(36, 41), 65, *range(181, 221)]
    tuberculosis = [336, *range(341, 361), *range(481, 501), 502, 505, *range(560, 566)]
    expected = [f"CHNCXR_{number:04d}_0" for number in normal]
    assert unlabelled == expected + [f"CHNCXR_{number:04d}_1" for number in tuberculosis]
