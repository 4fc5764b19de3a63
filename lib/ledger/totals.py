"""The ledger of ingestion summed up: each refresh adds the batches after the last one that it has seen."""

import copy
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from lib.ledger.head import following

COUNTS = ("rows_in", "rows_written", "duplicates", "conflicts")

INTERVALS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds in seconds of the buckets of the time between two commits; the last bucket is open."""


@dataclass
class Totals:
    """The sums over one table's ledger up to `batch`, and its head."""

    batch: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """By the column of the ledger."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """By reason."""
    latencies: Counter[float] = field(default_factory=Counter)
    """Events by the upper bound of their latency, in seconds."""
    latency_seconds: float = 0
    intervals: Counter[float] = field(default_factory=Counter)
    """Commits by the upper bound of the time since the one before, in seconds."""
    interval_seconds: float = 0
    committed_at: float | None = None
    """Of the last batch that a saver wrote, in seconds since 1970."""
    end_offsets: dict[int, int] = field(default_factory=dict)
    """The next offset to read of each partition."""
    schema_changes: int = 0
    held_events: int = 0
    heartbeat: float | None = None
    """When the last sign of life was, by this machine's monotonic clock."""


HEADS = """
select h.source_table, h.last_batch, h.end_offsets, h.passed_offsets,
    extract(epoch from clock_timestamp() - h.heartbeat_at)::float as heartbeat_age,
    (select count(*) from ops.schema_changes c where c.source_table = h.source_table) as schema_changes,
    (
        select count(*) from ops.held_events e where e.source_table = h.source_table and e.released_batch is null
    ) as held_events
from ops.ingest_heads h
"""

# What isn't in the totals yet has two bounds, so that the planner takes the index even where it has no statistics.

SUMS = """
select sum(rows_in)::bigint as rows_in, sum(rows_written)::bigint as rows_written,
    sum(duplicates)::bigint as duplicates, sum(conflicts)::bigint as conflicts,
    sum(latency_seconds) as latency_seconds,
    extract(epoch from max(committed_at) filter (where rows_in > 0))::float as committed_at
from ops.ingest_batches
where source_table = %(table)s and ingest_batch_id > %(after)s and ingest_batch_id <= %(last)s
having count(*) > 0
"""
"""A row with all of `COUNTS`; none where nothing is new."""

LATENCIES = """
select bucket.key as bound, sum(bucket.value::bigint)::bigint as events
from ops.ingest_batches, jsonb_each_text(latency_buckets) as bucket
where source_table = %(table)s and ingest_batch_id > %(after)s and ingest_batch_id <= %(last)s
group by bucket.key
"""

ACROSS = """
select from ops.ingest_batches
where source_table = %(table)s and ingest_batch_id > %(after)s and ingest_batch_id <= %(last)s
    and ingest_batch_id - batches < %(after)s
"""
"""Ranges of batches some of which are in the totals already, and some aren't."""

GAPS = """
select (select min(bound) from unnest(%(bounds)s) as bound where seconds <= bound) as bound,
    count(*) as commits, sum(greatest(seconds, 0)) as seconds
from (
    select batches, extract(epoch from committed_at - lag(committed_at) over (order by ingest_batch_id))::float as seconds
    from ops.ingest_batches
    where source_table = %(table)s and ingest_batch_id >= %(after)s and ingest_batch_id <= %(last)s
) as gaps
where seconds is not null and batches = 1
group by 1
"""
"""The times between commits, which a range has lost; a clock that was set back counts as none, so that sums never fall."""

LETTERS = """
select reason, count(*) as letters from ops.dead_letters
where source_table = %(table)s and ingest_batch_id > %(after)s and ingest_batch_id <= %(last)s
group by reason
"""


def refresh(connection: Connection, totals: Mapping[str, Totals]) -> dict[str, Totals]:
    """The totals up to the last committed batch of each table, all as of one moment; `totals` stay as they were.

    Reads the ledger rows after each table's last known batch, so that the cost follows from what is new. Where the
    ledger ends before that, it is another database's, and is summed up from its start; so it is where batches that were
    seen were merged with others that weren't.
    """
    now = {}
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(HEADS)
        heads, asked = cursor.fetchall(), time.monotonic()
        for head in heads:
            table = head["source_table"]
            now[table] = known = _begin(cursor, totals.get(table), table, head["last_batch"])
            if known.batch < head["last_batch"]:
                _add_new(cursor, known, table, head["last_batch"])
            passed = head["passed_offsets"]
            known.end_offsets = {
                int(partition): following(end, passed.get(partition)) for partition, end in head["end_offsets"].items()
            }
            known.schema_changes = head["schema_changes"]
            known.held_events = head["held_events"]
            known.heartbeat = None if head["heartbeat_age"] is None else asked - head["heartbeat_age"]
    return now


def _begin(cursor: Cursor, known: Totals | None, table: str, last: int) -> Totals:
    """The totals that the batches up to `last` are added to."""
    if known is None or last < known.batch:
        return Totals()
    cursor.execute(ACROSS, {"table": table, "after": known.batch, "last": last})
    return Totals() if cursor.rowcount else copy.deepcopy(known)


def _add_new(cursor: Cursor, totals: Totals, table: str, last: int) -> None:
    """Add the batches up to `last`."""
    new = {"table": table, "after": totals.batch, "last": last, "bounds": list(INTERVALS)}
    cursor.execute(SUMS, new)
    for row in _rows(cursor):
        totals.counts.update({name: row[name] for name in COUNTS})
        totals.latency_seconds += row["latency_seconds"]
        totals.committed_at = row["committed_at"] or totals.committed_at
    cursor.execute(LATENCIES, new)
    for row in _rows(cursor):
        totals.latencies[float(row["bound"])] += row["events"]
    cursor.execute(GAPS, new)
    for row in _rows(cursor):
        totals.intervals[float("inf") if row["bound"] is None else row["bound"]] += row["commits"]
        totals.interval_seconds += row["seconds"]
    cursor.execute(LETTERS, new)
    totals.dead_letters.update({row["reason"]: row["letters"] for row in _rows(cursor)})
    totals.batch = last


def _rows(cursor: Cursor) -> list[dict[str, Any]]:
    return [dict(row) for row in cursor.fetchall()]
