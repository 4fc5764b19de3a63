"""The cells of a notebook, read without running anything."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell; `type` is its annotation, or the type of its default."""

    name: str
    type: str
    default: Any


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook in the form that the rules look at."""

    kind: str
    source: str
    tags: tuple[str, ...]
    has_output: bool


def find_notebooks(folder: Path) -> list[Path]:
    """Every notebook under `folder`; names with a leading `_` or `.` (templates, checkpoints) are left out."""
    return sorted(
        path
        for path in folder.rglob("*.ipynb")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
    )


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook.

    Raises
    ------
    ValueError
        When the file isn't a notebook.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise ValueError("not a notebook: it has no list of cells")
    return [
        Cell(
            kind=str(cell.get("cell_type")),
            source="".join(cell.get("source", "")),
            tags=tuple(cell.get("metadata", {}).get("tags", ())),
            has_output=bool(cell.get("outputs")) or cell.get("execution_count") is not None,
        )
        for cell in document["cells"]
    ]


def heading(cells: Sequence[Cell]) -> tuple[str, str]:
    """The title, and the first paragraph under it."""
    for cell in cells:
        if cell.kind == "markdown" and cell.source.startswith("# "):
            title, _, rest = cell.source.partition("\n")
            return title[2:].strip(), " ".join(rest.strip().split("\n\n")[0].split())
    return "", ""


def parameters(cell: Cell) -> dict[str, Parameter]:
    """What a `parameters` cell declares, by name; read as code, never run.

    Raises
    ------
    ValueError
        When it holds anything else.
    """
    try:
        return {parameter.name: parameter for parameter in map(_parameter, ast.parse(cell.source).body)}
    except (SyntaxError, ValueError):
        raise ValueError("a parameters cell holds only lines as `name: type = literal  # meaning`") from None


def _parameter(line: ast.stmt) -> Parameter:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
        return Parameter(line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value))
    if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
        default = ast.literal_eval(line.value)
        return Parameter(line.targets[0].id, type(default).__name__, default)
    raise ValueError
