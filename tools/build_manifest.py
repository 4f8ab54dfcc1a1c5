"""Build the manifest from a downloaded bundle, and from what the manifest of before knows.

Run as `python -m tools.build_manifest BUNDLE OUT`.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lungseg_utils.bundle import (
    IMAGE_FOLDER,
    READINGS_FOLDER,
    MaskFiles,
    find_bundle,
    find_masks,
    list_bundle_images,
)
from lungseg_utils.errors import ImageFileError, LungsegError, ManifestError
from lungseg_utils.files.images import FORMATS
from lungseg_utils.manifest import (
    LEARNING_SPLITS,
    Case,
    count_splits,
    load_manifest,
    write_manifest,
)

_IMAGE_ID = re.compile(r"(?P<patient>(?P<set>MCUCXR|CHNCXR)_\d{4})_(?P<tuberculosis>[01])")
_SOURCES = {"MCUCXR": "montgomery", "CHNCXR": "shenzhen"}
_AGE = r"(?P<age>\d{1,5})(?:[ \t]*(?P<unit>[ymwd])(?:rs?|ears?|os?|onths?|eeks?|ays?)?)?\b"
_READINGS = {
    # "Patient's Sex: F", "Patient's Age: 027Y", then the finding.
    "montgomery": r"\s*patient'?s\s+sex\s*:\s*(?P<sex>\w+)\s+patient'?s\s+age\s*:\s*" + _AGE,
    # "male 45yrs", then the finding; also "femal 32yrs", "Female, 28yrs", "female24yrs".
    "shenzhen": r"\s*(?P<sex>[a-z]+)[\s,;:]*" + _AGE,
}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "femal": "F", "o": ""}
_UNITS_PER_YEAR = {"y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}


def build_manifest(bundle: Path | str, known: Path | str | None = None) -> list[Case]:
    """Build the cases of a bundle from file names, image headers, readings and known facts.

    Args:
        bundle: A folder with `CXR_png`, masks and `ClinicalReadings`, or one that holds it.
        known: The manifest that says what no file of a bundle does: patient groups, questionable
            masks and the published split; None for the project's own. A case without a row is a
            patient of its own.

    Returns:
        The cases sorted by image id. The published test images are the test set; a training
        or validation case that shares a patient with one of them is `excluded`; a patient in
        both training and validation goes whole to validation; cases without a mask are
        `unlabelled`.

    Raises:
        MissingInputError: The folder holds no bundle.
        ManifestError: A name, a reading or the manifest of before breaks a rule.
        ImageFileError: An image has no readable header.
    """
    bundle = find_bundle(bundle)
    masks, rows = find_masks(bundle), {case.image_id: case for case in load_manifest(known)}
    images = list_bundle_images(bundle / IMAGE_FOLDER)
    cases = [_describe(image, bundle, masks, rows.get(image.stem)) for image in images]
    published = defaultdict(set)
    for case in cases:
        if case.mask_file:
            published[case.patient_group].add(case.published_split)
    cases = [replace(case, split=_split_of(case, published[case.patient_group])) for case in cases]
    return sorted(cases, key=lambda case: case.image_id)


def parse_reading(text: str, source: str) -> tuple[str, int]:
    """Parse the text of a reading.

    Args:
        text: Content of `ClinicalReadings/<image_id>.txt`.
        source: `montgomery` or `shenzhen`; each has its own format.

    Returns:
        Sex (`M`, `F`, or empty where it is neither) and age in completed years. Ages in months,
        weeks and days are turned into years; an age without a unit is in years.

    Raises:
        ManifestError: The text has not the source's format.
    """
    plain = text.lstrip("\ufeff").replace("’", "'")
    match = re.match(_READINGS[source], plain, re.IGNORECASE)
    sex = _SEXES.get(match["sex"].lower()) if match else None
    if match is None or sex is None:
        raise ManifestError(
            f"A reading of {source} begins with sex and age.",
            repr(text[:80]),
            "Compare the file with the data set's; it may be damaged.",
        )
    return sex, int(int(match["age"]) / _UNITS_PER_YEAR[(match["unit"] or "y").lower()])


def main(arguments: list[str] | None = None) -> None:
    """Build a manifest from the command line."""
    parser = argparse.ArgumentParser(description="Build the manifest of a downloaded bundle.")
    parser.add_argument("bundle", type=Path, help="folder with CXR_png, masks, ClinicalReadings")
    parser.add_argument("out", type=Path, help="the manifest to write")
    parser.add_argument("--known", type=Path, help="manifest of before (default: the project's)")
    parsed = parser.parse_args(arguments)
    try:
        cases = build_manifest(parsed.bundle, parsed.known)
        write_manifest(parsed.out, cases)
    except LungsegError as error:
        parser.exit(1, f"{error}\n")
    counts = ", ".join(f"{split} {number}" for split, number in count_splits(cases).items())
    print(f"{parsed.out}: {len(cases)} cases ({counts})")


def _describe(image: Path, bundle: Path, masks: MaskFiles, known: Case | None) -> Case:
    name = _IMAGE_ID.fullmatch(image.stem)
    if not name:
        raise ManifestError(
            "An X-ray is named MCUCXR_<4 digits>_<0 or 1> or CHNCXR_<4 digits>_<0 or 1>.",
            image.name,
            f"Remove it from {image.parent}, or correct its name.",
        )
    source, mask = _SOURCES[name["set"]], masks.of(image.stem)
    sex, age_years = _read_reading(bundle / READINGS_FOLDER / f"{image.stem}.txt", source)
    width, height = _size_from_header(image)
    return Case(
        image_id=image.stem,
        source=source,
        image_file=image.name,
        mask_file=mask[0].name if mask else "",
        tuberculosis=name["tuberculosis"] == "1",
        sex=sex,
        age_years=age_years,
        original_width=width,
        original_height=height,
        patient_group=known.patient_group if known else name["patient"],
        same_patient_evidence=known.same_patient_evidence if known else "",
        questionable_mask=known.questionable_mask if known else False,
        published_split=known.published_split if known else "",
        split="",
    )


def _split_of(case: Case, published_of_group: set[str]) -> str:
    if not case.mask_file:
        return "unlabelled"
    if case.published_split not in LEARNING_SPLITS:
        raise ManifestError(
            "A case with a mask is in train, val or test of the published split.",
            f"{case.published_split!r} for {case.image_id}, column `published_split`",
            "Add the case, or its published split, to the manifest of before.",
        )
    if case.published_split == "test":
        return "test"
    if "test" in published_of_group:
        return "excluded"
    return "val" if "val" in published_of_group else "train"


def _read_reading(path: Path, source: str) -> tuple[str, int]:
    try:
        # The finding is free text and stays out of the manifest: odd bytes there do no harm.
        return parse_reading(path.read_text(encoding="utf-8", errors="replace"), source)
    except OSError as error:
        raise ManifestError(
            "Every X-ray has a reading.",
            f"{path} ({error.strerror})",
            "Fetch the bundle again, or add the file.",
        ) from error
    except ManifestError as error:
        raise ManifestError(error.rule, f"{error.received} in {path}", error.advice) from error


def _size_from_header(path: Path) -> tuple[int, int]:
    """Width and height in pixels, without decoding the image."""
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
