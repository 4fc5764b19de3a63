"""Every identifier of the program: whatever an unknown field of an event could be called like, and meet."""

import ast
import json
import re
from collections.abc import Iterator
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
    found: set[str] = set()
    for path in [*(ROOT / "lib").rglob("*.py"), ROOT / "schedule.py"]:
        found.update(of_python(path.read_text()))
    for path in (ROOT / "sql").rglob("*.sql"):
        found.update(WORD.findall(COMMENT.sub("", path.read_text())))
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                found.update(of_python("".join(cell["source"])))
    return tuple(sorted(found))


@cache
def harvest_of_loads() -> tuple[str, ...]:
    """The identifiers of what Spark is told about events: of the rooms that loads consist of, and of the batch notebooks."""
    found: set[str] = set()
    for room in ("warehouse", "etl", "analytics"):
        for path in (ROOT / "lib" / room).glob("*.py"):
            found.update(of_python(path.read_text()))
    for folder in ("etl", "analytics"):
        for path in (ROOT / "notebooks" / folder).glob("*.ipynb"):
            for cell in json.loads(path.read_text())["cells"]:
                if cell["cell_type"] == "code":
                    found.update(of_python("".join(cell["source"])))
    return tuple(sorted(found))


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
