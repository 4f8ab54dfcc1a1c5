"""The original X-rays from the National Library of Medicine, file by file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def download_nlm(folder: Path, have: Collection[str] = ()) -> None:
    """Fetch the Montgomery and Shenzhen sets into a folder, in the bundle's layout.

    Args:
        folder: Filled with `CXR_png`, `ManualMask/leftMask`, `ManualMask/rightMask`,
            `ClinicalReadings` and, for Shenzhen, `masks`. What lies there is not fetched again,
            and what was interrupted goes on where it stopped.
        have: Files not to fetch, relative to the bundle, such as `CXR_png/MCUCXR_0001_0.png`;
            a merged `masks/MCUCXR_0001_0.png` stands for the left and the right mask.

    Raises:
        DownloadError: The server or Kaggle cannot be reached, or none of the files is there.
            What has arrived stays.
    """
    raise NotImplementedError
