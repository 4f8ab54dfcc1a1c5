"""Chest films as DICOM: the right picture of every encoding, or an error by name and reason."""

from __future__ import annotations

import io
import sys
import tracemalloc
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing, decoders

from lungseg_utils.errors import ImageFileError
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.dicom import read_dicom
from lungseg_utils.files.dicom_greys import apply_window
from lungseg_utils.files.dicom_header import read_header
from lungseg_utils.phantom.sets import render_phantom
from lungseg_utils.segment.films import is_dicom, read_film
from lungseg_utils.segment.segmenter import Segmenter

FILM, _ = render_phantom(np.random.default_rng(2), (64, 72))
# Black and white are more than half a percent each, so that percentiles are the whole range.
FILM[:2, :40] = [[0], [255]]
NATIVE = {"explicit": uid.ExplicitVRLittleEndian, "implicit": uid.ImplicitVRLittleEndian}
NATIVE |= {"deflated": uid.DeflatedExplicitVRLittleEndian, "big-endian": uid.ExplicitVRBigEndian}
LOSSLESS = {"rle": uid.RLELossless, "ls": uid.JPEGLSLossless, "2000": uid.JPEG2000Lossless}
BASELINE = uid.JPEGBaseline8Bit
INSTALL = r'pip install "lungseg-utils\[dicom\]"'


