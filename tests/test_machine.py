"""The scripts that `make` runs before anything is installed, and what the Makefile asks of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FIND_PYTHON = REPOSITORY / ".ci" / "find_python"


@pytest.fixture
def check_machine():
    specification = importlib.util.spec_from_file_location(
        "check_machine", REPOSITORY / ".ci" / "check_machine.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Machine:
    """A folder of programs in place of PATH, and one of pyenv's versions."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.pyenv = folder / "bin", folder / "pyenv"
        self.programs.mkdir()

    def add_python(self, path: Path, version: tuple[int, int] | None) -> Path:
        """Write a program that claims a version; None: one that does not start."""
        path.parent.mkdir(parents=True, exist_ok=True)
        run = f'exec {sys.executable} -c "import sys; sys.version_info = {version}; $2"'
        path.write_text("#!/bin/sh\n" + (run if version else "exit 127") + "\n")
        path.chmod(0o755)
        return path

    def find(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {"PATH": str(self.programs), "PYENV_ROOT": str(self.pyenv), "HOME": "/none"}
        command = ["/bin/sh", FIND_PYTHON, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_python_3_13_on_the_path_comes_first(machine):
    machine.add_python(machine.programs / "python3", (3, 12))
    wanted = machine.add_python(machine.programs / "python3.13", (3, 13))
    assert machine.find().stdout.strip() == str(wanted)


@pytest.mark.parametrize("other", [(3, 10), (3, 11), (3, 14)])
def test_without_3_13_comes_3_12_and_then_3_11_whatever_python3_is(machine, other):
    machine.add_python(machine.programs / "python3", other)
    older = machine.add_python(machine.programs / "python3.11", (3, 11))
    assert machine.find().stdout.strip() == str(older)
    newer = machine.add_python(machine.pyenv / "versions" / "3.12.9" / "bin" / "python", (3, 12))
    assert machine.find().stdout.strip() == str(newer)


def test_only_a_newer_python_is_refused_with_its_version_named(machine):
    machine.add_python(machine.programs / "python3", (3, 14))
    done = machine.find()
    assert (done.returncode, done.stdout) == (1, "")
    assert "Received: python3 is Python 3.14" in done.stderr
    assert "TensorFlow" in done.stderr


def test_the_python_asked_for_wins_or_is_refused(machine):
    machine.add_python(machine.programs / "python3.13", (3, 13))
    mine = machine.add_python(machine.programs / "mine", (3, 12))
    old = machine.add_python(machine.programs / "old", (3, 10))
    assert machine.find(str(mine)).stdout.strip() == str(mine)
    assert machine.find("mine").stdout.strip() == str(mine)
    for refused in (str(old), "absent"):
        done = machine.find(refused)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"Received: {refused}" in done.stderr


def test_what_is_missing_is_named_with_its_debian_package(check_machine, monkeypatch, capsys):
    monkeypatch.setattr(check_machine, "loads", lambda library: False)
    monkeypatch.setattr(check_machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(check_machine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check_machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(check_machine, "debian_package", lambda package: package)
    assert check_machine.main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("apt-get install python3-venv git libgl1 libglib2.0-0")


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


def test_demo_and_test_share_one_environment_and_a_named_python_gets_its_own_stamp():
    for target in ("demo", "test"):
        plain = make(target, "--always-make").stdout
        assert '.ci/find_python ""' in plain
        assert "touch .venv/ready\n" in plain
    named = make("demo", "--always-make", "PYTHON=/opt/python3.12").stdout
    assert '.ci/find_python "/opt/python3.12"' in named
    assert "touch .venv/ready-_opt_python3.12\n" in named


def test_setting_the_repository_s_address_installs_nothing(tmp_path):
    commands = make("set-repository", "--always-make", "URL=https://github.com/a/b").stdout
    assert "tools.set_repository" in commands
    assert "pip" not in commands
    # -S: without the installed libraries.
    command = [sys.executable, "-S", "-m", "tools.set_repository", "--help"]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)


def test_continuous_integration_is_make_test():
    assert (REPOSITORY / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
