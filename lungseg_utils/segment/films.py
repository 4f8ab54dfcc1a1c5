"""One film from whatever a person has: an image file, DICOM, NIfTI or an array."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.environment import missing_package
from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.dicom import read_dicom, silence
from lungseg_utils.files.dicom_header import Header, sane_spacing
from lungseg_utils.files.images import PIXEL_LIMIT
from lungseg_utils.preparation.imaging import decode_image, to_grey

if TYPE_CHECKING:
    import nibabel
    import pydicom

LEAST_SIDE = 32
_UNPACKED_LIMIT = 400_000_000  # bytes of a NIfTI file: PIXEL_LIMIT of float64, and its header


@dataclass(frozen=True)
class Film:
    """A chest X-ray as its file shows it.

    Args:
        image: uint8 `(H, W)` in the file's own orientation.
        name: What it is called, for messages.
        header: What the file says about the film.
        dataset: The elements of a DICOM file, without the pixels.
        nifti: The file, if it was NIfTI.
    """

    image: np.ndarray
    name: str
    header: Header = field(default_factory=Header)
    dataset: pydicom.Dataset | None = field(default=None, repr=False)
    nifti: nibabel.Nifti1Image | None = field(default=None, repr=False)


def read_film(film: Path | str | np.ndarray, content: bytes | None = None) -> Film:
    """Read a film.

    Args:
        film: A file: PNG, JPEG, TIFF and other images as in `read_image`; DICOM as in
            `read_dicom`; NIfTI of one slice. Or an array as in `to_grey`: grey `(H, W)`, RGB
            `(H, W, 3)` or RGBA `(H, W, 4)`.
        content: The file's bytes, where they have been read already.

    Raises:
        ImageFileError: The file cannot be read, is no single frontal film, or the image is
            smaller than 32 pixels or of a single grey level.
        InvalidValueError: The array is no image.
    """
    if isinstance(film, np.ndarray):
        read = Film(to_grey(film), "an array")
    else:
        path = Path(film)
        if content is None and path.is_file():
            content = path.read_bytes()
        if content is not None and is_dicom(content):
            image, header, dataset = read_dicom(content, str(path))
            read = Film(image, str(path), header, dataset=dataset)
        elif content is not None and is_nifti(content):
            read = _read_nifti(content, str(path))
        else:
            read = Film(decode_image(path, content), str(path))
    _check_content(read.image, read.name)
    return read


def is_dicom(content: bytes) -> bool:
    """Whether bytes begin as a DICOM file does, be it without the usual preamble."""
    # Without it, the first element is of group 2 or 8, and its number is small.
    bare = content[:1] in (b"\x02", b"\x08") and content[1:2] == b"\0" and content[3:4] == b"\0"
    return content[128:132] == b"DICM" or (bare and len(content) > 132)


def is_nifti(content: bytes) -> bool:
    """Whether bytes are a NIfTI file, packed by gzip or not."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, 352)
        except zlib.error:
            return False
    return content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2")


def turn_upright(image: np.ndarray, orientation: tuple[str, str] | None) -> np.ndarray:
    """Turn a film as it is hung: the patient's left on the right, the feet below.

    Args:
        image: `(H, W)`.
        orientation: Of a `Header`; None leaves the image as it is.

    Returns:
        A view of the image.
    """
    rows, columns = orientation or ("L", "F")
    if rows in "HF":
        image, rows, columns = image.T, columns, rows
    return image[:: -1 if columns == "H" else 1, :: -1 if rows == "R" else 1]


def turn_back(image: np.ndarray, orientation: tuple[str, str] | None) -> np.ndarray:
    """Undo `turn_upright`."""
    rows, columns = orientation or ("L", "F")
    lying = rows in "HF"
    rows, columns = (columns, rows) if lying else (rows, columns)
    image = image[:: -1 if columns == "H" else 1, :: -1 if rows == "R" else 1]
    return image.T if lying else image


