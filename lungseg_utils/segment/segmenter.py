"""Any X-ray in, its lung mask out at the X-ray's own size."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lungseg_utils.errors import ImageFileError, MissingInputError
from lungseg_utils.files.images import SUFFIXES, write_png
from lungseg_utils.files.records import publish_folder, write_atomically
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.preparation.imaging import read_image, resize_image, resize_probability
from lungseg_utils.segment.output_names import name_outputs
from lungseg_utils.segment.polarity import doubt, lungs_are_bright
from lungseg_utils.segment.postprocess import clean_mask, to_mask
from lungseg_utils.segment.predict import predict_images
from lungseg_utils.segment.shipped import SHIPPED, ShippedRun, load_shipped
from lungseg_utils.training.runs import Run, load_run

LEAST_SIDE = 32
_TABLE = "segmented.csv"
_PARTIAL = ".partial-segmented"
COLUMNS = ("file", "width", "height", "lung_fraction", "inverted", "error")

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
            image: An image file, or grey uint8 `(H, W)`.

        Returns:
            The mask, at the image's own size.

        Raises:
            ImageFileError: The file cannot be read, the array is no grey image, or the image is
                smaller than 32 pixels or of a single grey level.
        """
        name = "an array" if isinstance(image, np.ndarray) else str(image)
        image = _checked(image) if isinstance(image, np.ndarray) else read_image(image)
        _check_content(image, name)
        small = resize_image(image, self.run.config.size)
        probability, inverted = self._predict(small)
        height, width = image.shape
        probability = resize_probability(probability, (width, height))
        return Segmentation(image, probability, clean_mask(to_mask(probability)), inverted)

    def segment_folder(self, folder: Path | str, out: Path | str) -> pd.DataFrame:
        """Segment every image of a folder.

        A file that cannot be segmented is named in the table, and at the end in print, and the
        others go on. Masks and overlays that an earlier call left in `out` stay until all new ones
        are written, and are replaced then: a call interrupted before changes nothing. One killed
        in that moment leaves no `segmented.csv`, which is there only beside the masks it lists.

        Args:
            folder: X-rays, or a single file.
            out: Gets `masks/<name>_mask.png` (0 and 255, the X-ray's own size),
                `overlays/<name>_overlay.png` and `segmented.csv`. The names are those of
                `name_outputs`.

        Returns:
            A row a file: `file`, `width`, `height`, `lung_fraction`, `inverted` (as in
            `Segmentation`), `error` (empty when all went well).

        Raises:
            MissingInputError: There is no image.
            StorageError: The disk is full or read-only; what was in `out` is as it was.
            LockedError: Another process writes there.
        """
        paths, out = list_images(folder), Path(out)
        with hold(out / _TABLE, "segmenting"), explained(out):
            partial = out / _PARTIAL
            shutil.rmtree(partial, ignore_errors=True)
            try:
                table = self._segment_all(paths, partial)
                _publish(partial, out, table)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        _tell_failures(table)
        return table

    def _segment_all(self, paths: list[Path], out: Path) -> pd.DataFrame:
        rows = []
        names = name_outputs([Path(path.name) for path in paths])
        progress = tqdm(paths, desc="Segmenting", unit="image")
        for path, name in zip(progress, names, strict=True):
            try:
                result = self.segment(path)
            except ImageFileError as error:
                reason = f"{error.rule} {str(error.received).removeprefix(f'{path}: ')}"
                rows.append({"file": path.name, "error": reason})
                continue
            _write_result(out, name, result)
            rows.append({"file": path.name, **_figures_of(result), "error": ""})
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"width": "Int64", "height": "Int64", "inverted": "boolean"})

    def _predict(self, small: np.ndarray) -> tuple[np.ndarray, bool]:
        """Probability (size, size), and whether it was found on the inverse of the image."""
        probability = predict_images(self.run, self.model, small[None])[0]
        # A network that never saw inverted films says nothing about one.
        knows = self.run.config.augmentation.invert > 0
        if not knows or not lungs_are_bright(small, probability):
            return probability, False
        of_inverse = predict_images(self.run, self.model, 255 - small[None])[0]
        if doubt(of_inverse) < doubt(probability):
            return of_inverse, True
        return probability, False


def list_images(folder: Path | str) -> list[Path]:
    """Image files of a folder, by name; a single file is a list of one.

    Raises:
        MissingInputError: There is none.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    # Archives packed on a Mac carry a "._" file beside each.
    images = [
        path
        for path in found
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    if not images:
        raise MissingInputError(
            "Segmenting needs a PNG, JPEG or other image file, or a folder of them.",
            f"{folder} ({'no such file or folder' if not folder.exists() else 'none in it'})",
            "Pass the path of your X-rays; in Colab, upload them with the folder pane first. "
            "Export DICOM files as PNG.",
        )
    return images


def _is_name(text: str) -> bool:
    # A single word that is no folder can only be a name, if a misspelt one.
    return text in SHIPPED or (Path(text).name == text and not Path(text).exists())


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ImageFileError(
            "An X-ray passed as an array is grey uint8 (H, W).",
            f"{image.dtype} {image.shape}",
            "Read the file with read_image, or convert the array.",
        )
    return image


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


def _write_result(out: Path, name: str, result: Segmentation) -> None:
    write_png(out / "masks" / f"{name}_mask.png", result.mask * 255)
    write_png(out / "overlays" / f"{name}_overlay.png", result.overlay[..., ::-1])


def _publish(partial: Path, out: Path, table: pd.DataFrame) -> None:
    """Replace an earlier call's results; the table is there only while they are those it lists."""
    (out / _TABLE).unlink(missing_ok=True)
    for name in ("masks", "overlays"):
        (partial / name).mkdir(parents=True, exist_ok=True)
        publish_folder(partial / name, out / name)
    write_atomically(out / _TABLE, lambda path: table.to_csv(path, index=False))


def _figures_of(result: Segmentation) -> dict[str, object]:
    height, width = result.image.shape
    return {
        "width": width,
        "height": height,
        "lung_fraction": round(result.lung_fraction, 4),
        "inverted": result.inverted,
    }


def _tell_failures(table: pd.DataFrame) -> None:
    failed = table[table["error"] != ""]
    if len(failed):
        print(f"{len(failed)} of {len(table)} files could not be segmented:")
        print("\n".join(f"  {file}: {error}" for file, error in failed[["file", "error"]].values))
