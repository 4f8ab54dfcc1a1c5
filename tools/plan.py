"""Which notebooks run with which parameters: decided and checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.parameters import SeriesError, check_value, parse_value, read_parameters, unknown_name

SHARED = "shared"
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@dataclass(frozen=True)
class Step:
    """One notebook of the series.

    Args:
        notebook: Its file.
        defaults: Its parameters as they stand in the notebook.
        parameters: Every parameter, as it will run.
    """

    notebook: Path
    defaults: Mapping[str, object]
    parameters: Mapping[str, object]

    @property
    def name(self) -> str:
        """Name of the notebook, such as `04_train_unet`."""
        return self.notebook.stem

    def with_values(self, values: Mapping[str, object]) -> Step:
        """The step with some parameters set, each checked against the type of its default.

        Raises:
            SeriesError: A name is unknown or a type is wrong.
        """
        _refuse_unknown(values, self.defaults, self.name)
        checked = {
            name: check_value(name, value, self.defaults[name], self.name)
            for name, value in values.items()
        }
        return replace(self, parameters={**self.parameters, **checked})


def find_steps(folder: Path = NOTEBOOKS) -> list[Step]:
    """Find the notebooks of the series, in the order of their numbers.

    Raises:
        SeriesError: There are none, or one of them has no proper `parameters` cell.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise SeriesError(
            "The folder of notebooks holds files such as 01_mount_drive.ipynb.",
            folder,
            "Pass the folder `notebooks` of a checkout.",
        )
    defaults = [read_parameters(path) for path in found]
    return [Step(path, values, values) for path, values in zip(found, defaults, strict=True)]


def read_recipe(path: Path) -> dict[str, dict[str, object]]:
    """Read a recipe: parameters for all notebooks under `shared`, and for each by its name.

    Raises:
        SeriesError: The file is missing, or not sections of names and values.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {name: dict(section or {}) for name, section in content.items()}
    except (OSError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise SeriesError(
            f"A recipe is a YAML file of sections, `{SHARED}` or a notebook's name, "
            "of NAME: VALUE.",
            f"{path} ({error})",
            "Choose one of the folder `recipes`, or indent the parameters below a section.",
        ) from error


def apply_recipe(steps: Sequence[Step], recipe: Mapping[str, Mapping[str, object]]) -> list[Step]:
    """Give the steps a recipe's parameters; a notebook's own section wins over `shared`.

    Raises:
        SeriesError: A section, a name or a type is wrong.
    """
    names = [step.name for step in steps]
    for section in recipe:
        if section not in (SHARED, *names):
            rule = f"A section of a recipe is `{SHARED}` or names a notebook."
            raise unknown_name(str(section), names, rule)
    shared = recipe.get(SHARED, {})
    _refuse_unknown(shared, {name for step in steps for name in step.defaults}, "the notebooks")
    planned = []
    for step in steps:
        values = {name: value for name, value in shared.items() if name in step.defaults}
        planned.append(step.with_values(values | recipe.get(step.name, {})))
    return planned


def apply_assignments(steps: Sequence[Step], assignments: Sequence[str]) -> list[Step]:
    """Set what the command line says: `NAME=VALUE` wherever it exists, or `04.NAME=VALUE`.

    Raises:
        SeriesError: An assignment is malformed, or its name or type is wrong.
    """
    planned = list(steps)
    for assignment in assignments:
        target, separator, text = assignment.partition("=")
        prefix, dot, name = target.strip().rpartition(".")
        if not separator or not name:
            raise SeriesError(
                "A parameter is passed as NAME=VALUE, or as 04.NAME=VALUE for one notebook.",
                assignment,
                "Write, for instance, -p EPOCHS=3.",
            )
        meant = select_steps(planned, [prefix]) if dot else planned
        known = {known for step in meant for known in step.defaults}
        _refuse_unknown([name], known, prefix if dot else "the notebooks")
        for index, step in enumerate(planned):
            if step in meant and name in step.defaults:
                value = parse_value(name, text, step.defaults[name], step.name)
                planned[index] = step.with_values({name: value})
    return planned


def select_steps(steps: Sequence[Step], only: Sequence[str] = (), start: str = "") -> list[Step]:
    """Choose steps by number or name.

    Args:
        steps: The whole series.
        only: Numbers or names, such as `04` or `04_train_unet`; empty: all.
        start: First one to run; those before it are left out.

    Raises:
        SeriesError: No notebook is called that.
    """
    wanted = [_find(steps, name) for name in only] or list(steps)
    first = steps.index(_find(steps, start)) if start else 0
    return [step for step in steps[first:] if step in wanted]


def _find(steps: Sequence[Step], name: str) -> Step:
    for step in steps:
        if name in (step.name, step.name[:2]) or name.zfill(2) == step.name[:2]:
            return step
    names = [step.name for step in steps]
    raise unknown_name(name, names, "A step is named by its number or its notebook.")


def _refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            rule = f"Only parameters of {where} can be set."
            raise unknown_name(str(name), sorted(known), rule)
