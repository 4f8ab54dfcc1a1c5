"""The manifest: one row a case, with its files, facts and split."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from lungseg_utils.errors import LungsegError, ManifestError
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
    numbered = _parse(_read_text(path), path)
    _check_across(numbered, path)
    return [
        case for _, case in numbered if case.source in kept_sources and case.split in kept_splits
    ]


def write_manifest(path: Path | str, cases: Iterable[Case]) -> Path:
    """Write cases as a manifest, sorted by image id; validated as when it is loaded.

    Raises:
        ManifestError: The cases break a rule; nothing is written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_row(case) for case in sorted(cases, key=lambda case: case.image_id))
    _check_across(_parse(text.getvalue(), Path(path)), Path(path))
    content = text.getvalue().encode("utf-8")
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def to_row(case: Case) -> dict[str, str]:
    """The case as text, column by column: 0 and 1 for no and yes, empty for unknown."""
    return {column: _as_text(getattr(case, column)) for column in COLUMNS}


def count_splits(cases: Iterable[Case]) -> dict[str, int]:
    """Number of cases in each split, all of `SPLITS` in their order."""
    counts = dict.fromkeys(SPLITS, 0)
    for case in cases:
        counts[case.split] += 1
    return counts


def _as_text(value: str | int | bool | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _selection(
    name: str, wanted: str | Collection[str] | None, known: Sequence[str]
) -> Collection[str]:
    if wanted is None:
        return known
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [value for value in wanted if value not in known]
    if unknown:
        raise LungsegError(
            f"`{name}` holds names out of {', '.join(known)}.",
            ", ".join(map(repr, unknown)),
            "Correct the name, or pass None for all.",
        )
    return wanted


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
        read = error.object[: error.start]
        row = read.count(b"\n") + 1
        cells = next(csv.reader([read.rpartition(b"\n")[2].decode("latin-1")]), [])
        column = COLUMNS[min(max(len(cells), 1), len(COLUMNS)) - 1]
        raise ManifestError(
            "The manifest must be UTF-8 text.",
            f"byte 0x{error.object[error.start]:02x} in row {row}, column `{column}` of {path}",
            "Save the file again as UTF-8.",
        ) from error


def _parse(text: str, path: Path) -> list[tuple[int, Case]]:
    """Parse every row; each case comes with its line number in the file."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    cases = []
    try:
        _check_header(next(reader, []), path)
        for cells in reader:
            if len(cells) != len(COLUMNS):
                missing = COLUMNS[len(cells) :]
                where = f"none for `{missing[0]}`" if missing else f"some after `{COLUMNS[-1]}`"
                raise ManifestError(
                    f"Every row has {len(COLUMNS)} columns.",
                    f"{len(cells)} in row {reader.line_num}, {where}, of {path}",
                    "Compare the row with the header; a comma may be missing or too many.",
                )
            cases.append((reader.line_num, _parse_row(cells, reader.line_num, path)))
        if not cases:
            raise ManifestError(
                "A manifest has at least one case.",
                f"a header and no row in {path}",
                "Restore the file, or build the manifest again.",
            )
    except csv.Error as error:
        raise ManifestError(
            "The manifest must be comma-separated text.",
            f"{error} in row {reader.line_num} of {path}",
            "Look for an open quotation mark in that row.",
        ) from error
    return cases


def _check_header(header: list[str], path: Path) -> None:
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        raise ManifestError(
            "The columns of a manifest are separated by commas.",
            f"{other[0]!r} in row 1 of {path}",
            "Save the table again as CSV with commas.",
        )
    missing = [column for column in COLUMNS if column not in header]
    extra = [column for column in header if column not in COLUMNS]
    if missing or extra or tuple(header) != COLUMNS:
        found = [f"no column {column!r}" for column in missing]
        found += [f"unknown column {column!r}" for column in extra]
        found = found or [f"another order or a column twice: {', '.join(header)}"]
        raise ManifestError(
            f"The header (row 1) is exactly: {','.join(COLUMNS)}.",
            f"{'; '.join(found)} in {path}",
            "Correct the header, or build the manifest again with "
            "`python -m tools.build_manifest`.",
        )


def _parse_row(cells: list[str], line: int, path: Path) -> Case:
    values = {}
    for column, cell in zip(COLUMNS, cells, strict=True):
        rule, parse = _RULES[column]
        try:
            values[column] = parse(cell)
        except ValueError:
            _refuse(f"`{column}` is {rule}.", repr(cell), line, column, path)
    case = Case(**values)
    if (case.mask_file == "") != (case.split == "unlabelled"):
        received = f"mask_file {case.mask_file!r} with split {case.split!r}"
        rule = "A case is `unlabelled` exactly where it has no `mask_file`."
        _refuse(rule, received, line, "split", path)
    return case


def _check_across(numbered: list[tuple[int, Case]], path: Path) -> None:
    """Check what concerns several rows: order, duplicates, patients in two splits."""
    previous = ""
    image_files: dict[str, int] = {}
    group_split: dict[str, tuple[str, str]] = {}
    for line, case in numbered:
        if case.image_id == previous:
            _refuse("Every `image_id` is there once.", repr(previous), line, "image_id", path)
        if case.image_id < previous:
            received = f"{case.image_id!r} after {previous!r}"
            _refuse("Rows are sorted by `image_id`.", received, line, "image_id", path)
        previous = case.image_id
        if case.image_file in image_files:
            received = f"{case.image_file!r}, also in row {image_files[case.image_file]}"
            _refuse("Every `image_file` is there once.", received, line, "image_file", path)
        image_files[case.image_file] = line
        _check_leak(case, line, group_split, path)


def _check_leak(case: Case, line: int, group_split: dict[str, tuple[str, str]], path: Path) -> None:
    if case.split not in LEARNING_SPLITS:
        return
    split, image_id = group_split.setdefault(case.patient_group, (case.split, case.image_id))
    if split != case.split:
        received = (
            f"patient group {case.patient_group!r}: {image_id} in {split}, "
            f"{case.image_id} in {case.split}"
        )
        rule = "A patient's images are all in train, all in val, or all in test."
        _refuse(rule, received, line, "split", path)


def _refuse(rule: str, received: str, line: int, column: str, path: Path) -> None:
    raise ManifestError(
        rule,
        f"{received} in row {line}, column `{column}` of {path}",
        f"Correct row {line} (the header is row 1).",
    )


def _one_of(*allowed: str) -> tuple[str, Callable[[str], str]]:
    def parse(cell: str) -> str:
        if cell not in allowed:
            raise ValueError
        return cell

    return "one of " + ", ".join(value or "(empty)" for value in allowed), parse


def _whole_number(smallest: int, largest: int) -> tuple[str, Callable[[str], int]]:
    def parse(cell: str) -> int:
        # int() would also take "1_000", "+5", " 5" and digits of other scripts.
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", cell) or not smallest <= int(cell) <= largest:
            raise ValueError
        return int(cell)

    return f"a whole number from {smallest} to {largest}", parse


def _optional(
    rule: tuple[str, Callable[[str], int]],
) -> tuple[str, Callable[[str], int | None]]:
    text, parse = rule
    return f"{text}, or empty", lambda cell: parse(cell) if cell else None


def _yes_or_no() -> tuple[str, Callable[[str], bool]]:
    rule, parse = _one_of("0", "1")
    return rule, lambda cell: parse(cell) == "1"


def _plain_name(cell: str) -> str:
    # A name that leaves the bundle's folder would let a manifest read any file.
    if not re.fullmatch(r"[^/\\:\x00-\x1f]+", cell) or cell.strip() != cell or cell in {".", ".."}:
        raise ValueError
    return cell


_NAME = ("a name without folders, control characters or spaces around it", _plain_name)
_MASK_NAME = (f"{_NAME[0]}, or empty", lambda cell: _plain_name(cell) if cell else "")
_RULES: dict[str, tuple[str, Callable[[str], object]]] = {
    "image_id": _NAME,
    "source": _one_of(*SOURCES),
    "image_file": _NAME,
    "mask_file": _MASK_NAME,
    "tuberculosis": _yes_or_no(),
    "sex": _one_of("M", "F", ""),
    "age_years": _optional(_whole_number(0, 130)),
    "original_width": _whole_number(1, 100_000),
    "original_height": _whole_number(1, 100_000),
    "patient_group": _NAME,
    "same_patient_evidence": _one_of("stated", "probable", ""),
    "questionable_mask": _yes_or_no(),
    "published_split": _one_of(*LEARNING_SPLITS, ""),
    "split": _one_of(*SPLITS),
}
