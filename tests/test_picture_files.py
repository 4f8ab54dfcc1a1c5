"""Pictures as written, read back by another library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lungseg_utils.files.images import write_png

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_another_library_reads_what_was_written(tmp_path: Path):
    write_png(tmp_path / "new" / "grey.png", GREY.T)
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "grey.png"), GREY.T)
    colours = np.stack([GREY, GREY + 20, GREY + 40], axis=-1)
    write_png(tmp_path / "colours.png", colours)
    np.testing.assert_array_equal(Image.open(tmp_path / "colours.png"), colours[..., ::-1])
