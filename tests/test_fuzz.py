"""The short run of tests/soak/fuzz.py: a few hundred damaged and hostile files."""

from __future__ import annotations

import numpy as np
import pytest
from soak import fuzz

from lungseg_utils.errors import ImageFileError


@pytest.mark.skipif(fuzz.resource is None, reason="Windows has no module resource")
def test_damaged_and_hostile_files_are_read_or_refused_and_never_do_harm(tmp_path):
    counts = fuzz.run(300, tmp_path, seed=1)
    found = tmp_path / "found.txt"
    assert counts["crashed"] == counts["hung"] == counts["wrong"] == 0, found.read_text()
    assert counts["image"] + counts["archive"] + counts["weights"] + counts["manifest"] == 300
    assert min(counts["read"], counts["refused"]) > 30


def test_a_case_is_a_function_of_seed_and_number(tmp_path, monkeypatch):
    seen = []

    def record(rng, place):
        seen.append(fuzz.damage(fuzz.MANIFEST, rng, [b"other"]))

    monkeypatch.setattr(fuzz, "CASES", dict.fromkeys(fuzz.CASES, record))
    for number in (3, 4, 3):
        fuzz.run_case(tmp_path, 0, number)
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ImageFileError("A rule.", "what came", "What to do."), "refused"),
        (ImageFileError("A rule.", "what came", ""), "wrong"),
        (ZeroDivisionError(), "wrong"),
        (MemoryError(), "wrong"),
    ],
)
def test_only_an_error_that_explains_itself_counts_as_refused(
    tmp_path, monkeypatch, error, outcome
):
    def fail(rng, place):
        raise error

    monkeypatch.setattr(fuzz, "CASES", dict.fromkeys(fuzz.CASES, fail))
    assert fuzz.run_case(tmp_path, 0, 0)["outcome"] == outcome


def test_a_process_that_dies_is_a_crash_and_its_case_is_named(tmp_path, monkeypatch):
    line = '{"number": 0, "kind": "image", "outcome": "read"}'
    (tmp_path / "dies.py").write_text(f"import os; print({line!r}, flush=True); os.abort()")
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "dies.py"))
    assert fuzz.run(2, tmp_path / "out", seed=5)["crashed"] == 1
    found = (tmp_path / "out" / "found.txt").read_text().splitlines()
    assert found[0].startswith("seed 5 case 1: crashed: exit code")


def test_some_checksums_are_mended_so_that_the_decoder_itself_is_reached():
    rng = np.random.default_rng(0)
    mended = fuzz._mend_png(bytearray(fuzz.IMAGES[0][1]), rng, [])
    assert mended != fuzz.IMAGES[0][1]
    assert fuzz._chunks_of(mended)
