"""From the values of a DICOM film to the grey levels of a film as the network knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.files.dicom_header import numbers_of

if TYPE_CHECKING:
    import pydicom

# Grey levels of films as the network was trained on them: mean and deviation of five percentiles
# over the training images at 512 × 512 (`python -m benchmarks.film_levels`).
_PERCENTS = (5, 25, 50, 75, 95)
_FILM_LEVELS = np.array([18.6, 105.3, 162.5, 205.8, 231.2])
_FILM_DEVIATIONS = np.array([18.1, 39.8, 30.5, 14.0, 8.7])
_DAMAGED_LUT = AttributeError, TypeError, ValueError, IndexError


def grey_table(dataset: pydicom.Dataset, values: np.ndarray) -> tuple[np.ndarray, str]:
    """Grey level of every value that can be stored, and the range that it is of."""
    bits, stored = 8 * values.dtype.itemsize, int(dataset.BitsStored)
    codes = np.arange(2**bits)
    counts = np.bincount(
        values.view(np.uint8 if bits == 8 else np.uint16).ravel(), minlength=2**bits
    )
    # Bits above those stored may hold an overlay, or the sign once more.
    levels = codes & (2**stored - 1)
    if dataset.get("PixelRepresentation", 0):
        levels = np.where(levels >= 2 ** (stored - 1), levels - 2**stored, levels)
    padding = np.isin(levels, numbers_of(dataset.get("PixelPaddingValue")))
    # A film that is padding only is none.
    counts = np.where(padding, 0, counts) if counts[~padding].any() else counts
    plain = levels
    levels = _apply_modality(levels, dataset)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    best, found = np.inf, (np.zeros(2**bits, np.uint8), "none")
    for greys, shares in _ranges(dataset, levels, counts, plain):
        table = np.rint(255 * np.clip(1 - shares if inverted else shares, 0, 1)).astype(np.uint8)
        table[padding] = 0
        distance = _distance(table, counts)
        if distance < best:
            best, found = distance, (table, greys)
    return found


def _apply_modality(levels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Values as a modality LUT or a rescale gives them (DICOM PS3.3, C.11.1)."""
    if luts := dataset.get("ModalityLUTSequence"):
        return _look_up(luts[0], levels)[0]
    # Some writers leave them empty, or 0.
    slope, intercept = (
        numbers_of(dataset.get(f"Rescale{name}")) for name in ("Slope", "Intercept")
    )
    sound = len(slope) == len(intercept) == 1 and slope[0]
    return levels * slope[0] + intercept[0] if sound else levels.astype(np.float64)


def _ranges(
    dataset: pydicom.Dataset, levels: np.ndarray, counts: np.ndarray, plain: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Ranges to choose from: a name, and for each value from black 0 to white 1."""
    for index, item in enumerate(dataset.get("VOILUTSequence") or []):
        # Others remain where one is damaged.
        with contextlib.suppress(*_DAMAGED_LUT):
            shown, white = _look_up(item, levels)
            yield f"VOI LUT {index + 1}", shown / white
    centers, widths = (numbers_of(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction", "") or "LINEAR").upper()
    for index, (center, width) in enumerate(zip(centers, widths, strict=False)):
        if width > 0:
            yield f"window {index + 1}", apply_window(levels, center, width, function)
    if int(dataset.BitsStored) == 8 and not dataset.get("PixelRepresentation", 0):
        yield "as stored", plain / 255
    order = np.argsort(levels, kind="stable")
    shares = np.cumsum(counts[order]) / counts.sum()
    for percent in (0.5, 0.0):
        low = levels[order][np.searchsorted(shares, percent / 100, side="right")]
        high = levels[order][np.searchsorted(shares, 1 - percent / 100)]
        name = "0.5th to 99.5th percentile" if percent else "whole range"
        yield name, np.clip((levels - low) / max(high - low, 1e-9), 0, 1)


def apply_window(
    levels: np.ndarray, center: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Map values through a window, from black 0 to white 1 (DICOM PS3.3, C.11.2.1.2 and .3).

    Args:
        levels: Values, after the modality LUT.
        center: The window's centre.
        width: Its width, above 0.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (levels - center) / width, -50, 50)))
    if function == "LINEAR_EXACT":
        return np.clip((levels - center) / width + 0.5, 0, 1)
    return np.clip((levels - (center - 0.5)) / max(width - 1, 1e-9) + 0.5, 0, 1)


def _look_up(item: pydicom.Dataset, levels: np.ndarray) -> tuple[np.ndarray, float]:
    """Values through a LUT of 8 to 16 bits, and the largest that it may hold."""
    entries, first, bits = (int(one) for one in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    kind = np.uint8 if isinstance(data, bytes) and len(data) == entries else np.uint16
    table = np.frombuffer(data, kind) if isinstance(data, bytes) else np.asarray(data)
    indices = np.clip(np.rint(levels - first), 0, entries - 1).astype(np.int64)
    return table[indices].astype(np.float64), 2**bits - 1


def _distance(table: np.ndarray, counts: np.ndarray) -> float:
    """How far a film's grey levels are from those of the films that the network was trained on."""
    greys = np.bincount(table, weights=counts, minlength=256)
    shares = np.cumsum(greys) / greys.sum()
    found = np.searchsorted(shares, np.array(_PERCENTS) / 100)
    return float(np.sqrt(np.mean(((found - _FILM_LEVELS) / _FILM_DEVIATIONS) ** 2)))
