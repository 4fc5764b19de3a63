"""What Grafana makes of a dashboard's queries before it sends them: variables and macros, expanded by its own rules."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lib.settings import ROOT

Json = dict[str, Any]

FOLDER = ROOT / "serving" / "grafana"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
"""Grafana's own pattern: an argument of a macro has no bracket in it."""


@dataclass(frozen=True)
class Request:
    """What a dashboard is asked for: a time range, the shortest time that a point stands for, and what is chosen.

    A variable that isn't in `chosen` stands at All.
    """

    start: datetime
    end: datetime
    interval: str = "1h"
    chosen: Mapping[str, Sequence[str]] | None = None


def dashboards() -> dict[str, Json]:
    """The committed dashboards by their file's name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "dashboards").glob("*.json"))}


def panels(board: Json) -> list[Json]:
    """The panels of a dashboard, without its rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, Json, Json, Json]]:
    """Every query of a panel to the warehouse: its place, the dashboard, the panel, and the query."""
    for name, board in dashboards().items():
        for panel in panels(board):
            for target in panel["targets"]:
                if "rawSql" in target:
                    yield f"{name}: {panel['title']}", board, panel, target


def choices() -> Iterator[tuple[str, Json, Json]]:
    """Every variable that can be chosen: its place, the dashboard, and the variable."""
    for name, board in dashboards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", board, variable


def expanded(text: str, board: Json, request: Request) -> str:
    """The statement that reaches the database.

    Raises
    ------
    ValueError
        When something in it is no variable of the dashboard and no macro of Grafana's.
    """
    # in the browser, then in the server: first the interval, then the macros
    text = re.sub(r"\$\{(\w+):sqlstring\}", lambda found: _value(found[1], board, request), text)
    text = text.replace("$__interval", request.interval)
    text = _MACRO.sub(lambda found: _macro(found[1], [part.strip() for part in found[2].split(",")], request), text)
    if "$" in text:
        raise ValueError(f"Grafana would leave this as it is: {text[text.index('$') :][:40]}")
    return text


def _value(name: str, board: Json, request: Request) -> str:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    if name not in variables:
        raise ValueError(f"the dashboard has no variable {name}")
    chosen = (request.chosen or {}).get(name)
    if chosen is None:
        # a value of our own for All is put in as it is
        return str(variables[name]["allValue"])
    return ",".join("'" + value.replace("'", "''") + "'" for value in chosen)


def _macro(name: str, arguments: list[str], request: Request) -> str:
    start, end = (f"'{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}123Z'" for moment in (request.start, request.end))
    if name == "__timeFilter":
        return f"{arguments[0]} BETWEEN {start} AND {end}"
    if name == "__timeFrom":
        return start
    if name == "__timeTo":
        return end
    if name == "__timeGroupAlias":
        found = re.fullmatch(r"'?([0-9]+)([smhd])'?", arguments[1])
        if found is None:
            raise ValueError(f"{arguments[1]} is no interval")
        seconds = int(found[1]) * _SECONDS[found[2]]
        return f'floor(extract(epoch from {arguments[0]})/{seconds})*{seconds} AS "time"'
    raise ValueError(f"Grafana has no macro {name}, or none that these dashboards need")
