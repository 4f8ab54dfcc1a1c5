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
_DIGITS = {metric: digits for metric, (_, digits) in HEADLINE.items()}
_DIFFERENCE_DIGITS = _DIGITS | {"dice": 4, "iou": 4, "accuracy": 4}
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
    digits = _DIGITS[metric]
    if not interval:
        return _shown({"mean": record[metric]["mean"]}, digits)
    return _shown(record[metric], digits)


def difference(record: Mapping[str, object], metric: str) -> str:
    """A difference as `figure` shows it, but of Dice, IoU and accuracy with 4 decimals.

    Args:
        record: With `mean`, `low` and `high` of each metric.
        metric: One of them.
    """
    return _shown(record[metric], _DIFFERENCE_DIGITS[metric]) if metric in record else "–"


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


def _shown(values: Mapping[str, float | None], digits: int) -> str:
    mean, low, high = (_rounded(values.get(name), digits) for name in ("mean", "low", "high"))
    return format_interval(mean, low, high, digits).replace("-", "−")


def _rounded(value: float | None, digits: int) -> float:
    # Adding zero takes the sign from a negative one.
    return math.nan if value is None else round(value, digits) + 0.0
