from __future__ import annotations

import pytest
from fake_notebooks import write_fake_series

from lungseg_utils.errors import SeriesError
from tools import plan as series_plan
from tools.plan import (
    apply_recipe,
    find_steps,
    notebooks_folder,
    read_recipe,
    recipe_from_texts,
    select_steps,
)


@pytest.fixture
def steps(tmp_path):
    return find_steps(write_fake_series(tmp_path / "notebooks"))


def names(steps):
    return [step.name for step in steps]


def test_steps_are_the_numbered_notebooks_in_order(tmp_path, steps):
    (tmp_path / "notebooks" / "scratch.ipynb").write_text("{}")
    found = find_steps(tmp_path / "notebooks")
    assert names(found) == ["01_first", "02_second"]
    assert found[1].parameters == {"WORKSPACE": "", "EPOCHS": 3, "RATE": 0.1, "FLAG": False}


def test_a_section_wins_over_shared_and_shared_reaches_only_who_knows_the_name(steps):
    recipe = {"shared": {"WORKSPACE": "/w", "EPOCHS": 5}, "02_second": {"EPOCHS": 7, "RATE": 1}}
    first, second = apply_recipe(steps, recipe)
    assert first.overrides == {"WORKSPACE": "/w"}
    assert second.overrides == {"WORKSPACE": "/w", "EPOCHS": 7, "RATE": 1.0}


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
    assert recipe_from_texts(steps, texts) == {
        "01_first": {"WORKSPACE": "/a=b"},
        "02_second": {"WORKSPACE": "/a=b", "EPOCHS": 9, "FLAG": True},
    }


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
        recipe_from_texts(steps, [text])


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


def test_an_installed_package_without_notebooks_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(series_plan, "__file__", str(tmp_path / "lungseg_utils" / "x.py"))
    with pytest.raises(SeriesError, match=r"(?s)installed package has none.*--notebooks"):
        notebooks_folder()
    with pytest.raises(SeriesError, match="01_mount_drive"):
        find_steps(tmp_path)
