from __future__ import annotations

import importlib.metadata

from lungseg_utils.environment import versions


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
