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

from lungseg_utils.environment import missing_package
from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.dicom_greys import grey_table
from lungseg_utils.files.dicom_header import Header, lateral_view, read_header
from lungseg_utils.files.images import PIXEL_LIMIT, channels_to_grey

if TYPE_CHECKING:
    import pydicom

# Beside radiographs: pictures of films, and files that say nothing.
MODALITIES = ("CR", "DX", "DR", "RG", "OT", "SC", "")
_INFLATED_LIMIT = 300_000_000  # bytes: PIXEL_LIMIT of three colours of 16 bits, and a header
_INFLATED_AT_ONCE = 16_000_000
# Of several for one compression, the first. GDCM is none of them: damaged files make it end the
# process. For RLE pylibjpeg's comes after pydicom's own: it panics past all handlers of errors.
_DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
_J2K_HEAD = re.compile(rb"\xff\x4f\xff\x51")
# Frame headers of all kinds of JPEG, JPEG-LS among them, and markers that nothing follows.
_JPEG_HEADS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})


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
        raise missing_package("DICOM files", "pydicom", "dicom", name) from error
    silence("pydicom")
    try:
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
        # What a palette gives has its own depth, and not that of the indices stored.
        indexed = dataset.PhotometricInterpretation == "PALETTE COLOR"
        bits = 8 * values.dtype.itemsize if indexed else int(dataset.BitsStored)
        grey = np.rint(np.clip(grey * (255 / (2**bits - 1)), 0, 255)).astype(np.uint8)
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
    """Refuse a deflated file that is larger than any film, and keep nothing that is unpacked."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file = io.BytesIO(content)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    unpacking, rest, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), content[file.tell() :], 0
    while rest and unpacked <= _INFLATED_LIMIT:
        unpacked += len(unpacking.decompress(rest, _INFLATED_AT_ONCE))
        rest = unpacking.unconsumed_tail
    if unpacked > _INFLATED_LIMIT:
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
            "A chest film is a radiograph (modality CR or DX).", name, f"modality {modality[:16]}"
        )
    if "PixelData" not in dataset:
        encrypted = "EncryptedAttributesSequence" in dataset
        if not encrypted and ("Rows" in dataset or "SOPClassUID" not in dataset):
            raise _damaged(name, EOFError("it ends before its picture, or in it"))
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
    if not 0 < rows * columns <= PIXEL_LIMIT:
        raise _refused(
            f"A film has at most {PIXEL_LIMIT:,} pixels.", name, f"it claims {rows * columns:,}"
        )
    for claimed in _claimed_sizes(dataset) - {(rows, columns, samples)}:
        raise _refused(
            "A film is of the size that its header says.",
            name,
            f"rows, columns, samples {rows, columns, samples}, and in its picture {claimed}",
        )


def _claimed_sizes(dataset: pydicom.Dataset) -> set[tuple[int, int, int]]:
    """Rows, columns and samples that a JPEG or JPEG 2000 says it unpacks to.

    Decoders take the memory for them; for no rows, as JPEG allows, without end.
    """
    from pydicom.encaps import get_frame

    if "JPEG" not in _syntax(dataset):
        return set()
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    # A stream alone begins with its header; a whole JP2 file has it somewhere.
    heads = _J2K_HEAD.finditer(stream if stream[4:8] == b"jP  " else stream[:4])
    return {_j2k_size(stream[found.start() :]) for found in heads} or _jpeg_sizes(stream)


def _j2k_size(head: bytes) -> tuple[int, int, int]:
    right, low, left, top = (int.from_bytes(head[k : k + 4], "big") for k in (8, 12, 16, 20))
    return low - top, right - left, int.from_bytes(head[40:42], "big")


def _jpeg_sizes(stream: bytes) -> set[tuple[int, int, int]]:
    """The size in a JPEG's frame header, found as decoders find it, segment by segment."""
    at = 2
    while at + 10 <= len(stream):
        mark, kind = stream[at : at + 2]
        if mark != 0xFF or kind == 0xFF:
            at += 1
        elif kind in _JPEG_HEADS:
            rows, columns = (int.from_bytes(stream[at + k : at + k + 2], "big") for k in (5, 7))
            return {(rows, columns, stream[at + 9])}
        else:
            at += 2 if kind in _JPEG_ALONE else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return set()


def _decode(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Stored values: (H, W) of 8 or 16 bits, or colours (H, W, 3)."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

    try:
        plugin, syntax = "", dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            _check_whole(dataset)
            usable = get_decoder(syntax).available_plugins
            if not (plugin := next((one for one in _DECODERS if one in usable), "")):
                received = f"{name}: {syntax.name}"
                raise missing_package("Compressed DICOM files", "a decoder", "dicom", received)
        values = pixel_array(dataset, decoding_plugin=plugin)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
    except RuntimeError as error:
        raise _undecodable(dataset, name, error) from error
    if values.ndim == 2 and values.dtype.itemsize > 2:
        raise _undecodable(dataset, name, ValueError(f"values of type {values.dtype}"))
    # In the machine's own order of bytes.
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


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
