from __future__ import annotations

import pytest
from fake_notebooks import write_fake_notebook

from lungseg_utils.errors import SeriesError
from tools.parameters import check_value, parse_value, read_parameters

MANY_TYPES = """\
WORKSPACE = ""  # @param {type:"string"}
# A comment of its own line.
ADDRESS = "file:///a#b"  # @param {type:"string"}
EPOCHS = 3  # @param {type:"integer"}
RATE = -1e-4  # @param {type:"number"}
CLAHE = False  # @param {type:"boolean"}
RUNS: str = "unet,unetpp"  # @param
"""


def test_names_defaults_and_types_come_from_the_syntax_tree(tmp_path):
    path = write_fake_notebook(tmp_path, "01_a", MANY_TYPES, "OTHER = 5")
    assert read_parameters(path) == {
        "WORKSPACE": "",
        "ADDRESS": "file:///a#b",
        "EPOCHS": 3,
        "RATE": -1e-4,
        "CLAHE": False,
        "RUNS": "unet,unetpp",
    }
    assert isinstance(read_parameters(path)["CLAHE"], bool)


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "SIZE = 2 * 128",
        "A = B = 1",
        "A, B = 1, 2",
        "SIZE += 1",
        "SIZE: int",
        "PATH = str('x')",
        "SIZE =",
        "print(1)",
    ],
)
def test_a_parameters_cell_with_more_than_literals_is_refused(tmp_path, source):
    path = write_fake_notebook(tmp_path, "04_bad", f"EPOCHS = 3\n{source}")
    with pytest.raises(SeriesError, match=r"(?s)literals.*04_bad"):
        read_parameters(path)


def test_not_exactly_one_tagged_cell_is_refused(tmp_path):
    untagged = write_fake_notebook(tmp_path, "01_none", None, "EPOCHS = 3")
    with pytest.raises(SeriesError, match=r"(?s)exactly one.*01_none.*with 0"):
        read_parameters(untagged)
    twice = write_fake_notebook(tmp_path, "02_two", "EPOCHS = 3", "SIZE = 5")
    twice.write_text(
        twice.read_text().replace('"metadata": {},', '"metadata": {"tags": ["parameters"]},', 1)
    )
    with pytest.raises(SeriesError, match="with 2"):
        read_parameters(twice)


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "01_x.ipynb").write_text("not json")
    with pytest.raises(SeriesError, match=r"01_x\.ipynb"):
        read_parameters(tmp_path / "01_x.ipynb")


def test_an_integer_is_accepted_for_a_float_and_becomes_one():
    value = check_value("RATE", 1, 0.5, "04")
    assert value == 1.0
    assert type(value) is float


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
        ("7", 3, 7),
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


@pytest.mark.parametrize(("text", "default"), [("x", 3), ("1.5", 3), ("1", True), ("[1", 0.5)])
def test_text_of_another_type_is_refused(text, default):
    with pytest.raises(SeriesError, match="NAME of 04"):
        parse_value("NAME", text, default, "04")
