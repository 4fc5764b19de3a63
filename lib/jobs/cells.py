"""The cells of a notebook, read without running anything."""

import ast
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.plain import one_line

MOST_BYTES = 32 << 20
"""The largest notebook that is read, since the scheduler reads it often; a larger one has outputs to be cleared."""
LONGEST_PARAMETERS = 20_000
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Parameter:
    """A line of the `parameters` cell; `type` is its annotation, or without one the type of its default."""

    name: str
    type: str
    default: Any


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook, as far as checks look at it."""

    kind: str
    source: str
    tags: tuple[str, ...]
    has_output: bool


def find_notebooks(folder: Path, unread: Callable[[Path, OSError], None] = lambda place, error: None) -> list[Path]:
    """Everything under `folder` that is called `*.ipynb`, but for names with a leading `_` or `.` (templates, checkpoints).

    Links to folders aren't followed. `unread` is called for a folder that can't be listed, and the search goes on; a folder
    that is removed meanwhile is passed over.
    """
    found = []
    folders = [folder]
    while folders:
        place = folders.pop()
        try:
            with os.scandir(place) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(("_", "."))]
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                unread(place, error)
            continue
        found += [Path(entry.path) for entry in shown if entry.name.endswith(".ipynb")]
        folders += [Path(entry.path) for entry in shown if _is_folder(entry)]
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def read_document(path: Path) -> dict[str, Any]:
    """A notebook as JSON, checked as far as reading its cells needs.

    Raises
    ------
    OSError
        When the file can't be read, or is gone.
    ValueError
        When it isn't a notebook.
    """
    text = _content(path).decode("utf-8")
    if not text.strip():
        raise ValueError("the file is empty")
    document = json.loads(text)
    if re.search(r"\\u[dD]", text):
        # half a surrogate pair can be written in JSON, but no file can hold it
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    if not isinstance(document, dict):
        raise ValueError("not a notebook: it isn't a JSON object")
    if (version := document.get("nbformat")) != 4 or type(version) is not int:
        raise ValueError(f"its `nbformat` is {version!r}, not 4: open it in JupyterLab and save it")
    if type(minor := document.get("nbformat_minor", 0)) is not int or not 0 <= minor < 1000:
        raise ValueError("its `nbformat_minor` has to be a small whole number")
    if not isinstance(document.get("cells"), list):
        raise ValueError("not a notebook: it has no list of cells")
    for number, cell in enumerate(document["cells"], start=1):
        if message := _shape(cell):
            raise ValueError(f"cell {number}: {message}")
    return document


def _content(path: Path) -> bytes:
    # to open a pipe or a device could wait for ever
    _refuse_other_than_file(path.stat().st_mode)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _refuse_other_than_file(os.fstat(file.fileno()).st_mode)
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES >> 20} MiB: clear its outputs")
    return content


def _refuse_other_than_file(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")


def _shape(cell: Any) -> str | None:
    """What is wrong with those parts of a cell that are read here, if anything is."""
    if not isinstance(cell, dict):
        return "isn't a JSON object"
    source, metadata = cell.get("source"), cell.get("metadata")
    if not isinstance(cell.get("cell_type"), str):
        return "`cell_type` has to be a text"
    if not (isinstance(source, str) or _are_texts(source)):
        return "`source` has to be a text, or a list of texts"
    if not isinstance(metadata, dict):
        return "`metadata` has to be a JSON object"
    if not _are_texts(metadata.get("tags", [])):
        return "`tags` has to be a list of texts"
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_format(document: dict[str, Any]) -> None:
    """Check a notebook against the schema of its format; outputs, execution counts and ids may be missing.

    Raises
    ------
    ValueError
        Naming the place that breaks the format.
    """
    # its import takes a third of a second, which kernels shouldn't spend
    from nbformat import ValidationError, validate

    for number, cell in enumerate(document["cells"]):
        cell.setdefault("id", f"cell-{number}")
        if cell["cell_type"] == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)
    try:
        validate(document, relax_add_props=True)
    except ValidationError as error:
        place = ".".join(map(str, error.relative_path))
        raise ValueError(f"`{place}` isn't as the notebook format wants it: {error.message}") from None


def to_cells(document: dict[str, Any]) -> list[Cell]:
    """The cells of a notebook that `read_document` has read."""
    return [
        Cell(
            kind=cell["cell_type"],
            source="".join(cell["source"]),
            tags=tuple(cell["metadata"].get("tags", ())),
            has_output=bool(cell.get("outputs")) or cell.get("execution_count") is not None,
        )
        for cell in document["cells"]
    ]


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook.

    Raises
    ------
    OSError
        When the file can't be read, or is gone.
    ValueError
        When it isn't a notebook.
    """
    document = read_document(path)
    check_format(document)
    return to_cells(document)


def why_unreadable(error: Exception) -> str:
    """Why a notebook couldn't be read, for people."""
    match error:
        case FileNotFoundError():
            return "is a link to what isn't there"
        case OSError():
            return f"can't be read: {error.strerror or error}"
        case UnicodeEncodeError():
            return "can't be read: it holds half of a surrogate pair, which is no character"
        case UnicodeDecodeError():
            return f"can't be read: not UTF-8 (at byte {error.start:,})"
        case json.JSONDecodeError():
            return f"can't be read: not JSON ({error})"
        case RecursionError() | MemoryError():
            return "can't be read: it is nested too deeply, or too large"
        case ValueError():
            return f"can't be read: {error}"
    return f"can't be read: {type(error).__name__}: {error}"


def heading(cells: Sequence[Cell]) -> tuple[str, str]:
    """The title, and the first paragraph under it."""
    for cell in cells:
        if cell.kind == "markdown" and cell.source.startswith("# "):
            title, _, rest = cell.source.partition("\n")
            return one_line(title[2:]), one_line(rest.strip().split("\n\n")[0], 2000)
    return "", ""


def parameters(cell: Cell) -> dict[str, Parameter]:
    """What a `parameters` cell declares, by name; it is parsed, never run.

    Raises
    ------
    ValueError
        When it holds anything else.
    """
    if len(cell.source) > LONGEST_PARAMETERS:
        raise ValueError(f"a parameters cell has at most {LONGEST_PARAMETERS:,} characters")
    try:
        return {parameter.name: parameter for parameter in map(_parameter, ast.parse(cell.source).body)}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError("a parameters cell holds only lines as `name: type = literal  # meaning`") from None


def _parameter(line: ast.stmt) -> Parameter:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
        return Parameter(line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value))
    if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
        default = ast.literal_eval(line.value)
        return Parameter(line.targets[0].id, type(default).__name__, default)
    raise ValueError
