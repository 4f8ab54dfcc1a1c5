"""Pictures written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import write_atomically


def encode_picture(picture: np.ndarray, suffix: str = ".png", options: Sequence[int] = ()) -> bytes:
    """Encode a picture as PNG, or as another format of OpenCV's.

    Args:
        picture: uint8, grey (H, W) or blue, green, red (H, W, 3).
        suffix: The format, by the end of its files' names.
        options: OpenCV's, such as `[cv2.IMWRITE_JPEG_QUALITY, 92]`.

    Returns:
        The file's content.

    Raises:
        LungsegError: The picture cannot be encoded.
    """
    import cv2

    reason = "refused"
    try:
        done, content = cv2.imencode(suffix, np.ascontiguousarray(picture), list(options))
    except cv2.error as error:
        done, reason = False, error.err
    if not done:
        raise LungsegError(
            "A picture to be written is grey or colour uint8, of at least one pixel.",
            f"{picture.dtype} {picture.shape} for {suffix} ({reason})",
            "Convert it first.",
        )
    return content.tobytes()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a PNG, whole or not at all; `picture` as for `encode_picture`."""
    content = encode_picture(picture)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