def film_of(values: np.ndarray, bits: int = 8, syntax: str = "explicit", **elements) -> Dataset:
    """A radiograph of stored values; an element of value None is left out."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = NATIVE.get(syntax, uid.ExplicitVRLittleEndian)
    film.SOPClassUID, film.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.826.0.1.7.3"
    film.StudyInstanceUID, film.SeriesInstanceUID = "1.2.826.0.1.7.1", "1.2.826.0.1.7.2"
    film.Modality, film.PhotometricInterpretation = "CR", "MONOCHROME2"
    film.Rows, film.Columns = values.shape[:2]
    film.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    if values.ndim == 3:
        film.PhotometricInterpretation, film.PlanarConfiguration = "RGB", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * values.itemsize, bits, bits - 1
    film.PixelRepresentation = int(values.dtype.kind == "i")
    order = ">" if syntax == "big-endian" else "<"
    film.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
    film["PixelData"].VR = "OW" if bits > 8 else "OB"
    if syntax in LOSSLESS:
        film.compress(LOSSLESS[syntax], generate_instance_uid=False)
    for keyword, value in elements.items():
        delattr(film, keyword) if value is None else setattr(film, keyword, value)
    return film


def content_of(film: Dataset) -> bytes:
    buffer, syntax = io.BytesIO(), film.file_meta.TransferSyntaxUID
    how = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
    pydicom.dcmwrite(buffer, film, enforce_file_format=True, **how)
    return buffer.getvalue()


def deep(bits: int, image: np.ndarray = FILM) -> np.ndarray:
    """An 8-bit image spread over the range of so many bits."""
    spread = np.rint(image * ((2**bits - 1) / 255))
    return spread.astype(np.uint8 if bits <= 8 else np.uint16)


def encapsulated(stream: bytes, syntax: str, values: np.ndarray = FILM, **elements) -> Dataset:
    film = film_of(values, **elements)
    film.file_meta.TransferSyntaxUID = syntax
    film.PixelData = encapsulate([stream])
    film["PixelData"].is_undefined_length = True
    return film


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=97)
    return buffer.getvalue()


def jpeg_lossless(film: Dataset, folder: Path) -> bytes:
    gdcm = pytest.importorskip("gdcm")
    (folder / "film").write_bytes(content_of(film))
    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "film"))
    reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / "film"))
    writer.Write()
    return (folder / "film").read_bytes()


def grey_of(film: Dataset | bytes) -> np.ndarray:
    content = content_of(film) if isinstance(film, Dataset) else film
    return read_dicom(content, "film.dcm")[0]


def assert_film(found: np.ndarray, loss: int = 0) -> None:
    assert found.dtype == np.uint8
    assert np.abs(found - FILM.astype(int)).max() <= loss


# Encodings


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
def test_every_encoding_of_every_depth_gives_the_film(syntax, bits):
    assert_film(grey_of(film_of(deep(bits), bits, syntax)))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_gives_the_film(tmp_path, bits):
    content = jpeg_lossless(film_of(deep(bits), bits), tmp_path)
    assert uid.JPEGLosslessSV1.encode() in content
    assert_film(grey_of(content))


def test_lossy_encodings_lose_little():
    assert_film(grey_of(encapsulated(jpeg(FILM), BASELINE)), 6)
    colours = np.dstack([FILM] * 3)
    kind = {"values": colours, "PhotometricInterpretation": "YBR_FULL_422"}
    assert_film(grey_of(encapsulated(jpeg(colours), BASELINE, **kind)), 6)
    near = film_of(deep(12), 12)
    near.compress(uid.JPEGLSNearLossless, jls_error=32)
    assert 0 < np.abs(grey_of(near) - FILM.astype(int)).max() <= 3


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated"])
def test_a_file_without_preamble_is_read_whether_its_syntax_is_named_or_not(syntax):
    film, buffer = film_of(deep(12), 12, syntax), io.BytesIO()
    contents = [content_of(film)[132:]]
    if syntax != "deflated":  # Without a name nothing would tell.
        del film.file_meta
        pydicom.dcmwrite(buffer, film, implicit_vr=syntax == "implicit", little_endian=True)
        contents.append(buffer.getvalue())
    for content in contents:
        assert is_dicom(content)
        assert_film(grey_of(content))


# Values


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_values_count_from_below_zero(bits):
    signed = deep(bits).astype(int) - 2 ** (bits - 1)
    assert_film(grey_of(film_of(signed.astype(np.int8 if bits == 8 else np.int16), bits)))


def test_bits_above_those_stored_do_not_count():
    rng = np.random.default_rng(0)
    above = rng.integers(0, 2**4, FILM.shape, dtype=np.uint16) << 12
    assert_film(grey_of(film_of(deep(12) | above, 12)))
    signed = (deep(12) - 2**11) & 0xFFF
    assert_film(grey_of(film_of((signed | above).view(np.int16), 12)))


@pytest.mark.parametrize("bits", [8, 12])
def test_white_as_zero_is_turned_round_last(bits):
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    assert_film(grey_of(film_of(deep(bits, 255 - FILM), bits, **inverse)))


def test_rescaling_counts_and_what_is_empty_or_zero_of_it_does_not():
    down = {"RescaleSlope": -2, "RescaleIntercept": 100}
    assert_film(grey_of(film_of(deep(12, 255 - FILM), 12, **down)))
    for nothing in ("", 0):
        empty = {"RescaleSlope": nothing, "RescaleIntercept": nothing}
        assert_film(grey_of(film_of(deep(12), 12, **empty)))


def lut(first: int, bits: int, table: np.ndarray) -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(table), first, bits], table.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return item


@pytest.mark.parametrize("bits", [12, 16])
def test_a_modality_lut_counts_as_pydicom_applies_it(bits):
    film = film_of(deep(12, 255 - FILM), 12)
    film.ModalityLUTSequence = [lut(0, bits, np.arange(4095, -1, -1))]
    assert_film(grey_of(film))
    if bits == 16:  # pydicom knows no others
        assert_film(np.rint(apply_modality_lut(film.pixel_array, film) / 4095 * 255).astype("u1"))


def test_of_a_bent_film_its_voi_lut_is_taken_and_a_damaged_one_is_not():
    straight = np.rint(4095 * (np.arange(4096) / 4095) ** (1 / 6))
    film = film_of(np.rint(4095 * (FILM / 255) ** 6).astype(np.uint16), 12)
    without = grey_of(film)
    film.VOILUTSequence = [lut(0, 12, straight)]
    shown = np.rint(apply_voi_lut(film.pixel_array, film) / 4095 * 255)
    assert read_dicom(content_of(film), "")[1].greys == "VOI LUT 1"
    assert np.array_equal(grey_of(film), shown)
    assert not np.array_equal(without, shown)
    del film.VOILUTSequence[0].LUTData
    assert np.array_equal(grey_of(film), without)


def test_of_a_film_with_shutters_the_window_is_taken_in_units_of_rescaled_values():
    values = 1000 + 8 * FILM.astype(np.uint16)
    values[2], values[3] = 0, 4095
    window = {"WindowCenter": [9, 1020.5], "WindowWidth": [1, 2041]}
    film = film_of(values, 12, RescaleSlope=1, RescaleIntercept=-1000, **window)
    assert read_dicom(content_of(film), "")[1].greys == "window 2"
    found = grey_of(film)
    assert not found[2].any() and (found[3] == 255).all()
    found[2:4] = FILM[2:4]
    assert_film(found)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_window_maps_values_as_pydicom_does(function):
    for center, width, signed in product((-500, 0, 1234, 4500), (1, 2, 777, 9000), (0, 1)):
        values = np.arange(4096) - 2048 * signed
        window = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
        film = film_of(deep(12).astype(np.int16 if signed else np.uint16), 12, **window)
        theirs = (apply_windowing(values, film) + 2048 * signed) / 4095
        assert np.abs(apply_window(values, center, width, function) - theirs).max() < 1e-9


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_padding_is_black_and_does_not_stretch_the_range(syntax, inverse):
    values = deep(12, 255 - FILM if inverse else FILM).astype(np.int16) // 4 + 1
    values[:, :9] = -2000
    kind = {"PhotometricInterpretation": f"MONOCHROME{1 if inverse else 2}"}
    found = grey_of(film_of(values, 16, syntax, PixelPaddingValue=-2000, **kind))
    assert not found[:, :9].any()
    assert np.abs(found[:, 9:] - FILM[:, 9:].astype(int)).max() <= 1


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_weigh_as_the_eye_does(planar):
    colours = np.random.default_rng(0).integers(0, 256, (72, 64, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    for bits, factor in ((8, 1), (16, 257)):
        stored = colours.astype(np.uint8 if bits == 8 else np.uint16) * factor
        film = film_of(stored, bits, PlanarConfiguration=planar)
        film.PixelData = (stored.transpose(2, 0, 1) if planar else stored).tobytes()
        assert np.abs(grey_of(film) - grey).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_has_a_depth_of_its_own(bits):
    palette = np.arange(255, -1, -1).astype(np.uint16) << (bits - 8)
    film = film_of(255 - FILM, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(film, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        data = palette.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
        setattr(film, f"{colour}PaletteColorLookupTableData", data)
    assert_film(grey_of(film), 1)


# Masks


@pytest.fixture(scope="module")
def unet() -> Segmenter:
    return Segmenter.load("unet")


def test_neither_the_window_nor_the_kind_of_file_changes_the_lungs(unet, tmp_path):
    image, (left, right) = render_phantom(np.random.default_rng(5), (480, 512))
    Image.fromarray(image).save(tmp_path / "film.png")
    masks = [unet.segment(tmp_path / "film.png").mask]
    assert dice(masks[0], left | right) > 0.9
    for center, width in ((2048, 4096), (1500, 5), (-1e6, 1)):
        window = {"WindowCenter": center, "WindowWidth": width}
        (tmp_path / "film").write_bytes(content_of(film_of(deep(12, image), 12, **window)))
        masks.append(unet.segment(tmp_path / "film").mask)
    assert min(dice(one, other) for one in masks for other in masks) >= 0.99


# What is refused


WHOLE, PACKED = (content_of(film_of(FILM, syntax=syntax)) for syntax in ("explicit", "ls"))
JPEG, SIZE = jpeg(FILM), b"\xff\xc0\0\x0b\x08\0\x48\0\x40\x01"
GROWN, NO_ROWS = (JPEG.replace(SIZE, SIZE[:5] + rows + SIZE[7:]) for rows in (b"\x75\x30", b"\0\0"))
# Behind a comment that looks like the true size, and much else.
HIDDEN = JPEG[:2] + b"\xff\xfe\0\x0c" + SIZE + bytes(70_000) + GROWN[2:]
J2K = get_frame(film_of(FILM, syntax="2000").PixelData, 0, number_of_frames=1)
J2K_GROWN = J2K[:12] + b"\0\0\x75\x30" + J2K[16:]
SIDE = Dataset.from_json({"00080104": {"vr": "LO", "Value": ["left lateral"]}})
REFUSED = {
    "CT": (film_of(FILM, Modality="CT"), "modality CT"),
    "MR": (film_of(FILM, Modality="MR"), "modality MR"),
    "report": (film_of(FILM, Modality="SR", PixelData=None), "modality SR"),
    "no pixels": (film_of(FILM, PixelData=None, Rows=None), "no pixel data"),
    "encrypted": (film_of(FILM, PixelData=None, EncryptedAttributesSequence=[]), "is encrypted"),
    "header alone": (film_of(FILM, PixelData=None), "it ends before its picture"),
    "lateral": (film_of(FILM, ViewPosition="LL"), r"a lateral view \(LL\)"),
    "coded": (film_of(FILM, ViewCodeSequence=[SIDE]), r"a lateral view \(lateral\)"),
    "orientation": (film_of(FILM, PatientOrientation=["A", "F"]), "run to AF"),
    # Without the rest of the text, where people write names.
    "described": (film_of(FILM, SeriesDescription="Ann lat."), r"a lateral view \(lat\)"),
    "frames": (film_of(FILM[:36], NumberOfFrames=2, PixelData=FILM.tobytes()), "of 2 frames"),
    "32 bits": (film_of(FILM.astype(np.uint32), 32), "32 of 32 bits"),
    "large": (film_of(FILM, Rows=7000, Columns=7000), "it claims 49,000,000"),
    "cut": (WHOLE[:-900], "damaged: The number of bytes of pixel data is less"),
    "cut jpeg-ls": (PACKED[:-200], "it ends before its picture, or in it"),
    "no end": (encapsulated(J2K[:-40], LOSSLESS["2000"]), "its picture has no end"),
    "large jpeg": (encapsulated(GROWN, BASELINE), r"in its picture \(30000, 64, 1\)"),
    "hidden": (encapsulated(HIDDEN, BASELINE), r"in its picture \(30000, 64, 1\)"),
    "no rows": (encapsulated(NO_ROWS, BASELINE), r"in its picture \(0, 64, 1\)"),
    "large 2000": (encapsulated(J2K_GROWN, LOSSLESS["2000"]), r"in its picture \(30000, 64, 1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_name_and_reason(name):
    film, reason = REFUSED[name]
    content = content_of(film) if isinstance(film, Dataset) else film
    with pytest.raises(ImageFileError, match=reason) as caught:
        read_film(f"{name}.dcm", content)
    assert f"{name}.dcm" in caught.value.received


def test_frontal_views_are_read_decubitus_and_a_series_of_both_views_among_them():
    assert_film(grey_of(film_of(FILM, ViewPosition="LLD")))
    assert_film(grey_of(film_of(FILM, SeriesDescription="lateral decubitus")))
    both = {"ViewPosition": "PA", "SeriesDescription": "LAT", "PatientOrientation": ["A", "F"]}
    assert_film(grey_of(film_of(FILM, **both)))


@pytest.mark.parametrize("start", [0, 132])
def test_a_deflated_film_of_gigabytes_costs_no_memory(start):
    film = content_of(film_of(FILM, syntax="deflated"))
    head = 144 + int.from_bytes(film[140:144], "little")
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(film[head:])
    flush = zlib.Z_FULL_FLUSH
    begun, zeros = (pack.compress(one) + pack.flush(flush) for one in (body, bytes(2**20)))
    bomb = film[:head] + begun + 2000 * zeros + pack.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ImageFileError, match="at most 300,000,000 bytes once it is unpacked"):
            read_dicom(bomb[start:], "bomb.dcm")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch):
    kind = type(decoders.JPEG2000LosslessDecoder)
    # GDCM alone does not count: damaged files would end the process.
    monkeypatch.setattr(kind, "available_plugins", ("gdcm",))
    with pytest.raises(ImageFileError, match=INSTALL) as caught:
        grey_of(film_of(FILM, syntax="2000"))
    assert "JPEG 2000" in str(caught.value)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageFileError, match=INSTALL):
        read_dicom(WHOLE, "film.dcm")


def test_jpeg_of_12_bits_is_read_or_refused_by_its_name(shared_data):
    with pytest.raises(ImageFileError, match=r"JPEG Extended.*\n.*dcmdjpeg"):
        read_film(shared_data / "dicom" / "other_cr_jpeg_extended_12bit")


def test_a_damaged_film_is_a_film_or_an_error_and_nothing_else():
    window = {"WindowCenter": [2000, 900], "WindowWidth": [4000, 9], "PixelPaddingValue": 0}
    whole = [content_of(film_of(deep(12), 12, syntax, **window)) for syntax in NATIVE]
    whole += [content_of(film_of(deep(12), 12, syntax)) for syntax in LOSSLESS]
    whole += [content_of(encapsulated(JPEG, BASELINE))]
    rng, read = np.random.default_rng(0), 0
    for number in range(300):
        content = bytearray(whole[number % len(whole)])
        if number % 4 == 0:
            del content[rng.integers(len(content)) :]
        # Where pixels begin is more to break than in the pixels.
        end = len(content) if number % 2 else content.find(b"\xe0\x7f\x10\0") + 200
        for position in rng.integers(0, max(min(end, len(content)), 1), 2) if content else ():
            content[position] = rng.integers(256)
        try:
            image = read_film("damaged.dcm", bytes(content)).image
        except ImageFileError as error:
            assert "damaged.dcm" in error.received
        else:
            read += 1
            assert image.dtype == np.uint8 and image.ndim == 2
    assert 50 < read < 250


# Millimetres


FACTOR = "EstimatedRadiographicMagnificationFactor"
FIDUCIAL = {"PixelSpacingCalibrationType": "FIDUCIAL"}
UNSAID, CALIBRATED = "PixelSpacing, not said to be calibrated", "PixelSpacing, calibrated"
DETECTOR = "ImagerPixelSpacing, at the detector"
MAGNIFIED = "ImagerPixelSpacing / magnification 1.1, estimated in the patient"
# PixelSpacing, ImagerPixelSpacing and a third element; what is taken of them, as what.
SPACING = {
    "calibrated": ([0.2, 0.21], [0.25, 0.26], {}, (0.2, 0.21), CALIBRATED),
    "said to be": ([0.2, 0.2], None, FIDUCIAL, (0.2, 0.2), CALIBRATED),
    "unsaid": ([0.2, 0.2], None, {}, (0.2, 0.2), UNSAID),
    "the same twice": ([0.2, 0.2], [0.2, 0.2], {}, (0.2, 0.2), DETECTOR),
    "magnified": (None, [0.22, 0.33], {FACTOR: 1.1}, (0.2, 0.3), MAGNIFIED),
    "magnified to nothing": (None, [0.2, 0.2], {FACTOR: 0}, (0.2, 0.2), DETECTOR),
    "zero, and the detector's": ([0, 0], [0.2, 0.2], {}, (0.2, 0.2), DETECTOR),
    "zero": ([0, 0], None, {}, None, ""),
    "absent": (None, None, {}, None, ""),
    "of a film of 2 m": ([1, 1], None, {}, None, ""),
    "of a film of 2 cm": ([0.01, 0.01], None, {}, None, ""),
}


@pytest.mark.parametrize("name", SPACING)
def test_spacing_is_taken_with_where_it_is_measured_or_left_out(name):
    pixel, imager, more, spacing, source = SPACING[name]
    film = film_of(FILM, Rows=2000, Columns=1800, **more)
    film.PixelSpacing, film.ImagerPixelSpacing = pixel, imager
    header = read_header(film, "")
    assert header.spacing == (pytest.approx(spacing) if spacing else None)
    assert header.spacing_source == source
