"""What a DICOM film's header says: view, orientation, spacing; nothing about the patient."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pydicom

_LATERAL = re.compile(r"^(LL|RL)$|\bLAT(ERAL)?\b", re.IGNORECASE)
_FRONTAL = re.compile(r"\b(PA|AP|FRONTAL|POSTERO-?\s?ANTERIOR|ANTERO-?\s?POSTERIOR)\b|DECUB", re.I)
_SPACING_LIMITS = 0.01, 5.0  # mm
_EXTENT_LIMITS = 40.0, 1000.0  # mm, of a side of a film


@dataclass(frozen=True)
class Header:
    """What a film's file says about it, and nothing about the patient.

    Args:
        photometric: Such as `MONOCHROME1`, where white is 0; it is turned round when read.
        greys: Which range of values became black to white, see `read_dicom`.
        view: `frontal`, or empty where the file does not say.
        projection: `PA`, `AP` or empty.
        orientation: Where rows and columns of pixels run to: `("L", "F")` to the patient's left
            and feet, as films are hung; None where the file does not say.
        spacing: Millimetres between rows and between columns; None where absent or absurd.
        spacing_source: What the spacing is, and whether it is at the detector or calibrated.
    """

    photometric: str = ""
    greys: str = ""
    view: str = ""
    projection: str = ""
    orientation: tuple[str, str] | None = None
    spacing: tuple[float, float] | None = None
    spacing_source: str = ""


def read_header(dataset: pydicom.Dataset, greys: str) -> Header:
    """What a dataset says about its film; `greys` as in `Header`."""
    projection = _projection(dataset)
    spacing, source = _spacing(dataset)
    return Header(
        str(dataset.PhotometricInterpretation),
        greys,
        "frontal" if projection else "",
        projection,
        _orientation(dataset),
        spacing,
        source,
    )


def lateral_view(dataset: pydicom.Dataset) -> str:
    """How the header says that this is a view from the side; empty where it does not."""
    views = [str(dataset.get("ViewPosition", "") or "")]
    views += [str(item.get("CodeMeaning", "")) for item in dataset.get("ViewCodeSequence") or []]
    for view in (*views, str(dataset.get("SeriesDescription", "") or "")):
        if _FRONTAL.search(view):
            return ""
        if found := _LATERAL.search(view):
            return found[0]  # the word alone: people write names into descriptions
    directions = "".join(str(one)[:1] for one in dataset.get("PatientOrientation") or [])
    return f"rows and columns run to {directions}" if set(directions) & set("AP") else ""


def _projection(dataset: pydicom.Dataset) -> str:
    views = [str(dataset.get("ViewPosition", "") or "")]
    views += [str(item.get("CodeMeaning", "")) for item in dataset.get("ViewCodeSequence") or []]
    for view in views:
        if found := re.search(r"\b(PA|AP)\b|(POSTERO|ANTERO)", view.upper()):
            return found[1] or {"POSTERO": "PA", "ANTERO": "AP"}[found[2]]
    return ""


def _orientation(dataset: pydicom.Dataset) -> tuple[str, str] | None:
    directions = dataset.get("PatientOrientation") or []
    found = tuple(str(one)[:1].upper() for one in directions)
    # One along, the other across the body.
    axes = {"L": "across", "R": "across", "H": "along", "F": "along"}
    return found if sorted(axes.get(one, "") for one in found) == ["across", "along"] else None


def _spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float] | None, str]:
    """Millimetres between pixels, and what they are: see `Header`."""
    at_detector = _pair(dataset, "ImagerPixelSpacing")
    spacing, source = _pair(dataset, "PixelSpacing"), "PixelSpacing, calibrated"
    if spacing and at_detector == spacing:
        spacing = None  # the same again, and not calibrated
    elif spacing and not at_detector and "PixelSpacingCalibrationType" not in dataset:
        source = "PixelSpacing, not said to be calibrated"
    if spacing is None and at_detector:
        spacing, source = at_detector, "ImagerPixelSpacing, at the detector"
        factor = (numbers_of(dataset.get("EstimatedRadiographicMagnificationFactor")) or [0])[0]
        if 1 <= factor <= 3:
            spacing = spacing[0] / factor, spacing[1] / factor
            source = f"ImagerPixelSpacing / magnification {factor:g}, estimated in the patient"
    return (spacing, source) if spacing else (None, "")


def _pair(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers_of(dataset.get(keyword))
    return sane_spacing(values, (int(dataset.Rows), int(dataset.Columns)))


def sane_spacing(values: list[float], shape: tuple[int, int]) -> tuple[float, float] | None:
    """Spacing of rows and columns in mm, or None where it cannot be that of a film."""
    if len(values) != 2:
        return None
    low, high = _SPACING_LIMITS
    sound = all(
        low <= value <= high and _EXTENT_LIMITS[0] <= value * count <= _EXTENT_LIMITS[1]
        for value, count in zip(values, shape, strict=True)
    )
    return (values[0], values[1]) if sound and 0.5 <= values[0] / values[1] <= 2 else None


def numbers_of(value: object) -> list[float]:
    """The finite numbers of an element of one or several values; none where one is no number."""
    several = [value] if isinstance(value, str | int | float) else list(value or [])
    try:
        numbers = [float(one) for one in several]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []
