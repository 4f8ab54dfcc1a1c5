"""What the notebooks can be told: names, defaults and types, read from their syntax trees."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from lungseg_utils.errors import SeriesError

TAG = "parameters"


def read_notebook(path: Path | str) -> dict:
    """Read a notebook file.

    Raises:
        SeriesError: The file is not a notebook.
    """
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SeriesError(
            "A step of the series is a Jupyter notebook.",
            f"{path} ({error})",
            "Fetch the notebook again, or take the file out of the folder.",
        ) from error
    return notebook


def cell_source(cell: Mapping) -> str:
    """Text of a cell, which a notebook file holds as one string or as lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def cell_tags(cell: Mapping) -> list[str]:
    """Tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def read_parameters(notebook_path: Path | str) -> dict[str, object]:
    """Read the parameters of a notebook: the literals of its cell tagged `parameters`.

    Returns:
        Name and default of each parameter, in the cell's order.

    Raises:
        SeriesError: There is not exactly one tagged cell, or it holds more than literals.
    """
    path = Path(notebook_path)
    tagged = [cell for cell in read_notebook(path)["cells"] if TAG in cell_tags(cell)]
    if len(tagged) != 1:
        raise SeriesError(
            f"A notebook has exactly one cell tagged `{TAG}`.",
            f"{path.name} with {len(tagged)} of them",
            f"Tag the cell that holds the notebook's settings `{TAG}`, and no other.",
        )
    return _literals(cell_source(tagged[0]), path.name)


def _literals(source: str, name: str) -> dict[str, object]:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise _not_literal(name, f"line {error.lineno}: {error.msg}") from error
    values: dict[str, object] = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value):
                pass
            case _:
                raise _not_literal(name, ast.get_source_segment(source, statement))
        try:
            values[target] = ast.literal_eval(value)
        except ValueError as error:
            raise _not_literal(name, ast.get_source_segment(source, statement)) from error
    return values


def _not_literal(name: str, received: str | None) -> SeriesError:
    return SeriesError(
        f"The cell tagged `{TAG}` assigns literals to names, and does nothing else.",
        f"{name}: {received}",
        "Move whatever is derived or imported to the cell after it.",
    )


def check_value(name: str, value: object, default: object, where: str) -> object:
    """Check one value against the type of the parameter's default.

    Args:
        name: The parameter.
        value: What is passed for it.
        default: The notebook's own value; an integer is accepted for a float.
        where: Notebook, for the message.

    Returns:
        The value, an integer turned into a float where the default is one.

    Raises:
        SeriesError: The types differ.
    """
    wanted = type(default)
    if type(value) is wanted or default is None:
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
    literal = {"true": "True", "false": "False"}.get(text, text)
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        value = text
    return check_value(name, value, default, where)


def unknown_parameter(name: str, known: list[str], where: str) -> SeriesError:
    """Say that a parameter does not exist, and which one may have been meant."""
    close = difflib.get_close_matches(name.upper(), known, n=1)
    advice = f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(sorted(known))}."
    return SeriesError(f"Only parameters of {where} can be set.", name, advice)
