"""Cases: X-rays, masks and what the manifest says about them; a pair is checked as it is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import InvalidValueError, UnusableMaskError, check_known
from lungseg_utils.files.records import digest_of
from lungseg_utils.manifest import COLUMNS, SOURCES, SPLITS
from lungseg_utils.preparation.imaging import (
    decode_image,
    decode_mask,
    resize_image,
    resize_mask,
    soft_fraction,
)

if TYPE_CHECKING:
    import pandas as pd

    from lungseg_utils.manifest import Case

_NUMBERS = ("tuberculosis", "original_width", "original_height", "questionable_mask", "has_mask")

# The limits lie far outside what the training and validation cases have, which a test looks up:
# at least 25 % of an X-ray is grey,
_LEAST_GREY = 0.05
# and lungs cover 8 to 41 % of a mask, and up to 3 % of the film's edge.
_LEAST_LUNG, _MOST_LUNG, _MOST_EDGE = 0.005, 0.8, 0.5
# So many pixels, and no more than this share of a side, a mask may be off in size.
_FEW_PIXELS, _SMALL_SHARE = 8, 0.02


@dataclass
class Cases:
    """X-rays and masks of one size, row by row with their index.

    Args:
        images: uint8 (N, H, W), grey.
        masks: uint8 {0, 1} (N, H, W); all 0 where `has_mask` is 0.
        index: N rows: the manifest's columns, and `has_mask` (0 or 1).
        digest: Identifies parameters and inputs that the cases were prepared from.
    """

    images: np.ndarray
    masks: np.ndarray
    index: pd.DataFrame
    digest: str

    def __post_init__(self) -> None:
        if not (self.images.shape == self.masks.shape and len(self.images) == len(self.index)):
            raise InvalidValueError(
                "X-rays, masks and index have one row a case, and X-rays and masks one size.",
                f"X-rays {self.images.shape}, masks {self.masks.shape}, {len(self.index)} rows",
                "Pass arrays and an index of the same cases.",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Side of the square X-rays, in pixels."""
        return self.images.shape[-1]

    @property
    def ids(self) -> list[str]:
        """The image ids, row by row."""
        return self.index["image_id"].tolist()

    def select(self, split: str | Sequence[str]) -> Cases:
        """Copy the cases of one or more splits into memory; the digest stays that of the whole.

        Args:
            split: One of the manifest's splits, or several.

        Raises:
            InvalidValueError: A split is unknown.
        """
        wanted = [split] if isinstance(split, str) else list(split)
        check_known(wanted, SPLITS, "A split")
        rows = np.flatnonzero(self.index["split"].isin(wanted).to_numpy())
        return self.take(rows)

    def of_source(self, source: str) -> Cases:
        """Keep the cases of one source.

        Args:
            source: `montgomery`, `shenzhen`, or `all`.

        Raises:
            InvalidValueError: There is no such source.
        """
        if source == "all":
            return self
        check_known(source, ("all", *SOURCES), "A source")
        return self.take(np.flatnonzero(self.index["source"] == source))

    def halved(self) -> Cases:
        """Copy the cases at half the size into memory, as if they had been prepared at it."""
        half = self.size // 2
        return Cases(
            np.stack([resize_image(np.asarray(image), half) for image in self.images]),
            np.stack([resize_mask(np.asarray(mask), half) for mask in self.masks]),
            self.index,
            digest_of([self.digest, "halved"]),
        )

    def take(self, rows: Sequence[int] | np.ndarray) -> Cases:
        """Copy the cases of these row numbers, in this order, into memory."""
        rows = np.asarray(rows, dtype=np.intp)
        index = self.index.iloc[rows].reset_index(drop=True)
        return Cases(self.images[rows], self.masks[rows], index, self.digest)


def index_of(cases: Sequence[Case], has_mask: Sequence[bool]) -> pd.DataFrame:
    """Make the index of cases: the manifest's columns and `has_mask`, typed as when read back."""
    import pandas as pd

    index = pd.DataFrame([asdict(case) for case in cases], columns=COLUMNS)
    return _typed(index.assign(has_mask=list(has_mask)))


def read_index(path: Path | str) -> pd.DataFrame:
    """Read an `index.csv`: text as text, empty where empty; age as nullable whole number."""
    import pandas as pd

    return _typed(pd.read_csv(path, dtype=str, keep_default_na=False))


def index_text(index: pd.DataFrame) -> str:
    """An index as the text of an `index.csv`, so that `read_index` gives the same."""
    return index.to_csv(index=False, lineterminator="\n")


def row_texts(index: pd.DataFrame) -> list[dict[str, str]]:
    """The manifest's columns of each row as text: 0 and 1 for no and yes, empty for unknown."""
    return list(csv.DictReader(io.StringIO(index_text(index[list(COLUMNS)]), newline="")))


def _typed(index: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    ages = pd.to_numeric(index["age_years"].replace("", None)).astype("Int64")
    return index.astype(dict.fromkeys(_NUMBERS, "int64")).assign(age_years=ages)


def read_pair(
    image: Path, masks: Sequence[Path], contents: Mapping[Path, bytes] | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Read an X-ray and its mask; repair what is unambiguous, refuse the rest.

    A mask that is off in size by a few pixels is resized, each pixel from its nearest.

    Args:
        image: The X-ray's file.
        masks: One file, or those of the left and the right lung.
        contents: The bytes of those files that have been read already.

    Returns:
        The X-ray uint8 (H, W), the mask uint8 {0, 1} (H, W), and what was repaired, or "".

    Raises:
        ImageFileError: A file cannot be read.
        UnusableMaskError: The two cannot be an X-ray and its lungs; the message says why.
    """
    contents = contents or {}
    xray = decode_image(image, contents.get(image))
    black_and_white = soft_fraction(xray, 255) < _LEAST_GREY
    try:
        mask = decode_mask({path: contents.get(path) for path in masks})
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
