"""The Jupyter kernel of the series: the Python that runs the series, and no other."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungseg_utils.files.records import write_json

KERNEL_NAME = "lungseg-series"

# Libraries write notes on the machine to the kernel's standard error; a cell shows its own errors
# in another way. They go to a file, and the terminal keeps to the steps.
_START = """
import os, sys
os.dup2(os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


@contextmanager
def own_kernel(log: Path) -> Iterator[str]:
    """Register the running interpreter as a kernel for as long as the context lasts.

    A kernel called `python3` may be registered for the user and start another Python; a
    specification of our own, found first, cannot be taken for it.

    Args:
        log: File that gets what the kernels write to standard error.

    Yields:
        Name of the kernel.
    """
    with tempfile.TemporaryDirectory(prefix="lungseg-kernel-") as folder:
        write_json(Path(folder) / "kernels" / KERNEL_NAME / "kernel.json", _specification(log))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = _joined(folder, before)
        try:
            yield KERNEL_NAME
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def _specification(log: Path) -> dict:
    start = [sys.executable, "-c", _START, str(log.resolve()), "-f", "{connection_file}"]
    return {
        # The kernel's own log holds notes on its transport; errors of cells come another way.
        "argv": [*start, "--log-level=CRITICAL"],
        "display_name": "Python of the series",
        "language": "python",
        "env": kernel_environment(),
    }


def kernel_environment() -> dict[str, str]:
    """Environment variables that the kernels get beside those of the running process."""
    # 2 hides TensorFlow's notes on its own build; 3 also its complaint that there is no GPU driver.
    quiet = "2" if Path("/proc/driver/nvidia").exists() else "3"
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", quiet),
        # A warning of the debugger on Python's frozen modules, once a kernel.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        environment["PYTHONPATH"] = _joined(str(checkout), os.environ.get("PYTHONPATH"))
    return environment


def _joined(first: str, rest: str | None) -> str:
    return f"{first}{os.pathsep}{rest}" if rest else first
