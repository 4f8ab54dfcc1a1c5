"""Reading, resizing and preprocessing of X-rays and masks: NumPy and OpenCV, Pillow for files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from lungseg_utils.errors import InvalidValueError, UnusableMaskError, check_known
from lungseg_utils.files.images import (
    MaskColours,
    bands_of,
    channels_to_grey,
    read_grey,
)

GREY_NORMALISATIONS = ("none", "minmax", "percentile")

# Share of a mask that may be neither black nor white: up to 0.2 % in those of the training and
# validation cases, at least 25 % in their X-rays, which a test looks up.
_SOFT = 0.12
# Rounding in the weights of the area average must not turn a tie into "not lung".
_HALF = 0.5 - 1e-5


def read_image(path: Path | str) -> np.ndarray:
    """Read a PNG, JPEG, TIFF, ... of any usual kind as grey.

    Transparent pixels lie on black. More than 8 bits are windowed by the image's own range, so
    that 12-bit film stored in 16 bits keeps its contrast; a constant one becomes black. EXIF
    rotation and TIFF's "white is zero" are honoured. Of several pictures in a file the first is
    read where the others are smaller, as previews are; else nobody can tell which is meant.

    Args:
        path: Image file.

    Returns:
        uint8 (H, W).

    Raises:
        ImageFileError: The file is absent, damaged, not an image, has more than 40 million
            pixels (found in its header, before it is decoded) or holds several pictures.
    """
    return decode_image(Path(path))


def decode_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """`read_image` of a file whose bytes may have been read already."""
    values = read_grey(path, content=content)
    return values if values.dtype == np.uint8 else _window(values)


def read_mask(*paths: Path | str) -> np.ndarray:
    """Read a lung mask; several files, such as left and right lung, become their union.

    A pixel is lung where its value is above 127 (above half the largest value in files of more
    than 8 bits). A file whose largest value is 1 is read as {0, 1}. Of a coloured mask the
    brightest channel counts.

    Args:
        paths: One or more mask files of one size.

    Returns:
        uint8 {0, 1} (H, W).

    Raises:
        ImageFileError: A file cannot be read.
        UnusableMaskError: A file is too dark to be a mask, has several colours or the greys of
            an X-ray, or the sizes differ.
    """
    if not paths:
        raise InvalidValueError("A mask is read from one or more files.", "no file", "Pass a path.")
    return decode_mask({Path(path): None for path in paths})


def decode_mask(files: Mapping[Path, bytes | None]) -> np.ndarray:
    """`read_mask` of files whose bytes may have been read already."""
    (first, content), *others = files.items()
    union = _decode_one_mask(first, content)
    for path, content in others:
        mask = _decode_one_mask(path, content)
        if mask.shape != union.shape:
            raise UnusableMaskError(
                "Masks of one X-ray have the same size.",
                f"{first} is {size_text(union)}, {path} is {size_text(mask)}",
                "Check that the files belong to the same X-ray.",
            )
        union |= mask
    return union


def to_grey(image: np.ndarray) -> np.ndarray:
    """Turn an image array into grey, as `read_image` does with a file.

    Args:
        image: (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4); uint8, or any other number
            type, which is windowed by its own range.

    Returns:
        uint8 (H, W).

    Raises:
        InvalidValueError: The array has another shape, no pixels, or values that are not finite.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise InvalidValueError(
            "An image is an array (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4).",
            f"shape {image.shape}",
            "Pass one image, grey or colour, with its channels last.",
        )
    if not np.isfinite(image).all():
        raise InvalidValueError(
            "An image's values are finite.", "NaN or infinity", "Replace them before reading."
        )
    grey = channels_to_grey(image)
    return grey if grey.dtype == np.uint8 else _window(grey)


