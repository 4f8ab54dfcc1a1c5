from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lungseg_utils.errors import LungsegError
from tools.parameters import read_parameters
from tools.set_repository import (
    current_address,
    files_with_address,
    set_repository,
)

NEW = "https://github.com/some-one/lungs.of_mine"


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    """The files that name the address, in a folder of their own."""
    for path in files_with_address(repository):
        target = tmp_path / path.relative_to(repository)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


def addresses(root: Path) -> dict[str, str]:
    """Every place at which the address stands, read independently of the command."""
    found = {}
    for path in [root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))]:
        badges = r"colab\.research\.google\.com/github/(.+?)/blob/main/notebooks/(\w+\.ipynb)"
        for owner_and_name, notebook in re.findall(badges, path.read_text(encoding="utf-8")):
            found[f"badge of {notebook} in {path.name}"] = f"https://github.com/{owner_and_name}"
        if path.suffix == ".ipynb":
            found[f"REPOSITORY of {path.name}"] = read_parameters(path)["REPOSITORY"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found["CITATION.cff"] = citation["repository-code"]
    found |= {f"pyproject {name}": address for name, address in project["urls"].items()}
    (site,) = re.findall(r"https://(\S+)\.github\.io/([\w.-]+)/", (root / "README.md").read_text())
    found["page"] = "https://github.com/" + "/".join(site)
    (clone,) = re.findall(r"git clone (\S+)", (root / "CONTRIBUTING.md").read_text())
    return found | {"CONTRIBUTING.md": clone}


def test_all_places_agree(repository):
    found = addresses(repository)
    assert len([place for place in found if place.startswith("badge")]) == 2 * 9
    assert len([place for place in found if place.startswith("REPOSITORY")]) == 9
    assert set(found.values()) == {current_address(repository)}


def test_the_command_changes_every_place(copy):
    old = current_address(copy)
    before = {path: path.read_bytes() for path in files_with_address(copy)}
    changed = set_repository(NEW, copy)
    assert changed == list(before)
    assert set(addresses(copy).values()) == {NEW}
    for path, content in before.items():
        text = path.read_text(encoding="utf-8")
        assert old.removeprefix("https://") not in text
        # Nothing else changed, to the byte: put the old address back and compare.
        new_pair, old_pair = (url.removeprefix("https://github.com/") for url in (NEW, old))
        text = text.replace(new_pair, old_pair)
        sites = ("{}.github.io/{}".format(*pair.split("/")) for pair in (new_pair, old_pair))
        assert text.replace(*sites).encode() == content


def test_addresses_that_only_begin_alike_stay(copy):
    readme, old = copy / "README.md", current_address(copy)
    others = f"{old}-fork {old}2 https://github.com/other/project"
    readme.write_text(f"{old}. {old}/issues {old}.git {others}\n", encoding="utf-8")
    set_repository("https://github.com/me/lungs", copy)
    new = "https://github.com/me/lungs"
    assert readme.read_text(encoding="utf-8") == f"{new}. {new}/issues {new}.git {others}\n"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "me/lungs",
        "github.com/me/lungs",
        "http://github.com/me/lungs",
        "https://gitlab.com/me/lungs",
        "https://github.com/me",
        "https://github.com/me/",
        "https://github.com/me/lungs/tree/main",
        "https://github.com/me/..",
        "https://github.com/-me/lungs",
        "https://github.com/me-/lungs",
        "https://github.com/me/lu ngs",
        'https://github.com/me/lungs"',
        "https://github.com/më/lungs",
        "git@github.com:me/lungs.git",
    ],
)
def test_nonsense_is_refused_and_changes_nothing(copy, address):
    before = {path: path.read_bytes() for path in files_with_address(copy)}
    with pytest.raises(LungsegError, match=r"github\.com/OWNER/NAME"):
        set_repository(address, copy)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("length", range(35, 60, 3))
def test_notebooks_stay_formatted_and_on_one_line_whatever_the_length(copy, repository, length):
    address = f"https://github.com/me/{'x' * length}"
    set_repository(address, copy)
    check = [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", copy / "notebooks"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    set_repository(current_address(repository), copy)
    for path in files_with_address(repository):
        assert (copy / path.relative_to(repository)).read_bytes() == path.read_bytes()


def test_the_command_line_in_a_copy_of_the_package(copy, repository):
    """The command finds its own checkout, whatever the working directory."""
    for name in ("lungseg_utils", "tools"):
        shutil.copytree(repository / name, copy / name)
    script = "import sys; sys.path[:0] = [sys.argv.pop(1)]; import runpy\n"
    script += "runpy.run_module('tools.set_repository', run_name='__main__')"

    def run(address: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-I", "-c", script, str(copy), address]
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)

    refused, done, again = run("lungs"), run(NEW), run(NEW)
    assert (refused.returncode, done.returncode, again.returncode) == (2, 0, 0)
    assert "Received: 'lungs'" in refused.stderr
    assert len(done.stdout.splitlines()) == len(files_with_address(copy))
    assert again.stdout == "The address stands everywhere already.\n"
    assert json.loads((copy / "notebooks" / "01_mount_drive.ipynb").read_text())["cells"]
    assert set(addresses(copy).values()) == {NEW}
