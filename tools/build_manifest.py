"""Build the manifest from a downloaded bundle and the table of known facts.

Run as `python -m tools.build_manifest BUNDLE OUT`.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lungseg_utils.bundle import (
    IMAGE_FOLDER,
    READINGS_FOLDER,
    MaskFiles,
    find_bundle,
    find_masks,
    list_images,
)
from lungseg_utils.errors import (
    ImageFileError,
    LungsegError,
    ManifestError,
    MissingInputError,
)
from lungseg_utils.files.images import FORMATS
from lungseg_utils.manifest import LEARNING_SPLITS, Case, count_splits, write_manifest
from tools.readings import Reading, parse_reading

KNOWN_FACTS = Path(__file__).resolve().parent / "known_facts.csv"
FACT_COLUMNS = (
    "image_id",
    "patient_group",
    "same_patient_evidence",
    "questionable_mask",
    "published_split",
)
_IMAGE_ID = re.compile(r"(?P<patient>(?P<set>MCUCXR|CHNCXR)_\d{4})_(?P<tuberculosis>[01])")
_SOURCES = {"MCUCXR": "montgomery", "CHNCXR": "shenzhen"}


@dataclass(frozen=True)
class KnownFacts:
    """What no file of a bundle says about a case; see `Case` for the meaning."""

    patient_group: str = ""
    same_patient_evidence: str = ""
    questionable_mask: bool = False
    published_split: str = ""


def build_manifest(bundle: Path | str, facts: Path | str | None = None) -> list[Case]:
    """Build the cases of a bundle from file names, image headers, readings and known facts.

    Args:
        bundle: A folder with `CXR_png`, masks and `ClinicalReadings`, or one that holds it.
        facts: CSV with `FACT_COLUMNS`; None for the package's table of the 704 masked cases.
            A case without a row, or with an empty `patient_group`, is a patient of its own.

    Returns:
        The cases sorted by image id. The published test images are the test set; a training
        or validation case that shares a patient with one of them is `excluded`; a patient in
        both training and validation goes whole to validation; cases without a mask are
        `unlabelled`.

    Raises:
        MissingInputError: The folder holds no bundle, or there is no table of facts.
        ManifestError: A name, a reading or a row of the facts breaks a rule.
        ImageFileError: An image has no readable header.
    """
    bundle = find_bundle(bundle)
    known = load_facts(KNOWN_FACTS if facts is None else Path(facts))
    masks = find_masks(bundle)
    images = list_images(bundle / IMAGE_FOLDER)
    cases = [_describe(path, bundle, masks, known.get(path.stem, KnownFacts())) for path in images]
    return sorted(_assign_splits(cases), key=lambda case: case.image_id)


def load_facts(path: Path) -> dict[str, KnownFacts]:
    """Read the table of known facts by image id.

    Raises:
        MissingInputError: There is no such file.
        ManifestError: The header differs from `FACT_COLUMNS`, or an image is there twice.
    """
    if not path.is_file():
        raise MissingInputError(
            "The table of known facts is a file.", f"no file {path}", "Correct its path."
        )
    facts: dict[str, KnownFacts] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FACT_COLUMNS:
            raise ManifestError(
                f"The table of known facts has the columns {', '.join(FACT_COLUMNS)}.",
                f"{', '.join(reader.fieldnames or ())} in {path}",
                "Correct the header (row 1).",
            )
        for row in reader:
            if row["image_id"] in facts:
                raise ManifestError(
                    "Every image is there once in the table of known facts.",
                    f"{row['image_id']!r} in row {reader.line_num}, column `image_id` of {path}",
                    "Remove one of the two rows.",
                )
            facts[row["image_id"]] = KnownFacts(
                row["patient_group"],
                row["same_patient_evidence"],
                row["questionable_mask"] == "1",
                row["published_split"],
            )
    return facts


def main(arguments: list[str] | None = None) -> None:
    """Build a manifest from the command line."""
    parser = argparse.ArgumentParser(description="Build the manifest of a downloaded bundle.")
    parser.add_argument("bundle", type=Path, help="folder with CXR_png, masks, ClinicalReadings")
    parser.add_argument("out", type=Path, help="the manifest to write")
    parser.add_argument("--facts", type=Path, help="table of known facts (default: the package's)")
    parsed = parser.parse_args(arguments)
    try:
        cases = build_manifest(parsed.bundle, parsed.facts)
        write_manifest(parsed.out, cases)
    except LungsegError as error:
        parser.exit(1, f"{error}\n")
    counts = ", ".join(f"{split} {number}" for split, number in count_splits(cases).items())
    print(f"{parsed.out}: {len(cases)} cases ({counts})")


def _describe(image: Path, bundle: Path, masks: MaskFiles, facts: KnownFacts) -> Case:
    name = _IMAGE_ID.fullmatch(image.stem)
    if not name:
        raise ManifestError(
            "An X-ray is named MCUCXR_<4 digits>_<0 or 1> or CHNCXR_<4 digits>_<0 or 1>.",
            image.name,
            f"Remove it from {image.parent}, or correct its name.",
        )
    source = _SOURCES[name["set"]]
    mask = masks.of(image.stem)
    reading = _read_reading(bundle / READINGS_FOLDER / f"{image.stem}.txt", source)
    width, height = _size_from_header(image)
    return Case(
        image_id=image.stem,
        source=source,
        image_file=image.name,
        mask_file=mask[0].name if mask else "",
        tuberculosis=name["tuberculosis"] == "1",
        sex=reading.sex,
        age_years=reading.age_years,
        original_width=width,
        original_height=height,
        patient_group=facts.patient_group or name["patient"],
        same_patient_evidence=facts.same_patient_evidence,
        questionable_mask=facts.questionable_mask,
        published_split=facts.published_split,
        split="",
    )


def _assign_splits(cases: Iterable[Case]) -> list[Case]:
    cases = list(cases)
    published = defaultdict(set)
    for case in cases:
        if case.mask_file:
            published[case.patient_group].add(case.published_split)
    return [replace(case, split=_split_of(case, published[case.patient_group])) for case in cases]


def _split_of(case: Case, published_of_group: set[str]) -> str:
    if not case.mask_file:
        return "unlabelled"
    if case.published_split not in LEARNING_SPLITS:
        raise ManifestError(
            "A case with a mask is in train, val or test of the published split.",
            f"{case.published_split!r} for {case.image_id}, column `published_split`",
            "Add the case to the table of known facts.",
        )
    if case.published_split == "test":
        return "test"
    if "test" in published_of_group:
        return "excluded"
    return "val" if "val" in published_of_group else "train"


def _read_reading(path: Path, source: str) -> Reading:
    if not path.is_file():
        raise ManifestError(
            "Every X-ray has a reading.",
            f"no file {path}",
            "Fetch the bundle again, or add the file.",
        )
    try:
        # The finding is free text and stays out of the manifest: odd bytes there do no harm.
        return parse_reading(path.read_text(encoding="utf-8", errors="replace"), source)
    except LungsegError as error:
        raise ManifestError(error.rule, f"{error.received} in {path}", error.advice) from error


def _size_from_header(path: Path) -> tuple[int, int]:
    """Width and height in pixels, without decoding the image."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    # Pillow's readers raise errors of any type on damaged files, and one on sizes beyond belief.
    except Exception as error:
        raise ImageFileError(
            "An X-ray must be a readable image file.", f"{path} ({error})", "Fetch it again."
        ) from error


if __name__ == "__main__":
    main()
