"""What is kept of a film: mask, labels, overlay, NIfTI, DICOM objects, the gallery's picture."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from lungseg_utils.environment import require_extra
from lungseg_utils.errors import ImageFileError, check_known
from lungseg_utils.files.dicom_objects import write_capture, write_segmentation
from lungseg_utils.files.images import write_png
from lungseg_utils.files.records import write_atomically
from lungseg_utils.segment.films import nifti_rows, turn_upright
from lungseg_utils.segment.lungs import Segmentation

# Where each kind of result lies, `{}` for the film's name.
PLACES = {
    "mask": "masks/{}_mask.png",
    "labels": "labels/{}_labels.png",
    "overlay": "overlays/{}_overlay.png",
    "nifti": "nifti/{}.nii.gz",
    "dicom-seg": "dicom-seg/{}.dcm",
    "secondary-capture": "secondary-capture/{}.dcm",
    "gallery": "gallery/{}.jpg",
}
GALLERY = "gallery.html"
_PAGE = Path(__file__).with_name(GALLERY)
# Where an array lies, in a header that may say more, such as whose it is.
_NIFTI_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *(f"quatern_{one}" for one in "bcd"),
    *(f"qoffset_{one}" for one in "xyz"),
)
_THUMBNAIL_SIDE = 384
_CAPTURE_SIDE = 2048


def check_kinds(kinds: Collection[str]) -> None:
    """Refuse kinds of results that are unknown, or whose package is not installed.

    Raises:
        InvalidValueError: A kind is not one of `PLACES`.
        LungsegError: A package is missing; says how to install it.
    """
    check_known(list(kinds), PLACES, "A result to save")
    for kind in kinds:
        if kind in _DICOM:
            require_extra("dicom", "highdicom", kind)
        elif kind == "nifti":
            require_extra("nifti", "nibabel", kind)


def save_results(
    result: Segmentation, paths: dict[str, Path], network: str, deidentified: bool
) -> str:
    """Write a film's results.

    Args:
        result: Of the film.
        paths: By kind, of `PLACES`.
        network: Names the network and its weights in DICOM objects.
        deidentified: As for `write_segmentation`.

    Returns:
        A note on what could not be written, as the film is no DICOM or its header lacks
        something; empty where all was.
    """
    notes = []
    for kind, path in paths.items():
        try:
            if kind in _DICOM:
                if result.film.dataset is None:
                    raise ImageFileError("", "the film is no DICOM file", "")
                _DICOM[kind](result, path, network, deidentified)
            else:
                _WRITERS[kind](result, path)
        except ImageFileError as error:
            notes.append(f"no {kind}: {' '.join(filter(None, (error.rule, str(error.received))))}")
    return "; ".join(notes)


def _write_overlay(result: Segmentation, path: Path) -> None:
    write_png(path, result.overlay[..., ::-1])


def _write_thumbnail(result: Segmentation, path: Path) -> None:
    _, content = cv2.imencode(
        ".jpg", result.draw_overlay(_THUMBNAIL_SIDE)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    write_atomically(path, lambda temporary: temporary.write_bytes(content.tobytes()))


def _write_nifti(result: Segmentation, path: Path) -> None:
    import nibabel

    film, header, affine = result.film, nibabel.Nifti1Header(), None
    header.set_data_dtype(np.uint8)
    if film.nifti is not None:
        # In the film's own array and geometry, so that it lies on the film as that is.
        data = nifti_rows(result.labels, film.nifti).reshape(film.nifti.shape)
        for field in _NIFTI_GEOMETRY:
            header[field] = film.nifti.header[field]
    else:
        # Upright: columns to the patient's left, rows to the feet; NIfTI counts towards right,
        # front and head. The front stands for the head, as for all pictures.
        data = turn_upright(result.labels, film.header.orientation).T[..., np.newaxis]
        rows, columns = film.header.spacing or (1.0, 1.0)
        if (film.header.orientation or "L")[0] in "HF":
            rows, columns = columns, rows
        affine = np.diag([-columns, -rows, 1.0, 1.0])
        header.set_xyzt_units("mm" if film.header.spacing else "unknown")
    made = nibabel.Nifti1Image(np.ascontiguousarray(data), affine, header)
    write_atomically(path, lambda temporary: nibabel.save(made, temporary))


def _write_segmentation(result: Segmentation, path: Path, network: str, deidentified: bool) -> None:
    write_segmentation(path, result.labels, result.film.dataset, network, deidentified)


def _write_capture(result: Segmentation, path: Path, network: str, deidentified: bool) -> None:
    picture = result.draw_overlay(_CAPTURE_SIDE)
    write_capture(path, picture, result.film.dataset, network, deidentified)


_WRITERS: dict[str, Callable[..., None]] = {
    "mask": lambda result, path: write_png(path, result.mask * 255),
    "labels": lambda result, path: write_png(path, result.labels),
    "overlay": _write_overlay,
    "nifti": _write_nifti,
    "gallery": _write_thumbnail,
}
_DICOM: dict[str, Callable[..., None]] = {
    "dicom-seg": _write_segmentation,
    "secondary-capture": _write_capture,
}


def write_gallery(
    path: Path, rows: Iterable[Mapping[str, object]], pictures: Mapping[str, Path]
) -> Path:
    """Write one page of all films with their outlines, that opens from the disk.

    Films to look at come first, then those of which least is expected; the page has a search, a
    filter and other orders.

    Args:
        path: The page.
        rows: Of the table.
        pictures: JPEG files by the films' names in the table; where there is none, the page says
            so.
    """
    before, after = _PAGE.read_text(encoding="utf-8").split("<!-- films -->\n")

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(before)
            for row in sorted(rows, key=_trust):
                file.write(_figure(row, pictures[str(row["file"])]))
            file.write(after)

    return write_atomically(path, write)


def _trust(row: Mapping[str, object]) -> tuple[bool, bool, float, str]:
    """What was not segmented first, then what is to be looked at, then by the expected Dice."""
    expected = row.get("expected_dice")
    return (
        not row.get("error"),
        not row.get("look"),
        1.0 if expected is None else float(expected),
        str(row["file"]),
    )


def _figure(row: Mapping[str, object], picture: Path) -> str:
    name, error, *others = (str(row.get(key) or "") for key in ("file", "error", "reason", "note"))
    state = "error" if error else "look" if row.get("look") else "whole"
    shown = '<div class="none">no picture</div>'
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        alt = html.escape(f"{name} with the outlines of its lungs", quote=True)
        shown = f'<img loading="lazy" alt="{alt}" src="data:image/jpeg;base64,{data}">'
    lines = f'<div class="error">{html.escape(error)}</div>' if error else _facts(row)
    lines += "".join(f'<div class="error">{html.escape(one)}</div>' for one in others if one)
    text = html.escape(" ".join((name, error, *others)).lower(), quote=True)
    return (
        f'<figure data-state="{state}" data-share="{row.get("lung_fraction") or 0}" '
        f'data-name="{html.escape(name, quote=True)}" data-text="{text}">{shown}<figcaption>'
        f'<div class="name">{html.escape(name)}</div>{lines}</figcaption></figure>\n'
    )


def _facts(row: Mapping[str, object]) -> str:
    facts = {"lungs": f"{float(row['lung_fraction']):.1%} of the film"}
    if row.get("expected_dice") is not None:
        facts["Dice"] = f"about {float(row['expected_dice']):.2f} expected"
    for side in ("right", "left"):
        area = row.get(f"{side}_mm2")
        facts[side] = f"{float(row[f'{side}_share']):.1%}" + (
            f", {float(area) / 100:.0f} cm²" if area else ""
        )
    listed = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items())
    return f"<dl>{listed}</dl>"
