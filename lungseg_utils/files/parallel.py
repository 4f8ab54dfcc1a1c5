"""The same work on many cases in threads: decoding, hashing and OpenCV release Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_threads(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    title: str,
    workers: int | None = None,
    unit: str = "case",
) -> list[_Result]:
    """Call `work` on every item, with a progress bar; the first error ends it.

    Args:
        work: Called from several threads at once.
        items: Its arguments, a call each.
        title: Shown beside the progress bar.
        workers: Threads; None for one a processor, at most 8.
        unit: What an item is called beside the bar.

    Returns:
        The results, in the items' order.
    """
    from tqdm.auto import tqdm

    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8)) as threads:
        return list(tqdm(threads.map(work, items), total=len(items), desc=title, unit=unit))
