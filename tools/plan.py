"""Which notebooks run with which parameters: decided and checked before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lungseg_utils.errors import SeriesError
from tools.parameters import (
    check_value,
    parse_value,
    read_parameters,
    unknown_parameter,
)

SHARED = "shared"


@dataclass(frozen=True)
class Step:
    """One notebook of the series.

    Args:
        notebook: Its file.
        defaults: Its parameters as they stand in the notebook.
        overrides: What is passed instead of the defaults.
    """

    notebook: Path
    defaults: Mapping[str, object]
    overrides: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the notebook, such as `04_train_unet`."""
        return self.notebook.stem

    @property
    def parameters(self) -> dict[str, object]:
        """Every parameter of the notebook, as it will run."""
        return {**self.defaults, **self.overrides}


def notebooks_folder() -> Path:
    """Folder of the notebooks beside the package, as in a checkout.

    Raises:
        SeriesError: The package was installed without them.
    """
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    if not sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        raise SeriesError(
            "The series runs the notebooks of a checkout; an installed package has none.",
            f"no notebooks in {folder}",
            "Clone the repository and run the series there, or pass its folder: --notebooks DIR.",
        )
    return folder


def find_steps(folder: Path | str | None = None) -> list[Step]:
    """Find the notebooks of the series, in the order of their numbers.

    Raises:
        SeriesError: There are none, or one of them has no proper `parameters` cell.
    """
    folder = notebooks_folder() if folder is None else Path(folder).expanduser().resolve()
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise SeriesError(
            "The folder of notebooks holds files such as 01_mount_drive.ipynb.",
            folder,
            "Pass the folder `notebooks` of a checkout.",
        )
    return [Step(path, read_parameters(path)) for path in found]


def read_recipe(path: Path | str) -> dict[str, dict[str, object]]:
    """Read a recipe: parameters for all notebooks under `shared`, and for each by its name.

    Raises:
        SeriesError: The file is missing, or not sections of names and values.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SeriesError(
            "A recipe is a YAML file.", f"{path} ({error})", "Choose one of the folder `recipes`."
        ) from error
    sections = content if isinstance(content, dict) else {"": content}
    sections = {name: {} if section is None else section for name, section in sections.items()}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise SeriesError(
                f"A recipe holds sections, `{SHARED}` or a notebook's name, of NAME: VALUE.",
                f"{path}: {name or 'no section'}",
                "Indent the parameters below the name of their section.",
            )
    return sections


def apply_recipe(
    steps: Sequence[Step], recipe: Mapping[str, Mapping[str, object]], where: str = "the recipe"
) -> list[Step]:
    """Give the steps a recipe's parameters; a notebook's own section wins over `shared`.

    Raises:
        SeriesError: A section, a name or a type is wrong.
    """
    names = [step.name for step in steps]
    for section in recipe:
        if section != SHARED and section not in names:
            close = difflib.get_close_matches(str(section), names, n=1)
            raise SeriesError(
                f"A section of {where} is `{SHARED}` or names a notebook.",
                section,
                f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(names)}.",
            )
    shared = recipe.get(SHARED, {})
    _refuse_unknown(shared, [name for step in steps for name in step.defaults], "the notebooks")
    planned = []
    for step in steps:
        own = recipe.get(step.name, {})
        _refuse_unknown(own, list(step.defaults), step.name)
        chosen = {name: value for name, value in shared.items() if name in step.defaults} | own
        checked = {
            name: check_value(name, value, step.defaults[name], step.name)
            for name, value in chosen.items()
        }
        planned.append(Step(step.notebook, step.defaults, {**step.overrides, **checked}))
    return planned


def recipe_from_texts(steps: Sequence[Step], assignments: Sequence[str]) -> dict[str, dict]:
    """Turn `NAME=VALUE` or `04.NAME=VALUE` of the command line into a recipe.

    Raises:
        SeriesError: An assignment is malformed, or its name or type is wrong.
    """
    recipe: dict[str, dict] = {}
    for assignment in assignments:
        target, separator, text = assignment.partition("=")
        prefix, dot, name = target.strip().rpartition(".")
        if not separator or not name:
            raise SeriesError(
                "A parameter is passed as NAME=VALUE, or as 04.NAME=VALUE for one notebook.",
                assignment,
                "Write, for instance, -p EPOCHS=3.",
            )
        meant = select_steps(steps, [prefix]) if dot else list(steps)
        known = [known for step in meant for known in step.defaults]
        _refuse_unknown([name], known, prefix if dot else "the notebooks")
        for step in meant:
            if name in step.defaults:
                value = parse_value(name, text, step.defaults[name], step.name)
                recipe.setdefault(step.name, {})[name] = value
    return recipe


def select_steps(
    steps: Sequence[Step], only: Sequence[str] = (), start: str | None = None
) -> list[Step]:
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
    return [step for index, step in enumerate(steps) if step in wanted and index >= first]


def _find(steps: Sequence[Step], name: str) -> Step:
    for step in steps:
        if name in (step.name, step.name.partition("_")[0]) or (
            name.isdigit() and int(name) == int(step.name[:2])
        ):
            return step
    raise SeriesError(
        "A step is named by its number or its notebook.",
        name,
        f"Choose from {', '.join(step.name for step in steps)}.",
    )


def _refuse_unknown(names: Mapping | Sequence[str], known: list[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise unknown_parameter(str(name), known, where)
