"""Chest films as hospitals have them: DICOM files of one frontal X-ray, read as an 8-bit film.

Needs pydicom, and its decoders for compressed files: `pip install "lungseg-utils[dicom]"`.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.dicom_greys import grey_table
from lungseg_utils.files.dicom_header import Header, lateral_view, read_header
from lungseg_utils.files.images import PIXEL_LIMIT, channels_to_grey

if TYPE_CHECKING:
    import pydicom

INSTALL = 'pip install "lungseg-utils[dicom]"'
# Beside radiographs: pictures of films, and files that say nothing.
MODALITIES = ("CR", "DX", "DR", "RG", "OT", "SC", "")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INFLATED_LIMIT = 500_000_000  # bytes; the largest film here is 80 MB before it is packed


def read_dicom(content: bytes, name: str) -> tuple[np.ndarray, Header, pydicom.Dataset]:
    """Read a chest film: one frame of 8 to 16 bits, of any compression that pydicom's plugins know.

    Values pass the modality LUT or rescale, then a VOI LUT or window, and MONOCHROME1 is inverted
    last. Windows may be absent, absurd or several, and the network was trained on 8-bit film, so
    the range that looks most like that is taken: one of the file's VOI LUTs and windows, the
    values as stored where they have 8 bits, the range between the 0.5th and the 99.5th percentile,
    or the whole range. Of each, five percentiles of the grey levels are compared with their means
    over the training films, in units of those films' deviations; of equals the first is taken.
    Pixels of the padding value become black.

    Args:
        content: The file's bytes.
        name: What it is called, for messages.

    Returns:
        uint8 (H, W) in the file's own orientation, what the file says about the film, and its
        elements without the pixels.

    Raises:
        ImageFileError: pydicom or a decoder is missing, or the file is damaged, encrypted, no
            radiograph, no frontal view, of several frames, without pixels, of more than
            `PIXEL_LIMIT` of them, or of a kind that no decoder reads.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImageFileError("DICOM files need pydicom.", name, INSTALL) from error
    silence("pydicom")
    try:
        if _DEFLATED in content[:1024]:
            _check_inflated(content, name)
        dataset = _with_syntax(pydicom.dcmread(io.BytesIO(content), force=True))
        _check(dataset, name)
        values = _decode(dataset, name)
        del dataset.PixelData
        grey, greys = _to_grey(values, dataset)
        return grey, read_header(dataset, greys), dataset
    except ImageFileError:
        raise
    except Exception as error:  # pydicom raises errors of any type on damaged files
        raise _damaged(name, error) from error


def _to_grey(values: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, str]:
    if values.ndim == 2:
        table, greys = grey_table(dataset, values)
        return table[values.view(np.uint8 if values.dtype.itemsize == 1 else np.uint16)], greys
    grey = channels_to_grey(values)
    if grey.dtype != np.uint8:
        grey = np.rint(grey * (255 / (2**dataset.BitsStored - 1))).astype(np.uint8)
    return grey, "colours"


def _with_syntax(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Note how a file without the usual preamble is encoded, as the decoders ask for it."""
    from pydicom import uid
    from pydicom.dataset import FileMetaDataset

    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        implicit, little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    return dataset


def silence(package: str) -> None:
    """Keep a package from remarking on headers: such remarks would print patients' names."""
    logging.getLogger(package).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=rf"{package}\.")


def _check_inflated(content: bytes, name: str) -> None:
    start = content.find(b"DICM") + 4
    # Group 2 begins with its own length.
    start += 12 + int.from_bytes(content[start + 8 : start + 12], "little")
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    if len(unpacking.decompress(content[start:], _INFLATED_LIMIT)) == _INFLATED_LIMIT:
        raise ImageFileError(
            f"A film has at most {_INFLATED_LIMIT:,} bytes once it is unpacked.",
            f"{name}: it has more",
            "Check the file.",
        )


