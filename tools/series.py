"""Run the notebooks in order, headless: `python -m tools.series`.

Parameters are checked before anything runs. What a notebook finds done it does not do again, so
the same command goes on where it was stopped. Relative paths start at the working directory.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from lungseg_utils.errors import LungsegError
from lungseg_utils.files.records import read_json
from lungseg_utils.workspace import Workspace, open_workspace
from tools.parameters import SeriesError
from tools.plan import (
    NOTEBOOKS,
    Step,
    apply_assignments,
    apply_recipe,
    find_steps,
    read_recipe,
    select_steps,
)

SOURCE_LINES_SHOWN = 12
EVALUATION = "07_evaluate"
LOG = "kernels.log"
# TensorFlow's notes on its own build, the debugger's on frozen modules: once a kernel.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class FailedStepError(SeriesError):
    """A notebook of the series raised an error; its executed copy shows where."""


def plan_series(
    workspace: Path | str = "workspace",
    notebooks: Path | str = NOTEBOOKS,
    recipe: Path | str = "",
    assignments: Sequence[str] = (),
    only: Sequence[str] = (),
    start: str = "",
) -> list[Step]:
    """Decide which notebooks run, and every parameter of theirs; nothing is run.

    Args:
        workspace: Passed to every notebook as WORKSPACE, as an absolute path.
        notebooks: Their folder.
        recipe: YAML file of parameters; empty for none.
        assignments: `NAME=VALUE` or `04.NAME=VALUE`, as on the command line; win over the recipe.
        only: Numbers or names of the notebooks; empty: all.
        start: The first one; empty: the first of all.

    Raises:
        SeriesError: A notebook, a name or a type is wrong; an unknown name gets the nearest
            known one suggested.
    """
    steps = find_steps(Path(notebooks))
    if recipe:
        steps = apply_recipe(steps, read_recipe(Path(recipe)))
    steps = apply_assignments(steps, assignments)
    root = str(Path(workspace).expanduser().resolve())
    return [step.with_values({"WORKSPACE": root}) for step in select_steps(steps, only, start)]


def run_series(workspace: Path | str = "workspace", **request: object) -> Path:
    """Run notebooks in order through papermill, printing a line a step.

    Args:
        workspace: Folder that the notebooks write to.
        **request: As for `plan_series`.

    Returns:
        Folder of the executed notebooks, `executed` in the workspace, and of `kernels.log`.

    Raises:
        SeriesError: Something is wrong with the request; nothing has run.
        FailedStepError: A notebook raised an error.
    """
    steps = plan_series(workspace, **request)
    executed = open_workspace(workspace).root / "executed"
    executed.mkdir(exist_ok=True)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    (executed / LOG).unlink(missing_ok=True)
    for number, step in enumerate(steps, start=1):
        title = f"[{number}/{len(steps)}] {step.name}"
        with _announced(title), _kernels_written_to(executed / LOG):
            _execute(step, executed / step.notebook.name)
    return executed


def _execute(step: Step, output: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # Names are checked above; papermill's own guess at them trips over `# @param` comments.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    rule = f"{step.name} must run to its end."
    try:
        papermill.execute_notebook(
            step.notebook,
            output,
            parameters=dict(step.parameters),
            kernel_name="python3",
            language="python",
            cwd=Path.cwd(),
            progress_bar=sys.stderr.isatty(),
            # The kernel's own log holds notes on its transport; errors of cells come another way.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        advice = f"See the executed notebook, which holds the whole traceback: {output}"
        raise FailedStepError(rule, _describe(error), advice) from error
    except DeadKernelError as error:
        raise FailedStepError(
            rule,
            f"its Python process died ({error})",
            "Most often memory has run out: lower BATCH_SIZE or SIZE.\n"
            f"  The notebook as far as it got: {output}\n"
            f"  What the process wrote last: {output.parent / LOG}",
        ) from error


@contextmanager
def _kernels_written_to(log: Path) -> Iterator[None]:
    """Let kernels that start meanwhile write their standard error, libraries' notes, to a file."""
    with os.fdopen(os.dup(2), "w") as terminal, log.open("ab") as file, redirect_stderr(terminal):
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal.fileno(), 2)


def _describe(error: Exception) -> str:
    lines = error.source.strip().splitlines()
    shown = lines[:SOURCE_LINES_SHOWN] + ["…"] * (len(lines) > SOURCE_LINES_SHOWN)
    source = "\n".join(f"    | {line}" for line in shown)
    message = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).replace("\n", "\n    ")
    return f"an error in its cell [{error.exec_count}]\n{source}\n    {error.ename}: {message}"


@contextmanager
def _announced(title: str) -> Iterator[None]:
    """Print a step's title, and behind it how it ended."""
    print(title, "… ", end="", flush=True)
    begun, ending = time.monotonic(), "failed"
    try:
        yield
        ending = "done"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        took = datetime.timedelta(seconds=round(time.monotonic() - begun))
        print(f"{ending} in {took}", flush=True)


def _print_report(workspace: Workspace) -> None:
    import pandas as pd

    from lungseg_utils.evaluation.summaries import headline_table

    split = read_json(workspace.reports / "summary.json")["inputs"]["split"]
    print(f"\nCases of the split `{split}`, after post-processing: mean [95 % interval]")
    print(headline_table(pd.read_csv(workspace.reports / "summary.csv")).to_string())
    print(f"\nReport:             {workspace.reports}")


def _print_plan(steps: Sequence[Step]) -> None:
    for step in steps:
        print(step.name)
        for name, value in step.parameters.items():
            default = step.defaults[name]
            print(f"  {name} = {value!r}" + f"   (default {default!r})" * (value != default))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.series", description=__doc__)
    parser.add_argument("--workspace", default="workspace", help="folder to write to")
    parser.add_argument("--notebooks", default=NOTEBOOKS, help="folder of the notebooks")
    parser.add_argument("--recipe", default="", help="YAML file, such as recipes/demo.yaml")
    parser.add_argument(
        "-p",
        dest="assignments",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter wherever it exists, or in one notebook: 04.EPOCHS=3",
    )
    parser.add_argument("--only", metavar="04,07", default="", help="run these notebooks only")
    parser.add_argument("--from", dest="start", metavar="04", default="", help="begin with this")
    parser.add_argument("--list", action="store_true", help="show the parameters; run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 when a notebook failed, 2 when the request was refused, 130 when stopped.
    """
    request = vars(_parser().parse_args(arguments))
    request["only"] = [name.strip() for name in request["only"].split(",") if name.strip()]
    try:
        if request.pop("list"):
            _print_plan(plan_series(**request))
            return 0
        names = [step.name for step in plan_series(**request)]
        executed = run_series(**request)
        if EVALUATION in names:
            _print_report(open_workspace(request["workspace"]))
        print(f"Executed notebooks: {executed}")
    except LungsegError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1 if isinstance(error, FailedStepError) else 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
