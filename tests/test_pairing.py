from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungseg_utils.bundle import Pairing, find_bundle, pair_bundle
from lungseg_utils.errors import ManifestError, MissingInputError, compress_ranges
from lungseg_utils.manifest import Case, load_manifest, write_manifest


def case(image_id: str, masked: bool = True) -> Case:
    montgomery = image_id.startswith("MCU")
    mask_file = f"{image_id}.png" if montgomery else f"{image_id}_mask.png"
    return Case(
        image_id=image_id,
        source="montgomery" if montgomery else "shenzhen",
        image_file=f"{image_id}.png",
        mask_file=mask_file if masked else "",
        tuberculosis=False,
        sex="",
        age_years=None,
        original_width=10,
        original_height=10,
        patient_group=image_id,
        same_patient_evidence="",
        questionable_mask=False,
        published_split="",
        split="train" if masked else "unlabelled",
    )


MONTGOMERY, SHENZHEN = case("MCUCXR_0001_0"), case("CHNCXR_0001_0")
UNLABELLED = case("CHNCXR_0025_0", masked=False)


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def relative(pairing: Pairing, bundle: Path) -> dict[str, list[str]]:
    """Each pair's masks by image id, relative to the bundle."""
    return {
        pair.case.image_id: [mask.relative_to(bundle).as_posix() for mask in pair.masks]
        for pair in pairing.pairs
    }


def assert_nothing_left_over(pairing: Pairing) -> None:
    assert pairing.missing_images == pairing.missing_masks == []
    assert pairing.orphan_masks == pairing.unknown_images == []


def test_both_naming_rules(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/MCUCXR_0001_0.png",
        "CXR_png/CHNCXR_0001_0.png",
        "CXR_png/CHNCXR_0025_0.png",
        "masks/MCUCXR_0001_0.png",
        "masks/CHNCXR_0001_0_mask.png",
    )
    pairing = pair_bundle(tmp_path, [MONTGOMERY, UNLABELLED, SHENZHEN])
    assert relative(pairing, tmp_path) == {
        "CHNCXR_0001_0": ["masks/CHNCXR_0001_0_mask.png"],
        "MCUCXR_0001_0": ["masks/MCUCXR_0001_0.png"],
    }
    assert [pair.case.image_id for pair in pairing.pairs] == ["CHNCXR_0001_0", "MCUCXR_0001_0"]
    assert [(pair.case, pair.masks) for pair in pairing.unlabelled] == [(UNLABELLED, ())]
    assert pairing.pairs[0].image == tmp_path / "CXR_png" / "CHNCXR_0001_0.png"
    assert_nothing_left_over(pairing)


def test_left_and_right_masks_beside_merged_ones(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/MCUCXR_0001_0.png",
        "CXR_png/CHNCXR_0001_0.png",
        "ManualMask/leftMask/MCUCXR_0001_0.png",
        "ManualMask/rightMask/MCUCXR_0001_0.png",
        "masks/CHNCXR_0001_0_mask.png",
    )
    pairing = pair_bundle(tmp_path, [MONTGOMERY, SHENZHEN])
    assert relative(pairing, tmp_path)["MCUCXR_0001_0"] == [
        "ManualMask/leftMask/MCUCXR_0001_0.png",
        "ManualMask/rightMask/MCUCXR_0001_0.png",
    ]
    assert relative(pairing, tmp_path)["CHNCXR_0001_0"] == ["masks/CHNCXR_0001_0_mask.png"]
    assert_nothing_left_over(pairing)


@pytest.mark.parametrize("side", ["leftMask", "rightMask"])
def test_one_lung_is_no_mask(tmp_path: Path, side: str):
    mask = f"ManualMask/{side}/MCUCXR_0001_0.png"
    make_files(tmp_path, "CXR_png/MCUCXR_0001_0.png", mask)
    pairing = pair_bundle(tmp_path, [MONTGOMERY])
    assert pairing.pairs == pairing.unlabelled == []
    assert pairing.missing_masks == ["MCUCXR_0001_0"]
    assert pairing.orphan_masks == [mask]
    assert mask in pairing.summary()


def test_a_masked_case_without_its_mask_is_not_handed_out_as_unlabelled(tmp_path: Path):
    make_files(tmp_path, "CXR_png/CHNCXR_0001_0.png")
    pairing = pair_bundle(tmp_path, [SHENZHEN])
    assert pairing.pairs == pairing.unlabelled == []
    assert pairing.missing_masks == ["CHNCXR_0001_0"]


