"""The text of the cells marked `# NBVAL_CHECK_OUTPUT`, and the files that it is compared with.

Rewrite the files after a deliberate change, from the executed notebooks of any run of the series,
and read the difference before committing it:

    make demo
    .venv/bin/python tests/checked_outputs.py workspace/demo/executed
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXPECTED = Path(__file__).resolve().parent / "expected"
MARK = "# NBVAL_CHECK_OUTPUT"


def checked_text(executed: Path) -> str:
    """Return what the marked cells of an executed notebook printed, a blank line between cells."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    marked = [cell for cell in cells if "".join(cell["source"]).startswith(MARK)]
    return "\n".join(map(_printed, marked))


def _printed(cell: dict) -> str:
    """On a busy machine it comes in several outputs."""
    parts = [output for output in cell["outputs"] if output.get("name") == "stdout"]
    return "".join(line for output in parts for line in output["text"])


if __name__ == "__main__":
    for notebook in sorted(Path(sys.argv[1]).glob("[0-9][0-9]_*.ipynb")):
        path = EXPECTED / f"{notebook.stem}.txt"
        path.write_text(checked_text(notebook), encoding="utf-8")
        print("wrote", path)
