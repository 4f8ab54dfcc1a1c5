"""The package as others get it: built as a wheel and installed elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lungseg_utils.environment import EXTRAS
from lungseg_utils.segment.network import CROSS_SET

LOAD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import lungseg_utils
from lungseg_utils.manifest import count_splits, default_manifest_path, load_manifest
from lungseg_utils.segment.network import WEIGHTS
cases = load_manifest()
terms = WEIGHTS / "LICENSE"
assert terms.is_file()
places = [lungseg_utils.__file__, str(default_manifest_path()), str(terms)]
print(json.dumps([places, len(cases), count_splits(cases), cases[0].image_id]))
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    done = subprocess.run([*build, repository], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel, repository):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = repository / "lungseg_utils"
    modules = {f"lungseg_utils/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert modules <= names
    assert "lungseg_utils/data_manifest.csv" in names
    weights = {path.name for path in (package / "weights").iterdir()}
    of_the_benchmark = {f"{name}.onnx" for name in CROSS_SET}
    assert {"LICENSE", "unet.onnx", *of_the_benchmark} <= weights
    held = {name.removeprefix("lungseg_utils/weights/") for name in names if "/weights/" in name}
    assert weights - held == of_the_benchmark
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lungseg_utils"}


def metadata_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        return archive.read(metadata).decode().splitlines()


def test_the_wheel_names_the_terms_of_code_and_weights_and_holds_both(wheel, repository):
    lines = metadata_of(wheel)
    assert "License-Expression: MIT AND LicenseRef-lungseg-weights" in lines
    terms = ["LICENSE", "lungseg_utils/weights/LICENSE"]
    assert [line for line in lines if line.startswith("License-File")] == [
        f"License-File: {name}" for name in terms
    ]
    with zipfile.ZipFile(wheel) as archive:
        for name in terms:
            (held,) = [x for x in archive.namelist() if x.endswith(f".dist-info/licenses/{name}")]
            assert archive.read(held) == (repository / name).read_bytes()


def test_its_dependencies_are_those_of_requirements_txt(wheel, repository):
    lines = metadata_of(wheel)
    listed = (repository / "requirements.txt").read_text().splitlines()
    wanted = {line.partition("#")[0].strip().lower() for line in listed} - {""}
    required = [
        line.removeprefix("Requires-Dist: ").lower() for line in lines if "Requires-" in line
    ]
    plain = {line for line in required if "extra" not in line} - {"requires-python: >=3.11"}
    train = {line.partition(";")[0] for line in required if "extra == 'train'" in line}
    assert not plain & train and plain | train == wanted
    for extra, packages in EXTRAS.items():
        needed = {line.partition(";")[0] for line in required if f"extra == '{extra}'" in line}
        assert needed == set(packages)
    assert not [line for line in plain if re.match("tensorflow|keras|matplotlib|scipy", line)]
    assert "Requires-Python: >=3.11" in lines


def test_installed_elsewhere_it_loads_its_own_manifest(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    pip += ["--disable-pip-version-check", "--target", site]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    # Isolated (-I): neither PYTHONPATH nor the working directory can bring the checkout in.
    command = [sys.executable, "-I", "-c", LOAD, site]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    places, count, splits, first = json.loads(done.stdout)
    assert [Path(place).is_relative_to(site) for place in places] == [True, True, True]
    assert count == 800
    assert splits == {"train": 498, "val": 58, "test": 141, "excluded": 7, "unlabelled": 96}
    assert first == "CHNCXR_0001_0"


def test_the_version_is_the_same_everywhere(repository):
    import tomllib

    import yaml

    import lungseg_utils

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert project["version"] == lungseg_utils.__version__ == str(citation["version"])
