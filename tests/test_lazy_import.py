from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

import lungseg_utils

HEAVY = ("tensorflow", "keras", "cv2", "matplotlib", "pandas", "numpy")
TIMED_IMPORT = f"""
import json, sys, time
begun = time.perf_counter()
import lungseg_utils
took = time.perf_counter() - begun
print(json.dumps([took, [name for name in {HEAVY} if name in sys.modules]]))
"""


def timed_import(folder) -> tuple[float, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", TIMED_IMPORT], cwd=folder, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


def test_import_is_instant_and_loads_no_library(repository):
    timed_import(repository)  # warms the disk
    measured = [timed_import(repository) for _ in range(5)]
    assert statistics.median(seconds for seconds, _ in measured) < 0.3
    assert [loaded for _, loaded in measured] == [[]] * 5


@pytest.mark.parametrize("name", [name for name in lungseg_utils.__all__ if name[0] != "_"])
def test_every_public_name_resolves_to_what_its_module_defines(name):
    value = getattr(lungseg_utils, name)
    assert value.__name__ == name
    assert value.__module__.startswith("lungseg_utils.")
    assert value.__doc__


def test_names_are_listed_and_unknown_ones_refused():
    assert {"Segmenter", "build_unet", "preprocess", "__version__"} <= set(dir(lungseg_utils))
    with pytest.raises(AttributeError, match="no attribute 'segment_everything'"):
        _ = lungseg_utils.segment_everything


def test_a_submodule_never_takes_a_public_name_s_place(repository):
    modules = {path.stem for path in (repository / "lungseg_utils").glob("*.py")}
    folders = {path.name for path in (repository / "lungseg_utils").iterdir() if path.is_dir()}
    assert not (modules | folders) & set(lungseg_utils.__all__)
