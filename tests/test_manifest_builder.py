from __future__ import annotations

from pathlib import Path

import pytest
from bundles import png_header, read_index, write_headers_bundle

from lungseg_utils.errors import ImageFileError, ManifestError, MissingInputError
from lungseg_utils.manifest import load_manifest
from tools.build_manifest import FACT_COLUMNS, build_manifest, load_facts, main


def row(image_id: str, masked: bool = True, sex: str = "F", age: int = 40, size=(30, 20)) -> dict:
    source = "montgomery" if image_id.startswith("MCU") else "shenzhen"
    mask_file = f"{image_id}.png" if source == "montgomery" else f"{image_id}_mask.png"
    return {
        "image_id": image_id,
        "source": source,
        "image_file": f"{image_id}.png",
        "mask_file": mask_file if masked else "",
        "sex": sex,
        "age_years": str(age),
        "finding": "normal",
        "original_width": str(size[0]),
        "original_height": str(size[1]),
    }


def write_facts(folder: Path, *facts: str) -> Path:
    path = folder / "facts.csv"
    path.write_text("\n".join([",".join(FACT_COLUMNS), *facts]) + "\n", encoding="utf-8")
    return path


def splits_of(tmp_path: Path, ids: list[str], *facts: str) -> dict[str, str]:
    bundle = write_headers_bundle(tmp_path / "bundle", [row(image_id) for image_id in ids])
    cases = build_manifest(bundle, write_facts(tmp_path, *facts))
    return {case.image_id: case.split for case in cases}


def test_a_small_bundle(tmp_path: Path):
    rows = [
        row("MCUCXR_0005_1", sex="M", age=7, size=(4020, 4892)),
        row("CHNCXR_0003_0", age=63, size=(3000, 2951)),
        row("CHNCXR_0004_1", masked=False),
    ]
    bundle = write_headers_bundle(tmp_path / "bundle", rows)
    facts = write_facts(tmp_path, "CHNCXR_0003_0,,,1,val", "MCUCXR_0005_1,,,0,train")
    cases = build_manifest(bundle, facts)
    assert [case.image_id for case in cases] == ["CHNCXR_0003_0", "CHNCXR_0004_1", "MCUCXR_0005_1"]
    shenzhen, unlabelled, montgomery = cases
    assert (shenzhen.sex, shenzhen.age_years) == ("F", 63)
    assert (shenzhen.original_width, shenzhen.original_height) == (3000, 2951)
    assert (shenzhen.source, shenzhen.tuberculosis) == ("shenzhen", False)
    assert (shenzhen.mask_file, shenzhen.questionable_mask) == ("CHNCXR_0003_0_mask.png", True)
    assert (shenzhen.patient_group, shenzhen.split) == ("CHNCXR_0003", "val")
    assert (unlabelled.mask_file, unlabelled.split, unlabelled.published_split) == (
        "",
        "unlabelled",
        "",
    )
    assert (montgomery.sex, montgomery.age_years, montgomery.tuberculosis) == ("M", 7, True)
    assert (montgomery.mask_file, montgomery.original_height) == ("MCUCXR_0005_1.png", 4892)


def test_a_patient_of_the_test_set_is_excluded_from_training_and_validation(tmp_path: Path):
    ids = [f"MCUCXR_000{number}_1" for number in range(1, 5)]
    splits = splits_of(
        tmp_path,
        ids,
        "MCUCXR_0001_1,MCUCXR_0001,stated,0,train",
        "MCUCXR_0002_1,MCUCXR_0001,stated,0,test",
        "MCUCXR_0003_1,MCUCXR_0001,stated,0,val",
        "MCUCXR_0004_1,,,0,train",
    )
    assert list(splits.values()) == ["excluded", "test", "excluded", "train"]


def test_a_patient_in_training_and_validation_goes_whole_to_validation(tmp_path: Path):
    ids = ["MCUCXR_0001_1", "MCUCXR_0002_1", "MCUCXR_0003_1", "MCUCXR_0004_1"]
    splits = splits_of(
        tmp_path,
        ids,
        "MCUCXR_0001_1,MCUCXR_0001,probable,0,train",
        "MCUCXR_0002_1,MCUCXR_0001,probable,0,val",
        "MCUCXR_0003_1,MCUCXR_0003,probable,0,train",
        "MCUCXR_0004_1,MCUCXR_0003,probable,0,train",
    )
    assert list(splits.values()) == ["val", "val", "train", "train"]


def test_left_and_right_masks_count_as_a_mask_only_together(tmp_path: Path):
    rows = [row("MCUCXR_0001_0", masked=False), row("MCUCXR_0002_0", masked=False)]
    bundle = write_headers_bundle(tmp_path / "bundle", rows)
    for side, number in (("left", 1), ("right", 1), ("left", 2)):
        mask = bundle / "ManualMask" / f"{side}Mask" / f"MCUCXR_000{number}_0.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.touch()
    cases = build_manifest(bundle, write_facts(tmp_path, "MCUCXR_0001_0,,,0,test"))
    assert [(case.mask_file, case.split) for case in cases] == [
        ("MCUCXR_0001_0.png", "test"),
        ("", "unlabelled"),
    ]