def test_what_fits_nowhere_is_named(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/CHNCXR_0025_0.png",
        "CXR_png/CHNCXR_0999_0.png",
        "masks/CHNCXR_0001_0_mask.png",
        "masks/CHNCXR_0025_0_mask.png",
        "masks/MCUCXR_9999_0.png",
    )
    pairing = pair_bundle(tmp_path, [SHENZHEN, UNLABELLED])
    assert pairing.missing_images == ["CHNCXR_0001_0"]
    assert pairing.unknown_images == ["CHNCXR_0999_0.png"]
    assert pairing.orphan_masks == [
        "masks/CHNCXR_0001_0_mask.png",
        "masks/CHNCXR_0025_0_mask.png",
        "masks/MCUCXR_9999_0.png",
    ]
    summary = pairing.summary()
    for name in ("CHNCXR_0001_0", "CHNCXR_0999_0.png", *pairing.orphan_masks):
        assert name in summary


def test_a_mask_is_found_by_its_id_not_by_its_place_in_the_list(tmp_path: Path):
    ids = [f"CHNCXR_000{number}_0" for number in range(1, 6)]
    # The third mask is missing: pairing two sorted lists would shift the rest by one.
    masks = [f"masks/{image_id}_mask.png" for image_id in ids if not image_id.endswith("3_0")]
    make_files(tmp_path, *(f"CXR_png/{image_id}.png" for image_id in ids), *masks)
    pairing = pair_bundle(tmp_path, [case(image_id) for image_id in ids])
    assert pairing.missing_masks == ["CHNCXR_0003_0"]
    assert all(pair.masks[0].name == f"{pair.case.image_id}_mask.png" for pair in pairing.pairs)
    assert len(pairing.pairs) == 4


def test_suffixes_in_capitals_and_other_formats(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/CHNCXR_0001_0.PNG",
        "CXR_png/MCUCXR_0001_0.jpg",
        "masks/CHNCXR_0001_0_mask.PNG",
        "masks/MCUCXR_0001_0.Jpeg",
    )
    pairing = pair_bundle(tmp_path, [MONTGOMERY, SHENZHEN])
    assert relative(pairing, tmp_path) == {
        "CHNCXR_0001_0": ["masks/CHNCXR_0001_0_mask.PNG"],
        "MCUCXR_0001_0": ["masks/MCUCXR_0001_0.Jpeg"],
    }
    assert_nothing_left_over(pairing)


def test_of_two_files_of_a_case_the_manifests_is_taken_and_the_other_named(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/CHNCXR_0001_0.jpg",
        "CXR_png/CHNCXR_0001_0.png",
        "masks/CHNCXR_0001_0.png",
        "masks/CHNCXR_0001_0_mask.png",
    )
    pairing = pair_bundle(tmp_path, [SHENZHEN])
    assert relative(pairing, tmp_path) == {"CHNCXR_0001_0": ["masks/CHNCXR_0001_0_mask.png"]}
    assert pairing.pairs[0].image.name == "CHNCXR_0001_0.png"
    assert pairing.unknown_images == ["CHNCXR_0001_0.jpg"]
    assert pairing.orphan_masks == ["masks/CHNCXR_0001_0.png"]


def test_stray_files_are_no_images(tmp_path: Path):
    make_files(
        tmp_path,
        "CXR_png/CHNCXR_0001_0.png",
        "CXR_png/Thumbs.db",
        "CXR_png/._CHNCXR_0001_0.png",
        "masks/CHNCXR_0001_0_mask.png",
        "masks/.DS_Store",
    )
    assert_nothing_left_over(pair_bundle(tmp_path, [SHENZHEN]))


def test_a_bundles_own_manifest_is_used(tmp_path: Path):
    make_files(tmp_path, "CXR_png/CHNCXR_9001_0.png", "masks/CHNCXR_9001_0_mask.png")
    own = case("CHNCXR_9001_0")
    write_manifest(tmp_path / "data_manifest.csv", [own])
    assert [pair.case for pair in pair_bundle(tmp_path).pairs] == [own]
    assert pair_bundle(tmp_path, [SHENZHEN]).missing_images == ["CHNCXR_0001_0"]


def test_a_broken_manifest_of_a_bundle_is_not_passed_over(tmp_path: Path):
    make_files(tmp_path, "CXR_png/CHNCXR_9001_0.png", "data_manifest.csv")
    with pytest.raises(ManifestError):
        pair_bundle(tmp_path)


def test_without_one_the_projects_manifest_is_used(tmp_path: Path):
    make_files(tmp_path, "CXR_png/CHNCXR_0001_0.png", "masks/CHNCXR_0001_0_mask.png")
    pairing = pair_bundle(tmp_path)
    assert [pair.case.split for pair in pairing.pairs] == ["test"]
    assert len(pairing.missing_images) == 799


