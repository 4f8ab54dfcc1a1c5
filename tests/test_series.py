from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from fake_notebooks import COMMON, write_fake_notebook, write_fake_series

from lungseg_utils.errors import SeriesError
from lungseg_utils.evaluation.metrics import METRICS
from lungseg_utils.files.records import write_json
from tools import series
from tools.plan import find_steps
from tools.series import FailedStepError, duration_text, main, run_series


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Folder of two fake notebooks; the test stands in an unrelated folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return write_fake_series(tmp_path / "notebooks")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
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


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(out.text for cell in cells for out in cell.get("outputs", []) if "text" in out)


def test_runs_in_order_skips_what_is_done_and_reruns_what_changed(fake, tmp_path, capsys):
    workspace = tmp_path / "w"
    both = ("01_first", "02_second")
    result = run_series("../w", notebooks=fake, parameters={"EPOCHS": 4, "SOURCE": "phantom"})
    assert (result.ran, result.skipped) == (both, ())
    assert result.executed == workspace / "executed"
    assert (workspace / "first.txt").read_text() == "phantom"
    assert (workspace / "count.txt").read_text() == "4 0.1\n"
    out = capsys.readouterr().out
    assert [line.split(" … ")[0] for line in out.splitlines()] == [
        "[1/2] 01_first",
        "[2/2] 02_second",
    ]

    again = run_series("../w", notebooks=fake, parameters={"EPOCHS": 4, "SOURCE": "phantom"})
    assert (again.ran, again.skipped) == ((), both)
    changed = run_series(workspace, notebooks=fake, parameters={"EPOCHS": 5, "SOURCE": "phantom"})
    assert (changed.ran, changed.skipped) == (("02_second",), ("01_first",))
    assert (workspace / "count.txt").read_text() == "4 0.1\n5 0.1\n"
    # A change of the first step reaches the second, which builds on it.
    upstream = run_series(workspace, notebooks=fake, assignments=["EPOCHS=5"])
    assert upstream.ran == both
    assert (workspace / "first.txt").read_text() == "none # at all"
    forced = run_series(
        workspace, notebooks=fake, assignments=["EPOCHS=5"], only=["02"], force=True
    )
    assert (forced.ran, forced.skipped) == (("02_second",), ())
    assert not list(Path.cwd().iterdir())


def test_a_step_whose_input_changed_runs_again_and_so_does_what_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebooks = tmp_path / "notebooks"
    write_fake_notebook(notebooks, "01_before", COMMON, "pass")
    place = "import os\nprint(os.getcwd())\nimport lungseg_utils"
    write_fake_notebook(notebooks, "02_read", COMMON + 'LOCATION = ""\nINPUT = ""\n', place)
    write_fake_notebook(notebooks, "03_after", COMMON, "pass")
    images = tmp_path / "all" / "bundle" / "CXR_png"
    images.mkdir(parents=True)
    (images / "x.png").write_text("1")
    mine = tmp_path / "mine.png"
    mine.write_text("1")

    def ran() -> tuple[str, ...]:
        paths = ["LOCATION=all", "INPUT=mine.png"]
        result = run_series("w", notebooks=notebooks, assignments=paths)
        # Relative paths mean the same to the notebooks as to whoever runs the series.
        assert printed(result.executed / "02_read.ipynb") == f"{tmp_path}\n"
        return result.ran

    assert ran() == ("01_before", "02_read", "03_after")
    (tmp_path / "all" / "elsewhere.txt").touch()
    assert ran() == ()
    (images / "y.png").touch()
    assert ran() == ("02_read", "03_after")
    mine.write_text("12")
    assert ran() == ("02_read", "03_after")
    mine.unlink()
    assert ran() == ("02_read", "03_after")


def test_a_training_whose_run_is_gone_is_not_skipped(tmp_path):
    write_fake_notebook(
        tmp_path / "notebooks",
        "01_train",
        COMMON + 'RUN_NAME = "mine"\nEPOCHS = 1\n',
        "from pathlib import Path\nrun = Path(WORKSPACE, 'runs', RUN_NAME)",
        "run.mkdir(parents=True, exist_ok=True)\n(run / 'run.json').touch()",
    )
    write_fake_notebook(tmp_path / "notebooks", "02_use", COMMON + 'RUN_NAME = "mine"\n', "pass")

    def ran() -> tuple[str, ...]:
        return run_series(tmp_path / "w", notebooks=tmp_path / "notebooks").ran

    assert [ran(), ran()] == [("01_train", "02_use"), ()]
    (tmp_path / "w" / "runs" / "mine" / "run.json").unlink()
    assert [ran(), ran()] == [("01_train", "02_use"), ()]


def test_the_kernel_is_the_running_python_whatever_python3_is_registered(
    fake, tmp_path, monkeypatch
):
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    specification = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    result = run_series(tmp_path / "w", notebooks=fake, only=["01"])
    assert printed(result.executed / "01_first.ipynb") == f"{sys.executable}|1\n"
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "jupyter")


def test_a_failed_step_keeps_its_notebook_and_tells_cell_and_error(fake, tmp_path, capfd):
    command = ["run", "--notebooks", str(fake), "--workspace", str(tmp_path / "w")]
    assert main([*command, "-p", "EPOCHS=11"]) == 1
    captured = capfd.readouterr()
    assert "02_second … failed in" in captured.out
    assert "| assert EPOCHS < 10" in captured.err
    assert "AssertionError: 11 epochs are too many" in captured.err
    executed = tmp_path / "w" / "executed"
    assert str(executed / "02_second.ipynb") in captured.err
    assert "11 epochs are too many" in (executed / "02_second.ipynb").read_text()
    assert (executed / "01_first.json").is_file()
    assert not (executed / "02_second.json").exists()
    # The same command again starts where it failed.
    with pytest.raises(FailedStepError):
        run_series(tmp_path / "w", notebooks=fake, assignments=["EPOCHS=12"])
    assert "01_first … already done, skipped" in capfd.readouterr().out


