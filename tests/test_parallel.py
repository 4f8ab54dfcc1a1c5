from __future__ import annotations

import threading
import time

import pytest

from lungseg_utils.files.parallel import map_in_threads


def test_results_come_in_the_items_order():
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item**2

    assert map_in_threads(slow_first, range(20), "Squares", workers=4) == [i**2 for i in range(20)]
    assert map_in_threads(slow_first, [], "Squares") == []


def test_as_many_threads_as_workers():
    together = threading.Barrier(3, timeout=5)
    map_in_threads(lambda _: together.wait(), range(3), "Meeting", workers=3)


def test_the_first_error_ends_the_work():
    done = []

    def work(item: int) -> None:
        if item == 2:
            raise ValueError("item 2")
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match="item 2"):
        map_in_threads(work, range(500), "Work", workers=2)
    assert len(done) < 250
