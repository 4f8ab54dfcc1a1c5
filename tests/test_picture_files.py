"""Pictures as written, read back by another library."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.images import encode_picture, write_png

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_another_library_reads_what_was_written(tmp_path: Path):
    write_png(tmp_path / "new" / "grey.png", GREY.T)
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "grey.png"), GREY.T)
    colours = np.stack([GREY, GREY + 20, GREY + 40], axis=-1)
    write_png(tmp_path / "colours.png", colours)
    np.testing.assert_array_equal(Image.open(tmp_path / "colours.png"), colours[..., ::-1])


@pytest.mark.parametrize("picture", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 7), np.uint8)])
def test_what_is_no_picture_is_refused_and_nothing_written(tmp_path: Path, picture):
    with pytest.raises(LungsegError, match="uint8"):
        write_png(tmp_path / "a.png", picture)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_opencv_only_returns_is_told(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(LungsegError, match="refused"):
        encode_picture(GREY)
