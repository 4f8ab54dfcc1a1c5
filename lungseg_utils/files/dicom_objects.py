"""What goes back to an archive: a DICOM segmentation of a film, or a picture of its outlines.

Needs highdicom: `pip install "lungseg-utils[dicom]"`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils import __version__
from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.dicom import silence
from lungseg_utils.files.records import write_atomically

if TYPE_CHECKING:
    import pydicom

MAKER = "lungseg_utils"
# Segments in the order of their labels, as SNOMED CT codes them.
SEGMENTS = (("Right lung", "3341006", "Right lung"), ("Left lung", "44029006", "Left lung"))
_STRUCTURE = "123037004", "Anatomical Structure"
_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_REFERENCES = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"
# All that an object has from a film whose patient's identity stays out of it.
_NOT_OF_THE_PATIENT = (
    *(*_REFERENCES, "FrameOfReferenceUID", "InstanceNumber", "Modality"),
    *("Rows", "Columns", "PatientOrientation"),
)


def write_segmentation(
    path: Path, labels: np.ndarray, film: pydicom.Dataset, network: str, deidentified: bool
) -> Path:
    """Write a DICOM segmentation (supplement 111) of two segments that lies on its film.

    Written again from the same film by the same network, it has the same identifiers.

    Args:
        path: The file.
        labels: uint8 (H, W): 1 the patient's right lung, 2 the left, in the film's orientation.
        film: The elements of the film's file.
        network: What names the network and its weights.
        deidentified: Leave name, number, dates and all else about the patient empty. The film's
            identifiers stay, without which no viewer could lay the segmentation on it.

    Raises:
        ImageFileError: The film's file lacks what such an object needs.
    """
    hd, source = _prepared(film, deidentified)
    from pydicom.sr.coding import Code

    algorithm = hd.AlgorithmIdentificationSequence(
        MAKER, Code("123110", "DCM", "Artificial Intelligence"), f"{__version__}, {network}"[:64]
    )
    segments = [
        hd.seg.SegmentDescription(
            number,
            label,
            Code(_STRUCTURE[0], "SCT", _STRUCTURE[1]),
            Code(code, "SCT", meaning),
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for number, (label, code, meaning) in enumerate(SEGMENTS, 1)
    ]
    planes = np.stack([labels == number for number in range(1, len(SEGMENTS) + 1)], axis=-1)
    with _explained_header():
        made = hd.seg.Segmentation(
            [source],
            planes[np.newaxis].astype(np.uint8),
            hd.seg.SegmentationTypeValues.BINARY,
            segments,
            **_identifiers(source, network, "segmentation", 9001),
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=False,
        )
    return write_atomically(path, made.save_as)


def write_capture(
    path: Path, picture: np.ndarray, film: pydicom.Dataset, network: str, deidentified: bool
) -> Path:
    """Write a picture of a film as DICOM secondary capture.

    Args:
        path: The file.
        picture: uint8 RGB (H, W, 3), at most so large that its longer side has 2,048 pixels.
        film: As in `write_segmentation`, and so for the rest.
        network: As there.
        deidentified: As there.
    """
    hd, source = _prepared(film, deidentified)
    from pydicom.uid import JPEGBaseline8Bit

    orientation = [str(one) for one in source.get("PatientOrientation") or []]
    with _explained_header():
        made = hd.sc.SCImage.from_ref_dataset(
            source,
            np.ascontiguousarray(picture),
            hd.PhotometricInterpretationValues.YBR_FULL_422,
            8,
            hd.CoordinateSystemNames.PATIENT,
            **_identifiers(source, network, "capture", 9002),
            # Where the film does not say, neither does the picture: it hangs as the film does.
            patient_orientation=orientation if len(orientation) == 2 else ("L", "F"),
            transfer_syntax_uid=JPEGBaseline8Bit,
        )
    if len(orientation) != 2:
        made.PatientOrientation = []
    return write_atomically(path, made.save_as)


@contextlib.contextmanager
def _explained_header() -> Iterator[None]:
    """Say that no object can be made of a header; the library raises errors of any type."""
    try:
        yield
    except Exception as error:
        raise ImageFileError(
            "A DICOM object takes over what the film's header says.",
            # Its text would quote the patient's name or date of birth.
            f"a header that cannot be used ({type(error).__name__})",
            "Save the lungs as labels, mask or nifti.",
        ) from error


def _prepared(film: pydicom.Dataset, deidentified: bool) -> tuple:
    """The library, and a copy of the film's elements that has what objects of it need."""
    import highdicom
    from pydicom.datadict import keyword_for_tag

    silence("highdicom")
    missing = [keyword for keyword in _REFERENCES if not film.get(keyword)]
    if missing:
        raise ImageFileError(
            "A DICOM object of a film names it by its identifiers.",
            f"a film without {', '.join(missing)}",
            "Save the lungs as labels, mask or nifti.",
        )
    source = copy.deepcopy(film)
    for tag in film.keys() if deidentified else ():
        if keyword_for_tag(tag) not in _NOT_OF_THE_PATIENT:
            del source[tag]
    for keyword in _IDENTITY:
        if keyword not in source:
            setattr(source, keyword, "")
    source.Modality = source.get("Modality") or "OT"
    return highdicom, source


def _identifiers(source: pydicom.Dataset, network: str, what: str, number: int) -> dict:
    from pydicom.uid import generate_uid

    series, film = str(source.SeriesInstanceUID), str(source.SOPInstanceUID)
    return {
        "series_instance_uid": generate_uid(entropy_srcs=[MAKER, what, network, series]),
        "series_number": number,
        "sop_instance_uid": generate_uid(entropy_srcs=[MAKER, what, network, film]),
        "instance_number": max(1, int(source.get("InstanceNumber") or 1)),
        "manufacturer": MAKER,
    }
