"""Every example of the README runs, as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_cases


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme(repository) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working directory with what the examples name: an X-ray and its mask."""
    folder = tmp_path_factory.mktemp("reader")
    cases = tiny_cases(4, size=64)
    Image.fromarray(cases.images[0]).save(folder / "chest.png")
    Image.fromarray(cases.masks[0] * 255).save(folder / "chest_mask.png")
    return folder


def run(command: list[str], folder: Path, repository: Path) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result


def test_papermill_example_runs(readme, folder, repository):
    command = next(block for block in blocks(readme, "bash") if block.startswith("papermill"))
    words = shlex.split(command.replace("notebooks/", f"{repository}/notebooks/"))

    run([sys.executable, "-m", *words], folder, repository)

    assert (folder / "executed_02.ipynb").is_file()
    assert (folder / "my_workspace" / "downloads" / "source.json").is_file()


@pytest.fixture(scope="module")
def prepared(readme, folder, repository) -> Path:
    """What the example of the series leaves in `my_workspace`, its trainings left out."""
    [command] = [block for block in blocks(readme, "bash") if "tools.series" in block]
    python, *words = shlex.split(command.replace("recipes/", f"{repository}/recipes/"))
    assert python == "python"
    series = run([sys.executable, *words, "--only", "01,02,03"], folder, repository)
    assert "03_preprocess_and_stitch … done in" in series.stdout
    return folder / "my_workspace" / "prepared"


def test_the_series_example_prepares_what_the_package_examples_load(readme, prepared):
    sizes = set(re.findall(r"load_prepared\(workspace, (\d+)\)", readme))
    assert {path.name for path in prepared.iterdir()} == sizes == {"64", "128"}


def test_package_examples_run_one_after_the_other(readme, folder, repository, prepared):
    script = folder / "examples.py"
    script.write_text("\n".join(blocks(readme, "python")), encoding="utf-8")

    result = run([sys.executable, str(script)], folder, repository)

    assert "(256, 256, 1) float32 (256, 256)" in result.stdout
    assert "val_dice" in result.stdout and "hd95_px" in result.stdout
    assert Image.open(folder / "chest_lungs.png").size == Image.open(folder / "chest.png").size
    assert (folder / "my_unet.onnx").stat().st_size > 1000


def test_the_command_that_the_readme_shows_first_runs(readme, folder, repository):
    install, command = blocks(readme, "bash")[0].splitlines()
    assert install.startswith('pip install "lungseg-utils[dicom] @ git+')
    (folder / "films").mkdir()
    Image.open(folder / "chest.png").resize((512, 512)).save(folder / "films" / "chest.png")
    name, *words = shlex.split(command)
    assert name == "lungseg"
    run([sys.executable, "-m", "lungseg_utils", *words], folder, repository)
    written = {path.parent.name for path in (folder / "out").rglob("*chest*")}
    # The film is no DICOM file, of which a segmentation could be made.
    assert written == {"masks", "labels", "overlays", "gallery"}


def test_make_targets_and_recipes_that_the_readme_names_exist(readme, repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for path in re.findall(r"recipes/[a-z-]+\.yaml", readme):
        assert (repository / path).is_file(), path
