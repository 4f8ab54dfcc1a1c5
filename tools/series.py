"""Run the notebooks in order, headless: `python -m tools.series run`.

Parameters are checked before anything runs; a step that was done with the same parameters and
inputs is skipped; a step that fails leaves its executed notebook behind. Relative paths start at
the folder that the series is run from.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lungseg_utils
from lungseg_utils.acquire.download import stamp_of_files
from lungseg_utils.bundle import find_bundle
from lungseg_utils.errors import LungsegError, MissingInputError, SeriesError
from lungseg_utils.files.records import digest_of, file_sha256, read_json, write_json
from lungseg_utils.workspace import Workspace, open_workspace
from tools.kernel import own_kernel
from tools.parameters import read_parameters
from tools.plan import (
    Step,
    apply_recipe,
    find_steps,
    read_recipe,
    recipe_from_texts,
    select_steps,
)

__all__ = [
    "FailedStepError",
    "SeriesResult",
    "main",
    "plan_series",
    "read_parameters",
    "run_series",
]

SOURCE_LINES_SHOWN = 12
LOG = "kernels.log"
EVALUATION = "07_evaluate"
# Parameters that may name a file or folder whose content matters as much as its name.
INPUT_PARAMETERS = ("LOCATION", "INPUT")


class FailedStepError(SeriesError):
    """A notebook of the series raised an error; its executed copy shows where."""


@dataclass(frozen=True)
class SeriesResult:
    """What a run of the series did.

    Args:
        workspace: Where the notebooks wrote.
        executed: Folder of the executed notebooks and their records.
        ran: Names of the notebooks that ran.
        skipped: Names of those already done with the same parameters and inputs.
    """

    workspace: Workspace
    executed: Path
    ran: tuple[str, ...]
    skipped: tuple[str, ...]


def plan_series(
    workspace: Path | str = "workspace",
    notebooks: Path | str | None = None,
    recipe: Path | str | None = None,
    parameters: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
) -> list[Step]:
    """Decide every notebook's parameters, running nothing.

    Args:
        workspace: Passed to every notebook as WORKSPACE, as an absolute path.
        notebooks: Their folder; None: the one beside the package.
        recipe: YAML file of parameters.
        parameters: For every notebook that has them; win over the recipe.
        assignments: `NAME=VALUE` or `04.NAME=VALUE`, as on the command line; win over all.

    Raises:
        SeriesError: A notebook, a name or a type is wrong; an unknown name gets the nearest
            known one suggested.
    """
    steps = find_steps(notebooks)
    if recipe is not None:
        steps = apply_recipe(steps, read_recipe(recipe), str(recipe))
    steps = apply_recipe(steps, {"shared": dict(parameters or {})}, "the parameters")
    steps = apply_recipe(steps, recipe_from_texts(steps, assignments), "the command line")
    root = str(Path(workspace).expanduser().resolve())
    return [
        Step(step.notebook, step.defaults, {**step.overrides, "WORKSPACE": root})
        if "WORKSPACE" in step.defaults
        else step
        for step in steps
    ]


def run_series(
    workspace: Path | str = "workspace",
    executed: Path | str | None = None,
    notebooks: Path | str | None = None,
    recipe: Path | str | None = None,
    parameters: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
    only: Sequence[str] = (),
    start: str | None = None,
    force: bool = False,
) -> SeriesResult:
    """Run the notebooks in order through papermill, printing a line a step.

    Args:
        workspace: Folder that the notebooks write to.
        executed: Folder of the executed notebooks; None: `executed` in the workspace.
        notebooks: As for `plan_series`, like `recipe`, `parameters` and `assignments`.
        recipe: YAML file of parameters.
        parameters: For every notebook that has them.
        assignments: `NAME=VALUE` texts.
        only: Numbers or names of the notebooks to run; empty: all.
        start: The first one to run.
        force: Run steps again that are done already.

    Raises:
        SeriesError: Something is wrong with the request; nothing has run.
        FailedStepError: A notebook raised an error.
    """
    planned = plan_series(workspace, notebooks, recipe, parameters, assignments)
    chosen = [step.name for step in select_steps(planned, only, start)]
    place = open_workspace(workspace)
    folder = Path(executed).expanduser().resolve() if executed else place.root / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    package, previous = _package_digest(), ""
    outcome: dict[str, list[str]] = {"ran": [], "skipped": []}
    log = folder / LOG
    log.unlink(missing_ok=True)
    with own_kernel(log) as kernel:
        for number, step in enumerate(planned, start=1):
            record_path = folder / f"{step.name}.json"
            if step.name in chosen:
                record = _record(step, package, previous)
                with _announced(f"[{number}/{len(planned)}] {step.name}") as finish:
                    executed_copy = folder / step.notebook.name
                    done = not force and (
                        _is_done(record_path, executed_copy, record) and _has_run(step, place)
                    )
                    if not done:
                        record_path.unlink(missing_ok=True)
                        _execute(step, executed_copy, kernel)
                        # The time makes the steps after it run again, too.
                        write_json(record_path, record | {"finished": time.time_ns()})
                    finish("already done, skipped" if done else None)
                outcome["skipped" if done else "ran"].append(step.name)
            previous = digest_of(read_json(record_path)) if record_path.is_file() else ""
    return SeriesResult(place, folder, tuple(outcome["ran"]), tuple(outcome["skipped"]))


def _record(step: Step, package: str, previous: str) -> dict[str, object]:
    """What a step's outcome depends on."""
    return {
        "notebook": step.name,
        "parameters": step.parameters,
        "input_files": {
            name: stamp
            for name in INPUT_PARAMETERS
            if (stamp := _input_stamp(name, str(step.parameters.get(name, ""))))
        },
        "notebook_sha256": file_sha256(step.notebook),
        "package_digest": package,
        "previous_step_digest": previous,
    }