@pytest.mark.parametrize("place", [".", "bundle", "a/b", "a/b/Lung Segmentation"])
def test_the_bundle_is_found_below(tmp_path: Path, place: str):
    (tmp_path / place / "CXR_png").mkdir(parents=True)
    assert find_bundle(tmp_path) == tmp_path / place


def test_the_copy_further_down_is_not_the_bundle(tmp_path: Path):
    for place in ("Lung Segmentation", "data/Lung Segmentation"):
        (tmp_path / place / "CXR_png").mkdir(parents=True)
    assert find_bundle(tmp_path) == tmp_path / "Lung Segmentation"


def test_the_copy_beside_is_not_the_bundle(tmp_path: Path):
    for place in ("Lung Segmentation", "data", "__MACOSX", ".cache"):
        (tmp_path / place / "CXR_png").mkdir(parents=True)
    assert find_bundle(tmp_path) == tmp_path / "Lung Segmentation"


def test_two_bundles_are_named(tmp_path: Path):
    for place in ("MontgomerySet", "ShenzhenSet"):
        (tmp_path / place / "CXR_png").mkdir(parents=True)
    with pytest.raises(MissingInputError, match=r"MontgomerySet, .*ShenzhenSet"):
        find_bundle(tmp_path)


@pytest.mark.parametrize("place", ["a/b/c/d/CXR_png", "masks", "__MACOSX/CXR_png"])
def test_no_bundle_names_the_notebook_to_run(tmp_path: Path, place: str):
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(MissingInputError, match="02_download_and_pair"):
        find_bundle(tmp_path)


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(MissingInputError, match="no folder"):
        find_bundle(tmp_path / "nowhere")


def test_runs_of_names_are_shortened():
    names = ["X_0025_0", "X_0036_0", "X_0037_0", "X_0038_0", "X_0038_1", "X_0039_1", "Y_0040_1"]
    assert compress_ranges(names) == [
        "X_0025_0",
        "X_0036_0–0038_0",
        "X_0038_1–0039_1",
        "Y_0040_1",
    ]
    files = ["masks/X_0009_1_mask.png", "masks/X_0010_1_mask.png", "notes.png"]
    assert compress_ranges(files) == ["masks/X_0009_1_mask.png–0010_1_mask.png", "notes.png"]
    assert compress_ranges(["X_9_0", "X_10_0"]) == ["X_9_0", "X_10_0"]
    assert compress_ranges([]) == []


@given(st.sets(st.tuples(st.integers(0, 30), st.sampled_from("01")), max_size=30))
def test_shortened_names_can_be_expanded_again(numbers: set[tuple[int, str]]):
    names = sorted(f"CHNCXR_{number:04d}_{last}" for number, last in numbers)
    expanded = []
    for entry in compress_ranges(names):
        first, _, last = entry.partition("–")
        numbers_of_run = range(int(first[7:11]), int((last or first[7:])[:4]) + 1)
        expanded += [f"CHNCXR_{number:04d}{first[11:]}" for number in numbers_of_run]
    assert expanded == names


def test_the_real_bundle(shared_data: Path):
    pairing = pair_bundle(shared_data / "nlm512")
    assert (len(pairing.pairs), len(pairing.unlabelled)) == (704, 96)
    assert_nothing_left_over(pairing)
    assert all(len(pair.masks) == 1 for pair in pairing.pairs)
    summary = pairing.summary()
    assert "800 X-rays of the manifest, 704 with their lung mask" in summary
    assert "without a mask (96)" in summary
    # The list as published in words.
    for run in ("0025_0", "0036_0–0040_0", "0181_0–0220_0", "0341_1–0360_1", "0560_1–0565_1"):
        assert f"CHNCXR_{run}" in summary
    assert max(map(len, summary.splitlines())) <= 100


def test_the_unlabelled_of_the_manifest_are_the_published_ones():
    unlabelled = [case.image_id[7:] for case in load_manifest(splits="unlabelled")]
    normal = [25, *range(36, 41), 65, *range(181, 221)]
    tuberculosis = [336, *range(341, 361), *range(481, 501), 502, 505, *range(560, 566)]
    expected = [f"{number:04d}_0" for number in normal]
    expected += [f"{number:04d}_1" for number in tuberculosis]
    assert unlabelled == expected


def test_pairs_do_not_depend_on_the_order_of_the_manifest(tmp_path: Path):
    make_files(tmp_path, "CXR_png/MCUCXR_0001_0.png", "CXR_png/CHNCXR_0001_0.png")
    forwards = pair_bundle(tmp_path, [SHENZHEN, MONTGOMERY])
    assert dataclasses.asdict(forwards) == dataclasses.asdict(
        pair_bundle(tmp_path, [MONTGOMERY, SHENZHEN])
    )
