"""Notebooks written for a test."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

PARAMETERS = 'run_date: str = ""  # logical UTC day\ncut: int = 0  # cut\npublish: bool = False  # commit'
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(
    path: Path,
    front: str | None = "schedule: batch",
    *,
    parameters: str = PARAMETERS,
    code: str = "pass",
    at: str = "Write",
) -> Path:
    """A job as it should be, with `code` in its section `at`; no job without `front`."""
    tagged = [("job", new_raw_cell(front))] if front is not None else []
    cells = [cell for _, cell in tagged] + [new_markdown_cell("# A title\n\nWhat and why.\n\nMore.")]
    cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for tag, cell in tagged:
        cell.metadata["tags"] = [tag]
    for section in ("Read", "Transform", "Write", "Check", "Result"):
        cells += [new_markdown_cell(f"## {section}"), new_code_cell(code if section == at else "pass")]
    return save(path, cells)


def save(path: Path, cells: list[nbformat.NotebookNode]) -> Path:
    """A notebook of these cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path
