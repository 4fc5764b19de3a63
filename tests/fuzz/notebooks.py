"""Broken notebooks of every kind, from a seed: bytes, files that are none, and the notebook format with a wrong type in
each of its places."""

import copy
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDERS = ("", "etl", "analytics", "explore", "a/b/c")
WRONG = (None, True, 7, 1.5, float("nan"), 10**400, "text", [], [None], [7], {}, {"a": None})
ALSO_RIGHT = {"source": (str, list), "text": (str, list), "execution_count": (int, type(None))}
"""Where the format allows more than one type."""
ANYTHING = ("authors", "data")
"""In these the format allows whatever is JSON."""
Place = tuple[str | int, ...]

PARAMETERS = 'run_date: str = ""  # logical UTC day\npublish: bool = False  # commit'

FRONT_MATTERS = (
    "schedule: hourly",
    "schedule: [batch]",
    "schedule: !!set {batch}",
    "schedule: 2026-13-45",
    "schedule: !!python/object/apply:os.system [ls]",
    "schedule: batch\nreads: null",
    "schedule: batch\nreads: {warehouse.a: 1}",
    "schedule: batch\nreads: [2026-01-01, 0x10]",
    "schedule: batch\nwrites: [warehouse.a]",
    "schedule: batch\nwrites: !!binary aGVsbG8=",
    "schedule: batch\ngrain: .nan",
    "schedule: batch\ntimeout: 99999999999999999999h",
    "schedule: batch\nretries: 1000000000000000000000",
    "schedule: batch\n? [a, b]\n: c",
    "schedule: batch\n? {a: b}\n: c",
    "schedule: batch\n7: seven",
    "schedule: &a [*a]",
    "schedule: batch\ngrain: &a {b: *a}",
    "a: &a {k: 1}\nb: &b {<<: [*a, *a]}\nschedule: batch",
    'a: &a ["x","x"]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\nschedule: *c',
    "schedule: " + "[" * 3000 + "]" * 3000,
    "schedule: batch\ngrain: " + "? " * 3000,
    "schedule: batch\n# " + "x" * 20_000,
    "schedule: batch\n---\nschedule: batch",
    "schedule: 'batch",
    "schedule: batch\ngrain: \x07",
    "",
    "~",
    "text",
    "- a",
    "{}",
)

PARAMETER_CELLS = (
    "x: int =",
    "x: int = f()",
    "import os",
    "x = y = 1",
    "x: dict = {[]: 1}",
    "x: int = " + "-" * 10_000 + "1",
    "x: int = " + "+".join(["1"] * 9_000),
    "x: list = " + "[" * 5_000 + "]" * 5_000,
    "x" + ".a" * 9_000 + " = 1",
    "x: a" + ".a" * 9_000 + " = 1",
    "x: int = " + "9" * 10_000,
    "x: int = 1\0",
    "x: str = '" + "a" * 30_000 + "'",
    "x: str = f'{1}'",
    "%time",
)


