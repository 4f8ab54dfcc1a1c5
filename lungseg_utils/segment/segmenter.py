"""Any X-ray in, its lung mask out at the X-ray's own size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lungseg_utils.errors import ImageFileError
from lungseg_utils.files.images import write_png
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.preparation.imaging import (
    read_image,
    resize_image,
    resize_probability,
    to_grey,
)
from lungseg_utils.segment.folders import ResultFolder
from lungseg_utils.segment.postprocess import clean_mask, doubt, lungs_are_bright, to_mask
from lungseg_utils.segment.predict import predict_images
from lungseg_utils.segment.shipped import SHIPPED, ShippedRun, load_shipped, predicting_part
from lungseg_utils.training.runs import Run, load_run

LEAST_SIDE = 32
_FIGURES = {
    "width": "Int64",
    "height": "Int64",
    "lung_fraction": "float64",
    "inverted": "boolean",
}
# Raised whenever the same network would find another mask in the same film.
_VERSION = 1

# Okabe and Ito's sky blue, as blue, green, red: told apart by colour-blind readers.
_CONTOUR_BGR = (233, 180, 86)


@dataclass(frozen=True)
class Segmentation:
    """The lungs found in one X-ray.

    Args:
        image: uint8 `(H, W)`, the X-ray as read.
        probability: float32 `(H, W)` in [0, 1].
        mask: uint8 {0, 1} `(H, W)`, post-processed.
        inverted: Whether black and white are exchanged on this film, so that its lungs are
            bright; they were then found on its inverse.
    """

    image: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    inverted: bool = False

    @property
    def overlay(self) -> np.ndarray:
        """uint8 `(H, W, 3)` RGB: the X-ray with the mask's contour."""
        colour = cv2.cvtColor(self.image, cv2.COLOR_GRAY2BGR)
        contours, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(max(self.image.shape) / 256))
        cv2.drawContours(colour, contours, -1, _CONTOUR_BGR, width, cv2.LINE_AA)
        return colour[..., ::-1]

    @property
    def lung_fraction(self) -> float:
        """Share of the image that is lung."""
        return float(self.mask.mean())


