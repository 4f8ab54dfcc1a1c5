"""An X-ray and its mask, read from their files and checked to be what they are said to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lungseg_utils.errors import UnusableMaskError
from lungseg_utils.preparation.imaging import read_image, read_mask, soft_fraction

# The limits lie far outside what the training and validation cases have, which a test looks up:
# at least 25 % of an X-ray is grey,
_LEAST_GREY = 0.05
# and lungs cover 8 to 41 % of a mask, and up to 3 % of the film's edge.
_LEAST_LUNG, _MOST_LUNG, _MOST_EDGE = 0.005, 0.8, 0.5
# So many pixels, and no more than this share of a side, a mask may be off in size.
_FEW_PIXELS, _SMALL_SHARE = 8, 0.02


def read_pair(image: Path, masks: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, str]:
    """Read an X-ray and its mask; repair what is unambiguous, refuse the rest.

    A mask that is off in size by a few pixels is resized, each pixel from its nearest.

    Args:
        image: The X-ray's file.
        masks: One file, or those of the left and the right lung.

    Returns:
        The X-ray uint8 (H, W), the mask uint8 {0, 1} (H, W), and what was repaired, or "".

    Raises:
        ImageFileError: A file cannot be read.
        UnusableMaskError: The two cannot be an X-ray and its lungs; the message says why.
    """
    xray = read_image(image)
    black_and_white = soft_fraction(xray, 255) < _LEAST_GREY
    try:
        mask = read_mask(*masks)
    except UnusableMaskError as error:
        if black_and_white:
            raise _refusal(
                f"{image.name} is black and white and {masks[0].name} is not: X-ray and mask "
                "seem to be exchanged",
                "Exchange the two files.",
            ) from error
        raise
    if black_and_white:
        raise _refusal(f"{image.name} is black and white, no X-ray", "Fetch the X-ray again.")
    _check_lungs(mask, masks[0].name)
    return xray, *_fit(mask, xray.shape, masks[0].name)


def _check_lungs(mask: np.ndarray, name: str) -> None:
    share = mask.mean()
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if not share:
        reason = "holds no lung"
    elif share < _LEAST_LUNG:
        reason = f"covers {share:.2%} of the film, too little for lungs"
    elif edge > _MOST_EDGE:
        reason = f"is lung along {edge:.0%} of the film's edge; it may be inverted"
    elif share > _MOST_LUNG:
        reason = f"covers {share:.0%} of the film, too much for lungs"
    else:
        return
    raise _refusal(f"the mask {name} {reason}", "Replace the mask, with lung as 255 on 0.")


def _fit(mask: np.ndarray, shape: tuple[int, int], name: str) -> tuple[np.ndarray, str]:
    if mask.shape == shape:
        return mask, ""
    sizes = f"{mask.shape[1]} × {mask.shape[0]} for an X-ray of {shape[1]} × {shape[0]}"
    off = [abs(found - wanted) for found, wanted in zip(mask.shape, shape, strict=True)]
    limits = [min(_FEW_PIXELS, _SMALL_SHARE * wanted) for wanted in shape]
    if any(pixels > limit for pixels, limit in zip(off, limits, strict=True)):
        raise _refusal(f"the mask {name} has another size: {sizes}", "Fetch the two files again.")
    rows, columns = (
        (2 * np.arange(wanted) + 1) * found // (2 * wanted)
        for found, wanted in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)], f"the mask {name} was {sizes}; resized"


def _refusal(reason: str, advice: str) -> UnusableMaskError:
    return UnusableMaskError("A pair is an X-ray and the mask of its lungs.", reason, advice)
