"""Held events as a load sees them: those that somebody has put aside aren't there, until they are released.

`ops.held_events` in the realtime database has a row for each event that was ever held. For such an event the batch is
another one for each job: the one under which the job had loaded it before, else that of its release, else none, and the
job doesn't see it. So what a job reads follows from the realtime tables, the cuts and the held events, and a rebuild
reads the same. `lib.cycles.holding` writes the table.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib import database
from lib.ledger.cuts import Window
from lib.schemas import CONTRACTS

_COLUMNS = """
select h.source_table, array_agg(a.attname order by a.attnum)::text[]
from (select distinct source_table from ops.held_events) as h
join pg_attribute as a
    on a.attrelid = format('public.%I', h.source_table)::regclass and a.attnum > 0 and not a.attisdropped
group by h.source_table
"""

_SUMS = sql.SQL("""
select
    (
        select coalesce(sum(rows_written), 0)::bigint from ops.ingest_batches
        where source_table = %(table)s and ingest_batch_id > %(after)s and ingest_batch_id <= %(upto)s
    ),
    count(*) filter (where is_stored and not is_read),
    count(*) filter (where is_read and not is_stored)
from (
    select
        stored.ingest_batch_id > %(after)s and stored.ingest_batch_id <= %(upto)s as is_stored,
        coalesce({batch} > %(after)s and {batch} <= %(upto)s, false) as is_read
    from ops.held_events as held
    join {table} as stored on stored.{key} = held.event_id
    where held.source_table = %(table)s
) as events
""")

_WITHOUT_HELD = sql.SQL("""
(
    select {plain} from {table} as stored
    where not exists (
        select from ops.held_events as held where held.source_table = {name} and held.event_id = stored.{key}
    )
    union all
    select {moved} from ops.held_events as held join {table} as stored on stored.{key} = held.event_id
    where held.source_table = {name} and {batch} is not null
) as {table}
""")


class Reader(Protocol):
    """A load, as far as it matters here: its job, its window, and the tables of which an event was ever held."""

    job: str
    window: Window

    @property
    def held(self) -> dict[str, list[str]]:
        """Their columns, by table."""


@dataclass(frozen=True)
class Sums:
    """What a load has to find of a realtime table: the rows of its batches by the ledger, without those that are held now,
    and with those of older batches that were released into these."""

    in_ledger: int
    held: int
    released: int

    @property
    def expected(self) -> int:
        """The events that the load has to read."""
        return self.in_ledger - self.held + self.released


def columns() -> dict[str, list[str]]:
    """The realtime tables of which an event was ever held, each with its columns."""
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        cursor.execute(_COLUMNS)
        return dict(cursor.fetchall())


def source(load: Reader, table: str) -> sql.Composable:
    """A realtime table for a load, as an item of SQL's FROM with the name of the table.

    Where nothing was ever held it is the table itself; else a query for its rows without those that the load doesn't see,
    `ingest_batch_id` being the batch for the load's job. Conditions on that find the rows by its index in either case. It is
    for statements with bound parameters: a `%` of a name is doubled.
    """
    names = load.held.get(table)
    if names is None:
        return sql.Identifier(table)
    batch = _batch(load.job)
    columns = {name: sql.Identifier("stored", name.replace("%", "%%")) for name in names}
    moved = columns | {"ingest_batch_id": sql.SQL("{} as ingest_batch_id").format(batch)}
    return _WITHOUT_HELD.format(
        plain=sql.SQL(", ").join(columns.values()),
        moved=sql.SQL(", ").join(moved.values()),
        table=sql.Identifier(table),
        name=sql.Literal(table),
        key=sql.Identifier(CONTRACTS[table].key),
        batch=batch,
    )


def sums(realtime: Connection, load: Reader, table: str) -> Sums:
    """What the load has to find of the batches of a realtime table that it reads."""
    after, upto = load.window.unread(table)
    query = _SUMS.format(table=sql.Identifier(table), key=sql.Identifier(CONTRACTS[table].key), batch=_batch(load.job))
    with realtime.cursor() as cursor:
        cursor.execute(query, {"table": table, "after": after, "upto": upto})
        row = cursor.fetchone()
        assert row is not None
        return Sums(*map(int, row))


def _batch(job: str) -> sql.Composable:
    """The SQL expression for the batch of an event for a job; NULL where it doesn't see it."""
    return sql.SQL("coalesce((held.loaded_by ->> {})::bigint, held.released_batch)").format(
        sql.Literal(job.replace("%", "%%"))
    )