def test_stopping_the_series_stops_its_kernel_and_keeps_no_record(tmp_path):
    write_fake_notebook(
        tmp_path / "notebooks",
        "01_long",
        COMMON,
        "import os, time\nfrom pathlib import Path\nfile = Path(WORKSPACE, 'started')",
        "file.with_suffix('.part').write_text(str(os.getpid()))",
        "file.with_suffix('.part').rename(file)\ntime.sleep(300)",
    )
    command = [sys.executable, "-m", "tools.series", "run", "--workspace", "w"]
    command += ["--notebooks", "notebooks"]
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
    assert err.strip() == "Stopped. The same command continues with this step."
    assert not (tmp_path / "w" / "executed" / "01_long.json").exists()
    kernel = int((tmp_path / "w" / "started").read_text())
    wait_until(lambda: not is_alive(kernel))


def test_what_libraries_write_to_standard_error_stays_off_the_terminal(tmp_path, capfd):
    write_fake_notebook(
        tmp_path / "notebooks",
        "01_noisy",
        COMMON,
        "import os\nos.write(2, b'a note of TensorFlow')",
    )

    result = run_series(tmp_path / "w", notebooks=tmp_path / "notebooks")

    assert "a note of TensorFlow" not in capfd.readouterr().err
    assert "a note of TensorFlow" in (result.executed / "kernels.log").read_text()


def test_a_kernel_that_dies_is_told(fake, tmp_path):
    notebook = fake / "02_second.ipynb"
    text = notebook.read_text().replace(
        "assert EPOCHS < 10, f'{EPOCHS} epochs are too many'", "import os; os._exit(9)"
    )
    notebook.write_text(text)
    with pytest.raises(FailedStepError, match=r"(?s)died.*memory"):
        run_series(tmp_path / "w", notebooks=fake, only=["02"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "EPOHCS=3"], "Did you mean EPOCHS"),
        (["-p", "EPOCHS=0.5"], "EPOCHS of 02_second is of type int"),
        (["--only", "05"], "Choose from 01_first, 02_second"),
        (["--recipe", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    fake, tmp_path, capsys, arguments, message
):
    workspace = tmp_path / "w"
    code = main(["run", "--notebooks", str(fake), "--workspace", str(workspace), *arguments])
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not workspace.exists()


def test_the_command_line_wins_over_the_recipe(fake, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("shared: {EPOCHS: 5}\n02_second: {RATE: 1, EPOCHS: 6}\n")
    options = ["--notebooks", str(fake), "--recipe", str(recipe), "--list", "--workspace", "w"]
    assert main(["run", *options, "-p", "EPOCHS=7", "--only", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "02_second"
    assert lines[1] == f"  WORKSPACE = {str(Path.cwd() / 'w')!r}   (default '')"
    assert lines[2:] == [
        "  EPOCHS = 7   (default 3)",
        "  RATE = 1.0   (default 0.1)",
        "  FLAG = False",
    ]
    assert not list(Path.cwd().iterdir())


def test_two_tagged_cells_stop_the_series_before_it_starts(fake, tmp_path):
    second = json.loads((fake / "02_second.ipynb").read_text())
    second["cells"][1]["metadata"]["tags"] = ["parameters"]
    (fake / "02_second.ipynb").write_text(json.dumps(second))
    with pytest.raises(SeriesError, match="exactly one"):
        run_series(tmp_path / "w", notebooks=fake)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("split", "title"),
    [("test", "Test images"), ("val", "Validation images"), (None, "Scored images")],
)
@pytest.mark.parametrize("outcome", ["ran", "skipped"])
def test_the_outcome_names_report_notebooks_and_headline(tmp_path, capsys, split, title, outcome):
    workspace = series.open_workspace(tmp_path / "w")
    steps = {"ran": (), "skipped": ()}
    only = f"Executed notebooks: {tmp_path / 'executed'}\n"
    evaluated = series.SeriesResult(
        workspace, tmp_path / "executed", **(steps | {outcome: (find_steps()[6].name,)})
    )
    series._print_outcome(evaluated)
    assert capsys.readouterr().out == only
    rows = [
        {"model": "unet", "stage": stage, "region": "both", "group": "all", "metric": metric}
        | {"n": 141, "patients": 140, "mean": mean, "low": 0.95, "high": 0.97, "empty": 0}
        for stage, mean in (("raw", 0.9), ("post", 0.961))
        for metric in METRICS
    ]
    workspace.reports.mkdir()
    write_json(workspace.reports / "summary.json", {"inputs": {"split": split} if split else {}})
    pd.DataFrame(rows).to_csv(workspace.reports / "summary.csv", index=False)
    series._print_outcome(evaluated)
    out = capsys.readouterr().out
    assert f"\n{title}, after post-processing" in out
    assert "0.961 [0.950, 0.970]" in out
    assert str(workspace.reports) in out
    # A report of an earlier call is none of this one's business.
    series._print_outcome(series.SeriesResult(workspace, tmp_path / "executed", ("x",), ()))
    assert capsys.readouterr().out == only


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3785, "1 h 03 min")],
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text
