from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bundles import png_header, read_index, write_headers_bundle

from lungseg_utils.errors import ImageFileError, ManifestError
from lungseg_utils.manifest import Case, load_manifest, to_row, write_manifest
from tools.build_manifest import build_manifest, main, parse_reading


def case(image_id: str, split: str = "test", group: str = "", doubted: bool = False) -> Case:
    """A case as the manifest of before has it; without a mask for `unlabelled`."""
    source = "montgomery" if image_id.startswith("MCU") else "shenzhen"
    mask = (
        "" if split == "unlabelled" else image_id + {"montgomery": ".png"}.get(source, "_mask.png")
    )
    published = split if mask else ""
    evidence = "probable" if group else ""
    facts = (group or image_id[:-2], evidence, doubted, published, split)
    return Case(image_id, source, f"{image_id}.png", mask, False, "F", 40, 30, 20, *facts)


def write_bundle(folder: Path, *cases: Case) -> Path:
    return write_headers_bundle(folder, [to_row(case) | {"finding": "normal"} for case in cases])


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A bundle of one masked case, which the project's manifest knows."""
    return write_bundle(tmp_path / "bundle", case("CHNCXR_0001_0"))


@pytest.mark.parametrize("rows", ["manifest", "index"])
def test_the_projects_manifest_is_what_the_builder_makes(
    tmp_path: Path, rows: str, repository: Path, request, capsys
):
    # The bundle itself cannot be here at full size: its headers, names and readings stand in.
    if rows == "manifest":
        bundle = write_bundle(tmp_path / "Lung Segmentation", *load_manifest())
    else:
        index = read_index(request.getfixturevalue("shared_data"))
        bundle = write_headers_bundle(tmp_path / "Lung Segmentation", index)
    main([str(bundle), str(tmp_path / "out.csv")])
    assert "800 cases" in capsys.readouterr().out
    built = (tmp_path / "out.csv").read_bytes()
    assert built == (repository / "data_manifest.csv").read_bytes()


def test_facts_come_from_the_bundle_and_from_the_manifest_of_before(tmp_path: Path):
    known = [case("CHNCXR_0003_0", "val", doubted=True), case("MCUCXR_0005_1", "train")]
    manifest = write_manifest(tmp_path / "known.csv", known)
    # The bundle has another size, and a case that was not known.
    bundle = write_bundle(tmp_path / "bundle", *known, case("CHNCXR_0004_1", "unlabelled"))
    (bundle / "CXR_png" / "MCUCXR_0005_1.png").write_bytes(png_header(4020, 4892))
    reading = bundle / "ClinicalReadings" / "CHNCXR_0003_0.txt"
    reading.write_bytes(b"male 16month\nlesion \xa1\xa3")  # an odd byte in a finding does no harm
    shenzhen, unlabelled, montgomery = build_manifest(bundle, manifest)
    assert (shenzhen.sex, shenzhen.age_years, shenzhen.tuberculosis) == ("M", 1, False)
    assert (shenzhen.questionable_mask, shenzhen.split) == (True, "val")
    assert (unlabelled.mask_file, unlabelled.split) == ("", "unlabelled")
    assert (unlabelled.patient_group, unlabelled.tuberculosis) == ("CHNCXR_0004", True)
    assert (montgomery.original_width, montgomery.original_height) == (4020, 4892)
    assert (montgomery.mask_file, montgomery.split) == ("MCUCXR_0005_1.png", "train")


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        # A patient of the test set is excluded from training and validation.
        (["train", "test", "val"], ["excluded", "test", "excluded"]),
        # A patient in training and validation goes whole to validation.
        (["train", "val", "train"], ["val", "val", "val"]),
        (["train", "train", "train"], ["train", "train", "train"]),
    ],
)
def test_a_patient_is_in_one_split_only(tmp_path: Path, published, expected):
    cases = [
        replace(case(f"MCUCXR_000{number}_1", split, "MCUCXR_0001"), split="excluded")
        for number, split in enumerate(published, start=1)
    ]
    cases.append(case("MCUCXR_0009_1", "train"))
    bundle = write_bundle(tmp_path / "bundle", *cases)
    built = build_manifest(bundle, write_manifest(tmp_path / "known.csv", cases))
    assert [case.split for case in built] == [*expected, "train"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("CXR_png/lung.png", png_header(2, 2), ManifestError),
        ("CXR_png/CHNCXR_0001_0.png", b"<html>", ImageFileError),
        ("CXR_png/CHNCXR_0001_0.png", png_header(60_000, 60_000), ImageFileError),
        ("CXR_png/CHNCXR_0001_0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", ImageFileError),
        ("ClinicalReadings/CHNCXR_0001_0.txt", b"\xff\xff\xff", ManifestError),
        ("ClinicalReadings/CHNCXR_0001_0.txt", None, ManifestError),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(one: Path, name: str, content, error):
    (one / name).write_bytes(content) if content else (one / name).unlink()
    with pytest.raises(error, match=Path(name).name):
        build_manifest(one)


@pytest.mark.parametrize(
    ("text", "sex", "age_years"),
    [
        ("male 45yrs\nnormal", "M", 45),
        ("femal 32yrs\nnormal", "F", 32),
        ("Female, 28yrs\nnormal", "F", 28),
        ("female24yrs\nnormal", "F", 24),
        ("female 11month\nnormal", "F", 0),
        ("male 30weeks\nnormal", "M", 0),
        ("male 366days\nnormal", "M", 1),
        ("male 1460days\nnormal", "M", 3),
        ("  MALE  7 yr.\r\nnormal\r\n", "M", 7),
        ("male 42", "M", 42),
        ("male 42 miliary TB", "M", 42),
        ("male 30yrs\n2 nodules", "M", 30),
        ("\ufefffemale 0yrs\nnormal", "F", 0),
        ("Patient's Sex: F\nPatient's Age: 027Y\nnormal\n", "F", 27),
        ("Patient's Sex: M  \r\nPatient's Age: 008M \r\nnormal", "M", 0),
        ("patient’s sex:F\npatient’s age:110Y\nnormal", "F", 110),
        ("Patient's Sex: O\nPatient's Age: 040Y\nnormal", "", 40),
    ],
)
def test_readings_and_their_oddities(text: str, sex: str, age_years: int):
    source, other = "shenzhen", "montgomery"
    if "sex" in text.lower():
        source, other = other, source
    assert parse_reading(text, source) == (sex, age_years)
    with pytest.raises(ManifestError, match=other):
        parse_reading(text, other)
