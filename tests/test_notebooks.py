"""Rules that every notebook keeps, and that the recipes keep towards them; nothing is run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from colab import clone_of_working_tree, with_pip

from lungseg_utils.files.records import read_json
from lungseg_utils.manifest import SOURCES
from lungseg_utils.models.registry import model_options
from lungseg_utils.preparation.augmentation import get_augmentation
from lungseg_utils.segment.network import INDEX, SHIPPED, WEIGHTS
from lungseg_utils.training.config import TrainingConfig
from tools.parameters import read_parameters
from tools.plan import apply_recipe, find_steps, read_recipe

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = [
    "01_mount_drive",
    "02_download_and_pair",
    "03_preprocess_and_stitch",
    "04_train_unet",
    "05_train_unetpp",
    "06_train_pix2pix",
    "07_evaluate",
    "08_segment_your_own",
    "09_clean_secondary_dataset",
]
TRAINING = NAMES[3:6]
NAME = "lung-segmentation"
COMMON = ["WORKSPACE", "REPOSITORY", "DRIVE"]
# Where a run is kept and how it is watched: no part of the training that a recipe describes.
NOT_IN_REFERENCE = {*COMMON, "OVERWRITE", "TENSORBOARD"}
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("name", NAMES)


def load(name: str) -> dict:
    return json.loads((REPOSITORY / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in load(name)["cells"] if cell["cell_type"] == "code"]


def test_there_are_nine_in_order():
    found = [path.stem for path in sorted((REPOSITORY / "notebooks").iterdir())]
    assert [name for name in found if name != ".ipynb_checkpoints"] == NAMES


@each_notebook
def test_no_outputs_no_counts_no_traces_of_a_run(name):
    notebook = load(name)
    cells = notebook["cells"]
    assert all(set(cell["metadata"]) <= {"tags", "cellView"} for cell in cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert {(len(cell["outputs"]), cell["execution_count"]) for cell in code} == {(0, None)}
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert set(notebook["metadata"]) <= {"accelerator", "colab", "kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    gpu = [notebook["metadata"].get(key) for key in ("accelerator", "colab")]
    assert (gpu[0], (gpu[1] or {}).get("gpuType")) == (
        ("GPU", "T4") if name in TRAINING else (None, None)
    )


@each_notebook
def test_every_parameter_is_a_literal_on_one_line_of_colab_s_form(name):
    parameters = read_parameters(REPOSITORY / "notebooks" / f"{name}.ipynb")
    (cell,) = [
        cell for cell in load(name)["cells"] if "parameters" in cell["metadata"].get("tags", [])
    ]
    lines = "".join(cell["source"]).splitlines()
    assert [line.partition(" = ")[0] for line in lines] == list(parameters)
    assert list(parameters)[:3] == COMMON
    assert (parameters["WORKSPACE"], parameters["DRIVE"]) == ("", "/content/drive")
    forms = {str: '"string"', int: '"integer"', float: '"number"', bool: '"boolean"'}
    for line, value in zip(lines, parameters.values(), strict=True):
        match = re.search(r"  # @param (?P<form>\{type:(?P<type>\"\w+\")\}|\[.*?\])", line)
        assert match, line
        if match["type"]:
            assert match["type"] == forms[type(value)], line
        else:
            assert value in ast.literal_eval(match["form"]), line


@each_notebook
def test_all_open_alike(name):
    cells = load(name)["cells"]
    kinds = "".join(cell["cell_type"][0] for cell in cells[:6])
    assert kinds == "mmcmcc"
    title, form, parameters, setting_up, bootstrap, versions = (
        "".join(cell["source"]) for cell in cells[:6]
    )
    parts = (f"# {name[:2]} · ", "**What it does.** ", "**Needs.** ", "**Produces.** ")
    places = [title.find(part) for part in parts]
    assert places == sorted(places) and places[0] == 0
    badge = r"\[!\[Open in Colab\]\(https://colab\.\S+/colab-badge\.svg\)\]"
    assert re.search(badge + rf"\(https://colab\.\S+/blob/main/notebooks/{name}\.ipynb\)", title)
    assert form.startswith("## Parameters") and setting_up.startswith("## Set up")
    assert cells[2]["metadata"]["tags"] == ["parameters"] and parameters.startswith("WORKSPACE")
    assert len(bootstrap.splitlines()) <= 9
    assert bootstrap == "".join(load(NAMES[0])["cells"][4]["source"])
    assert "show_versions()" in versions


# Where a copy of the package lies, seen from the notebook's working directory; "": nowhere.
@pytest.mark.parametrize("place", [".", "..", NAME, f"../drive/MyDrive/{NAME}", ""])
def test_the_bootstrap_finds_a_copy_of_the_package_or_clones_it(place, tmp_path):
    here = tmp_path / "content"
    package = (here / place if place else tmp_path / "checkout") / "lungseg_utils"
    for folder in (here, package):
        folder.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    address = f"file:///nowhere/{NAME}"
    if not place:
        address, package = (
            clone_of_working_tree(package.parent, tmp_path),
            here / NAME / package.name,
        )
    code = (
        f"REPOSITORY, DRIVE = {address!r}, {str(tmp_path / 'drive')!r}\n{code_cells(NAMES[0])[1]}"
    )
    code += "\nimport lungseg_utils\nprint(lungseg_utils.__path__[0])"
    # Without the installed libraries, among which the package may be.
    command = [sys.executable, "-E", "-S", "-c", code]
    options = {"capture_output": True, "text": True, "check": True}
    done = subprocess.run(command, cwd=here, env=with_pip(), **options)
    assert Path(done.stdout.strip()).resolve() == package.resolve()


@each_notebook
def test_all_end_alike_with_exercises_and_what_to_expect(name):
    markdown = ["".join(c["source"]) for c in load(name)["cells"] if c["cell_type"] == "markdown"]
    assert sum(text.startswith("# ") for text in markdown) == 1
    exercises, closing = markdown[-2:]
    assert exercises.startswith("## Try it yourself\n")
    each = re.findall(r"^\d\. \*.+\*.*$", exercises, flags=re.MULTILINE)
    assert len(each) in (2, 3)
    assert all("Expect" in exercise for exercise in each)
    assert closing.startswith("**That was" if name == NAMES[-1] else "**Next:**")


@each_notebook
def test_cells_are_short_and_define_nothing(name):
    sources = code_cells(name)
    lengths = [len(source.splitlines()) for source in sources]
    # The first cell is the form of the parameters, a line each.
    assert max(lengths[1:]) <= 25
    assert median(lengths) <= 8
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for source in sources:
        assert not [n.name for n in ast.walk(ast.parse(source)) if isinstance(n, definitions)]


def test_all_nine_are_short_together():
    lines = [line for name in NAMES for cell in code_cells(name) for line in cell.splitlines()]
    assert len([line for line in lines if line.strip()]) <= 740


@each_notebook
def test_what_nbval_compares_is_marked_on_the_cell_s_first_line(name):
    sources = code_cells(name)
    marked = [source for source in sources if "NBVAL_CHECK_OUTPUT" in source]
    assert marked
    assert all(source.startswith("# NBVAL_CHECK_OUTPUT\n") for source in marked)
    assert not [source for source in sources if "NBVAL_SKIP" in source or "RAISES" in source]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_name_known_notebooks_and_parameters_of_the_right_type(recipe):
    sections = read_recipe(recipe)
    planned = {step.name: step for step in apply_recipe(find_steps(), sections)}
    for section, parameters in sections.items():
        # A number such as 1e-4, which YAML takes for text, is refused above.
        assert {name: planned[section].parameters[name] for name in parameters} == parameters


@pytest.mark.parametrize("name", TRAINING)
def test_the_recipes_of_a_training_name_its_parameters_and_defaults(name):
    defaults = read_parameters(REPOSITORY / "notebooks" / f"{name}.ipynb")
    defaults = {key: value for key, value in defaults.items() if key not in NOT_IN_REFERENCE}
    weights = name.rpartition("_")[2]
    reference = read_recipe(REPOSITORY / "recipes" / f"reference-{weights}.yaml")
    assert {section: list(reference[section]) for section in reference} == {name: list(defaults)}
    shipped = recipe_of(weights)
    # The notebook trains in what its machine is fastest in, the recipe in what was measured.
    for values in (shipped, defaults):
        values.pop("PRECISION", None)
    assert {key: shipped[key] for key in shipped if key not in NOT_IN_REFERENCE} == defaults


def recipe_of(weights: str) -> dict:
    """The training's section of a shipped network's recipe."""
    sections = read_recipe(REPOSITORY / "recipes" / f"{weights}.yaml")
    return next(values for name, values in sections.items() if name in TRAINING)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_recipes_are_what_the_shipped_weights_were_trained_with(name):
    entry, recipe = read_json(WEIGHTS / INDEX)[name], recipe_of(name)
    config = TrainingConfig.from_dict(entry["config"]).to_dict()
    augmentation = get_augmentation(recipe.pop("AUGMENTATION")).to_dict()
    jitter = recipe.pop("JITTER", 0)
    assert config["augmentation"] == {**augmentation, "jitter": jitter}
    source = recipe.pop("TRAIN_SOURCE", "all")
    assert entry["sources"] == (list(SOURCES) if source == "all" else [source])
    assert recipe.pop("RUN_NAME") == name
    if not recipe["HALF_SIZE_EPOCHS"]:
        recipe.pop("HALF_SIZE_LEARNING_RATE")
    # An option that came after the training had its default then.
    options = {**model_options(config["model"]), **config["model_options"]}
    encoder, _, weights = recipe.pop("ENCODER").partition(" ")
    assert (options["encoder"], options["encoder_weights"]) == (encoder, weights or None)
    recorded = {**config, **options, **config["preprocessing"]}
    assert {key: recorded.get(key.lower()) for key in recipe} == recipe


@pytest.mark.parametrize("name", TRAINING)
def test_the_series_on_real_data_trains_the_shipped_networks(name):
    weights = name.rpartition("_")[2]
    assert read_recipe(REPOSITORY / "recipes" / "real-cpu.yaml")[name] == recipe_of(weights)


@pytest.mark.parametrize("recipe", ["demo", "test", "real-cpu"])
def test_recipes_prepare_the_sizes_that_they_train_and_score(recipe):
    planned = apply_recipe(find_steps(), read_recipe(REPOSITORY / "recipes" / f"{recipe}.yaml"))
    values = {step.name: step.parameters for step in planned}
    preparation = values["03_preprocess_and_stitch"]
    sizes = {preparation["SIZE"], preparation["EVAL_SIZE"]}
    assert {values[name]["SIZE"] for name in TRAINING} <= sizes
    assert values["06_train_pix2pix"]["SIZE"] == preparation["STITCH_SIZE"]
    assert values["07_evaluate"]["EVAL_SIZE"] == preparation["EVAL_SIZE"]
