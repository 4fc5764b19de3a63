"""The project's semantic model, and its measures evaluated over tables."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pbix_mcp.dax import engine

from lib.settings import ROOT
from tests.powerbi.tmdl import Thing, read

PROJECT = ROOT / "serving" / "powerbi"
DEFINITION = PROJECT / "GlobalMart.SemanticModel" / "definition"

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """The objects of the model by kind, tables and measures by name."""

    tables: dict[str, Thing]
    relationships: list[Thing]
    roles: list[Thing]
    others: list[Thing]

    @property
    def measures(self) -> dict[str, Thing]:
        return {measure.name: measure for table in self.tables.values() for measure in table.all("measure")}

    @property
    def homes(self) -> dict[str, str]:
        """The table of each measure."""
        return {measure.name: table.name for table in self.tables.values() for measure in table.all("measure")}

    def columns(self, table: str) -> dict[str, Thing]:
        return {column.name: column for column in self.tables[table].all("column")}

    def source(self, table: str) -> str | None:
        """The view of the warehouse that a table is read from, if it is read from one."""
        (partition,) = self.tables[table].all("partition")
        (query,) = partition.all("source")
        found = re.search(r'\[Schema = "serving", Item = "(\w+)"\]', query.expression)
        return found[1] if found else None


def model() -> Model:
    """The model as its files say it."""
    things = [thing for path in sorted(DEFINITION.rglob("*.tmdl")) for thing in read(path)]
    tables = {thing.name: thing for thing in things if thing.kind == "table"}
    kinds = ("table", "relationship", "role")
    return Model(
        tables,
        [thing for thing in things if thing.kind == "relationship"],
        [thing for thing in things if thing.kind == "role"],
        [thing for thing in things if thing.kind not in kinds],
    )


def ends(relationship: Thing) -> tuple[tuple[str, str], tuple[str, str]]:
    """Table and column on the many side of a relationship, and on its one side."""
    many, one = (relationship.properties[name].split(".") for name in ("fromColumn", "toColumn"))
    return (many[0], many[1]), (one[0], one[1])


def query(of: Model, table: str) -> str:
    """SQL for the rows that Power BI imports for a table."""
    return f"select {', '.join(of.columns(table))} from serving.{of.source(table)}"


class Data(dict[str, dict[str, Any]]):
    """Tables as the engine takes them; it keeps what it has found out about them for the next evaluation."""


def load(of: Model, rows: Mapping[str, Rows]) -> Data:
    """The rows of the model's tables, for evaluating several times; a table without rows is empty."""
    data = Data()
    for table in of.tables:
        columns = of.columns(table)
        values = [[_plain(row[name]) for name in columns] for row in rows.get(table, [])]
        data[table] = {"columns": list(columns), "rows": values}
    return data


def evaluate(
    of: Model,
    rows: Mapping[str, Rows] | Data,
    names: Iterable[str],
    filters: Mapping[str, list[Any]] | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measures over the tables' rows, by name; None where a measure is empty.

    Parameters
    ----------
    filters
        The values that are selected, by `table.column`.
    extra
        Further measures, by name, that the model doesn't have.

    Raises
    ------
    ValueError
        Naming what the engine can't evaluate; without this it were empty.
    """
    data = rows if isinstance(rows, Data) else load(of, rows)
    measures = {name: measure.expression for name, measure in of.measures.items()} | dict(extra or {})
    chosen = {key: [_plain(value) for value in values] for key, values in (filters or {}).items()}
    context = engine.DAXContext(data, measures, "dim_date", "date", chosen, _relationships(of))
    context.measure_tables = of.homes
    context.model_columns = {table: set(of.columns(table)) for table in of.tables}
    context.culture = "en-US"
    calls = engine.DAXEngine()
    found = {name: calls.evaluate_measure(name, context) for name in names}
    if calls.eval_errors or calls.unsupported_functions:
        raise ValueError(f"can't be evaluated: {calls.eval_errors} {sorted(calls.unsupported_functions)}")
    return found


def _relationships(of: Model) -> list[dict[str, Any]]:
    sides = [ends(relationship) for relationship in of.relationships]
    return [
        {"FromTable": many[0], "FromColumn": many[1], "ToTable": one[0], "ToColumn": one[1], "IsActive": 1}
        for many, one in sides
    ]


def _plain(value: Any) -> Any:
    """A value as the engine takes it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return value
