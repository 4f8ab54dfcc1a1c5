"""Image files of every usual kind, read as grey at their own depth and written whole.

Nothing in a file is trusted: only the formats below are tried, the size is looked at before
anything is decoded, and an image of many channels never lies in memory twice.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.records import write_atomically

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
# Twice the largest films here; in its deepest kind such an image takes less than 1 GB to read.
PIXEL_LIMIT = 40_000_000

# Pillow would try 40 more, one of which (EPS) runs a program on the file.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC = 0x0106
_MOST_PAGES = 100
_BAND_ROWS = 256
# Rec. 601, as Pillow and OpenCV turn colour into grey.
_RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SIGNATURES = {b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive", b"%!PS": "PostScript"}


class MaskColours:
    """Grey of a coloured mask: its brightest channel; tells whether lung had several colours."""

    def __init__(self) -> None:
        # Pixels by which channels are bright: red counts 1, green 2, blue 4.
        self._counts = np.zeros(8, np.int64)

    @property
    def several(self) -> bool:
        """Whether a second colour has more pixels than JPEG or a soft edge leaves of it."""
        *_, second, first = np.sort(self._counts)
        return bool(second > max(0.01 * first, 3))

    def __call__(self, colours: np.ndarray) -> np.ndarray:
        """Turn RGB (H, W, 3), uint8 or float32 up to 65535, into grey (H, W)."""
        bright = colours > (127 if colours.dtype == np.uint8 else 32767)
        kinds = bright @ np.array([1, 2, 4])
        self._counts[1:] += np.bincount(kinds.ravel(), minlength=8)[1:]
        return colours.max(axis=2)


def read_grey(
    path: Path,
    to_grey: Callable[[np.ndarray], np.ndarray] | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """Read an image file as grey, upright, the first of its pictures.

    Args:
        path: The file.
        to_grey: Makes grey (H, W) of RGB (H, W, 3), some rows at a time; by default weighs the
            channels as the eye does.
        content: The file's bytes, where they have been read already.

    Returns:
        (H, W): uint8, or a wider type as it is stored.

    Raises:
        ImageFileError: The file is absent, damaged, not an image, has more than `PIXEL_LIMIT`
            pixels or holds several pictures.
    """
    from PIL import Image

    try:
        # By an open file: by name, Pillow maps uncompressed TIFFs and garbles rotated ones.
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            with Image.open(file, formats=FORMATS) as image:
                too_large = image.width * image.height > PIXEL_LIMIT
                if image.format == "PNG" and not too_large:
                    # Checksums first: Pillow decodes wrong bytes into other pixels, silently.
                    image.verify()
            if not too_large:
                values = _decode(file, path, to_grey)
    except ImageFileError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large = True
    except Exception as error:  # Pillow's decoders raise errors of any type on damaged files.
        raise _unreadable(path, error, content) from error
    if too_large:
        raise ImageFileError(
            f"An image has at most {PIXEL_LIMIT:,} pixels.",
            f"{path}: it claims more",
            "Check the file; if it is sound, shrink it first.",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageFileError(
            "An image's values are finite.", f"{path}: it holds NaN or infinity", "Export it again."
        )
    return np.ascontiguousarray(values)


def channels_to_grey(
    values: np.ndarray, to_grey: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Turn grey (H, W) or (H, W, 1), RGB, or RGBA on black into grey.

    Args:
        values: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of any number type.
        to_grey: As for `read_grey`.

    Returns:
        (H, W): grey as it is; of colour uint8 where that is uint8, else float32.
    """
    if values.ndim == 2:
        return values
    if values.shape[2] == 1:
        return values[..., 0]
    to_grey = to_grey or (lambda colours: colours @ _RED_GREEN_BLUE)
    kind = np.uint8 if values.dtype == np.uint8 else np.float32
    grey = np.empty(values.shape[:2], kind)
    opaque = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    for rows in bands_of(len(values)):
        level = to_grey(values[rows, :, :3].astype(np.float32))
        if values.shape[2] == 4:
            level *= values[rows, :, 3] / np.float32(opaque)
        grey[rows] = np.rint(level) if kind is np.uint8 else level
    return grey


def bands_of(height: int) -> Iterator[slice]:
    """Cut an image into bands of a few hundred rows, to be worked on one after the other."""
    for top in range(0, height, _BAND_ROWS):
        yield slice(top, min(top + _BAND_ROWS, height))


