"""Every identifier of the program: whatever an unknown field of an event could be called like, and meet."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
COMMENT = re.compile(r"--[^\n]*")
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@cache
def harvest() -> tuple[str, ...]:
    """The identifiers of `lib/`, `sql/`, the notebooks and the command line, sorted.

    Of Python every name and every word of its texts, in which SQL, aliases and columns of frames stand; of SQL every word.
    So a new alias is among them by itself. What is written for people only, comments and docstrings, is left out.
    """
    modules = [*(ROOT / "lib").rglob("*.py"), ROOT / "schedule.py"]
    found = _words(modules, (ROOT / "notebooks").rglob("*.ipynb"))
    for path in (ROOT / "sql").rglob("*.sql"):
        found.update(WORD.findall(COMMENT.sub("", path.read_text())))
    return tuple(sorted(found))


@cache
def harvest_of_loads() -> tuple[str, ...]:
    """The identifiers of what Spark is told about events: of the rooms that loads consist of, and of the batch notebooks."""
    modules = [path for room in ("warehouse", "etl", "analytics") for path in (ROOT / "lib" / room).glob("*.py")]
    notebooks = [path for folder in ("etl", "analytics") for path in (ROOT / "notebooks" / folder).glob("*.ipynb")]
    return tuple(sorted(_words(modules, notebooks)))


def _words(modules: Iterable[Path], notebooks: Iterable[Path]) -> set[str]:
    """The names, and the words of the texts, of modules and of notebooks' code."""
    found: set[str] = set()
    for path in modules:
        found.update(of_python(path.read_text()))
    for path in notebooks:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                found.update(of_python("".join(cell["source"])))
    return found


def of_python(source: str) -> Iterator[str]:
    """The names, and the words of the texts, of a piece of Python."""
    prose = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(ast.Constant(str()) as text):
                prose.add(text)
            case ast.Constant(str(text)) if node not in prose:
                yield from WORD.findall(text)
            case ast.Name(name) | ast.Attribute(attr=name) | ast.arg(name):
                yield name
            case ast.keyword(str(name)) | ast.alias(_, str(name)):
                yield name
            case ast.alias(name):
                yield from WORD.findall(name)
        if isinstance(node, NAMED):
            yield node.name