def test_a_masked_case_without_a_published_split_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match="MCUCXR_0001_1, column `published_split`"):
        splits_of(tmp_path, ["MCUCXR_0001_1"])


def test_an_unknown_name_is_refused(tmp_path: Path):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    (bundle / "CXR_png" / "lung.png").write_bytes(png_header(2, 2))
    with pytest.raises(ManifestError, match=r"lung\.png"):
        build_manifest(bundle, write_facts(tmp_path, "CHNCXR_0001_0,,,0,test"))


def test_a_missing_and_a_damaged_reading_are_named(tmp_path: Path):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    facts = write_facts(tmp_path, "CHNCXR_0001_0,,,0,test")
    reading = bundle / "ClinicalReadings" / "CHNCXR_0001_0.txt"
    reading.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ManifestError, match=r"CHNCXR_0001_0\.txt"):
        build_manifest(bundle, facts)
    reading.unlink()
    with pytest.raises(ManifestError, match=r"no file .*CHNCXR_0001_0\.txt"):
        build_manifest(bundle, facts)


def test_an_odd_byte_in_a_finding_does_no_harm(tmp_path: Path):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    reading = bundle / "ClinicalReadings" / "CHNCXR_0001_0.txt"
    reading.write_bytes(b"male 16month\nlesion \xa1\xa3")
    case = build_manifest(bundle, write_facts(tmp_path, "CHNCXR_0001_0,,,0,test"))[0]
    assert (case.sex, case.age_years) == ("M", 1)


def test_a_file_that_is_no_image_is_named(tmp_path: Path):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    (bundle / "CXR_png" / "CHNCXR_0001_0.png").write_text("<html>")
    with pytest.raises(ImageFileError, match=r"CHNCXR_0001_0\.png"):
        build_manifest(bundle, write_facts(tmp_path, "CHNCXR_0001_0,,,0,test"))


@pytest.mark.parametrize(
    "content", [png_header(60_000, 60_000), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_of_another_kind_or_beyond_belief_is_named(tmp_path: Path, content: bytes):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    (bundle / "CXR_png" / "CHNCXR_0001_0.png").write_bytes(content)
    with pytest.raises(ImageFileError, match=r"CHNCXR_0001_0\.png"):
        build_manifest(bundle, write_facts(tmp_path, "CHNCXR_0001_0,,,0,test"))


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path):
    with pytest.raises(MissingInputError, match="CXR_png"):
        build_manifest(tmp_path)


def test_facts_are_checked(tmp_path: Path):
    with pytest.raises(MissingInputError, match=r"absent\.csv"):
        load_facts(tmp_path / "absent.csv")
    with pytest.raises(ManifestError, match="'a' in row 3, column `image_id`"):
        load_facts(write_facts(tmp_path, "a,,,0,train", "a,,,0,train"))
    path = tmp_path / "facts.csv"
    path.write_text("image_id,split\n")
    with pytest.raises(ManifestError, match="image_id, split"):
        load_facts(path)


def test_a_wrong_word_in_the_facts_is_refused_before_anything_is_written(tmp_path: Path, capsys):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    facts = write_facts(tmp_path, "CHNCXR_0001_0,,perhaps,0,test")
    with pytest.raises(SystemExit) as caught:
        main([str(bundle), str(tmp_path / "out.csv"), "--facts", str(facts)])
    assert caught.value.code == 1
    assert "`same_patient_evidence`" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_the_command_line_writes_a_manifest(tmp_path: Path, capsys):
    bundle = write_headers_bundle(tmp_path / "bundle", [row("CHNCXR_0001_0")])
    facts = write_facts(tmp_path, "CHNCXR_0001_0,,,0,test")
    main([str(bundle), str(tmp_path / "out.csv"), "--facts", str(facts)])
    assert load_manifest(tmp_path / "out.csv") == build_manifest(bundle, facts)
    assert "1 cases" in capsys.readouterr().out


def test_every_masked_case_of_the_project_is_in_the_facts():
    facts = load_facts(Path(__file__).parents[1] / "tools" / "known_facts.csv")
    masked = {case.image_id: case for case in load_manifest() if case.mask_file}
    assert set(facts) == set(masked)
    assert all(facts[name].published_split == case.published_split for name, case in masked.items())


def test_the_projects_manifest_is_what_the_builder_makes(
    tmp_path: Path, shared_data: Path, repository: Path
):
    # The bundle itself cannot be here at full size: its headers, names and readings stand in.
    bundle = write_headers_bundle(tmp_path / "Lung Segmentation", read_index(shared_data))
    main([str(bundle), str(tmp_path / "out.csv")])
    built = (tmp_path / "out.csv").read_bytes()
    assert built == (repository / "data_manifest.csv").read_bytes()
