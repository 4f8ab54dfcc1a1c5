"""The Montgomery and Shenzhen sets as Mendeley Data publishes them, with merged masks."""

from __future__ import annotations

from pathlib import Path

ARCHIVE_URL = "https://data.mendeley.com/public-api/zip/8gf9vpkhgy/download/2"


def download_mendeley(folder: Path, downloads: Path, url: str = ARCHIVE_URL) -> None:
    """Fetch the archive of the whole set; unpack Montgomery and Shenzhen in the bundle's layout.

    Args:
        folder: Filled with `CXR_png` and `masks`, under the manifest's names.
        downloads: Where the archive is kept as it came; an interrupted one goes on where it
            stopped.
        url: The archive's address.

    Raises:
        DownloadError: The archive cannot be fetched, is not whole, or holds none of the X-rays.
    """
    raise NotImplementedError
