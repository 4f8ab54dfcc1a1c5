"""The manifest: one row a case, with its files, facts and split."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from lungseg_utils.errors import ManifestError, check_known
from lungseg_utils.files.records import write_atomically

MANIFEST_NAME = "data_manifest.csv"
SOURCES = ("montgomery", "shenzhen")
SPLITS = ("train", "val", "test", "excluded", "unlabelled")
LEARNING_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One X-ray of the data set.

    Args:
        image_id: Name without suffix, such as `MCUCXR_0001_0`.
        source: `montgomery` or `shenzhen`.
        image_file: File name of the X-ray.
        mask_file: File name of its lung mask; empty where there is none.
        tuberculosis: Whether the case was diagnosed with tuberculosis.
        sex: `M`, `F`, or empty where it is not stated.
        age_years: Age in completed years, None where it is not stated.
        original_width: Width of the X-ray as published, in pixels.
        original_height: Height of the X-ray as published, in pixels.
        patient_group: The same for all cases that may show one patient.
        same_patient_evidence: Why the group has several cases: `stated` in the readings,
            `probable`, or empty.
        questionable_mask: Whether an earlier study set the mask aside.
        published_split: `train`, `val` or `test` in the published split, or empty.
        split: What the case is used for here, one of `SPLITS`.
    """

    image_id: str
    source: str
    image_file: str
    mask_file: str
    tuberculosis: bool
    sex: str
    age_years: int | None
    original_width: int
    original_height: int
    patient_group: str
    same_patient_evidence: str
    questionable_mask: bool
    published_split: str
    split: str


COLUMNS = tuple(field.name for field in fields(Case))


def default_manifest_path() -> Path:
    """The manifest shipped with the package, or the repository's where it runs from a checkout."""
    package = Path(__file__).resolve().parent
    shipped = package / MANIFEST_NAME
    return shipped if shipped.is_file() else package.parent / MANIFEST_NAME


def load_manifest(
    path: Path | str | None = None,
    sources: str | Collection[str] | None = None,
    splits: str | Collection[str] | None = None,
) -> list[Case]:
    """Read and validate a manifest.

    Args:
        path: The file; None for the project's own.
        sources: Keep these sources only; None keeps all.
        splits: Keep these splits only; None keeps all.

    Returns:
        The cases, sorted by image id.

    Raises:
        ManifestError: The file breaks a rule; the message names row and column.
        LungsegError: `sources` or `splits` holds an unknown name.
    """
    kept_sources = _selection("sources", sources, SOURCES)
    kept_splits = _selection("splits", splits, SPLITS)
    path = default_manifest_path() if path is None else Path(path)
    cases = _parse(_read_text(path), path)
    return [case for case in cases if case.source in kept_sources and case.split in kept_splits]


def write_manifest(path: Path | str, cases: Iterable[Case]) -> Path:
    """Write cases as a manifest, sorted by image id; validated as when it is loaded.

    Raises:
        ManifestError: The cases break a rule; nothing is written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_row(case) for case in sorted(cases, key=lambda case: case.image_id))
    _parse(text.getvalue(), Path(path))
    content = text.getvalue().encode("utf-8")
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def to_row(case: Case) -> dict[str, str]:
    """The case as text, column by column: 0 and 1 for no and yes, empty for unknown."""
    values = {column: getattr(case, column) for column in COLUMNS}
    values |= {column: int(value) for column, value in values.items() if isinstance(value, bool)}
    return {column: "" if value is None else str(value) for column, value in values.items()}


def count_splits(cases: Iterable[Case]) -> dict[str, int]:
    """Number of cases in each split, all of `SPLITS` in their order."""
    counts = dict.fromkeys(SPLITS, 0)
    for case in cases:
        counts[case.split] += 1
    return counts


def _selection(name: str, wanted: str | Collection[str] | None, known: tuple[str, ...]) -> set[str]:
    if wanted is None:
        return set(known)
    kept = {wanted} if isinstance(wanted, str) else set(wanted)
    check_known(kept, known, f"What `{name}` names")
    return kept


def _read_text(path: Path) -> str:
    try:
        # Spreadsheet programs put a byte order mark in front.
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(
            "The manifest must be a readable file.",
            f"{path} ({error.strerror})",
            "Check the path, or pass None for the project's own manifest.",
        ) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start].split(b"\n")
        column = COLUMNS[min(before[-1].count(b","), len(COLUMNS) - 1)]
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise ManifestError(
            "The manifest must be UTF-8 text.",
            f"{byte} in row {len(before)}, column `{column}` of {path}",
            "Save the file again as UTF-8.",
        ) from error


def _parse(text: str, path: Path) -> list[Case]:
    """Parse and check every row, then what concerns several rows."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_header(next(reader, []), path)
        numbered = [(reader.line_num, _parse_row(cells, reader.line_num, path)) for cells in reader]
    except csv.Error as error:
        raise ManifestError(
            "The manifest must be comma-separated text.",
            f"{error} in row {reader.line_num} of {path}",
            "Look for an open quotation mark in that row.",
        ) from error
    if not numbered:
        raise ManifestError(
            "A manifest has at least one case.", f"a header and no row in {path}", _RESTORE
        )
    _check_across(numbered, path)
    return [case for _, case in numbered]