def _read_nifti(content: bytes, name: str) -> Film:
    try:
        import nibabel
    except ImportError as error:
        raise missing_package("NIfTI files", "nibabel", "nifti", name) from error
    silence("nibabel")
    try:
        if content[:2] == b"\x1f\x8b":
            unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
            content = unpacking.decompress(content, _UNPACKED_LIMIT)
            if unpacking.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {_UNPACKED_LIMIT:,} bytes")
            if not unpacking.eof:
                raise ValueError("it ends too early")
        kind = nibabel.Nifti2Image if content[4:6] == b"n+" else nibabel.Nifti1Image
        nifti = kind.from_bytes(content)
        shape = nifti.shape
        # Of a third and further axes one slice; a film is a plane, whichever.
        axes = [axis for axis, length in enumerate(shape) if length > 1]
        if len(axes) != 2 or max(axes) > 2 or np.prod(shape, dtype=float) > PIXEL_LIMIT:
            raise ImageFileError(
                f"A NIfTI film is one slice of at most {PIXEL_LIMIT:,} pixels.",
                f"{name}: {' × '.join(map(str, shape))}",
                "Save the slice you mean as a file of its own.",
            )
        values = np.asarray(nifti.dataobj).squeeze()
        header = _nifti_header(nifti, axes)
    except ImageFileError:
        raise
    except Exception as error:  # nibabel raises errors of any type on damaged files
        raise ImageFileError(
            "A NIfTI file must be whole.", f"{name}: it is damaged: {error}", "Fetch it again."
        ) from error
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise ImageFileError(
            "A film's values are finite numbers.", f"{name}: {values.dtype}", "Export it again."
        )
    return Film(to_grey(nifti_rows(values, nifti)), name, header, nifti=nifti)


def nifti_rows(values: np.ndarray, nifti: nibabel.Nifti1Image) -> np.ndarray:
    """Exchange the order of NIfTI, columns first, with that of images, rows first."""
    # Without a geometry of its own, it is an array of an image that somebody saved.
    return values if _has_no_geometry(nifti) else values.T


def _has_no_geometry(nifti: nibabel.Nifti1Image) -> bool:
    unsaid = not int(nifti.header["qform_code"]) and not int(nifti.header["sform_code"])
    return unsaid or np.allclose(nifti.affine[:3, :3], np.eye(3))


def _nifti_header(nifti: nibabel.Nifti1Image, axes: list[int]) -> Header:
    import nibabel

    if _has_no_geometry(nifti):
        return Header(photometric="NIfTI", greys="whole range")
    # Where a slice is not coronal, as none of a plain picture is, back and front stand for
    # feet and head: that is how pictures are written.
    names = dict(zip("LRSIPA", "LRHFFH", strict=True))
    letters = nibabel.aff2axcodes(nifti.affine)
    if None in [letters[axis] for axis in axes]:
        raise ValueError("its geometry has no direction for an axis")
    columns, rows = (names[letters[axis]] for axis in axes)
    orientation = (columns, rows)
    known = len({"across" if one in "LR" else "along" for one in orientation}) == 2
    zooms = nifti.header.get_zooms()
    shape = [nifti.shape[axis] for axis in reversed(axes)]
    spacing = sane_spacing([float(zooms[axis]) for axis in reversed(axes)], shape)
    in_mm = nifti.header.get_xyzt_units()[0] == "mm"
    return Header(
        photometric="NIfTI",
        greys="whole range",
        orientation=orientation if known else None,
        spacing=spacing if in_mm else None,
        spacing_source="NIfTI, not said to be calibrated" if spacing and in_mm else "",
    )


def _check_content(image: np.ndarray, name: str) -> None:
    height, width = image.shape
    if min(height, width) < LEAST_SIDE:
        raise ImageFileError(
            f"An X-ray has at least {LEAST_SIDE} pixels a side.",
            f"{name}: {width} × {height} pixels",
            "Pass the X-ray at its own size.",
        )
    if image.min() == image.max():
        raise ImageFileError(
            "An X-ray has more than one grey level.",
            f"{name}: every pixel is {image.flat[0]}",
            "Export it again.",
        )
