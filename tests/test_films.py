"""Films of every kind and hanging: which lung is which, their figures, and what is written."""

from __future__ import annotations

import dataclasses
import gzip
import io
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from skimage.draw import ellipse
from skimage.measure import regionprops

from lungseg_utils.errors import ImageFileError
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.files.dicom_header import Header
from lungseg_utils.phantom.sets import render_phantom
from lungseg_utils.segment import films
from lungseg_utils.segment.films import Film, read_film, turn_back, turn_upright
from lungseg_utils.segment.lungs import Segmentation, describe_lungs, label_lungs
from lungseg_utils.segment.outputs import PLACES, save_results
from lungseg_utils.segment.segmenter import Segmenter
from tests.test_dicom import content_of, deep, film_of
from tests.tiny import Darkness

FILM, _ = render_phantom(np.random.default_rng(2), (64, 72))
# What an upright film becomes in a file of that PatientOrientation.
STORED = {
    ("L", "F"): np.asarray,
    ("R", "F"): np.fliplr,
    ("L", "H"): np.flipud,
    ("R", "H"): lambda image: np.rot90(image, 2),
    ("F", "L"): np.transpose,
    ("F", "R"): np.rot90,
    ("H", "L"): lambda image: np.rot90(image, -1),
    ("H", "R"): lambda image: np.rot90(image.T, 2),
}
LUNGS = [("SCT", "3341006"), ("SCT", "44029006")]  # right and left, as SNOMED CT codes them
# Of the patient, in what is made up here.
SECRETS = {
    "PatientName": "Zeugin^Klara",
    "PatientID": "PID778899",
    "PatientBirthDate": "19310704",
    "PatientComments": "lives with Otto",
    "AccessionNumber": "ACC556677",
    "StudyDate": "20190317",
    "StudyDescription": "follow-up of Klara",
    "ReferringPhysicianName": "Arzt^Rudolf",
    "PhysiciansOfRecord": "Leitner^Rita",
    "InstitutionName": "Klinik Nord",
    "StationName": "ROOM3X",
}


def nifti_of(upright: np.ndarray) -> nibabel.Nifti1Image:
    """A coronal slice: rows to the feet and columns to the left, as films hang."""
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -0.8, -0.9, 1, 1
    image = nibabel.Nifti1Image(upright.T[..., np.newaxis], affine)
    image.header.set_xyzt_units("mm")
    return image


def in_all_orientations(image: nibabel.Nifti1Image) -> list[nibabel.Nifti1Image]:
    """The same slice with axes reversed and exchanged, by nibabel."""
    return [
        image.as_reoriented(np.array([[first, a], [1 - first, b], [2, 1]]))
        for first, a, b in product((0, 1), (1, -1), (1, -1))
    ]


# Kinds of files


def test_a_nifti_slice_of_any_orientation_is_turned_upright():
    found = set()
    for image in in_all_orientations(nifti_of(FILM)):
        film = read_film("film.nii", image.to_bytes())
        assert np.array_equal(turn_upright(film.image, film.header.orientation), FILM)
        across = film.header.orientation[0] in "LR"
        assert film.header.spacing == pytest.approx((0.9, 0.8) if across else (0.8, 0.9))
        found.add(film.header.orientation)
    assert found == set(STORED)


def test_nifti_2_packed_or_of_another_byte_order_is_the_same_film():
    image = nifti_of(FILM)
    content = nibabel.Nifti2Image(image.dataobj, image.affine).to_bytes()
    swapped = nibabel.Nifti1Header(endianness=">")
    other = nibabel.Nifti1Image(image.dataobj, image.affine, swapped).to_bytes()
    for kind in (content, gzip.compress(content), other):
        film = read_film("film", kind)
        assert np.array_equal(film.image, FILM)
        assert film.header.spacing is None  # of a unit that is not said


def test_a_nifti_array_without_geometry_is_an_image_that_somebody_saved():
    for affine in (np.eye(4), None):
        film = read_film("film.nii", nibabel.Nifti1Image(FILM, affine).to_bytes())
        assert np.array_equal(film.image, FILM)
        assert film.header.orientation is None