def _input_stamp(name: str, value: str) -> str:
    """Stamp of the files that a parameter names; empty where it names none."""
    if not value:
        return ""
    path = Path(value).expanduser()
    try:
        # Of the folder of a bundle, such as a whole Drive, only the bundle is read.
        path = find_bundle(path) if name == "LOCATION" and path.is_dir() else path
    except MissingInputError:
        return ""
    return stamp_of_files(path) if path.exists() else ""


def _has_run(step: Step, workspace: Workspace) -> bool:
    """False for a training notebook whose run is not in the workspace any more."""
    trains = {"RUN_NAME", "EPOCHS"} <= step.parameters.keys()
    return not trains or (workspace.run(step.parameters["RUN_NAME"]) / "run.json").is_file()


def _package_digest() -> str:
    package = Path(lungseg_utils.__file__).resolve().parent
    patterns = ("*.py", "*.csv", "weights/weights.json")
    files = sorted(path for pattern in patterns for path in package.rglob(pattern))
    files += [path for path in [package.parent / "data_manifest.csv"] if path.is_file()]
    return digest_of([[path.name, file_sha256(path)] for path in files])


def _is_done(record_path: Path, executed: Path, record: dict[str, object]) -> bool:
    if not (executed.is_file() and record_path.is_file()):
        return False
    return {**read_json(record_path), "finished": None} == {**record, "finished": None}


def _execute(step: Step, output: Path, kernel: str) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # Names are checked above; papermill's own guess at them trips over `# @param` comments.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            step.notebook,
            output,
            parameters=step.parameters,
            kernel_name=kernel,
            language="python",
            cwd=Path.cwd(),
            progress_bar=sys.stderr.isatty(),
        )
    except PapermillExecutionError as error:
        raise FailedStepError(
            f"{step.name} must run to its end.",
            _describe(error),
            f"See the executed notebook, which holds the whole traceback: {output}\n"
            "  Then run the same command again: steps already done are skipped.",
        ) from error
    except DeadKernelError as error:
        raise FailedStepError(
            f"{step.name} must run to its end.",
            f"its Python process died ({error})",
            "Most often memory has run out: lower BATCH_SIZE or SIZE.\n"
            f"  The notebook as far as it got: {output}\n"
            f"  What the process wrote last: {output.parent / LOG}",
        ) from error


