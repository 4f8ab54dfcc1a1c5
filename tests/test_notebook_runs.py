"""The notebooks run: on the phantom, again by nbval, on real X-rays, and as in Colab.

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
from pathlib import Path

import pandas as pd
import pytest
from checked_outputs import EXPECTED, checked_text
from colab import ColabMachine, clone_of_working_tree

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
    files = [path for folder in folders for path in (workspace / folder).rglob("*")]
    return {
        str(path.relative_to(workspace)): path.stat().st_mtime_ns
        for path in files
        if path.is_file()
    }


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """Workspace of a whole series on the phantom."""
    workspace = tmp_path_factory.mktemp("phantom") / "workspace"
    printed = run_series(workspace)
    for name in NAMES:
        assert f"] {name} … done in " in printed
    assert f"Report:             {workspace / 'reports'}" in printed
    return workspace


def test_the_series_runs_on_the_phantom(phantom):
    assert [path.stem for path in sorted((phantom / "executed").glob("*.ipynb"))] == NAMES
    summary = json.loads((phantom / "reports" / "summary.json").read_text())
    headline = [(record["model"], record["stage"]) for record in summary["headline"]]
    assert sorted(headline) == sorted((run, stage) for run in RUNS for stage in ("raw", "post"))
    cases = pd.read_csv(phantom / "reports" / "cases.csv")
    # Of 12 phantoms, both sources are in the test split; their ids begin at 9001.
    assert set(cases["source"]) == {"montgomery", "shenzhen"}
    assert cases["image_id"].str.contains("_90").all()
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
    printed = run_command(["-m", "pytest", *options, phantom / "executed"], phantom)
    cells = sum(
        cell["cell_type"] == "code"
        for path in (phantom / "executed").glob("*.ipynb")
        for cell in json.loads(path.read_text())["cells"]
    )
    assert printed.splitlines()[-1].startswith(f"{cells} passed")
    kept = [name for name in before if "weights" in name or name.endswith((".npy", ".zip", ".npz"))]
    after = changed_times(phantom)
    # Each run's, and those of the U-Net's first stage.
    assert len([name for name in kept if name.endswith("best.npz")]) == len(RUNS) + 1
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def real_cases() -> list:
    """Twelve cases with a mask, of train, val and test and of both sources, and two without."""
    cases = load_manifest()
    chosen = [case for case in cases if case.split == "unlabelled"][:2]
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for source in ("montgomery", "shenzhen"):
            of_both = [case for case in cases if (case.split, case.source) == (split, source)]
            chosen += of_both[:count]
    return chosen


def test_the_series_runs_on_twelve_real_pairs(shared_data, tmp_path):
    cases = real_cases()
    assert sum(bool(case.mask_file) for case in cases) == 12
    bundle = tmp_path / "bundle"
    for folder, names in (
        ("CXR_png", [case.image_file for case in cases]),
        ("masks", [case.mask_file for case in cases if case.mask_file]),
    ):
        (bundle / folder).mkdir(parents=True)
        for name in names:
            (bundle / folder / name).symlink_to(shared_data / "nlm512" / folder / name)
    workspace = tmp_path / "workspace"
    run_series(workspace, "-p", "02.SOURCE=folder", "-p", f"02.LOCATION={bundle}")
    scored = pd.read_csv(workspace / "reports" / "cases.csv")
    assert set(scored["image_id"]) == {case.image_id for case in cases if case.split == "test"}
    assert set(scored["model"]) == set(RUNS)
    index = pd.read_csv(workspace / "prepared" / "64" / "index.csv")
    assert sorted(index["image_id"]) == sorted(case.image_id for case in cases)


def test_all_nine_run_as_in_colab(tmp_path):
    """Nothing is installed, nothing is kept but Drive: the bootstrap clones the repository."""
    address = clone_of_working_tree(REPOSITORY, tmp_path / "origin")
    machine = ColabMachine(tmp_path / "colab", REPOSITORY)
    steps = apply_recipe(find_steps(REPOSITORY / "notebooks"), read_recipe(RECIPE))
    for step in steps:
        executed = machine.run(step.notebook, {**step.parameters, "REPOSITORY": address})
        # Cloned anew each time, so the package came from nowhere else.
        assert (machine.content / "lung-segmentation" / "lungseg_utils").is_dir()
        assert f"Mounted at {machine.drive}" in executed.read_text(encoding="utf-8")
        assert [path.name for path in machine.content.iterdir()] == ["lung-segmentation"]
    workspace = machine.drive / "MyDrive" / "lungseg"
    assert (workspace / "reports" / "summary.json").is_file()
    assert not (workspace / "scratch").exists()
    assert {path.name for path in (workspace / "runs").iterdir()} == set(RUNS)