def _unreadable(path: Path, error: Exception, content: bytes | None) -> ImageFileError:
    if content is None and not path.exists():
        reason, advice = "there is no such file", "Check the path."
    elif content is None and path.is_dir():
        reason, advice = "it is a folder", "Pass a file."
    elif not (head := _head(path) if content is None else content[:512]):
        reason, advice = "the file is empty", "Fetch it again."
    elif type(error).__name__ == "UnidentifiedImageError":
        reason = f"it is {_kind_of_file(head)}, no image that is read here"
        advice = "Export it as PNG, JPEG or TIFF."
    else:
        reason, advice = f"it is damaged: {error}", "Fetch or export it again."
    return ImageFileError("An image file must be readable.", f"{path}: {reason}", advice)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _kind_of_file(head: bytes) -> str:
    """What a file that is no image seems to be, by its first bytes and not by its name."""
    if head[128:132] == b"DICM":
        return "a DICOM file"
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return "an SVG drawing" if "<svg" in text else "a web page or other marked-up text"
    is_text = all(one.isprintable() or one.isspace() for one in text)
    return "text" if is_text else "of a kind unknown here"


def _check_single(image: Image.Image, path: Path) -> None:
    """Refuse a file of several pictures, unless all but the first are smaller, as previews are."""
    if not getattr(image, "is_animated", False):
        return
    pages = min(image.n_frames, _MOST_PAGES) if image.format in {"TIFF", "MPO"} else 0
    first = image.size
    smaller = pages > 1
    for page in range(1, pages):
        image.seek(page)
        smaller = smaller and image.width < first[0] and image.height < first[1]
    image.seek(0)
    if not smaller:
        raise ImageFileError(
            "An image file holds one picture.",
            f"{path}: it holds {image.n_frames}, and nothing tells which of them is meant",
            "Save the one you mean as a PNG of its own.",
        )


def _decode(
    file: BinaryIO, path: Path, to_grey: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    from PIL import Image

    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        _check_single(image, path)
        stored_as = image.tile[0][3] if image.tile else ""
        stored_as = stored_as if isinstance(stored_as, str) else str(stored_as[0])
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
        size = image.height, image.width
        image.load()
        if image.mode[0] in "IF":
            values = _in_bands(image, np.asarray)
            # Of 8 bits and fewer Pillow turns round itself.
            values = _turned_round(values) if white_is_zero else values
        elif "16" in stored_as:
            values = channels_to_grey(_decode_deep_colour(file, size), to_grey)
        else:
            values = _in_bands(image, lambda band: _decode_band(band, to_grey))
        # Asked for after decoding, which turns a TIFF already and drops the tag.
        return _orient(values, image.getexif().get(_EXIF_ORIENTATION, 1))


def _decode_band(
    band: Image.Image, to_grey: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    from PIL import Image

    if band.has_transparency_data:
        band = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", band.size, (0, 0, 0, 255)), band)
    if band.mode in {"1", "L"}:
        return np.asarray(band.convert("L"))
    band = band.convert("RGB")  # Pillow has no direct way to grey from every mode.
    return to_grey(np.asarray(band)) if to_grey else np.asarray(band.convert("L"))


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Convert an image to an array (H, W) some rows at a time."""
    values = None
    for rows in bands_of(image.height):
        band = convert(image.crop((0, rows.start, image.width, rows.stop)))
        if values is None:
            values = np.empty((image.height, image.width), band.dtype)
        values[rows] = band
    return values


def _turned_round(values: np.ndarray) -> np.ndarray:
    """Exchange dark and bright within the image's own range, in place."""
    low, high = values.min(), values.max()
    np.subtract(high, values, out=values)
    values += low
    return values


def _decode_deep_colour(file: BinaryIO, size: tuple[int, int]) -> np.ndarray:
    """Colour of 16 bits a channel, RGB or RGBA: Pillow would keep the high byte only."""
    import cv2

    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.shape[:2] != size:
        raise OSError("its 16-bit channels cannot be decoded")
    return values[..., [2, 1, 0, 3][: values.shape[2]]]


def _orient(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image as its EXIF orientation (1 to 8) asks; any other value leaves it."""
    if orientation in (5, 6, 7, 8):
        values = values.T
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def encode_png(picture: np.ndarray) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: uint8, grey (H, W) or blue, green, red (H, W, 3).

    Raises:
        RuntimeError: OpenCV cannot, and says no more.
    """
    import cv2

    done, content = cv2.imencode(".png", np.ascontiguousarray(picture))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture {picture.shape} as PNG.")
    return content.tobytes()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a PNG, whole or not at all; `picture` as for `encode_png`."""
    content = encode_png(picture)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
