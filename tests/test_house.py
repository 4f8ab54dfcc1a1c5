"""The house stays small and in order: sizes, rooms, arrows, names, and the way of one X-ray."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

import lungseg_utils
from tools.way import CASES, stages

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "lungseg_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))
# As data flows. A room reads from those before it; CONTRIBUTING says what each is for.
ORDER = (
    *("errors", "environment", "files", "workspace", "manifest", "bundle", "phantom", "acquire"),
    *(
        "preparation",
        "models",
        "training",
        "segment",
        "evaluation",
        "figures",
        "verify",
        "cluster",
        "__main__",
    ),
)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef
DOOR = "__init__"  # resolves the public names lazily, so it reads from all


def code_lines(path: Path) -> int:
    """Lines that hold code: no docstring, comment or blank."""
    source = path.read_text(encoding="utf-8")
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            held -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(held)


def test_lines_of_code_are_counted_without_words(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""A docstring\n\nof three lines."""\n\n# A comment.\nVALUE = (\n    1,  # one\n)\n\n\n'
        'def f():\n    """What."""\n    return """a\n    b"""\n'
    )
    assert code_lines(path) == 3 + 1 + 2


def test_the_package_is_small():
    assert len(MODULES) <= 72
    assert sum(map(code_lines, MODULES)) <= 9300
    long = {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 350}
    assert long == {}


def test_the_tests_are_small():
    assert sum(map(code_lines, (REPOSITORY / "tests").rglob("*.py"))) <= 11800


@pytest.mark.parametrize("top", ["lungseg_utils", "tools"])
def test_no_folder_is_crowded(top):
    files = defaultdict(list)
    for path in (REPOSITORY / top).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.parent].append(path.name)
    assert {folder: names for folder, names in files.items() if len(names) > 12} == {}


def room_of(module: str) -> str:
    """The room of a module named by its path in the package, such as `files.records`."""
    return module.partition(".")[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


NAMES = {name_of(path) for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("lungseg_utils.") for name in found if "lungseg_utils" in name}
    return inside & NAMES


def test_every_room_stands_in_the_order():
    assert {room_of(name) for name in NAMES} == {*ORDER, DOOR}


def test_arrows_run_one_way():
    against = [
        f"{name_of(path)} -> {imported}"
        for path in MODULES
        for imported in sorted(imports_of(path))
        if name_of(path) != DOOR
        and ORDER.index(room_of(imported)) > ORDER.index(room_of(name_of(path)))
    ]
    assert against == []


def test_no_modules_import_each_other_in_a_circle():
    arrows = {name_of(path): imports_of(path) for path in MODULES}
    while leaves := [name for name, imported in arrows.items() if not imported & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert arrows == {}


def test_models_know_no_files_and_evaluation_knows_no_model():
    for path in MODULES:
        rooms = {room_of(name) for name in imports_of(path)}
        if room_of(name_of(path)) == "models":
            assert rooms <= {"models", "errors"}
        if room_of(name_of(path)) == "evaluation":
            assert "models" not in rooms


def test_the_package_needs_nothing_that_only_a_checkout_has():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module.partition(".")[0] not in {"tools", "benchmarks", "tests"}


def test_no_name_means_two_things():
    places = defaultdict(set)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    places[name].add(name_of(path))
                case ast.Assign(targets=[ast.Name(id=name)]):
                    places[name].add(name_of(path))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name[0] != "_"} == {}


def outline(value: object) -> str:
    """Parameters of a callable with their defaults, without annotations."""
    signature = inspect.signature(value)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def public_interface() -> dict[str, str]:
    """Public names, and the public methods of classes among them, with their parameters."""
    found = {}
    for name in lungseg_utils.__all__:
        value = getattr(lungseg_utils, name)
        if callable(value):
            found[name] = outline(value)
        for member, raw in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(raw, "__func__", raw)
            if member[0] != "_" and inspect.isfunction(function):
                found[f"{name}.{member}"] = outline(function)
            elif member[0] != "_" and isinstance(raw, property):
                found[f"{name}.{member}"] = "property"
        if dataclasses.is_dataclass(value):
            derived = [each.name for each in dataclasses.fields(value) if not each.init]
            found |= {f"{name}.{each}": "property" for each in derived}
    return found


def test_public_names_keep_their_arguments():
    """What users call; a new name is added to the list, none is taken away."""
    listed = json.loads((REPOSITORY / "tests" / "expected" / "public_interface.json").read_text())
    assert public_interface() == listed


def test_the_way_of_one_xray_is_short(tmp_path):
    ways = stages(tmp_path)
    assert len(ways["fetch a zip"].modules) <= 7
    assert len(ways["prepare"].modules) <= 7
    assert len(ways["segment a film"].modules) <= 7
    for way in ways.values():
        assert max(way.opened.values()) == 1
    # An X-ray and the masks of its two lungs, or the one of both.
    images = len(ways["fetch a zip"].opened)
    assert 2 * CASES <= images <= 3 * CASES
    assert [len(way.decoded) for way in ways.values()] == [images, images, 1]
