"""Draw the README's picture: synthetic films, and the lungs that the shipped U-Net finds in them.

python -m tools.draw_picture
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from lungseg_utils.files.records import write_atomically
from lungseg_utils.phantom.sets import render_phantom
from lungseg_utils.segment.segmenter import Segmenter

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "lungs.jpg"
_SIDE, _GAP = 300, 12
_SEEDS = (3, 8)


def main() -> int:
    """Write the picture: each film, and beside it the film with its outlines."""
    segmenter, panels = Segmenter.load("unet"), []
    for seed in _SEEDS:
        film, _ = render_phantom(np.random.default_rng(seed), (_SIDE, _SIDE))
        found = segmenter.segment(film)
        panels += [np.repeat(film[..., None], 3, axis=2), found.overlay]
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    picture = np.concatenate(row, axis=1)[..., ::-1]
    _, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomically(PICTURE, lambda temporary: temporary.write_bytes(content.tobytes()))
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