def _describe(error: Exception) -> str:
    lines = error.source.strip().splitlines()
    shown = lines[:SOURCE_LINES_SHOWN] + ["…"] * (len(lines) > SOURCE_LINES_SHOWN)
    source = "\n".join(f"    | {line}" for line in shown)
    message = _without_colours(error.evalue).replace("\n", "\n    ")
    return f"an error in its cell [{error.exec_count}]\n{source}\n    {error.ename}: {message}"


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@contextmanager
def _announced(title: str) -> Iterator[Callable[[str | None], None]]:
    """Print a step's title, and behind it how it ended; on a terminal its bar goes between."""
    bar = sys.stderr.isatty()
    print(title if bar else f"{title} … ", end="\n" if bar else "", flush=True)
    begun = time.monotonic()
    ending = "failed"

    def finish(text: str | None) -> None:
        nonlocal ending
        ending = text or "done"

    try:
        yield finish
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        took = f" in {duration_text(time.monotonic() - begun)}" if "skipped" not in ending else ""
        print(f"{title} {ending}{took}" if bar else f"{ending}{took}", flush=True)


def duration_text(seconds: float) -> str:
    """Duration as text: `7 s`, `2 min 05 s` or `1 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _print_outcome(result: SeriesResult) -> None:
    reports = result.workspace.reports
    if EVALUATION in (*result.ran, *result.skipped) and (reports / "summary.csv").is_file():
        import pandas as pd

        from lungseg_utils.evaluation.summaries import headline_table

        split = read_json(reports / "summary.json")["inputs"].get("split")
        images = {"test": "Test images", "val": "Validation images"}.get(split, "Scored images")
        print(f"\n{images}, after post-processing: mean [95 % interval]")
        print(headline_table(pd.read_csv(reports / "summary.csv")).to_string())
        print(f"\nReport:             {reports}")
    print(f"Executed notebooks: {result.executed}")


def _print_plan(steps: Sequence[Step]) -> None:
    for step in steps:
        print(step.name)
        for name, value in step.parameters.items():
            changed = (
                "" if value == step.defaults[name] else f"   (default {step.defaults[name]!r})"
            )
            print(f"  {name} = {value!r}{changed}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.series", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks in order")
    run.add_argument("--workspace", default="workspace", help="folder to write to")
    run.add_argument("--executed", help="folder of the executed notebooks [WORKSPACE/executed]")
    run.add_argument("--notebooks", help="folder of the notebooks [beside the package]")
    run.add_argument("--recipe", help="YAML file of parameters, such as recipes/demo.yaml")
    run.add_argument(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter wherever it exists, or in one notebook: 04.EPOCHS=3",
    )
    run.add_argument("--only", metavar="04,07", default="", help="run these notebooks only")
    run.add_argument("--from", dest="start", metavar="04", help="begin with this notebook")
    run.add_argument("--force", action="store_true", help="run steps again that are done")
    run.add_argument("--list", action="store_true", help="show the parameters; run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 1 when a notebook failed, 2 when the request was refused, 130 when stopped.
    """
    options = _parser().parse_args(arguments)
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    request = (options.workspace, options.notebooks, options.recipe, None, options.parameter)
    try:
        if options.list:
            _print_plan(select_steps(plan_series(*request), only, options.start))
            return 0
        workspace, *rest = request
        choice = {"only": only, "start": options.start, "force": options.force}
        _print_outcome(run_series(workspace, options.executed, *rest, **choice))
    except FailedStepError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except LungsegError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command continues with this step.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