def _check(dataset: pydicom.Dataset, name: str) -> None:
    """Refuse what is no single frontal radiograph of a size that can be read."""
    modality = str(dataset.get("Modality", "") or "").upper()
    if modality not in MODALITIES:
        raise _refused(
            "A chest film is a radiograph (modality CR or DX).", name, f"modality {modality}"
        )
    if "PixelData" not in dataset:
        if "SOPClassUID" not in dataset:
            raise _damaged(name, EOFError("it ends before its picture"))
        encrypted = "EncryptedAttributesSequence" in dataset
        what = "its content is encrypted" if encrypted else "no pixel data in it"
        raise _refused("A DICOM film holds pixel data.", name, what)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise _refused("A film is one picture.", name, f"a series of {frames} frames")
    if view := lateral_view(dataset):
        raise _refused("The network knows frontal views only.", name, f"a lateral view ({view})")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    samples, stored = int(dataset.SamplesPerPixel), int(dataset.BitsStored)
    allocated = int(dataset.BitsAllocated)
    if not 1 <= stored <= allocated or allocated not in (8, 16) or samples not in (1, 3):
        raise _refused(
            "A film has 8 to 16 bits, in grey or in three colours.",
            name,
            f"{stored} of {allocated} bits, {samples} samples a pixel",
        )
    claimed = max(rows * columns, _claimed_pixels(dataset))
    if not 0 < claimed <= PIXEL_LIMIT:
        raise _refused(
            f"A film has at most {PIXEL_LIMIT:,} pixels.", name, f"it claims {claimed:,}"
        )


def _claimed_pixels(dataset: pydicom.Dataset) -> int:
    """Pixels that a JPEG or JPEG 2000 stream says it unpacks to; 0 for any other."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return 0
    head = bytes(dataset.PixelData[:65536])
    if (at := head.find(b"\xff\x4f\xff\x51")) >= 0:
        width, height, left, top = (
            int.from_bytes(head[at + k : at + k + 4], "big") for k in (8, 12, 16, 20)
        )
        return max(width - left, 0) * max(height - top, 0)
    # Frame headers of all kinds of JPEG, JPEG-LS among them.
    found = re.search(
        rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]..[\x02-\x10](..)(..)", head, 16
    )
    return int.from_bytes(found[1], "big") * int.from_bytes(found[2], "big") if found else 0


def _decode(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Stored values: (H, W) of 8 or 16 bits, or colours (H, W, 3)."""
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            _check_whole(dataset)
        values = pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise _undecodable(dataset, name, error) from error
        raise ImageFileError(
            "Compressed DICOM files need a decoder.",
            f"{name}: {_syntax(dataset)}; {' '.join(str(error).split())}",
            INSTALL,
        ) from error
    if values.ndim == 2 and values.dtype.itemsize > 2:
        raise _undecodable(dataset, name, ValueError(f"values of type {values.dtype}"))
    return np.ascontiguousarray(values)


def _check_whole(dataset: pydicom.Dataset) -> None:
    """Refuse a stream without its end: decoders fill what is missing with grey."""
    syntax, data = dataset.file_meta.TransferSyntaxUID, dataset.PixelData
    # Behind the end: a byte of padding, and the delimiter of the sequence.
    if "JPEG" in syntax.name and b"\xff\xd9" not in data[-32:]:
        raise ValueError("its picture has no end")


def _syntax(dataset: pydicom.Dataset) -> str:
    return dataset.file_meta.TransferSyntaxUID.name


def _refused(rule: str, name: str, what: str) -> ImageFileError:
    return ImageFileError(rule, f"{name}: {what}", "Choose a frontal chest film, one to a file.")


def _damaged(name: str, error: Exception) -> ImageFileError:
    reason = " ".join(str(error).split())[:300]
    return ImageFileError(
        "A DICOM file must be whole.", f"{name}: it is damaged: {reason}", "Fetch it again."
    )


def _undecodable(dataset: pydicom.Dataset, name: str, error: Exception) -> ImageFileError:
    reason = " ".join(str(error).partition(":\n")[2].split())[:200] or str(error)[:200]
    return ImageFileError(
        "A DICOM film is of a compression that can be decoded.",
        f"{name}: {_syntax(dataset)}: {reason}",
        "Save it without compression (such as with DCMTK's dcmdjpeg), or export it as PNG.",
    )
