"""What is recorded of the machine's software, and of the code that ran."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from lungseg_utils.environment import git_commit, versions


def test_opencv_is_found_under_either_name(monkeypatch):
    installed = {"opencv-python-headless": "5.0.0", "numpy": "2.1.3"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions()
    assert found.pop("python")
    assert found == installed


def test_the_commit_says_where_code_was_changed_since(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    checkout = Path(tmp_path).resolve()
    assert git_commit(checkout) == ""
    git("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert git_commit(checkout) == commit
    (tmp_path / "result.txt").write_text("beside the code\n")
    assert git_commit(checkout) == commit
    (tmp_path / "code.py").write_text("2\n")
    assert git_commit(checkout) == f"{commit}-dirty"
    (tmp_path / "installed").mkdir()
    assert git_commit(checkout / "installed") == ""
