"""Compares two warehouses row by row, by natural keys: what only one of them has, and what differs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.cycles import catalog
from lib.cycles.catalog import Table

BUCKETS = 4096
"""How many parts a table is compared in, by checksum; only the rows of parts that differ leave PostgreSQL."""

FETCHED = 10_000
"""Rows of a table that are fetched at a time, from each side."""

EXAMPLES = 3
"""How many differing rows of a table are shown."""

Row = tuple[Any, ...]


@dataclass
class Comparison:
    """How many rows a table has on each side, and how many of their keys don't have the same row on both."""

    table: str
    living: int
    rebuilt: int
    differing: int = 0
    examples: list[str] = field(default_factory=list)


def compare(living: Connection, rebuilt: Connection, snapshots: Mapping[str, str]) -> Iterator[Comparison]:
    """Compare each table of `public`, one after the other.

    Surrogate keys, times of writing and the cut of a change are left out; a reference to a surrogate key is compared as
    the natural key that it stands for. `snapshots` names the column of the run date of tables that have one; of these, only
    days that both sides have are compared.
    """
    tables = catalog.tables(rebuilt)
    for table in tables.values():
        if table.name.startswith("public."):
            run_date = snapshots.get(table.name)
            days = _days_in_both(table, run_date, living, rebuilt) if run_date else []
            given = {"parts": BUCKETS, "days": days}
            yield _compare(table, _query(table, tables, run_date), given, living, rebuilt)


def _compare(
    table: Table, query: sql.Composable, given: Mapping[str, Any], living: Connection, rebuilt: Connection
) -> Comparison:
    here, there = (_checksums(connection, query, given) for connection in (living, rebuilt))
    found = Comparison(
        table.name.removeprefix("public."), *(sum(rows for rows, _ in side.values()) for side in (here, there))
    )
    buckets = [bucket for bucket in here.keys() | there.keys() if here.get(bucket) != there.get(bucket)]
    if not buckets:
        return found
    given = {**given, "buckets": buckets}
    sides = (_rows(connection, query, given, side) for side, connection in enumerate((living, rebuilt)))
    for key, group in groupby(merge(*sides, key=itemgetter(0)), itemgetter(0)):
        rows = {side: row for _, side, row in group}
        if rows.get(0) != rows.get(1):
            found.differing += 1
            if len(found.examples) < EXAMPLES:
                found.examples.append(_example(table, key, rows.get(0), rows.get(1)))
    return found


def _example(table: Table, key: Row, living: Row | None, rebuilt: Row | None) -> str:
    which = ", ".join(f"{name} {value}" for name, value in zip(table.key, key, strict=True))
    if living is None or rebuilt is None:
        return f"{which}: only {'rebuilt' if living is None else 'living'}"
    columns = zip(_columns(table), living, rebuilt, strict=True)
    return f"{which}: " + ", ".join(
        f"{name} {one} is rebuilt as {other}" for name, one, other in columns if one != other
    )


def _columns(table: Table) -> list[str]:
    """The columns that are compared, those of the key first."""
    return [*table.key, *(name for name in table.columns if name not in table.key and name not in table.made_up)]


def _query(table: Table, tables: Mapping[str, Table], run_date: str | None) -> sql.Composable:
    """The rows as `key` (an array of texts, sorted by their bytes as Python does), its `bucket`, and the columns.

    Its parameters are `parts`, the number of buckets, and the `days` of the run date, if the table has one.
    """
    joins: list[sql.Composable] = []
    values: list[sql.Composable] = []
    for number, name in enumerate(_columns(table)):
        value: sql.Composable = sql.Identifier("t", name)
        target, column = table.refers.get(name, ("", ""))
        if target in tables and column in tables[target].identities:
            alias = f"r{number}"
            joins.append(
                sql.SQL("left join {} {} on {} = {}").format(
                    sql.Identifier(*target.split(".")), sql.Identifier(alias), sql.Identifier(alias, column), value
                )
            )
            natural = [sql.Identifier(alias, part) for part in tables[target].key]
            value = sql.SQL("jsonb_build_array({})::text").format(sql.SQL(", ").join(natural))
        values.append(value)
    key = sql.SQL(", ").join(sql.SQL('{}::text collate "C"').format(value) for value in values[: len(table.key)])
    of_days = sql.SQL("{} = any(%(days)s)").format(sql.Identifier("t", run_date)) if run_date else sql.SQL("true")
    return sql.SQL(
        "select array[{key}] as key, mod(hashtextextended(array[{key}]::text, 0), %(parts)s) as bucket, {values}"
        " from {table} t {joins} where {of_days}"
    ).format(
        key=key,
        values=sql.SQL(", ").join(values),
        table=sql.Identifier(*table.name.split(".")),
        joins=sql.SQL(" ").join(joins),
        of_days=of_days,
    )


def _checksums(connection: Connection, query: sql.Composable, given: Mapping[str, Any]) -> dict[int, Row]:
    """By bucket, the number of rows and the sum of their checksums."""
    summed = sql.SQL("select bucket, count(*), sum(hashtextextended(rows::text, 0)) from ({}) as rows group by bucket")
    with connection, connection.cursor() as cursor:
        cursor.execute(summed.format(query), given)
        return {bucket: (rows, checksum) for bucket, rows, checksum in cursor.fetchall()}


def _rows(
    connection: Connection, query: sql.Composable, given: Mapping[str, Any], side: int
) -> Iterator[tuple[Row, int, Row]]:
    """The rows of the given `buckets` in the order of their keys: key, side, columns."""
    statement = sql.SQL("select * from ({}) as rows where bucket = any(%(buckets)s) order by key").format(query)
    with connection, connection.cursor("compared") as cursor:
        cursor.itersize = FETCHED
        cursor.execute(statement, given)
        for key, _, *columns in cursor:
            yield tuple(key), side, tuple(columns)


def _days_in_both(table: Table, column: str, *connections: Connection) -> list[date]:
    query = sql.SQL("select distinct {} from {}").format(sql.Identifier(column), sql.Identifier(*table.name.split(".")))
    found: list[set[date]] = []
    for connection in connections:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            found.append({row[0] for row in cursor.fetchall()})
    return sorted(set.intersection(*found))
