from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungseg_utils.errors import LungsegError, ManifestError
from lungseg_utils.manifest import (
    COLUMNS,
    SOURCES,
    SPLITS,
    Case,
    count_splits,
    load_manifest,
    write_manifest,
)

HEADER = (
    "image_id,source,image_file,mask_file,tuberculosis,sex,age_years,original_width,"
    "original_height,patient_group,same_patient_evidence,questionable_mask,published_split,split"
)
ROWS = [
    "CHNCXR_0001_0,shenzhen,CHNCXR_0001_0.png,CHNCXR_0001_0_mask.png,"
    "0,M,45,3000,2919,CHNCXR_0001,,0,test,test",
    "CHNCXR_0340_1,shenzhen,CHNCXR_0340_1.png,,1,F,,2900,2800,CHNCXR_0340,,0,,unlabelled",
    "MCUCXR_0162_1,montgomery,MCUCXR_0162_1.png,MCUCXR_0162_1.png,"
    "1,,33,4020,4892,MCUCXR_0162,stated,1,train,train",
]


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def changed(row: int, **cells: str) -> list[str]:
    """The rows with some cells of one of them replaced."""
    values = dict(zip(COLUMNS, ROWS[row].split(","), strict=True)) | cells
    return [*ROWS[:row], ",".join(values.values()), *ROWS[row + 1 :]]


def refusal(folder: Path, *lines: str) -> ManifestError:
    with pytest.raises(ManifestError, match="What to do") as caught:
        load_manifest(write_csv(folder, *lines))
    assert "manifest.csv" in str(caught.value.received)
    return caught.value


def test_a_row_becomes_a_typed_case(tmp_path: Path):
    cases = load_manifest(write_csv(tmp_path, HEADER, *ROWS))
    names = ("MCUCXR_0162_1", "montgomery", "MCUCXR_0162_1.png", "MCUCXR_0162_1.png")
    facts = (True, "", 33, 4020, 4892, "MCUCXR_0162", "stated", True, "train", "train")
    assert cases[2] == Case(*names, *facts)
    assert cases[1].age_years is None and cases[1].mask_file == ""
    assert ",".join(COLUMNS) == HEADER


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path):
    path = write_csv(tmp_path, HEADER, *ROWS)
    cases = load_manifest(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_manifest(path) == cases


def test_selection_by_source_and_split(tmp_path: Path):
    path = write_csv(tmp_path, HEADER, *ROWS)
    chosen = [case.image_id for case in load_manifest(path, sources="shenzhen")]
    assert chosen == ["CHNCXR_0001_0", "CHNCXR_0340_1"]
    chosen = [case.image_id for case in load_manifest(path, splits=["train", "unlabelled"])]
    assert chosen == ["CHNCXR_0340_1", "MCUCXR_0162_1"]
    assert load_manifest(path, sources=("montgomery",), splits=("test",)) == []


@pytest.mark.parametrize("argument", [{"sources": "jsrt"}, {"splits": ["train", "training"]}])
def test_an_unknown_selection_is_refused(tmp_path: Path, argument: dict):
    with pytest.raises(LungsegError, match=r"jsrt|training"):
        load_manifest(write_csv(tmp_path, HEADER, *ROWS), **argument)


BAD_CELLS = {
    "image_id": ["", "../CHNCXR_0001_0"],
    "source": ["Shenzhen"],
    "image_file": ["images/CHNCXR_0001_0.png", "..\\x.png", "C:x.png", "..", "x.png ", "x\x1b.png"],
    "mask_file": ["/etc/passwd"],
    "tuberculosis": ["yes", ""],
    "sex": ["male"],
    "age_years": ["-1", "4.5", "131", "045", " 45", "4_5", "٤٥"],
    "original_width": ["0", ""],
    "original_height": ["1e3", "100001"],
    "patient_group": [""],
    "same_patient_evidence": ["likely"],
    "questionable_mask": ["2"],
    "published_split": ["unlabelled"],
    "split": ["", "training"],
}


@pytest.mark.parametrize(
    ("column", "cell"), [(column, cell) for column in BAD_CELLS for cell in BAD_CELLS[column]]
)
def test_a_bad_cell_is_named_by_row_and_column(tmp_path: Path, column: str, cell: str):
    error = refusal(tmp_path, HEADER, *changed(0, **{column: cell}))
    assert f"in row 2, column `{column}`" in error.received
    assert repr(cell) in error.received


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([HEADER], "a header and no row"),
        ([], "no column 'image_id'"),
        ([HEADER.replace("sex", "gender"), *ROWS], "no column 'sex'; unknown column 'gender'"),
        ([HEADER.replace("image_id,source", "source,image_id"), *ROWS], "another order"),
        ([HEADER.replace(",", ";"), *ROWS], "';' in row 1"),
        ([HEADER.replace(",", "\t"), *ROWS], r"'\t' in row 1"),
        ([HEADER, ROWS[0], ROWS[1] + ","], "15 cells in row 3, column `split`"),
        ([HEADER, *ROWS[:2], ROWS[2][: -len(",train")]], "13 cells in row 4, column `split`"),
        ([HEADER, ROWS[0], "", ROWS[1]], "0 cells in row 3, column `image_id`"),
        ([HEADER, ROWS[0], '"' + ROWS[1]], "unexpected end of data in row 3"),
        ([HEADER, ROWS[0], *ROWS], "'CHNCXR_0001_0' after 'CHNCXR_0001_0' in row 3"),
        ([HEADER, *ROWS[1::-1]], "'CHNCXR_0001_0' after 'CHNCXR_0340_1' in row 3"),
        (
            [HEADER, *changed(1, image_file="CHNCXR_0001_0.png")],
            "also in row 2 in row 3, column `image_file`",
        ),
        ([HEADER, *changed(1, split="train")], "mask_file '' with split 'train' in row 3"),
        ([HEADER, *changed(1, mask_file="x.png")], "'x.png' with split 'unlabelled' in row 3"),
    ],
)
def test_a_broken_table_is_refused_and_says_where(tmp_path: Path, lines: list[str], where: str):
    assert where in refusal(tmp_path, *lines).received