def _check_header(header: list[str], path: Path) -> None:
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        raise ManifestError(
            "The columns of a manifest are separated by commas.",
            f"{other[0]!r} in row 1 of {path}",
            "Save the table again as CSV with commas.",
        )
    found = [f"no column {column!r}" for column in COLUMNS if column not in header]
    found += [f"unknown column {column!r}" for column in header if column not in COLUMNS]
    if tuple(header) != COLUMNS:
        found = found or [f"another order or a column twice: {', '.join(header)}"]
        rule = f"The header (row 1) is exactly: {','.join(COLUMNS)}."
        raise ManifestError(rule, f"{'; '.join(found)} in {path}", _RESTORE)


def _parse_row(cells: list[str], line: int, path: Path) -> Case:
    if len(cells) != len(COLUMNS):
        rule = f"Every row has {len(COLUMNS)} cells, one for each column, separated by commas."
        column = COLUMNS[min(len(cells), len(COLUMNS) - 1)]
        _refuse(rule, f"{len(cells)} cells", line, column, path)
    row = dict(zip(COLUMNS, cells, strict=True))
    for column, (rule, pattern) in _RULES.items():
        if not re.fullmatch(pattern, row[column]):
            _refuse(f"`{column}` is {rule}.", repr(row[column]), line, column, path)
    if (row["mask_file"] == "") != (row["split"] == "unlabelled"):
        received = f"mask_file {row['mask_file']!r} with split {row['split']!r}"
        rule = "A case is `unlabelled` exactly where it has no `mask_file`."
        _refuse(rule, received, line, "split", path)
    numbers = {name: int(row[name]) for name in _NUMBERS if row[name]}
    flags = {name: row[name] == "1" for name in ("tuberculosis", "questionable_mask")}
    return Case(**{**row, "age_years": None, **numbers, **flags})


def _check_across(numbered: list[tuple[int, Case]], path: Path) -> None:
    """Check what concerns several rows: order, duplicates, patients in two splits."""
    previous, files, groups = "", {}, {}
    for line, case in numbered:
        if case.image_id <= previous:
            rule = "Rows are sorted by `image_id`, and every one is there once."
            _refuse(rule, f"{case.image_id!r} after {previous!r}", line, "image_id", path)
        previous = case.image_id
        if (first := files.setdefault(case.image_file, line)) != line:
            received = f"{case.image_file!r}, also in row {first}"
            _refuse("Every `image_file` is there once.", received, line, "image_file", path)
        if case.split not in LEARNING_SPLITS:
            continue
        other = groups.setdefault(case.patient_group, case)
        if other.split != case.split:
            rule = "A patient's images are all in train, all in val, or all in test."
            received = f"patient group {case.patient_group!r}: {other.image_id} in {other.split}, "
            received += f"{case.image_id} in {case.split}"
            _refuse(rule, received, line, "split", path)


def _refuse(rule: str, received: str, line: int, column: str, path: Path) -> None:
    raise ManifestError(
        rule,
        f"{received} in row {line}, column `{column}` of {path}",
        f"Correct row {line} (the header is row 1).",
    )


def _one_of(*words: str) -> tuple[str, str]:
    return "one of " + ", ".join(word or "(empty)" for word in words), "|".join(words)


_RESTORE = "Restore the file, or build the manifest again with `python -m tools.build_manifest`."
_NUMBERS = ("age_years", "original_width", "original_height")
# A name that leaves the bundle's folder would let a manifest read any file.
_NAME = (
    "a name without folders, control characters or spaces around it",
    r"(?!\.{1,2}\Z)(?!\s)[^/\\:\x00-\x1f]+(?<!\s)",
)
_PIXELS = ("a whole number from 1 to 100000", "[1-9][0-9]{0,4}|100000")
# Of each column: what a cell is, in words and as a pattern.
_RULES = {
    "image_id": _NAME,
    "source": _one_of(*SOURCES),
    "image_file": _NAME,
    "mask_file": (f"{_NAME[0]}, or empty", f"({_NAME[1]})?"),
    "tuberculosis": _one_of("0", "1"),
    "sex": _one_of("M", "F", ""),
    "age_years": ("a whole number from 0 to 130, or empty", "([1-9]?[0-9]|1[0-2][0-9]|130)?"),
    "original_width": _PIXELS,
    "original_height": _PIXELS,
    "patient_group": _NAME,
    "same_patient_evidence": _one_of("stated", "probable", ""),
    "questionable_mask": _one_of("0", "1"),
    "published_split": _one_of(*LEARNING_SPLITS, ""),
    "split": _one_of(*SPLITS),
}
