"""Whatever is passed as an X-ray: the right picture, or an error that names file and reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import png_header
from handmade import tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lungseg_utils.errors import ImageFileError
from lungseg_utils.preparation.imaging import read_image
from lungseg_utils.segment.segmenter import Segmenter
from tests.tiny import Darkness

FILM = np.clip(np.add.outer(np.arange(40) * 3, np.arange(50) * 2) + 20, 0, 255).astype(np.uint8)
# In colour of equal channels, apart from what JPEG costs.
LOSS = 4


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str, *others: np.ndarray) -> bytes:
    pictures = [Image.fromarray(other) for other in others]
    return encoded(FILM, kind, save_all=True, append_images=pictures)


def palette() -> Image.Image:
    """Colours out of order, so that their numbers are not their levels."""
    image = Image.fromarray(255 - FILM)
    image.putpalette(np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3).tobytes())
    return image


def colour() -> Image.Image:
    return Image.fromarray(np.dstack([FILM] * 3))


def with_alpha() -> Image.Image:
    return Image.fromarray(np.dstack([FILM] * 3 + [np.full_like(FILM, 255)]))


RIGHT = {
    "grey": encoded(FILM, "PNG"),
    "palette": encoded(palette(), "PNG"),
    "palette.gif": encoded(palette(), "GIF"),
    "alpha": encoded(with_alpha(), "PNG"),
    "rgb.jpg": encoded(colour(), "JPEG", quality=95),
    "cmyk.jpg": encoded(colour().convert("CMYK"), "JPEG", quality=95),
    "progressive.jpg": encoded(FILM, "JPEG", quality=95, progressive=True),
    "webp": encoded(colour(), "WEBP", lossless=True),
    "bmp": encoded(FILM, "BMP"),
    "white-is-zero.tiff": tiff(255 - FILM, photometric=0),
    "with-preview.tiff": frames("TIFF", FILM[::4, ::4]),
}
ANOTHER = 255 - FILM
WRONG = {
    "empty": (b"", "the file is empty"),
    "text": (b"quota exceeded, try later\n", "it is text, no image"),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "an SVG"),
    "dicom": (bytes(128) + b"DICM\2\0\0\0UL\4\0\xbe\0\0\0", "a DICOM file"),
    "pdf": (b"%PDF-1.7\n\xe2\xe3\xcf\xd3", "a PDF"),
    "archive": (b"PK\3\4" + bytes(40), "a zip archive"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "noise": (np.random.default_rng(0).bytes(500), "of a kind unknown"),
    "cut": (RIGHT["grey"][: len(RIGHT["grey"]) // 2], "it is damaged"),
    "cut.jpg": (RIGHT["rgb.jpg"][:400], "it is damaged"),
    "animated.gif": (frames("GIF", ANOTHER), "it holds 2, and nothing tells"),
    "animated.png": (frames("PNG", ANOTHER, FILM), "it holds 3, and nothing tells"),
    "animated.webp": (frames("WEBP", ANOTHER), "it holds 2, and nothing tells"),
    "pages.tiff": (frames("TIFF", ANOTHER), "it holds 2, and nothing tells"),
    "pages-and-preview.tiff": (frames("TIFF", FILM[::4, ::4], ANOTHER), "it holds 3"),
    "nan.tiff": (encoded(np.full((40, 40), np.nan, np.float32), "TIFF"), "NaN or infinity"),
    "infinite.tiff": (encoded(np.full((40, 40), np.inf, np.float32), "TIFF"), "NaN or infinity"),
    "huge": (png_header(30_000, 30_000), "claims more"),
    # Pillow's own limit lies at 89 million pixels.
    "large": (png_header(7_000, 7_000), "claims more"),
}
TOO_LITTLE = {
    "single": (encoded(np.full((1, 1), 7, np.uint8), "PNG"), "1 × 1 pixels"),
    "strip": (encoded(FILM[:31], "PNG"), "50 × 31 pixels"),
    "black": (encoded(FILM * 0, "PNG"), "every pixel is 0"),
    "constant-deep": (encoded(np.full((40, 50), 900, np.uint16), "PNG"), "every pixel is 0"),
}


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / (name if "." in name else f"{name}.png")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", RIGHT)
def test_every_usual_kind_is_read_and_its_suffix_does_not_matter(tmp_path, name):
    for path in (written(tmp_path, name, RIGHT[name]), written(tmp_path, "x.png", RIGHT[name])):
        values = read_image(path)
        assert values.dtype == np.uint8
        assert np.abs(values - FILM.astype(int)).max() <= (LOSS if ".jpg" in name else 0)


def test_a_deep_tiff_that_stores_white_as_zero_is_turned_round(tmp_path):
    # As DICOM's MONOCHROME1 does.
    stored = (255 - FILM).astype(np.uint16) * 16
    values = read_image(written(tmp_path, "deep.tiff", tiff(stored, photometric=0)))
    stretched = (FILM - FILM.min()) * (255 / np.ptp(FILM))
    assert np.abs(values - stretched).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("name", WRONG)
def test_everything_else_is_refused_by_name_and_reason(tmp_path, name):
    content, reason = WRONG[name]
    path = written(tmp_path, name, content)
    with pytest.raises(ImageFileError, match=reason) as caught:
        read_image(path)
    assert str(path) in caught.value.received


def test_a_changed_byte_gives_an_error_and_never_other_pixels(tmp_path):
    rng = np.random.default_rng(0)
    film = np.kron(rng.integers(0, 256, (6, 8)), np.ones((9, 7))).astype(np.uint8)
    whole = encoded(film, "PNG")
    for position in range(0, len(whole), 3):
        content = bytearray(whole)
        content[position] ^= 1 << rng.integers(8)
        try:
            values = read_image(written(tmp_path, "flipped", content))
        except ImageFileError as error:
            assert "flipped.png" in error.received
        else:
            assert np.array_equal(values, film)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.text(
        st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters='/\\:*?<>|"'),
        min_size=1,
        max_size=20,
    ).filter(lambda name: name.strip(". ") == name),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, bool]),
    seed=st.integers(0, 99),
)
def test_any_name_shape_and_depth_gives_grey_of_that_shape(tmp_path, name, shape, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 256, shape)
    kind = "TIFF" if np.dtype(dtype).itemsize == 4 else "PNG"
    grey = read_image(written(tmp_path, f"{name}.png", encoded(values.astype(dtype), kind)))
    assert grey.shape == shape
    assert grey.dtype == np.uint8
    if dtype is np.uint8:
        assert np.array_equal(grey, values)
    elif len(np.unique(values)) > 1:
        assert (grey.min(), grey.max()) == (0, 255)
        assert np.array_equal(np.argsort(grey, axis=None, kind="stable")[:1], [values.argmin()])


# A folder of them


def test_in_a_folder_of_everything_the_sound_ones_are_segmented_and_the_rest_is_named(
    tmp_path, capsys
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    right = [written(folder, f"right-{name}", content).name for name, content in RIGHT.items()]
    wrong = {
        written(folder, f"wrong-{name}", content).name: reason
        for name, (content, reason) in {**WRONG, **TOO_LITTLE}.items()
    }
    wrong["wrong-dicom.png"] = "A DICOM file must be whole"
    for stray in ("Thumbs.db", "._right-grey.png", "DICOMDIR"):
        (folder / stray).write_text("of no concern")
    (folder / "folder.png").mkdir()

    table = Segmenter(Darkness()).segment_folder(folder, out).set_index("file")

    assert sorted(table.index) == sorted([*right, *wrong])
    assert (table.loc[right, "error"] == "").all()
    for name, reason in wrong.items():
        assert reason in table.loc[name, "error"]
    assert len(list((out / "masks").iterdir())) == len(right)
    assert set(table.loc[right, "width"]) == {50}
    told = capsys.readouterr().out
    assert f"{len(wrong)} of {len(table)} films could not be segmented" in told
    assert sum(name in told for name in wrong) == 20 and f"and {len(wrong) - 20} more" in told


MEASURED = """
import resource, sys, time
from lungseg_utils.preparation.imaging import read_image
from lungseg_utils.errors import ImageFileError
import cv2, PIL.Image
PIL.Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        read_image(path)
        print("read", path)
    except ImageFileError:
        pass
    if time.perf_counter() - started > 5:
        print("slow", path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_headers_that_promise_a_billion_pixels_cost_no_memory(tmp_path):
    wide, high = 30_000, 30_000
    bmp = bytearray(RIGHT["bmp"])
    bmp[18:26] = struct.pack("<ii", wide, high)
    gif = bytearray(RIGHT["palette.gif"])
    gif[6:10] = struct.pack("<HH", wide, high)
    wide_tiff = RIGHT["white-is-zero.tiff"]
    for tag, had, has in ((256, 50, wide), (257, 40, high)):
        field = struct.pack("<HHI", tag, 4, 1)
        wide_tiff = wide_tiff.replace(
            field + struct.pack("<I", had), field + struct.pack("<I", has)
        )
    jpeg = RIGHT["rgb.jpg"]
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg = jpeg[:at] + struct.pack(">HH", high, wide) + jpeg[at + 4 :]
    contents = {"a.png": png_header(wide, high), "a.bmp": bmp, "a.gif": gif, "a.jpg": jpeg}
    contents |= {"a.tiff": wide_tiff, "b.pgm": b"P5 30000 30000 255\n" + bytes(99)}
    paths = [str(written(tmp_path, name, content)) for name, content in contents.items()]

    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True
    )

    kilobytes = int(done.stdout)  # Nothing else is printed: none was read, none was slow.
    assert kilobytes < 50_000
