"""Recorded figures as Markdown: tables, numbers with intervals, text between markers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from lungseg_utils.errors import LungsegError
from lungseg_utils.evaluation.summaries import HEADLINE, format_interval

NAMES = {
    "unet": "U-Net",
    "unetpp": "U-Net++",
    "pix2pix": "Pix2Pix",
    "unet-shenzhen": "U-Net of Shenzhen",
    "unet-montgomery": "U-Net of Montgomery",
}
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_MARKED = re.compile(rf"(?<={re.escape(BEGIN)}\n).*?(?=^{re.escape(END)}$)", re.DOTALL | re.M)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, each line with its line break."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def figure(record: Mapping[str, object], metric: str, interval: bool = True) -> str:
    """A figure as the tables show it: `0.961 [0.955, 0.966]`, `–` where it is not known.

    Args:
        record: With `mean`, `low` and `high` of each metric.
        metric: One of them, such as `dice`.
        interval: False for the mean alone.
    """
    if metric not in record:
        return "–"
    mean, low, high = (_number(record[metric][name]) for name in ("mean", "low", "high"))
    if not interval:
        low = high = math.nan
    digits = HEADLINE[metric.replace("_mm", "_px")][1]
    return format_interval(mean, low, high, digits).replace("-", "−")


def marked(text: str) -> str:
    """What stands between the markers of the results.

    Raises:
        LungsegError: The markers are not there, each once on a line of its own.
    """
    found = _MARKED.findall(text)
    if len(found) != 1:
        raise LungsegError(
            f"Results stand once between the lines {BEGIN} and {END}.",
            f"{len(found)} such places",
            "Put the two lines back where the results belong.",
        )
    return found[0]


def replace_marked(text: str, results: str) -> str:
    """Put results between the markers.

    Raises:
        LungsegError: As `marked`.
    """
    marked(text)
    return _MARKED.sub(lambda _: results, text)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
