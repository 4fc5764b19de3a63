"""Replaces the rows of the living warehouse by the rebuilt ones, in one transaction.

The tables themselves stay, and with them grants, views and sessions; readers see the old rows until the commit.
"""

import tempfile

from psycopg2 import sql
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib.cycles import catalog, rebuild
from lib.cycles.catalog import Table
from lib.cycles.rebuild import Plan, RebuildError
from lib.ledger import cuts

LOCK_WAIT = "1min"
"""How long to wait for a table that somebody writes to by hand."""


def swap(built: Plan) -> dict[str, int]:
    """Replace the rows of the living warehouse by the rebuilt ones, drop the rebuild, and return each table's rows.

    The caller holds the lock of the living cycles. What is kept: runs, the results of checks, tables that no job fills, and
    after a fresh rebuild the old cuts, superseded by the new one.

    Raises
    ------
    RebuildError
        When somebody else writes to the tables for too long; nothing is changed then.
    """
    with rebuild.both() as (living, rebuilt):
        tables = [table for table in catalog.tables(rebuilt).values() if _is_filled(rebuilt, table)]
        try:
            with living, living.cursor() as cursor:
                rows = _replace(cursor, rebuilt, tables, built)
        except LockNotAvailable as error:
            raise RebuildError(
                f"nothing was changed: somebody has been writing for {LOCK_WAIT}, perhaps a notebook by hand; {error}"
            ) from error
    rebuild.drop()
    return rows


def _is_filled(rebuilt: Connection, table: Table) -> bool:
    """Whether the rebuild has filled the table; what jobs keep for themselves in `ops` counts even when it is empty."""
    with rebuilt, rebuilt.cursor() as cursor:
        cursor.execute(sql.SQL("select from {} limit 1").format(_place(table)))
        return table.name.startswith("ops.") or cursor.rowcount > 0


def _replace(cursor: Cursor, rebuilt: Connection, tables: list[Table], built: Plan) -> dict[str, int]:
    cursor.execute("select set_config('lock_timeout', %s, true)", [LOCK_WAIT])
    if built.fresh:
        cuts.supersede(cursor, built.target)
    for table in reversed(tables):
        # a trigger refuses every change of a fact
        cursor.execute(sql.SQL("alter table {} disable trigger user").format(_place(table)))
        cursor.execute(sql.SQL("delete from {}").format(_place(table)))
    rows = {table.name: _move(rebuilt, cursor, table) for table in tables}
    _move_watermarks(rebuilt, cursor)
    return rows


def _move(rebuilt: Connection, cursor: Cursor, table: Table) -> int:
    """Copy a table's rows as they are, surrogate keys included, and let its sequence go on after them."""
    place, names = _place(table), sql.SQL(", ").join(map(sql.Identifier, table.columns))
    with tempfile.TemporaryFile() as file, rebuilt, rebuilt.cursor() as source:
        source.copy_expert(sql.SQL("copy {} ({}) to stdout (format binary)").format(place, names), file)
        file.seek(0)
        cursor.copy_expert(sql.SQL("copy {} ({}) from stdin (format binary)").format(place, names), file)
    moved = cursor.rowcount
    for column in table.identities:
        setval = sql.SQL("select setval(pg_get_serial_sequence(%s, %s), greatest(max({}), 1)) from {}")
        cursor.execute(setval.format(sql.Identifier(column), place), [table.name, column])
    cursor.execute(sql.SQL("alter table {} enable trigger user").format(place))
    cursor.execute(sql.SQL("analyze {}").format(place))
    return moved


def _move_watermarks(rebuilt: Connection, cursor: Cursor) -> None:
    with rebuilt, rebuilt.cursor() as source:
        source.execute("select job from ops.watermarks")
        for (job,) in source.fetchall():
            cut = cuts.watermark(source, job)
            assert cut is not None
            cuts.advance(cursor, job, cut)


def _place(table: Table) -> sql.Identifier:
    return sql.Identifier(*table.name.split("."))
