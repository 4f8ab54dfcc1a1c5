"""Small notebooks that stand in for the series."""

from __future__ import annotations

from pathlib import Path

import nbformat

COMMON = 'WORKSPACE = ""  # @param {type:"string"}\n'


def write_fake_notebook(folder: Path, name: str, parameters: str | None, *cells: str) -> Path:
    """Write a notebook of a tagged cell of parameters and further cells of code."""
    notebook = nbformat.v4.new_notebook()
    if parameters is not None:
        tagged = nbformat.v4.new_code_cell(parameters)
        tagged.metadata["tags"] = ["parameters"]
        notebook.cells.append(tagged)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def write_fake_series(folder: Path) -> Path:
    """Write a series of two: the first leaves a file, the second reads it, adds and can fail."""
    write_fake_notebook(
        folder,
        "01_first",
        COMMON + 'SOURCE = "none # at all"  # @param ["none # at all", "phantom"]\n',
        "import sys\nfrom pathlib import Path\nimport lungseg_utils",
        "Path(WORKSPACE, 'first.txt').write_text(SOURCE)",
        "print(sys.executable, Path.cwd(), sep='|')",
    )
    write_fake_notebook(
        folder,
        "02_second",
        COMMON + "EPOCHS = 3  # @param\nRATE = 0.1  # @param\nFLAG = False  # @param\n",
        "from pathlib import Path\ncount = Path(WORKSPACE, 'count.txt')",
        "assert EPOCHS < 10, f'{EPOCHS} epochs are too many'",
        "with count.open('a') as file:\n    file.write(f'{EPOCHS} {RATE!r}\\n')",
    )
    return folder
