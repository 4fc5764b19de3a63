"""A reader of TMDL, as much of it as the project's semantic model uses; whatever else it meets, it refuses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    "database": {"compatibilityLevel"},
    "model": {"culture", "defaultPowerBIDataSourceVersion", "discourageImplicitMeasures", "sourceQueryCulture"},
    "annotation": set(),
    "ref": set(),
    "expression": {"lineageTag", "annotation"},
    "relationship": {"fromColumn", "toColumn"},
    "role": {"modelPermission", "tablePermission"},
    "tablePermission": set(),
    "cultureInfo": {"linguisticMetadata"},
    "linguisticMetadata": {"contentType"},
    "table": {"isHidden", "lineageTag", "dataCategory", "measure", "column", "hierarchy", "partition"},
    "measure": {"formatString", "displayFolder", "lineageTag"},
    "column": {
        *("dataType", "isHidden", "isKey", "formatString", "lineageTag", "dataCategory", "summarizeBy", "sourceColumn"),
        *("sortByColumn", "annotation"),
    },
    "hierarchy": {"lineageTag", "level"},
    "level": {"lineageTag", "column"},
    "partition": {"mode", "source"},
    "source": set(),
}
"""What may stand in each kind of object: its properties and the objects below it."""

_DECLARED = re.compile(r"(?P<kind>\w+)(?: (?P<name>'(?:[^']|'')+'|[^\s=]+(?: [^\s=]+)?))?(?: =(?: (?P<value>.+))?)?")
_PROPERTY = re.compile(r"(?P<name>\w+): (?P<value>.+)")


@dataclass
class Thing:
    """An object of a model: its kind, name, description, expression, properties, and the objects below it."""

    kind: str
    name: str
    description: str = ""
    expression: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    things: list["Thing"] = field(default_factory=list)

    def all(self, kind: str) -> list["Thing"]:
        """The objects of a kind below it."""
        return [thing for thing in self.things if thing.kind == kind]


def read(path: Path) -> list[Thing]:
    """The objects of a file.

    Raises
    ------
    ValueError
        Naming the file and the first line that isn't understood.
    """
    return _Reader(path).read()


class _Reader:
    """Reads one file, line by line; indentation, by tabs, says what stands in what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = path.read_text(encoding="utf-8").split("\n")
        self.at = 0

    def read(self) -> list[Thing]:
        found: list[Thing] = []
        open_things: list[Thing] = []
        comments: list[str] = []
        while self.at < len(self.lines):
            line = self.lines[self.at].lstrip("\t")
            depth = len(self.lines[self.at]) - len(line)
            self.at += 1
            if not line:
                if comments:
                    raise self.error("a description has to stand directly above its object")
                continue
            if line.startswith("///"):
                comments.append(line[3:].strip())
                continue
            if depth > len(open_things):
                raise self.error("is indented too deep")
            del open_things[depth:]
            parent = open_things[-1] if open_things else None
            if parent and self.is_property(parent, line):
                continue
            thing = self.declared(line, depth)
            thing.description, comments = " ".join(comments), []
            if parent and thing.kind not in KNOWN[parent.kind]:
                raise self.error(f"{thing.kind} isn't expected in {parent.kind}")
            (parent.things if parent else found).append(thing)
            open_things.append(thing)
        return found

    def is_property(self, parent: Thing, line: str) -> bool:
        """Whether the line is a property of the object, which it then has."""
        match = _PROPERTY.fullmatch(line)
        name, value = (match["name"], match["value"]) if match else (line, "true")
        if match is None and not re.fullmatch("is[A-Z]\\w+|discourage\\w+", line):
            return False
        if name not in KNOWN[parent.kind] or name in parent.properties:
            raise self.error(f"{name} isn't expected in {parent.kind}")
        parent.properties[name] = value
        return True

    def declared(self, line: str, depth: int) -> Thing:
        """The object that a line declares, with the lines of its expression, which stand two levels deeper."""
        match = _DECLARED.fullmatch(line)
        if not match or match["kind"] not in KNOWN:
            raise self.error("isn't understood")
        name = match["name"] or ""
        if name.startswith("'"):
            name = name[1:-1].replace("''", "'")
        thing = Thing(match["kind"], name, expression=match["value"] or "")
        if line.endswith(" ="):
            thing.expression = "\n".join(self.expression("\t" * (depth + 2)))
            if not thing.expression.strip():
                raise self.error("has no expression")
        return thing

    def expression(self, indented: str) -> Iterator[str]:
        """The following lines that are indented, without what they are indented by."""
        while self.at < len(self.lines) and (self.lines[self.at].startswith(indented)):
            yield self.lines[self.at][len(indented) :]
            self.at += 1

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.path.name}, line {self.at}: {what}: {self.lines[self.at - 1].strip()}")
