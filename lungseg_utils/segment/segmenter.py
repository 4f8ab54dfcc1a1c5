"""Any chest film in, its lungs out: one at a time, or all that a person has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils import __version__
from lungseg_utils.errors import InvalidValueError, StaleOutputError, shortened
from lungseg_utils.files.records import read_json, write_json
from lungseg_utils.files.storage import explained, hold
from lungseg_utils.models.registry import NETWORKS
from lungseg_utils.preparation.imaging import resize_image, resize_probability
from lungseg_utils.segment.films import Film, read_film, turn_back, turn_upright
from lungseg_utils.segment.folders import ResultFolder, Row
from lungseg_utils.segment.lungs import LUNG_COLUMNS, Segmentation, describe_lungs
from lungseg_utils.segment.network import ExportedRun, load_onnx, predict_images
from lungseg_utils.segment.outputs import (
    GALLERY,
    PLACES,
    check_kinds,
    save_results,
    write_gallery,
)
from lungseg_utils.segment.postprocess import (
    clean_mask,
    doubt,
    lungs_are_bright,
    missing_lung,
    to_mask,
)
from lungseg_utils.segment.quality import Quality, measure

if TYPE_CHECKING:
    import pandas as pd

    from lungseg_utils.training.runs import Run

TABLE = "lungs.csv"
REPORT = "run.json"
_FORMER_TABLE = "segmented.csv"  # of an earlier version
COMPLETED = "part of a lung is a guess by its shape"
# Raised whenever the same network would find another mask in the same film.
_VERSION = 4


class Segmenter:
    """A trained network, ready for films of any size.

    Example:
        >>> segmenter = Segmenter.load("unet")  # doctest: +SKIP
        >>> segmenter.segment("chest.dcm").mask.shape  # doctest: +SKIP

    Args:
        run: A trained run, or shipped weights; its size and preprocessing are replayed.
        quality: Knows the usual shape of lungs, by which a lung that is cut off is completed, and
            with `others` says how far a mask can be trusted; None leaves both out.
        others: The two networks of the same size that it asks.
    """

    def __init__(
        self,
        run: Run | ExportedRun,
        quality: Quality | None = None,
        others: Sequence[ExportedRun] = (),
    ) -> None:
        self.run, self.quality, self.others = run, quality, tuple(others)
        self._asked = [(other, other.load_predictor(threads=1)) for other in self.others]
        # Several films at a time are quicker, each on one core, than one on all cores.
        self._predictor = (
            run.load_predictor(threads=1) if isinstance(run, ExportedRun) else run.load_predictor()
        )
        # A network that never saw inverted films says nothing about one.
        self._knows_inverted_films = run.config.augmentation.invert > 0

    @classmethod
    def load(cls, name_or_folder: Path | str = "unet", fast: bool = False) -> Segmenter:
        """Load shipped weights by their name, or a network of one's own by its path.

        With the package come `unet`, `unetpp` and `pix2pix`, trained on X-rays of the Montgomery
        County and Shenzhen sets; a checkout has `unet-shenzhen` and `unet-montgomery` too, a U-Net
        of one set alone. These weights are for research, not for commercial use, and no medical
        device: their terms, and what to cite, are in `weights/LICENSE` of the package. They, and
        files of `export_onnx`, are run by ONNX Runtime; a run's folder needs Keras.

        Args:
            name_or_folder: One of these names as text, `runs/<name>` of a workspace, or a file of
                `export_onnx`. A `Path` is never a name.
            fast: Run this network alone: quicker, four times at 512×512, and no `expected_dice`.
                A network of one's own has none either.

        Raises:
            MissingInputError: No trained run, or no such file, is there.
            LungsegError: The text is neither a name nor a path, or the weights are damaged.
        """
        from lungseg_utils.segment.network import SHIPPED, load_quality, load_shipped

        path = Path(name_or_folder)
        # A single word that is no folder can only be a name, if a misspelt one.
        word = path.name == str(name_or_folder) and not path.exists() and path.suffix != ".onnx"
        if isinstance(name_or_folder, str) and (name_or_folder in SHIPPED or word):
            run = load_shipped(name_or_folder)
            if name_or_folder not in NETWORKS:
                return cls(run)
            asked = () if fast else NETWORKS
            others = [load_shipped(name) for name in asked if name != name_or_folder]
            return cls(run, load_quality(), others)
        if path.suffix == ".onnx":
            return cls(load_onnx(path))
        from lungseg_utils.training.runs import load_run

        return cls(load_run(path))

    def segment(self, image: Path | str | np.ndarray | Film) -> Segmentation:
        """Find the lungs in a film.

        It is turned upright where its file says how it lies, and squashed to the network's square;
        the probability goes back to the film's own size and is thresholded there. Where a network
        that knows inverted films from its training finds lungs brighter than what lies around
        them, the inverse is predicted too, and the answer is taken of which the network is surer.
        A lung that a shipped network cuts off is completed by the usual shape of lungs; `look` says
        so, and `probability` stays what the network says.

        Args:
            image: A film: as `read_film` returns it or takes it, a file or an array:
                grey `(H, W)`, RGB `(H, W, 3)` or RGBA `(H, W, 4)`.

        Returns:
            The lungs, at the film's own size.

        Raises:
            ImageFileError: The film cannot be read, or is no frontal chest film by its file.
            InvalidValueError: The array is no image.
        """
        return self._segment(image if isinstance(image, Film) else read_film(image))

    def segment_folder(
        self,
        folder: Path | str | Sequence[Path | str],
        out: Path | str,
        save: Collection[str] = ("mask", "overlay"),
        deidentified: bool = False,
    ) -> pd.DataFrame:
        """Segment every film of files, folders, patterns and zip archives, several at a time.

        What an earlier call made of the same films with the same network stays, also where that
        call was interrupted or killed: only the rest is segmented. What it made of other films, or
        with another network, is removed. The table is there only beside the results it lists. A
        film that cannot be segmented is named in the table, and the others go on.

        Args:
            folder: One or several, as for `find_films`; every file counts, whatever its name.
            out: Gets the results in folders of their kinds, `lungs.csv` (the table), `run.json`
                (what made it) and `record.json` (from which the next call goes on).
            save: Which results: `mask` (PNG, 0 and 255), `labels` (PNG, 1 the patient's right lung
                and 2 the left), `overlay` (PNG), `nifti` (labels), `dicom-seg`,
                `secondary-capture` (an overlay as DICOM), `gallery` (one page, `gallery.html`).
            deidentified: Leave the patient's identity out of DICOM objects too, which otherwise
                have it from the film. Nothing else ever has.

        Returns:
            A row a film: `file`, `LUNG_COLUMNS` of `segment.lungs`, `error` (empty where there
            was none).

        Raises:
            InvalidValueError: A kind of result is unknown.
            LungsegError: A package is missing that such a result needs; says how to install it.
            MissingInputError: There is no file.
            StorageError: The disk is full or read-only; what was segmented is kept.
            StaleOutputError: `out` belongs to something else.
            LungsegError: The record in `out` is damaged.
            LockedError: Another process writes there.
        """
        results, rows = fill_folder(self, folder, out, save, deidentified, "segment_folder")
        return results.to_frame(rows)

    def _segment(self, film: Film) -> Segmentation:
        upright = turn_upright(film.image, film.header.orientation)
        small = resize_image(np.ascontiguousarray(upright), self.run.config.size)
        coarse, inverted = self._predict(small)
        height, width = upright.shape
        mask = to_mask(resize_probability(coarse, (width, height)))
        missing = self.quality and missing_lung(coarse, self.quality.outlines)
        if missing is not None:
            mask |= to_mask(resize_probability(missing, (width, height)))
        mask = np.ascontiguousarray(turn_back(clean_mask(mask), film.header.orientation))
        expected, doubts = self._judge(255 - small if inverted else small, coarse)
        doubts = [doubts, "" if missing is None else COMPLETED]
        return Segmentation(film, coarse, mask, inverted, expected, "; ".join(filter(None, doubts)))

    def _judge(self, small: np.ndarray, probability: np.ndarray) -> tuple[float | None, str]:
        """The Dice to be expected, and what speaks against the mask where that is low."""
        if not self._asked:
            return None, ""
        mirrored = predict_images(self.run, self._predictor, small[None, :, ::-1])[0, :, ::-1]
        found = [probability, mirrored]
        found += [predict_images(run, predictor, small[None])[0] for run, predictor in self._asked]
        mask, mirrored, *others = [clean_mask(to_mask(one)) for one in found]
        return self.quality.judge(
            measure(mask, mirrored, others, probability, self.quality.outlines)
        )

    def _parameters(self) -> dict[str, object]:
        """Whatever decides a film's mask: the network's weights, and their use."""
        config = self.run.config
        return {
            "version": _VERSION,
            "network": self.run.name,
            "weights_sha256": self.run.weights_sha256,
            "size": config.size,
            "preprocessing": config.preprocessing.to_dict(),
            "knows_inverted_films": self._knows_inverted_films,
            "quality_sha256": self.quality and self.quality.sha256,
            "asked": [other.name for other in self.others],
        }

    def _predict(self, small: np.ndarray) -> tuple[np.ndarray, bool]:
        """Probability (size, size), and whether it was found on the inverse of the image."""
        probability = predict_images(self.run, self._predictor, small[None])[0]
        if not self._knows_inverted_films or not lungs_are_bright(small, probability):
            return probability, False
        of_inverse = predict_images(self.run, self._predictor, 255 - small[None])[0]
        if doubt(of_inverse) < doubt(probability):
            return of_inverse, True
        return probability, False


def fill_folder(
    segmenter: Segmenter,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    save: Collection[str],
    deidentified: bool,
    command: str,
) -> tuple[ResultFolder, list[Row]]:
    """`Segmenter.segment_folder` without pandas, for the command line.

    Args:
        segmenter: The network.
        inputs: As there, and so for the rest.
        out: As there.
        save: As there.
        deidentified: As there.
        command: Noted in `run.json`.

    Returns:
        Where the results lie, and the rows of the table.
    """
    from lungseg_utils.segment.inputs import find_films

    results = open_results(out, save)
    page = results.out / GALLERY
    films = find_films(inputs, results.files_and_folders)
    parameters = segmenter._parameters() | {"deidentified": deidentified}
    make = maker(segmenter, deidentified)
    with hold(results.out / TABLE, "segmenting"), explained(results.out):
        rows = results.fill(films, parameters, make, "Segmenting", save)
        if "gallery" in save:
            write_gallery(page, rows, results.paths_of("gallery"))
        else:
            page.unlink(missing_ok=True)
        failed = [f"  {row['file']}: {row['error']}" for row in rows if row["error"]]
        write_run(results.out, command, save, parameters, len(rows), len(failed))
    if failed:
        print(f"{len(failed)} of {len(rows)} films could not be segmented:")
        print(*shortened(failed), sep="\n")
    return results, rows


def open_results(out: Path | str, save: Collection[str]) -> ResultFolder:
    """Where results go, once it is sure that they can: see `Segmenter.segment_folder`."""
    check_kinds(save)
    out = Path(out)
    if occupied := next((part for part in (out, *out.parents) if part.is_file()), None):
        raise InvalidValueError(
            "Results go into a folder.", f"{occupied} is a file", "Choose another place for them."
        )
    _check_report(out / REPORT)
    return ResultFolder(out, PLACES, TABLE, LUNG_COLUMNS, (REPORT, GALLERY, _FORMER_TABLE))


def maker(segmenter: Segmenter, deidentified: bool) -> Callable[[str, bytes, dict[str, Path]], Row]:
    """What makes a film's results, and returns its figures: see `ResultFolder.fill`."""
    network = f"{segmenter.run.name} {segmenter.run.weights_sha256[:16]}"

    def make(file: str, content: bytes, paths: dict[str, Path]) -> Row:
        begun = time.perf_counter()
        result = segmenter._segment(read_film(file, content))
        note = save_results(result, paths, network, deidentified)
        seconds = round(time.perf_counter() - begun, 3)
        return describe_lungs(result) | {"seconds": seconds, "note": note or None}

    return make


def write_run(
    out: Path, command: str, save: Collection[str], parameters: dict, films: int, failed: int
) -> None:
    """Say in `run.json` what made the results, and how many there are."""
    counts = {"films": films, "segmented": films - failed, "failed": failed}
    report = {"command": command, "save": list(save), "parameters": parameters}
    write_json(out / REPORT, report | {"counts": counts, "versions": _versions()})


def _versions() -> dict[str, str]:
    from lungseg_utils.environment import versions

    return {"lungseg_utils": __version__, **versions()}


def _check_report(path: Path) -> None:
    """Refuse a folder of something else, such as a training run, whose record would be lost."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        if {"command", "counts"} <= set(read_json(path)):
            return
    if path.exists():
        raise StaleOutputError(
            f"A folder for results holds no {REPORT} of something else.",
            path,
            "Choose another folder for the results.",
        )