class Segmenter:
    """A trained network, ready for X-rays of any size.

    Example:
        >>> segmenter = Segmenter.load("unet")  # doctest: +SKIP
        >>> segmenter.segment("chest.png").mask.shape  # doctest: +SKIP

    Args:
        run: A trained run, or shipped weights; its size and preprocessing are replayed.
    """

    def __init__(self, run: Run | ShippedRun) -> None:
        self.run = run
        self.model = run.load_model()
        # A network that never saw inverted films says nothing about one.
        self._knows_inverted_films = run.config.augmentation.invert > 0

    @classmethod
    def load(cls, name_or_folder: Path | str = "unet") -> Segmenter:
        """Load shipped weights by their name, or a run of one's own by its folder.

        With the package come `unet`, `unetpp` and `pix2pix`, trained on X-rays of the Montgomery
        County and Shenzhen sets, and `unet-shenzhen` and `unet-montgomery`, a U-Net of one set
        alone. These weights are for research, not for commercial use, and no medical device: their
        terms, and what to cite, are in `weights/LICENSE` of the package.

        Args:
            name_or_folder: One of these names as text, or `runs/<name>` of a workspace. A `Path`
                is always a folder.

        Raises:
            MissingInputError: No trained run, or no shipped file, is there.
            LungsegError: The text is neither a name nor a folder, or the weights are damaged.
        """
        if isinstance(name_or_folder, str) and _is_name(name_or_folder):
            return cls(load_shipped(name_or_folder))
        return cls(load_run(name_or_folder))

    def segment(self, image: Path | str | np.ndarray) -> Segmentation:
        """Find the lungs in an X-ray.

        The image is squashed to the network's square; the probability goes back to the
        image's own size and is thresholded there. Where a network that knows inverted films from
        its training finds lungs brighter than what lies around them, the inverse is predicted
        too, and the answer is taken of which the network is surer.

        Args:
            image: An image file, or an array as in `to_grey`: grey `(H, W)`, RGB `(H, W, 3)` or
                RGBA `(H, W, 4)`.

        Returns:
            The mask, at the image's own size.

        Raises:
            ImageFileError: The file cannot be read, or the image is smaller than 32 pixels or of a
                single grey level.
            InvalidValueError: The array is no image.
        """
        name = "an array" if isinstance(image, np.ndarray) else str(image)
        image = to_grey(image) if isinstance(image, np.ndarray) else read_image(image)
        _check_content(image, name)
        small = resize_image(image, self.run.config.size)
        probability, inverted = self._predict(small)
        height, width = image.shape
        probability = resize_probability(probability, (width, height))
        return Segmentation(image, probability, clean_mask(to_mask(probability)), inverted)

    def segment_folder(self, folder: Path | str, out: Path | str) -> pd.DataFrame:
        """Segment every image of a folder.

        What an earlier call made of the same files with the same network stays, also where that
        call was interrupted or killed: only the rest is segmented. What it made of other files, or
        with another network, is removed. `segmented.csv` is there only beside the masks it lists.
        A file that cannot be segmented is named in the table, and at the end in print, and the
        others go on.

        Args:
            folder: X-rays, or a single file.
            out: Gets `masks/<name>_mask.png` (0 and 255, the X-ray's own size),
                `overlays/<name>_overlay.png`, `segmented.csv` and `record.json`. The names are
                those of `name_outputs`.

        Returns:
            A row a file: `file`, `width`, `height`, `lung_fraction`, `inverted` (as in
            `Segmentation`), `error` (empty when all went well).

        Raises:
            MissingInputError: There is no image.
            StorageError: The disk is full or read-only; what was segmented is kept.
            LungsegError: The record in `out` is damaged.
            LockedError: Another process writes there.
        """
        out = Path(out)
        places = "masks/{}_mask.png", "overlays/{}_overlay.png"
        results = ResultFolder(out, places, "segmented.csv", _FIGURES)
        images = results.find_images(folder)
        with hold(out / results.table, "segmenting"), explained(out):
            table = results.fill(images, self._parameters(), self._segment_file, "Segmenting")
        _tell_failures(table)
        return table

    def _segment_file(self, path: Path, mask: Path, overlay: Path) -> dict[str, object]:
        """Write an X-ray's mask and overlay; returns its figures for the table."""
        result = self.segment(path)
        write_png(mask, result.mask * 255)
        write_png(overlay, result.overlay[..., ::-1])
        height, width = result.image.shape
        return {
            "width": width,
            "height": height,
            "lung_fraction": round(result.lung_fraction, 4),
            "inverted": result.inverted,
        }

    def _parameters(self) -> dict[str, object]:
        """Whatever decides an X-ray's mask: the network's weights as loaded, and their use."""
        import keras

        digest = hashlib.sha256()
        for variable in predicting_part(self.model).weights:
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
        config = self.run.config
        return {
            "version": _VERSION,
            "weights_sha256": digest.hexdigest(),
            "size": config.size,
            "preprocessing": config.preprocessing.to_dict(),
            "knows_inverted_films": self._knows_inverted_films,
        }

    def _predict(self, small: np.ndarray) -> tuple[np.ndarray, bool]:
        """Probability (size, size), and whether it was found on the inverse of the image."""
        probability = predict_images(self.run, self.model, small[None])[0]
        if not self._knows_inverted_films or not lungs_are_bright(small, probability):
            return probability, False
        of_inverse = predict_images(self.run, self.model, 255 - small[None])[0]
        if doubt(of_inverse) < doubt(probability):
            return of_inverse, True
        return probability, False


def _is_name(text: str) -> bool:
    # A single word that is no folder can only be a name, if a misspelt one.
    return text in SHIPPED or (Path(text).name == text and not Path(text).exists())


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


def _tell_failures(table: pd.DataFrame) -> None:
    failed = table[table["error"] != ""]
    if len(failed):
        print(f"{len(failed)} of {len(table)} files could not be segmented:")
        print("\n".join(f"  {file}: {error}" for file, error in failed[["file", "error"]].values))