def job(front: str = "schedule: batch", parameters: str = PARAMETERS, code: str = "pass") -> dict[str, Any]:
    """A notebook that is a job, with something in most places of the format."""
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]},
        {"output_type": "display_data", "data": {"text/plain": "a"}, "metadata": {}},
        {"output_type": "execute_result", "execution_count": 3, "data": {"text/plain": ["a"]}, "metadata": {}},
        {"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["line"]},
    ]
    code_cells = [
        {"source": parameters, "metadata": {"tags": ["parameters"]}, "outputs": []},
        {"source": code, "metadata": {"collapsed": False, "name": "n"}, "outputs": outputs},
    ]
    cells: list[dict[str, Any]] = [
        {"cell_type": "raw", "source": front, "metadata": {"tags": ["job"], "format": "text/plain"}},
        {
            "cell_type": "markdown",
            "source": ["# A title\n", "\n", "What."],
            "metadata": {"jupyter": {}},
            "attachments": {},
        },
        *({"cell_type": "code", "execution_count": None, **cell} for cell in code_cells),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"c{number}"
    kernel = {"name": "python3", "display_name": "Python 3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}, "title": "t", "authors": [{"name": "a"}]}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": about, "cells": cells}


def write(folder: Path, *, seed: int, count: int) -> list[str]:
    """Put `count` broken notebooks under `folder`, at least one of each kind, and return their names."""
    chance = random.Random(seed)
    makers = [*_files(), *map(_bytes, _contents())]
    mutants = [_bytes(json.dumps(mutant).encode()) for mutant in _mutants()]
    makers += chance.sample(mutants, count - len(makers) - len(_odd_names()))
    chance.shuffle(makers)
    names = []
    for number, make in enumerate(makers):
        place = folder / chance.choice(FOLDERS)
        place.mkdir(parents=True, exist_ok=True)
        make(place / f"broken_{number:03}.ipynb")
        names.append((place / f"broken_{number:03}").relative_to(folder).as_posix())
    for name in _odd_names():
        (folder / f"{name}.ipynb").parent.mkdir(exist_ok=True)
        (folder / f"{name}.ipynb").write_text(json.dumps(job()))
    return [*names, *_odd_names()]


def _odd_names() -> list[str]:
    """Names that no job can have."""
    return [
        "two\nlines",
        "tab\there",
        "esc\x1b[31mape",
        "a b",
        "[red]",
        "ünï",
        os.fsdecode(b"\xff\xfe"),
        "x" * 200,
        "latest/x",
    ]


def _mutants() -> Iterator[dict[str, Any]]:
    """The format with each type in each place where it is wrong, and without each part that it needs."""
    whole = job()
    for place, value in _places(whole):
        if set(place[:-1]) & set(ANYTHING):
            continue
        right = ALSO_RIGHT.get(str(place[-1]), (type(value),))
        for wrong in WRONG:
            if type(wrong) not in right:
                yield _changed(whole, place, wrong)
    for place in [("cells",), ("nbformat",), *((("cells", 2, key)) for key in ("cell_type", "metadata", "source"))]:
        mutant = _changed(whole, place, None)
        del _at(mutant, place[:-1])[place[-1]]
        yield mutant
    yield _changed(whole, ("cells", 2, "cell_type"), "coed")
    yield _changed(whole, ("cells", 3, "outputs", 0, "output_type"), "steam")


def _places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key), item
        yield from _places(item, (*place, key))


def _at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def _changed(document: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    mutant = copy.deepcopy(document)
    _at(mutant, place[:-1])[place[-1]] = value
    return mutant


def _contents() -> Iterator[bytes]:
    """Files that aren't a notebook, and jobs whose front matter, parameters or cells aren't as they should be."""
    good = json.dumps(job()).encode()
    yield from (b"", b" \n", b"null", b"[]", b"5", b'"text"', b"{}", b"\0" * 100, bytes(range(256)), b"<html></html>")
    yield from (
        b"\xef\xbb\xbf" + good,
        good.decode().encode("utf-16"),
        good + b"\xff",
        good + good,
        good[:-1],
        good[: len(good) // 2],
    )
    yield b"<<<<<<< HEAD\n" + good + b"\n=======\n" + good + b"\n>>>>>>> other\n"
    yield from (b"[" * 200_000, b'{"a":' * 200_000, b'{"nbformat":' + b"9" * 10_000 + b"}")
    yield good.replace(b'"pass"', b'"\\ud800"')
    yield good.replace(b'"metadata"', b'"metadata": ' + b"[" * 50_000 + b"]" * 50_000 + b', "metadata"', 1)
    yield json.dumps(job() | {"nbformat": 3}).encode()
    yield b'{"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": []}]}'
    yield b'{"nbformat": 2, "metadata": {}, "worksheets": []}'
    yield from (json.dumps(job(front)).encode() for front in FRONT_MATTERS)
    yield from (json.dumps(job(parameters=cell)).encode() for cell in PARAMETER_CELLS)
    turned = job()
    turned["cells"].reverse()
    yield json.dumps(turned).encode()


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _files() -> list[Callable[[Path], object]]:
    """What stands in the place of a file."""
    makers: list[Callable[[Path], object]] = [
        Path.mkdir,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/proc/self/mem"),
        lambda path: path.symlink_to("."),
        lambda path: path.symlink_to("x" * 250),
        os.mkfifo,
        _socket,
        _huge,
    ]
    return makers + [_unreadable] * (os.geteuid() != 0)


def _socket(path: Path) -> None:
    # a socket's own path is short
    before = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(before)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 << 30)


def _unreadable(path: Path) -> None:
    path.write_text(json.dumps(job()))
    path.chmod(0)