def resize_image(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a grey image: averaging areas along axes that shrink, linearly where they grow.

    Args:
        image: uint8 or float32 (H, W).
        size: Side of a square, or (width, height), in pixels.

    Returns:
        (height, width), of the same type.
    """
    import cv2

    width, height = _wanted(size)
    # OpenCV averages areas only where both axes shrink, hence one step for each direction.
    shrunk = min(width, image.shape[1]), min(height, image.shape[0])
    if shrunk != image.shape[::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def resize_mask(mask: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a mask: a new pixel is lung where at least half of its area is (a tie is lung).

    Args:
        mask: uint8 {0, 1} (H, W).
        size: Side of a square, or (width, height), in pixels.

    Returns:
        uint8 {0, 1} (height, width).
    """
    if _wanted(size) == mask.shape[::-1]:
        return mask.copy()
    return (resize_image(mask.astype(np.float32), size) >= _HALF).astype(np.uint8)


def resize_probability(probability: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a probability map bilinearly.

    Args:
        probability: float32 (H, W) in [0, 1].
        size: Side of a square, or (width, height), in pixels.

    Returns:
        float32 (height, width) in [0, 1].
    """
    import cv2

    probability = np.asarray(probability, dtype=np.float32)
    resized = cv2.resize(probability, _wanted(size), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a grey X-ray before a model sees it; recorded with a run and replayed.

    Args:
        clahe: Contrast-limited adaptive histogram equalisation (Zuiderveld 1994).
        clip_limit: CLAHE's limit of contrast, in multiples of a flat histogram.
        tiles: CLAHE's number of tiles along each side.
        normalise: `none`; `minmax`: the image's range to 0..255; `percentile`: its 1st..99th
            percentile to 0..255, clipped beyond. Both leave a range under one level unstretched.
    """

    clahe: bool = False
    clip_limit: float = 2.0
    tiles: int = 8
    normalise: str = "none"

    def __post_init__(self) -> None:
        check_known(self.normalise, GREY_NORMALISATIONS, "normalise")
        if not self.clip_limit > 0 or self.tiles < 1 or self.tiles != int(self.tiles):
            raise InvalidValueError(
                "CLAHE needs a clip limit above 0 and a whole number of tiles of at least 1.",
                f"clip_limit {self.clip_limit!r}, tiles {self.tiles!r}",
                "Start from the usual clip_limit=2.0, tiles=8.",
            )

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Apply CLAHE, then the normalisation, to uint8 (H, W); returns uint8 (H, W)."""
        if self.clahe:
            import cv2

            # Made anew each time: one CLAHE object must not be used by two threads.
            tiles = int(self.tiles), int(self.tiles)
            image = cv2.createCLAHE(self.clip_limit, tiles).apply(image)
        if self.normalise == "none":
            return image
        ends = (0, 100) if self.normalise == "minmax" else (1, 99)
        low, high = np.percentile(image, ends)
        levels = (np.arange(256) - low) / max(high - low, 1.0)
        return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)[image]

    def apply_all(self, images: np.ndarray) -> np.ndarray:
        """Apply to uint8 (N, H, W); returns a new array uint8 (N, H, W) in memory."""
        result = np.array(images, dtype=np.uint8)
        if self.clahe or self.normalise != "none":
            for image in result:
                image[...] = self.apply(image)
        return result

    def to_dict(self) -> dict[str, object]:
        """Plain values for a run's record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Raises:
            InvalidValueError: An option is unknown.
        """
        known = [field.name for field in fields(cls)]
        check_known(values, known, "An option of the preprocessing")
        return cls(**values)


def to_model_input(images: np.ndarray) -> np.ndarray:
    """Turn grey images into what every model reads.

    Args:
        images: uint8 (N, H, W) or (H, W).

    Returns:
        float32 (N, H, W, 1) in [0, 1]; N is 1 for a single image.
    """
    images = images[np.newaxis] if images.ndim == 2 else images
    return np.multiply(images, np.float32(1 / 255), dtype=np.float32)[..., np.newaxis]


def _window(values: np.ndarray) -> np.ndarray:
    """Spread the range of the values over 0..255; a constant image becomes black."""
    kind = np.float64 if values.dtype.itemsize > 2 else np.float32
    low, high = values.min().astype(kind), values.max().astype(kind)
    levels = np.zeros(values.shape, np.uint8)
    if low == high:
        return levels
    for rows in bands_of(len(values)):
        levels[rows] = np.rint((values[rows].astype(kind) - low) * (255 / (high - low)))
    return levels


def soft_fraction(values: np.ndarray, white: float | None = None) -> float:
    """Share of an image that is neither black nor white: 0 for a mask, most of an X-ray.

    Args:
        values: (H, W), numbers from 0 on. Black is up to 1/8 of white, white from 7/8 on.
        white: The value of white; None for the largest value.
    """
    step = max(1, max(values.shape) // 512)
    sample = values[::step, ::step]
    white = float(values.max()) if white is None else white
    return float(((sample > white / 8) & (sample < white * 7 / 8)).mean())


def _decode_one_mask(path: Path, content: bytes | None) -> np.ndarray:
    colours = MaskColours()
    values = read_grey(path, colours, content)
    if colours.several:
        raise UnusableMaskError(
            "A mask has one colour on black.",
            f"{path}: it has several, and nothing tells which of them is lung",
            "Save the lungs as 255 on 0.",
        )
    return _binarise(values, path)


def _binarise(values: np.ndarray, path: Path) -> np.ndarray:
    largest = values.max()
    if values.dtype == np.uint8 and 1 < largest <= 127:
        raise UnusableMaskError(
            "A mask is lung where its value is above 127, or holds 0 and 1 only.",
            f"{path}: its largest value is {largest}",
            "Save the mask as 0 and 255.",
        )
    if (soft := soft_fraction(values)) > _SOFT:
        raise UnusableMaskError(
            "A mask is black and white, apart from its edges.",
            f"{path}: {soft:.0%} of it is grey, as in an X-ray",
            "Check that X-ray and mask are not exchanged.",
        )
    if values.dtype != np.uint8:
        return (values > largest / 2).astype(np.uint8)
    return (values > (0 if largest == 1 else 127)).astype(np.uint8)


def _wanted(size: int | tuple[int, int]) -> tuple[int, int]:
    width, height = (size, size) if np.isscalar(size) else size
    if min(width, height) < 1 or int(width) != width or int(height) != height:
        raise InvalidValueError(
            "A size is a whole number of pixels, at least 1, or a pair (width, height) of them.",
            repr(size),
            "Pass for example 256 or (512, 384).",
        )
    return int(width), int(height)


def size_text(image: np.ndarray) -> str:
    """Width and height of an image (H, W), for messages."""
    return f"{image.shape[1]} × {image.shape[0]} pixels"
