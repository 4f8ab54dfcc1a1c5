"""The notebooks run: on the phantom, again by nbval, on real X-rays, and as in Colab.

Two series run at a time, as a notebook spends much of its time on one core.

What the cells marked `# NBVAL_CHECK_OUTPUT` print is kept in tests/expected/; to rewrite it after
a deliberate change:

    make demo
    .venv/bin/python tests/checked_outputs.py workspace/demo/executed
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from checked_outputs import EXPECTED, checked_text
from colab import ColabMachine, clone_of_working_tree
from conftest import SHARED_DATA

from lungseg_utils.manifest import load_manifest
from tools.plan import apply_recipe, find_steps, read_recipe

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "recipes" / "test.yaml"
NAMES = [step.name for step in find_steps(REPOSITORY / "notebooks")]
RUNS = ["unet", "unetpp", "pix2pix"]


def run_command(command: list[object], folder: Path) -> str:
    """Run a command in a folder, with the checkout's package; its output, or the test fails."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def run_series(workspace: Path, *options: object) -> str:
    command = ["-m", "tools.series", "--workspace", workspace, "--recipe", RECIPE]
    return run_command([*command, *options], workspace.parent)


def changed_times(workspace: Path) -> dict[str, int]:
    """When each file of data and training was last written."""
    folders = ("downloads", "prepared", "stitched", "runs")
    paths = [path for folder in folders for path in (workspace / folder).rglob("*.*")]
    return {str(path.relative_to(workspace)): path.stat().st_mtime_ns for path in paths}


def run_on_phantom(folder: Path) -> Path:
    """Run a whole series on the phantom; its workspace."""
    workspace = folder / "workspace"
    printed = run_series(workspace)
    for name in NAMES:
        assert f"] {name} … done in " in printed
    assert f"Report:             {workspace / 'reports'}" in printed
    return workspace


def real_cases() -> list:
    """Twelve cases with a mask, of train, val and test and of both sources, and two without."""
    cases = load_manifest()
    chosen = [case for case in cases if case.split == "unlabelled"][:2]
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for source in ("montgomery", "shenzhen"):
            of_both = [case for case in cases if (case.split, case.source) == (split, source)]
            chosen += of_both[:count]
    return chosen


def run_on_real_pairs(folder: Path) -> Path:
    """Run a series on real X-rays, with one training; its workspace."""
    bundle, workspace = folder / "bundle", folder / "workspace"
    for case in real_cases():
        for name, file in (("CXR_png", case.image_file), ("masks", case.mask_file)):
            (bundle / name).mkdir(parents=True, exist_ok=True)
            if file:
                (bundle / name / file).symlink_to(SHARED_DATA / "nlm512" / name / file)
    values = ["02.SOURCE=folder", f"02.LOCATION={bundle}", "RUNS=pix2pix", "08.RUN_NAME=pix2pix"]
    options = [word for value in values for word in ("-p", value)]
    run_series(workspace, "--only", "02,03,06,07,08", *options)
    return workspace


def run_in_colab(folder: Path) -> Path:
    """Run the series without an installation and with nothing kept but Drive; its workspace."""
    address = clone_of_working_tree(REPOSITORY, folder / "origin")
    machine = ColabMachine(folder / "colab")
    for step in apply_recipe(find_steps(REPOSITORY / "notebooks"), read_recipe(RECIPE)):
        executed = machine.run(step.notebook, {**step.parameters, "REPOSITORY": address})
        # Cloned anew each time, so the package came from nowhere else.
        assert (machine.content / "lung-segmentation" / "lungseg_utils").is_dir()
        assert f"Mounted at {machine.drive}" in executed
        assert [path.name for path in machine.content.iterdir()] == ["lung-segmentation"]
    return machine.kept / "lungseg"


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Iterator[dict[str, Future]]:
    """Each series by name, begun; what it returns once it is done."""
    jobs = {"phantom": run_on_phantom, "colab": run_in_colab}
    if (SHARED_DATA / "nlm512" / "index.csv").is_file():
        jobs["real"] = run_on_real_pairs
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(job, tmp_path_factory.mktemp(name)) for name, job in jobs.items()}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def phantom(series) -> Path:
    """Workspace of a whole series on the phantom."""
    return series["phantom"].result()


def test_the_series_runs_on_the_phantom(phantom):
    assert [path.stem for path in sorted((phantom / "executed").glob("*.ipynb"))] == NAMES
    summary = json.loads((phantom / "reports" / "summary.json").read_text())
    headline = [(record["model"], record["stage"]) for record in summary["headline"]]
    assert sorted(headline) == sorted((run, stage) for run in RUNS for stage in ("raw", "post"))
    cases = pd.read_csv(phantom / "reports" / "cases.csv")
    # Of 12 phantoms, both sources are in the test split.
    assert set(cases["source"]) == {"montgomery", "shenzhen"}
    assert {path.name for path in (phantom / "runs").iterdir()} == set(RUNS)
    assert list((phantom / "segmented" / "unet" / "masks").glob("*.png"))
    assert (phantom / "cleaned" / "cleaned.csv").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_marked_cells_print_what_is_expected(phantom, name):
    text = checked_text(phantom / "executed" / f"{name}.ipynb")
    assert text == (EXPECTED / f"{name}.txt").read_text(encoding="utf-8")


def test_nbval_repeats_every_notebook_and_training_resumes(phantom):
    """Re-run in the same workspace: nothing is made anew, marked cells print the same."""
    before = changed_times(phantom)
    options = ["--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    run_command(["-m", "pytest", *options, phantom / "executed"], phantom)
    kept = [name for name in before if name.endswith((".npy", ".zip", ".npz"))]
    after = changed_times(phantom)
    # Each run's, and those of the U-Net's first stage.
    assert len([name for name in kept if name.endswith("best.npz")]) == len(RUNS) + 1
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_the_series_runs_on_twelve_real_pairs(shared_data, series):
    workspace, cases = series["real"].result(), real_cases()
    assert sum(bool(case.mask_file) for case in cases) == 12
    scored = pd.read_csv(workspace / "reports" / "cases.csv")
    assert set(scored["image_id"]) == {case.image_id for case in cases if case.split == "test"}
    index = pd.read_csv(workspace / "prepared" / "64" / "index.csv")
    assert sorted(index["image_id"]) == sorted(case.image_id for case in cases)
    assert len(list((workspace / "segmented" / "pix2pix" / "masks").glob("*.png"))) == 4


def test_all_nine_run_as_in_colab(series):
    workspace = series["colab"].result()
    assert (workspace / "reports" / "summary.json").is_file()
    assert not (workspace / "scratch").exists()
    assert {path.name for path in (workspace / "runs").iterdir()} == set(RUNS)
