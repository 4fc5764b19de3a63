"""The rooms of `lib`: how large they are, and that all of them have their rules."""

import ast
import contextlib
import re
import tomllib
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from lib.settings import ROOT

ROOMS = sorted(folder.name for folder in (ROOT / "lib").iterdir() if (folder / "__init__.py").exists())
GROUND = sorted(path.stem for path in (ROOT / "lib").glob("*.py") if path.stem != "__init__")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
MOST = 8


def test_no_room_has_more_than_eight_modules():
    sizes = {
        room: len([path for path in (ROOT / "lib" / room).glob("*.py") if path.stem != "__init__"]) for room in ROOMS
    }
    assert {room: size for room, size in sizes.items() if size > MOST} == {}


def test_every_room_and_every_module_of_the_ground_has_its_place_in_the_rules():
    [layers] = [contract["layers"] for contract in PROJECT["importlinter"]["contracts"] if contract["type"] == "layers"]
    placed = [name.strip() for layer in layers for name in layer.split("|")]
    assert sorted(placed) == sorted(f"lib.{name}" for name in (*ROOMS, *GROUND))


def test_the_page_on_the_rooms_names_each_of_them():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("## The rooms of `lib`")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ROOMS


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_takes_from_the_rooms_is_there(path: Path) -> None:
    code = "\n".join(cell["source"] for cell in nbformat.read(path, 4).cells if cell["cell_type"] == "code")
    modules = {}
    for node in ast.walk(tree := ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lib":
            for alias in node.names:
                found = import_module(str(node.module))
                with contextlib.suppress(ModuleNotFoundError):
                    found = import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = found
                assert found.__name__.endswith(alias.name) or hasattr(found, alias.name), f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