def test_nifti_that_is_no_film_is_refused_by_name_and_reason(monkeypatch):
    whole = nifti_of(FILM)
    colours = np.zeros((64, 72, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    # The first number of the affine is 0.
    flat = whole.to_bytes()[:280] + bytes(4) + whole.to_bytes()[284:]
    refused = {
        "several": (np.zeros((64, 72, 3), np.uint8), "64 × 72 × 3"),
        "colours": (colours, "finite numbers"),
        "nan": (np.full((64, 72), np.nan, np.float32), "finite numbers"),
        "short": (whole.to_bytes()[:-100], "it is damaged: Expected 4608 bytes"),
        "short packed": (gzip.compress(whole.to_bytes())[:-9], "it ends too early"),
        "bomb": (gzip.compress(whole.to_bytes() + bytes(2**20)), "unpacks to more than 100,000"),
        "geometry": (flat, "no direction for an axis"),
    }
    monkeypatch.setattr(films, "_UNPACKED_LIMIT", 100_000)
    for name, (content, reason) in refused.items():
        if isinstance(content, np.ndarray):
            content = nibabel.Nifti1Image(content, np.eye(4)).to_bytes()
        with pytest.raises(ImageFileError, match=reason) as caught:
            read_film(f"{name}.nii", content)
        assert f"{name}.nii" in caught.value.received


def test_a_damaged_nifti_is_a_film_or_an_error_and_its_labels_are_written(tmp_path):
    whole, rng, read = nifti_of(FILM).to_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(352)] = rng.integers(256)
        try:
            film = read_film("film.nii", bytes(content))
        except ImageFileError as error:
            assert "film.nii" in error.received
        else:
            read += 1
            assert saved(film, np.ones_like(film.image), tmp_path / "l.nii").shape
    assert read > 100


def test_arrays_are_grey_or_colours():
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(read_film(FILM).image, FILM)
    grey = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    assert np.abs(read_film(colours).image - grey).max() <= 1


# How they hang


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_upright_and_back(orientation):
    upright = np.arange(15).reshape(3, 5)
    stored = STORED[orientation](upright)
    assert np.array_equal(turn_upright(stored, orientation), upright)
    assert np.array_equal(turn_back(upright, orientation), stored)


@pytest.fixture(scope="module")
def unet() -> Segmenter:
    return Segmenter.load("unet")


def test_right_and_left_are_the_patients_however_the_film_is_stored(unet, tmp_path):
    image, (left, right) = render_phantom(np.random.default_rng(5), (480, 512))
    displayed = unet.segment(image)
    assert displayed.sides == "as displayed: nothing in the file tells"
    assert min(dice(displayed.labels == 1, right), dice(displayed.labels == 2, left)) > 0.9
    for orientation in (("R", "F"), ("L", "H"), ("F", "L")):
        stored = film_of(STORED[orientation](image), PatientOrientation=list(orientation))
        (tmp_path / "film").write_bytes(content_of(stored))
        result = unet.segment(tmp_path / "film")
        assert result.sides == "PatientOrientation"
        assert np.array_equal(result.labels, STORED[orientation](displayed.labels))
    (tmp_path / "film").write_bytes(nifti_of(image).to_bytes())
    assert unet.segment(tmp_path / "film").sides == "NIfTI"


# Which lung is which


def drawn(*parts: tuple[float, float, float, float]) -> np.ndarray:
    """Ellipses by row and column of their middles, and their half axes, on 200 × 240."""
    mask = np.zeros((200, 240), np.uint8)
    for part in parts:
        mask[ellipse(*part, shape=mask.shape)] = 1
    return mask


RIGHT, LEFT = drawn((100, 70, 70, 38)), drawn((105, 172, 62, 34))


def test_two_parts_are_right_and_left():
    assert np.array_equal(label_lungs(RIGHT | LEFT), RIGHT + 2 * LEFT)


def test_lungs_that_touch_are_told_apart():
    bridge = drawn((95, 120, 6, 40))
    labels = label_lungs(RIGHT | LEFT | bridge)
    assert np.array_equal(labels > 0, (RIGHT | LEFT | bridge) > 0)
    assert np.mean(labels[RIGHT > 0] == 1) > 0.995
    assert np.mean(labels[LEFT > 0] == 2) > 0.995


@pytest.mark.parametrize(("lung", "label"), [(RIGHT, 1), (LEFT, 2)])
def test_a_lung_alone_is_of_the_side_on_which_it_lies(lung, label):
    assert np.array_equal(label_lungs(lung), label * lung)


def test_a_lung_in_two_parts_above_each_other_is_one():
    halves = drawn((60, 172, 30, 34), (140, 176, 30, 36))
    assert np.array_equal(label_lungs(halves), 2 * halves)


def test_of_no_lung_nothing_is_labelled():
    assert not label_lungs(drawn()).any()
    row = describe_lungs(segmentation(drawn()))
    assert (row["right_pixels"], row["left_mm2"], row["left_box"]) == (0, 0, None)
    assert row["look"] and row["reason"] == "no lung was found"


def segmentation(mask: np.ndarray) -> Segmentation:
    image = np.where(mask, 60, 180).astype(np.uint8)
    film = Film(image, "film", Header(spacing=(0.5, 0.4)))
    return Segmentation(film, mask.astype(np.float32), mask)


def test_figures_of_each_lung_are_those_of_scikit_image():
    row = describe_lungs(segmentation(RIGHT | LEFT))
    for side, lung in zip(("right", "left"), regionprops(RIGHT + 2 * LEFT), strict=True):
        top, left, low, right = lung.bbox
        assert row[f"{side}_pixels"] == lung.area
        assert row[f"{side}_mm2"] == pytest.approx(lung.area * 0.5 * 0.4, abs=0.05)
        assert row[f"{side}_share"] == pytest.approx(lung.area / 48_000, abs=5e-5)
        centroid = row[f"{side}_centroid_y"], row[f"{side}_centroid_x"]
        assert centroid == pytest.approx(lung.centroid, abs=0.051)
        assert row[f"{side}_box"] == f"{left} {top} {right - left} {low - top}"
    assert row["left_to_right"] == pytest.approx(LEFT.sum() / RIGHT.sum(), abs=5e-5)
    assert (row["spacing_mm"], row["width"], row["height"]) == ("0.5 × 0.4", 240, 200)


def test_the_figures_of_rectangles_by_hand():
    mask = np.zeros((200, 240), np.uint8)
    mask[20:120, 30:40] = mask[20:120, 150:190] = 1
    row = describe_lungs(segmentation(mask))
    assert (row["right_pixels"], row["left_pixels"], row["left_to_right"]) == (1000, 4000, 4.0)
    assert (row["right_mm2"], row["left_mm2"]) == (200.0, 800.0)
    assert (row["right_centroid_x"], row["right_centroid_y"]) == (34.5, 69.5)
    assert (row["right_box"], row["left_box"]) == ("30 20 10 100", "150 20 40 100")
    assert row["look"] and row["reason"] == "the left lung has 4.00 times the right's area"


def test_what_is_unlike_any_film_is_to_be_looked_at():
    assert segmentation(RIGHT | LEFT).look == ""
    assert segmentation(RIGHT).look == "one lung missing"
    # 9 of the 200 rows of the film's left edge are no more than a tip; 11 are.
    for rows, told in ((9, ""), (11, "lungs touch the film's edge")):
        mask = RIGHT | LEFT
        mask[100 : 100 + rows, :60] = 1
        assert segmentation(mask).look == told
    doubted = dataclasses.replace(
        segmentation(RIGHT | LEFT), expected_dice=0.61237, doubts="networks disagree"
    )
    row = describe_lungs(doubted)
    assert (row["expected_dice"], row["look"]) == (0.6124, True)
    assert row["reason"] == "networks disagree"


# What is written


def saved(film: Film, mask: np.ndarray, path: Path) -> nibabel.Nifti1Image:
    result = Segmentation(film, mask.astype(np.float32), mask)
    assert save_results(result, {"nifti": path}, "network", False) == ""
    return nibabel.load(path)


def right_coordinate(image: nibabel.Nifti1Image, label: int) -> float:
    middle = np.mean(np.argwhere(np.asarray(image.dataobj) == label), axis=0)
    return nibabel.affines.apply_affine(image.affine, np.resize(middle, 3))[0]


def test_labels_lie_on_their_nifti_film_voxel_by_voxel(tmp_path):
    plain = nibabel.Nifti1Image(255 - 100 * (RIGHT | LEFT), None)
    for image in (*in_all_orientations(nifti_of(255 - 100 * (RIGHT | LEFT))), plain):
        image.header["descrip"] = b"Zeugin^Klara"
        film = read_film("film.nii", image.to_bytes())
        labels = saved(film, (film.image < 200).astype(np.uint8), tmp_path / "labels.nii")
        assert labels.shape == image.shape and labels.get_data_dtype() == np.uint8
        stored = nibabel.Nifti1Image.from_bytes(image.to_bytes())
        assert np.array_equal(labels.affine, stored.affine)
        assert labels.header["sform_code"] == stored.header["sform_code"]
        assert np.array_equal(np.asarray(labels.dataobj) > 0, np.asarray(image.dataobj) < 200)
        if image is not plain:
            assert right_coordinate(labels, 1) > right_coordinate(labels, 2)
        assert b"Klara" not in (tmp_path / "labels.nii").read_bytes()


@pytest.mark.parametrize("orientation", [*STORED, None])
def test_labels_of_other_films_lie_as_the_patient_does(tmp_path, orientation):
    mask = np.ascontiguousarray(STORED[orientation or ("L", "F")](RIGHT | LEFT))
    spacing = (0.4, 0.5) if orientation and orientation[0] in "HF" else (0.5, 0.4)
    header = Header(orientation=orientation, spacing=spacing)
    labels = saved(Film(mask, "film", header), mask, tmp_path / "labels.nii.gz")
    assert right_coordinate(labels, 1) > right_coordinate(labels, 2)
    assert labels.header.get_zooms() == pytest.approx((0.4, 0.5, 1))
    assert np.array_equal(np.asarray(labels.dataobj)[..., 0].T, RIGHT + 2 * LEFT)


def test_a_dicom_segmentation_holds_both_lungs_and_refers_to_its_film(tmp_path):
    content = content_of(film_of(deep(12), 12, PatientOrientation=["L", "F"], **SECRETS))
    film = read_film("film.dcm", content)
    mask = np.zeros(FILM.shape, np.uint8)
    mask[10:60, 8:25] = mask[15:60, 40:60] = 1
    result = Segmentation(film, mask.astype(np.float32), mask)
    paths = {kind: tmp_path / f"{kind}.dcm" for kind in ("dicom-seg", "secondary-capture")}
    assert save_results(result, paths, "network", False) == ""
    made = pydicom.dcmread(paths["dicom-seg"])
    assert made.Modality == "SEG" and made.PatientName == SECRETS["PatientName"]
    codes = [one.SegmentedPropertyTypeCodeSequence[0] for one in made.SegmentSequence]
    assert [(one.CodingSchemeDesignator, one.CodeValue) for one in codes] == LUNGS
    for frame, groups in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(frame, result.labels == number)
    source = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert source.ReferencedSOPInstanceUID == film.dataset.SOPInstanceUID
    picture = pydicom.dcmread(paths["secondary-capture"])
    assert np.abs(picture.pixel_array.astype(int) - result.overlay).mean() < 6


@pytest.mark.parametrize("deidentified", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_patients_identity_is_in_dicom_objects_alone_or_nowhere(tmp_path, deidentified):
    out, folder = tmp_path / "out", tmp_path / "films"
    folder.mkdir()
    # Sound, with a date that no object can have, and refused.
    kinds = {}, {"PatientBirthDate": "1931-07-04x"}, {"ViewPosition": "LL"}
    for name, more in zip("abc", kinds, strict=True):
        with pydicom.config.disable_value_validation():
            (folder / name).write_bytes(content_of(film_of(deep(12), 12, **SECRETS | more)))
    table = Segmenter(Darkness()).segment_folder(folder, out, list(PLACES), deidentified)
    assert [bool(error) for error in table["error"]] == [False, False, True]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(list((out / "dicom-seg").iterdir())) == (2 if deidentified else 1)
    for path in written:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if path.suffix == ".png":
            assert not Image.open(io.BytesIO(content)).info
        told = [name for name, value in SECRETS.items() if value.encode() in content]
        assert bool(told) == (path.suffix == ".dcm" and not deidentified), (path, told)
        assert b"1931-07-04" not in content
    assert {path.suffix for path in written} >= {".csv", ".json", ".html", ".png", ".gz", ".jpg"}
