"""What the notebooks can be told: names, defaults and types, read from their syntax trees."""

from __future__ import annotations

import ast
import difflib
import json
from pathlib import Path

from lungseg_utils.errors import LungsegError

TAG = "parameters"


class SeriesError(LungsegError):
    """The series of notebooks cannot run as asked, or one of them failed."""


def read_parameters(notebook: Path) -> dict[str, object]:
    """Read the parameters of a notebook: the literals of its cell tagged `parameters`.

    papermill's own reading trips over `#` in a text and tells no type beside a comment.

    Returns:
        Name and default of each parameter, in the cell's order.

    Raises:
        SeriesError: The file is no notebook, there is not exactly one tagged cell, or it holds
            more than literals.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SeriesError(
            "A step of the series is a Jupyter notebook.",
            f"{notebook} ({error})",
            "Fetch the notebook again, or take the file out of the folder.",
        ) from error
    tagged = [cell for cell in cells if TAG in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise SeriesError(
            f"A notebook has exactly one cell tagged `{TAG}`.",
            f"{notebook.name} with {len(tagged)} of them",
            f"Tag the cell that holds the notebook's settings `{TAG}`, and no other.",
        )
    return _literals("".join(tagged[0]["source"]), notebook.name)


def _literals(source: str, name: str) -> dict[str, object]:
    values: dict[str, object] = {}
    line = ""
    try:
        for statement in ast.parse(source).body:
            line = ast.get_source_segment(source, statement)
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=target)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
                ):
                    values[target] = ast.literal_eval(value)
                case _:
                    raise ValueError("no assignment of a literal")
    except (ValueError, SyntaxError) as error:
        raise SeriesError(
            f"The cell tagged `{TAG}` assigns literals to names, and does nothing else.",
            f"{name}: {line} ({error})",
            "Move whatever is derived or imported to the cell after it.",
        ) from error
    return values


def check_value(name: str, value: object, default: object, where: str) -> object:
    """Check one value against the type of the parameter's default.

    Args:
        name: The parameter.
        value: What is passed for it; an integer is accepted for a float, and becomes one.
        default: The notebook's own value.
        where: Notebook, for the message.

    Raises:
        SeriesError: The types differ.
    """
    wanted = type(default)
    if type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    raise SeriesError(
        f"{name} of {where} is of type {wanted.__name__}, such as {default!r}.",
        f"{value!r} of type {type(value).__name__}",
        f"Pass a value of type {wanted.__name__}.",
    )


def parse_value(name: str, text: str, default: object, where: str) -> object:
    """Read a value from the command line as the type of the parameter's default.

    Raises:
        SeriesError: The text is not of that type.
    """
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    return check_value(name, value, default, where)


def unknown_name(name: str, known: list[str], rule: str) -> SeriesError:
    """Say that a name does not exist, and which one may have been meant."""
    folded = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    advice = f"Did you mean {folded[close[0]]}?" if close else f"Choose from {', '.join(known)}."
    return SeriesError(rule, name, advice)
