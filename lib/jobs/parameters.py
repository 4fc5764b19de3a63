"""Parameters that are given to a notebook, read by the types that it declares."""

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Optional, Union, get_args, get_origin

import yaml

from lib.jobs.cells import Parameter
from lib.jobs.discovery import Job, JobError

RESERVED = {
    "run_date": "the logical day is given with --run-date",
    "cut": "a cycle opens its own cut; --resume takes over that of another",
}

TYPES: dict[str, Any] = {
    **{"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "None": None, "Any": Any},
    **{"List": list, "Dict": dict, "Literal": Literal, "Optional": Optional, "Union": Union},
}
"""What an annotation may be made of; of a qualified name, as `typing.Optional`, the last part counts."""

ORDER = (NoneType, bool, int, float, Literal, list, dict, str)
"""When a parameter takes several types, they are tried in this order."""

WORDS: dict[Any, dict[str, bool | None]] = {
    NoneType: {"None": None, "null": None},
    bool: {"true": True, "True": True, "false": False, "False": False},
}
NUMBERS = {
    int: re.compile(r"[+-]?(0|[1-9][0-9]*)"),
    float: re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"),
}
HINTS = {
    int: "a whole number, as 12 or -3",
    float: "a finite number, as 0.5 or 1e-3",
    bool: "true or false",
    list: "a list, as [a, b]",
    dict: "a mapping, as {a: 1, b: 2}",
    NoneType: "None",
}

SHOWN = 200
"""How many characters of a value an error shows."""


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """The texts of `name=value` pairs, by name; `read` gives them their types.

    Raises
    ------
    JobError
        For a pair of another form.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise JobError(f"-p {pair}: has to be name=value")
        values[name] = text
    return values


def read(job: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, in the types that the job declares; a value that isn't a text has to be of that type already.

    A name that the notebook doesn't declare is refused: papermill would write it into the notebook as code.

    Raises
    ------
    JobError
        Naming the job, the parameter, what it takes and what was given.
    """
    for name in given:
        if name in RESERVED:
            raise JobError(f"-p {name}: {RESERVED[name]}")
        if name not in job.parameters:
            known = ", ".join(job.parameters) or "none"
            raise JobError(f"{job.name} has no parameter {name}; its parameters: {known}")
    return {name: _read(job, job.parameters[name], value) for name, value in given.items()}


def _read(job: Job, parameter: Parameter, value: Any) -> Any:
    about = f"{job.name}: {parameter.name}"
    try:
        kind = _type(ast.parse(parameter.type, mode="eval").body)
    except (LookupError, SyntaxError, TypeError, ValueError):
        raise JobError(
            f"{about} is declared as {parameter.type}, which -p can't give: declare it as str, int, float, bool, list,"
            " dict with texts as keys, Literal, Optional, or a union of them"
        ) from None
    try:
        return _as(kind, _node(value if isinstance(value, str) else json.dumps(value), kind))
    except (ValueError, RecursionError):
        members = get_args(kind) if get_origin(kind) in (Union, UnionType) else [kind]
        hints = " or ".join(text for text in (HINTS.get(get_origin(each) or each) for each in members) if text)
        shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}…"
        raise JobError(f"{about} takes {parameter.type}{f' ({hints})' if hints else ''}, not {shown}") from None


# --- the type that is declared


def _type(node: ast.expr) -> Any:
    """The type that an annotation names, found without running it."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _type(ast.parse(text, mode="eval").body)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return TYPES[name]
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007  # None has no `|`
        case ast.Subscript(value=base, slice=inner):
            return _subscripted(_type(base), inner.elts if isinstance(inner, ast.Tuple) else [inner])
    raise LookupError


def _subscripted(base: Any, inner: list[ast.expr]) -> Any:
    if base is Literal:
        return Literal[tuple(ast.literal_eval(each) for each in inner)]
    kinds = tuple(map(_type, inner))
    # papermill writes each key as a text
    if (base is list and len(kinds) != 1) or (base is dict and (len(kinds) != 2 or kinds[0] is not str)):
        raise TypeError
    return base[kinds[0] if len(kinds) == 1 else kinds]


# --- what is given


def _node(text: str, kind: Any) -> yaml.Node:
    """A text as a YAML scalar; or as YAML reads it, when it looks like a list or mapping and may be one."""
    if kind is not str and text.lstrip().startswith(("[", "{")):
        try:
            if node := yaml.compose(text, Loader=yaml.BaseLoader):
                return node
        except yaml.YAMLError:
            pass  # then it can only be a text
    return yaml.ScalarNode("", text)


def _as(kind: Any, node: yaml.Node) -> Any:
    """The value of this type that the node stands for.

    Raises
    ------
    ValueError
        When it doesn't stand for one.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return _first_of(ORDER if not _is_quoted(node) else (str,), node)
    if origin in (Union, UnionType):
        return _first_of(sorted(inner, key=_rank), node)
    if origin is Literal:
        return _option(inner, node)
    if origin is list and isinstance(node, yaml.SequenceNode):
        return [_as(inner[0] if inner else Any, child) for child in node.value]
    if origin is dict and isinstance(node, yaml.MappingNode):
        return {_as(str, key): _as(inner[1] if inner else Any, child) for key, child in node.value}
    if isinstance(node, yaml.ScalarNode) and (kind is str or not _is_quoted(node)):
        return _scalar(kind, node.value)
    raise ValueError


def _first_of(kinds: Iterable[Any], node: yaml.Node) -> Any:
    for kind in kinds:
        try:
            return _as(kind, node)
        except ValueError:
            continue
    raise ValueError


def _rank(kind: Any) -> int:
    origin = get_origin(kind) or kind
    return ORDER.index(origin) if origin in ORDER else len(ORDER)


def _option(options: Iterable[Any], node: yaml.Node) -> Any:
    for option in options:
        try:
            if _as(type(option), node) == option:
                return option
        except ValueError:
            continue
    raise ValueError


def _scalar(kind: Any, text: str) -> Any:
    if kind is str:
        return text
    if kind in (None, *WORDS) and text in (words := WORDS[kind or NoneType]):
        return words[text]
    if kind in NUMBERS and NUMBERS[kind].fullmatch(text) and math.isfinite(number := kind(text)):
        return number
    raise ValueError


def _is_quoted(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
