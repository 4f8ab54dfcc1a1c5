"""Films segmented in the notebook itself: upload, outlines, a slider."""

from __future__ import annotations

import html
from collections.abc import Iterator

import ipywidgets

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.images import encode_png
from lungseg_utils.segment.films import read_film
from lungseg_utils.segment.lungs import Segmentation
from lungseg_utils.segment.segmenter import Segmenter

_LONGEST_SIDE = 768
_EMPTY = "<p>Upload a film: DICOM, PNG, JPEG, TIFF or NIfTI. It goes to this notebook alone.</p>"


class LungPanel(ipywidgets.VBox):
    """Widgets that find the lungs in films that are uploaded into them.

    Args:
        segmenter: The network.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._found: dict[str, Segmentation | str] = {}
        self.upload = ipywidgets.FileUpload(multiple=True, description="Films")
        self.film = ipywidgets.Dropdown(description="Film")
        self.fill = ipywidgets.FloatSlider(0.2, min=0, max=1, step=0.05, description="Fill")
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "700px"})
        self.told = ipywidgets.HTML(_EMPTY)
        self.upload.observe(self._add, "value")
        self.film.observe(self._show, "value")
        self.fill.observe(self._show, "value")
        controls = ipywidgets.HBox([self.upload, self.film, self.fill])
        super().__init__([controls, self.told, self.picture])

    def _add(self, change: dict) -> None:
        added = []
        for name, content in _uploaded(change["new"]):
            try:
                self._found[name] = self._segmenter.segment(read_film(name, content))
            except LungsegError as error:
                self._found[name] = f"{error.rule} {error.received}. {error.advice}"
            added.append(name)
        if added:
            self.film.options = list(self._found)
            self.film.value = added[0]
            self._show()

    def _show(self, _: object = None) -> None:
        found = self._found.get(self.film.value)
        if found is None:
            return
        if isinstance(found, str):
            self.told.value, self.picture.value = f"<p>{html.escape(found)}</p>", b""
            return
        dice = "" if found.expected_dice is None else f"; Dice about {found.expected_dice:.2f}"
        look = f"; look at it: {found.look}" if found.look else ""
        told = f"lungs fill {found.lung_fraction:.1%} of the film{dice}{look}"
        self.told.value = f"<p>{html.escape(told)}</p>"
        picture = found.draw_overlay(_LONGEST_SIDE, self.fill.value)
        self.picture.value = encode_png(picture[..., ::-1])


def _uploaded(value: object) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of uploaded files, as ipywidgets 8 has them, and 7, which Colab has."""
    if isinstance(value, dict):
        for name, file in value.items():
            yield name, bytes(file["content"])
        return
    for file in value:
        yield file["name"], bytes(file["content"])
