"""Merges old rows of the ledger: of a day of micro-batches, one row per table, cut and saver run is left.

No cut lies within such a range of batches, so whoever reads the ledger from cut to cut finds the same sums. The merge
itself is `ops.merge_batches` in the realtime database.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from threading import Event
from typing import Protocol

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib import database
from lib.schemas import CONTRACTS

PORTION = 5000
"""Rows that are merged in one transaction, which takes a tenth of a second."""

MOST_SECONDS = 60
"""How long a merge goes on at most, which is enough for a million rows."""

_BOUNDARIES = sql.SQL("""
select distinct {table} as batch from ops.cuts
where {table} >= %(merged)s
    and {table} <= (
        select max({table}) from ops.cuts
        where superseded_by is null and created_at < clock_timestamp() - %(days)s * interval '1 day'
    )
    and {table} <= (
        select min(c.{table}) from ops.watermarks w join ops.cuts c using (cut_id)
        where w.job = any(%(readers)s::text[]) having count(*) = cardinality(%(readers)s::text[])
    )
order by batch
""")


class Reader(Protocol):
    """What is needed of a job here: its name, and the tables that it declares to read."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> tuple[str, ...]: ...


def merge(jobs: Sequence[Reader], *, days: float, stop: Event) -> None:
    """Merge the ledger of each table up to the last cut that is older than `days` and that all readers have loaded.

    Readers are those of the `jobs` that declare the table; while one of them has loaded nothing, nothing is merged. What
    counts is the age of the cut, not that of its batches: a cut that was computed in these days and isn't stored yet
    can't end within a merged range. Merging again changes nothing; a merge that `stop` or the time has ended goes on with
    the next call.
    """
    deadline = time.monotonic() + MOST_SECONDS
    with closing(database.connect("warehouse")) as warehouse, closing(database.connect("realtime")) as realtime:
        for table in CONTRACTS:
            readers = [job.name for job in jobs if f"realtime.{table}" in job.reads]
            merged = _merged(realtime, table)
            boundaries = _boundaries(warehouse, table, readers, merged, days)
            while boundaries and merged < boundaries[-1] and not stop.is_set() and time.monotonic() < deadline:
                merged = _merge_portion(realtime, table, boundaries)


def _merged(realtime: Connection, table: str) -> int:
    """The batch up to which the table's ledger is merged."""
    query = "select last_batch from ops.merge_heads where source_table = %s"
    return int(database.frame(realtime, query, [table]).iloc[0, 0])


def _boundaries(warehouse: Connection, table: str, readers: list[str], merged: int, days: float) -> list[int]:
    """The last batch of each cut that merging may reach, from `merged` on; no range crosses one of them."""
    with warehouse, warehouse.cursor() as cursor:
        query = _BOUNDARIES.format(table=sql.Identifier(table))
        cursor.execute(query, {"readers": readers, "merged": merged, "days": days})
        return [row[0] for row in cursor.fetchall()]


def _merge_portion(realtime: Connection, table: str, boundaries: list[int]) -> int:
    """Merge the next portion, and return its last batch."""
    with realtime, realtime.cursor() as cursor:
        cursor.execute("select ops.merge_batches(%s, %s, %s)", [table, boundaries, PORTION])
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])
