"""The notebook's panel: films uploaded, shown, and refused by name."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from lungseg_utils.figures.panel import LungPanel
from lungseg_utils.phantom.film import render_phantom
from lungseg_utils.segment.segmenter import Segmenter


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    image, _ = render_phantom(np.random.default_rng(seed), (300, 340))
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load("unet", fast=True)


def files(**contents: bytes) -> tuple[dict, ...]:
    """What ipywidgets 8 gives."""
    kept = {"type": "", "last_modified": datetime.now(UTC)}
    return tuple(
        {"name": name, "size": len(content), "content": memoryview(content), **kept}
        for name, content in contents.items()
    )


def shown(panel: LungPanel) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)))


def test_a_film_is_shown_with_its_outlines_and_filled_by_the_slider(segmenter):
    panel = LungPanel(segmenter)
    assert "this notebook alone" in panel.told.value
    panel.upload.value = files(a=png(1), b=png(2))
    assert list(panel.film.options) == ["a", "b"] and panel.film.value == "a"
    found = segmenter.segment(np.asarray(Image.open(io.BytesIO(png(1)))))
    assert f"{found.lung_fraction:.1%}" in panel.told.value

    panel.fill.value = 0
    assert np.array_equal(shown(panel), found.overlay)
    panel.fill.value = 1
    # The inside of the right lung is all of one colour, as its outline is.
    middle = tuple(int(one.mean()) for one in np.nonzero(found.labels == 1))
    assert tuple(shown(panel)[middle]) == (86, 180, 233)
    panel.film.value = "b"
    assert not np.array_equal(shown(panel), found.overlay)


def test_what_is_no_film_is_named_and_the_rest_goes_on(segmenter):
    panel = LungPanel(segmenter)
    panel._add({"new": {"no<film>": {"content": b"text"}, "film": {"content": png(1)}}})
    assert "An image file must be readable" in panel.told.value
    assert "no&lt;film&gt;" in panel.told.value and panel.picture.value == b""
    panel.film.value = "film"
    assert "lungs fill" in panel.told.value and panel.picture.value