@pytest.mark.parametrize(
    ("first", "second"), [("train", "test"), ("val", "test"), ("train", "val"), ("test", "train")]
)
def test_a_patient_in_two_splits_is_a_leak(tmp_path: Path, first: str, second: str):
    rows = changed(0, split=first, patient_group="MCUCXR_0162")[:1] + changed(2, split=second)[2:]
    error = refusal(tmp_path, HEADER, *rows)
    assert f"CHNCXR_0001_0 in {first}, MCUCXR_0162_1 in {second}" in error.received
    assert "in row 3, column `split`" in error.received


def test_an_excluded_image_may_share_the_patient_of_a_test_image(tmp_path: Path):
    rows = changed(0, patient_group="MCUCXR_0162")[:1] + changed(2, split="excluded")[2:]
    assert count_splits(load_manifest(write_csv(tmp_path, HEADER, *rows)))["excluded"] == 1


def test_text_in_another_encoding_is_named_by_row(tmp_path: Path):
    path = write_csv(tmp_path, HEADER, *ROWS)
    path.write_bytes(path.read_bytes().replace(b"CHNCXR_0340,", b"CHN\xfcR_0340,"))
    with pytest.raises(ManifestError, match="UTF-8") as caught:
        load_manifest(path)
    assert "byte 0xfc in row 3, column `patient_group`" in caught.value.received
    path.write_text("".join(f"{line}\n" for line in (HEADER, *ROWS)), encoding="utf-16")
    with pytest.raises(ManifestError, match="UTF-8") as caught:
        load_manifest(path)
    assert "byte 0xff in row 1, column `image_id`" in caught.value.received


def test_a_missing_file_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ManifestError, match="No such file"):
        load_manifest(tmp_path / "manifest.csv")


def test_writing_refuses_what_loading_would(tmp_path: Path):
    case = load_manifest(write_csv(tmp_path, HEADER, *ROWS))[0]
    out = tmp_path / "out.csv"
    for bad in (dataclasses.replace(case, sex="x"), dataclasses.replace(case, image_file="a/b")):
        with pytest.raises(ManifestError, match="in row 2"):
            write_manifest(out, [bad])
    with pytest.raises(ManifestError, match="there once"):
        write_manifest(out, [case, case])
    assert not out.exists()


names = st.text("aZ09_-é ,\"'", min_size=1, max_size=6).filter(lambda name: name == name.strip())
pixels = st.integers(1, 100_000)
people = (st.booleans(), st.sampled_from(["M", "F", ""]), st.none() | st.integers(0, 130))
evidence = st.sampled_from(["stated", "probable", ""])
published = st.sampled_from(["train", "val", "test", ""])
facts = (names, evidence, st.booleans(), published, st.just("train"))
a_case = st.builds(
    Case, names, st.sampled_from(SOURCES), names, names, *people, pixels, pixels, *facts
)
unique = (lambda case: case.image_id, lambda case: case.image_file)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cases=st.lists(a_case, min_size=1, max_size=4, unique_by=unique))
def test_what_is_written_is_loaded(tmp_path: Path, cases: list[Case]):
    loaded = load_manifest(write_manifest(tmp_path / "manifest.csv", cases))
    assert loaded == sorted(cases, key=lambda case: case.image_id)


def test_the_projects_manifest(repository: Path, tmp_path: Path):
    cases = load_manifest()
    assert list(count_splits(cases)) == list(SPLITS)
    assert list(count_splits(cases).values()) == [498, 58, 141, 7, 96]
    assert len(load_manifest(sources="montgomery")) == 138
    assert len(load_manifest(sources="shenzhen", splits=[*SPLITS[:4]])) == 566
    assert sum(case.tuberculosis for case in cases) == 58 + 336
    assert sum(case.questionable_mask for case in cases) == 62
    assert all((case.split == "test") == (case.published_split == "test") for case in cases)
    again = write_manifest(tmp_path / "again.csv", reversed(cases))
    assert again.read_bytes() == (repository / "data_manifest.csv").read_bytes()


PATIENTS = {
    "stated": ["0113 0117", "0162 0166 0170"],
    "probable": ["0264 0313 0316", "0258 0309 0311", "0254 0255", "0173 0243", "0372 0375"],
}


@pytest.mark.parametrize(
    ("evidence", "group"),
    [(evidence, group) for evidence in PATIENTS for group in PATIENTS[evidence]],
)
def test_the_projects_manifest_keeps_the_known_patients_together(evidence: str, group: str):
    by_number = {case.image_id[7:11]: case for case in load_manifest(sources="montgomery")}
    members = [by_number[number] for number in group.split()]
    assert len({case.patient_group for case in members}) == 1
    assert {case.same_patient_evidence for case in members} == {evidence}
    assert len({case.split for case in members} - {"excluded"}) == 1
