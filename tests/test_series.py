"""The series of notebooks: which run, with which parameters, and what a failure says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from fake_notebooks import COMMON, write_fake_notebook, write_fake_series

from tools import series
from tools.parameters import SeriesError, check_value, parse_value, read_parameters
from tools.plan import apply_assignments, apply_recipe, find_steps, read_recipe, select_steps
from tools.series import FailedStepError, main, run_series


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Folder of two fake notebooks; the test stands in an unrelated folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return write_fake_series(tmp_path / "notebooks")


@pytest.fixture
def steps(fake):
    return find_steps(fake)


def names(steps):
    return [step.name for step in steps]


# --- Parameters


@pytest.mark.parametrize(
    "source",
    ["import os", "SIZE = 2 * n", "A = B = 1", "A, B = 1, 2", "SIZE += 1", "SIZE: int", "SIZE ="],
)
def test_a_parameters_cell_with_more_than_literals_is_refused(tmp_path, source):
    path = write_fake_notebook(tmp_path, "04_bad", f"EPOCHS = 3\n{source}")
    with pytest.raises(SeriesError, match=r"(?s)literals.*04_bad"):
        read_parameters(path)


def test_what_is_no_notebook_with_one_tagged_cell_is_refused(tmp_path):
    untagged = write_fake_notebook(tmp_path, "01_none", None, "EPOCHS = 3")
    with pytest.raises(SeriesError, match=r"(?s)exactly one.*01_none.*with 0"):
        read_parameters(untagged)
    twice = write_fake_notebook(tmp_path, "02_two", "EPOCHS = 3", "SIZE = 5")
    twice.write_text(
        twice.read_text().replace('"metadata": {},', '"metadata": {"tags": ["parameters"]},', 1)
    )
    with pytest.raises(SeriesError, match="with 2"):
        read_parameters(twice)
    untagged.write_text("not json")
    with pytest.raises(SeriesError, match=r"01_none\.ipynb"):
        read_parameters(untagged)


@pytest.mark.parametrize(
    ("value", "default"),
    [(True, 3), (1, True), (2.0, 3), ("3", 3), (3, "3"), (True, 0.5), ("1e-4", 0.1), (None, "")],
)
def test_another_type_is_refused(value, default):
    with pytest.raises(SeriesError, match="NAME of 04"):
        check_value("NAME", value, default, "04")


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("-7", 3, -7),
        ("1e-4", 0.1, 1e-4),
        ("2", 0.1, 2.0),
        ("true", False, True),
        ("False", True, False),
        ("7", "", "7"),
        ("a=b c", "", "a=b c"),
        ("", "x", ""),
    ],
)
def test_text_is_read_as_the_default_s_type(text, default, value):
    parsed = parse_value("NAME", text, default, "04")
    assert parsed == value
    assert type(parsed) is type(default)


# --- The plan


def test_steps_are_the_numbered_notebooks_in_order(fake, tmp_path):
    (fake / "scratch.ipynb").write_text("{}")
    found = find_steps(fake)
    assert names(found) == ["01_first", "02_second"]
    assert found[1].parameters == {"WORKSPACE": "", "EPOCHS": 3, "RATE": 0.1, "FLAG": False}
    with pytest.raises(SeriesError, match="01_mount_drive"):
        find_steps(tmp_path)


def test_a_section_wins_over_shared_and_shared_reaches_only_who_knows_the_name(steps):
    recipe = {"shared": {"WORKSPACE": "/w", "EPOCHS": 5}, "02_second": {"EPOCHS": 7, "RATE": 1}}
    first, second = apply_recipe(steps, recipe)
    assert first.parameters == {"WORKSPACE": "/w", "SOURCE": "none # at all"}
    assert second.parameters == {"WORKSPACE": "/w", "EPOCHS": 7, "RATE": 1.0, "FLAG": False}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"shared": {"EPOHCS": 5}}, "Did you mean EPOCHS"),
        ({"shared": {"epochs": 5}}, "Did you mean EPOCHS"),
        ({"01_first": {"EPOCHS": 5}}, "Only parameters of 01_first"),
        ({"02_secnod": {"EPOCHS": 5}}, "Did you mean 02_second"),
        ({"02_second": {"EPOCHS": True}}, "of type int"),
        ({"shared": {"RATE": "1e-4"}}, "of type float"),
    ],
)
def test_an_unknown_name_or_a_wrong_type_is_refused(steps, recipe, message):
    with pytest.raises(SeriesError, match=message):
        apply_recipe(steps, recipe)


def test_assignments_of_the_command_line(steps):
    texts = ["WORKSPACE=/a=b", "02.EPOCHS=9", "02_second.FLAG=true"]
    first, second = apply_assignments(steps, texts)
    assert first.parameters["WORKSPACE"] == "/a=b"
    assert second.parameters == {"WORKSPACE": "/a=b", "EPOCHS": 9, "RATE": 0.1, "FLAG": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EPOCHS", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("EPOHCS=3", "Did you mean EPOCHS"),
        ("01.EPOCHS=3", "Only parameters of 01"),
        ("07.EPOCHS=3", "Choose from 01_first"),
        ("EPOCHS=three", "of type int"),
    ],
)
def test_a_bad_assignment_is_refused(steps, text, message):
    with pytest.raises(SeriesError, match=message):
        apply_assignments(steps, [text])


def test_selection_by_number_and_name(steps):
    assert names(select_steps(steps)) == ["01_first", "02_second"]
    assert names(select_steps(steps, ["2"])) == ["02_second"]
    assert names(select_steps(steps, ["02_second", "01"])) == ["01_first", "02_second"]
    assert names(select_steps(steps, start="02")) == ["02_second"]
    with pytest.raises(SeriesError, match="Choose from 01_first, 02_second"):
        select_steps(steps, ["10"])


def test_recipes_are_sections(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("shared:\n  EPOCHS: 3\n02_second:\n")
    assert read_recipe(path) == {"shared": {"EPOCHS": 3}, "02_second": {}}
    path.write_text("")
    assert read_recipe(path) == {}
    for text in ("EPOCHS: 3", "- 1", "a: [", "just text"):
        path.write_text(text)
        with pytest.raises(SeriesError, match="recipe"):
            read_recipe(path)
    with pytest.raises(SeriesError, match="recipe"):
        read_recipe(tmp_path / "absent.yaml")


# --- The run


def test_runs_in_order_with_the_recipe_and_what_the_command_line_says(fake, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("shared: {EPOCHS: 5}\n02_second: {RATE: 1, EPOCHS: 6}\n")
    command = ["--notebooks", str(fake), "--recipe", str(recipe), "--workspace", "../w"]
    assert main([*command, "-p", "EPOCHS=7", "--only", "2", "--list"]) == 0
    workspace = tmp_path / "w"
    assert capsys.readouterr().out.splitlines() == [
        "02_second",
        f"  WORKSPACE = {str(workspace)!r}   (default '')",
        "  EPOCHS = 7   (default 3)",
        "  RATE = 1.0   (default 0.1)",
        "  FLAG = False",
    ]
    assert not workspace.exists()

    assert main([*command, "-p", "EPOCHS=7", "-p", "SOURCE=phantom"]) == 0
    assert (workspace / "first.txt").read_text() == "phantom"
    assert (workspace / "count.txt").read_text() == "7 1.0\n"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" … ")[0] for line in lines[:2]] == ["[1/2] 01_first", "[2/2] 02_second"]
    assert lines[2] == f"Executed notebooks: {workspace / 'executed'}"
    cells = nbformat.read(workspace / "executed" / "01_first.ipynb", as_version=4).cells
    # The kernel is the Python of whoever runs the series, in the folder it is run from.
    assert cells[-1].outputs[0].text == f"{sys.executable}|{Path.cwd()}\n"
    assert not list(Path.cwd().iterdir())


def test_a_failed_step_keeps_its_notebook_and_tells_cell_and_error(fake, tmp_path, capsys):
    command = ["--notebooks", str(fake), "--workspace", str(tmp_path / "w")]
    assert main([*command, "--from", "02", "-p", "EPOCHS=11"]) == 1
    captured = capsys.readouterr()
    assert "[1/1] 02_second … failed in" in captured.out
    assert "| assert EPOCHS < 10" in captured.err
    assert "AssertionError: 11 epochs are too many" in captured.err
    executed = tmp_path / "w" / "executed" / "02_second.ipynb"
    assert str(executed) in captured.err
    assert "11 epochs are too many" in executed.read_text()


def test_stopping_the_series_stops_its_kernel(tmp_path):
    write_fake_notebook(
        tmp_path / "notebooks",
        "01_long",
        COMMON,
        "import os, time\nfrom pathlib import Path\nfile = Path(WORKSPACE, 'started')",
        "file.with_suffix('.part').write_text(str(os.getpid()))",
        "file.with_suffix('.part').rename(file)\ntime.sleep(300)",
    )
    command = [sys.executable, "-m", "tools.series", "--workspace", "w", "--notebooks", "notebooks"]
    environment = {**os.environ, "PYTHONPATH": str(Path(series.__file__).parents[1])}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell starts in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until((tmp_path / "w" / "started").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "01_long … stopped" in out
    assert err.strip().endswith("Stopped. The same command goes on from there.")
    kernel = int((tmp_path / "w" / "started").read_text())
    wait_until(lambda: not is_alive(kernel))


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # Ended, but its entry stays where process 1 collects nothing, as in some containers.
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_what_libraries_write_to_standard_error_stays_off_the_terminal(tmp_path, capfd):
    source = "import os\nos.write(2, b'a note of TensorFlow')"
    write_fake_notebook(tmp_path / "notebooks", "01_noisy", COMMON, source)
    executed = run_series(tmp_path / "w", notebooks=tmp_path / "notebooks")
    assert "a note of TensorFlow" not in capfd.readouterr().err
    assert "a note of TensorFlow" in (executed / "kernels.log").read_text()


def test_a_kernel_that_dies_is_told(fake, tmp_path):
    notebook = fake / "02_second.ipynb"
    text = notebook.read_text().replace(
        "assert EPOCHS < 10, f'{EPOCHS} epochs are too many'", "import os; os._exit(9)"
    )
    notebook.write_text(text)
    with pytest.raises(FailedStepError, match=r"(?s)died.*memory"):
        run_series(tmp_path / "w", notebooks=fake, only=["02"])
