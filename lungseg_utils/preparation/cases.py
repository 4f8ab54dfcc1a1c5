"""Cases in memory or on disk: X-rays, masks and what the manifest says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.files.records import digest_of
from lungseg_utils.manifest import COLUMNS, SOURCES, SPLITS, to_row

if TYPE_CHECKING:
    import pandas as pd

    from lungseg_utils.manifest import Case

_NUMBERS = ("tuberculosis", "original_width", "original_height", "questionable_mask", "has_mask")


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
        if unknown := [name for name in wanted if name not in SPLITS]:
            raise InvalidValueError(
                f"A split is one of {', '.join(SPLITS)}.",
                ", ".join(map(repr, unknown)),
                "Correct the name of the split.",
            )
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
        if source not in SOURCES:
            raise InvalidValueError(
                f"A source is one of all, {', '.join(SOURCES)}.", repr(source), "Name one of them."
            )
        return self.take(np.flatnonzero(self.index["source"] == source))

    def halved(self) -> Cases:
        """Copy the cases at half the size into memory, as if they had been prepared at it."""
        from lungseg_utils.preparation.imaging import resize_image, resize_mask

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

    rows = [
        to_row(case) | {"has_mask": int(known)} for case, known in zip(cases, has_mask, strict=True)
    ]
    return _typed(pd.DataFrame(rows, columns=[*COLUMNS, "has_mask"]))


def read_index(path: Path | str) -> pd.DataFrame:
    """Read an `index.csv`: text as text, empty where empty; age as nullable whole number."""
    import pandas as pd

    return _typed(pd.read_csv(path, dtype=str, keep_default_na=False))


def index_text(index: pd.DataFrame) -> str:
    """An index as the text of an `index.csv`, so that `read_index` gives the same."""
    return index.to_csv(index=False, lineterminator="\n")


def _typed(index: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    ages = pd.to_numeric(index["age_years"].replace("", None)).astype("Int64")
    return index.astype(dict.fromkeys(_NUMBERS, "int64")).assign(age_years=ages)
