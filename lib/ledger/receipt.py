"""The receipt of a saver run: what it read, and what became of each message, by what the database says."""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import pandas as pd
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib import database
from lib.ledger.head import LATENCY_SECONDS
from lib.schemas import Contract

State = Literal["published", "tried out", "at work"]

LIVE_SECONDS = 60
"""An event that is older than this at its commit is back-dated or late, and says nothing about latency."""

POINTS = 120
"""Most points of a chart over time."""

COUNTS = ("rows_in", "rows_written", "duplicates", "dead_letters")


@dataclass(frozen=True)
class Receipt:
    """What one saver run did, and whether it was kept.

    `batches` are its rows of the ledger: one per micro-batch, or per range of old ones that were merged. `dead_letters` has
    one row per reason with an example, `schema_changes` one per added column. `latency` is the time from event to commit
    in milliseconds (p50, p95, p99) of the `live_events`: those that were committed within a minute, at a time that the
    ledger still has. `stored_rows` are counted in the table itself.
    """

    table: str
    query_id: str
    state: State
    batches: pd.DataFrame
    dead_letters: pd.DataFrame
    schema_changes: pd.DataFrame
    latency: dict[str, float | None]
    live_events: int
    stored_rows: int
    held: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Those of the stored events that are held: `event_id`, `why`, `held_at`."""

    def total(self, column: str) -> int:
        """The sum of a count over the run's batches."""
        return int(self.batches[column].sum())

    def check(self) -> pd.DataFrame:
        """Check what has to be true of every run, and return a row for each check: `check`, `expected`, `found`.

        Raises
        ------
        AssertionError
            When something isn't true, naming it.
        """
        read, written, duplicates, dead = map(self.total, COUNTS)
        gaps = int(self.partitions()["offset_gaps"].sum())
        rows = [
            ("messages read = rows + duplicates + dead letters", read, written + duplicates + dead),
            ("rows by the ledger = rows in the table", written, self.stored_rows),
            ("offsets without a message, by the ledger = by partition", self.total("offset_gaps"), gaps),
            ("each batch begins where the one before it ended", True, self.follow_on()),
        ]
        for check, expected, found in rows:
            assert expected == found, f"{self.table}: {check} doesn't hold: {expected} and {found}"
        return pd.DataFrame(rows, columns=["check", "expected", "found"]).astype({"expected": str, "found": str})

    def follow_on(self) -> bool:
        """Whether the offsets of each batch begin where those of the one before it end.

        Numbers may be missing between two batches: a release of held events takes one, too.
        """
        ends: dict[str, int] = {}
        for batch in self.batches.itertuples():
            if not ends.items() <= batch.start_offsets.items():
                return False
            ends = batch.end_offsets
        return True

    def latency_table(self) -> pd.DataFrame:
        """The latency as one row for people, in milliseconds."""
        return pd.DataFrame([{f"{name} ms": value for name, value in self.latency.items()}])

    def partitions(self) -> pd.DataFrame:
        """One row per partition: offsets `[start, end)`, what lay between them, and what became of it."""
        if self.batches.empty:
            return pd.DataFrame(columns=["partition", "start", "end", *COUNTS, "offset_gaps"])
        starts: dict[str, int] = {}
        ends: dict[str, int] = {}
        for batch in self.batches.itertuples():
            starts = batch.start_offsets | starts
            ends |= batch.end_offsets
        counts = pd.DataFrame([row for batch in self.batches["by_partition"] for row in _rows(batch)])
        sums = counts.groupby("partition").sum().reindex(columns=list(COUNTS))
        rows = [
            {"partition": int(name), "start": starts[name], "end": ends[name], **sums.loc[name].astype(int)}
            for name in sorted(ends, key=int)
            if name in sums.index
        ]
        frame = pd.DataFrame(rows)
        return frame.assign(offset_gaps=frame["end"] - frame["start"] - frame["rows_in"])

    def over_time(self) -> pd.DataFrame:
        """Events per second in equal slices of the run: `time`, `rows_written`, `duplicates`, `dead_letters`.

        A run without messages has no slice.
        """
        if self.batches.empty:
            return pd.DataFrame(columns=["time", *COUNTS[1:]])
        times = pd.to_datetime(self.batches["committed_at"], utc=True)
        span = (times.max() - times.min()).total_seconds()
        seconds = next((size for size in (1, 5, 10, 30, 60) if span / size <= POINTS), 300)
        sliced = self.batches.assign(time=times.dt.floor(f"{seconds}s")).groupby("time")[list(COUNTS[1:])].sum()
        return (sliced / seconds).asfreq(f"{seconds}s", fill_value=0).reset_index()


def _rows(by_partition: dict[str, dict[str, int]]) -> list[dict[str, object]]:
    return [{"partition": name, **counts} for name, counts in by_partition.items()]


def read(connection: Connection, contract: Contract, query_id: str, state: State) -> Receipt:
    """The receipt of the run that the ledger knows by `query_id`, as the connection's transaction sees it."""
    batches = database.frame(connection, _BATCHES, [contract.table, query_id])
    find = functools.partial(_find, connection, contract, _spans(batches))
    percentiles, live, stored = find(_LATENCY, query_id).iloc[0]
    return Receipt(
        table=contract.table,
        query_id=query_id,
        state=state,
        batches=batches,
        dead_letters=find(_DEAD_LETTERS),
        schema_changes=find(_SCHEMA_CHANGES),
        latency=dict(zip(("p50", "p95", "p99"), percentiles or (None, None, None), strict=True)),
        live_events=int(live),
        stored_rows=int(stored),
        held=find(_HELD),
    )


_BATCHES = """
select * from ops.ingest_batches
where source_table = %s and query_id = %s
order by ingest_batch_id
"""

_IN_SPANS = sql.SQL(
    "unnest(%s::bigint[], %s::bigint[]) as span (after, upto)"
    " on ingest_batch_id > span.after and ingest_batch_id <= span.upto"
)
"""Joins a row to the span of batches in which its `ingest_batch_id` lies."""

_DEAD_LETTERS = sql.SQL("""
select reason, count(*) as messages, min(detail) as example
from ops.dead_letters join {spans}
where source_table = %s
group by reason
order by messages desc, reason
""")

_SCHEMA_CHANGES = sql.SQL("""
select column_name, column_type, ingest_batch_id, created_at
from ops.schema_changes join {spans}
where source_table = %s
order by created_at
""")

_LATENCY = sql.SQL("""
select percentile_cont(array[0.5, 0.95, 0.99]) within group (order by ms) filter (where ms < {live}),
    count(*) filter (where ms < {live}),
    count(*)
from (
    select 1000 * extract(epoch from b.committed_at - t.{time})::float as ms
    from {table} t join {spans}
    left join ops.ingest_batches b
        on b.source_table = %s and b.query_id = %s and b.ingest_batch_id = t.ingest_batch_id
) as events
""")

_HELD = sql.SQL("""
select h.event_id, h.why, h.held_at
from ops.held_events h join {table} t on t.{key} = h.event_id join {spans}
where h.source_table = %s and h.released_batch is null
order by h.held_at, h.event_id
""")


def _find(
    connection: Connection, contract: Contract, spans: tuple[list[int], list[int]], query: sql.SQL, *more: str
) -> pd.DataFrame:
    """The rows of a query about these spans of the table's batches; `more` are its parameters after the table."""
    statement = query.format(
        spans=_IN_SPANS,
        table=sql.Identifier(contract.table),
        key=sql.Identifier(contract.key),
        time=sql.Identifier(contract.time),
        live=sql.Literal(LIVE_SECONDS * 1000),
    )
    return database.frame(connection, statement, [*spans, contract.table, *more])


def _spans(batches: pd.DataFrame) -> tuple[list[int], list[int]]:
    """The batches that these ledger rows stand for, as spans `(after, upto]`: all lower bounds, and all upper ones."""
    after: list[int] = []
    upto: list[int] = []
    for last, number in zip(batches["ingest_batch_id"], batches["batches"], strict=True):
        if upto and upto[-1] == last - number:
            upto[-1] = last
        else:
            after.append(last - number)
            upto.append(last)
    return after, upto


def percentile(buckets: Iterable[dict[str, int]], share: float) -> float | None:
    """The upper bound in milliseconds of the latency bucket that holds this share of all events; None without events.

    `buckets` are those of the ledger, one mapping per micro-batch; beyond the last bound it is infinite.
    """
    counts = sum((Counter(batch) for batch in buckets), Counter())
    bounds = [*map(str, LATENCY_SECONDS), "inf"]
    for bound, sofar in zip(bounds, accumulate(counts[bound] for bound in bounds), strict=True):
        if sofar and sofar >= share * counts.total():
            return 1000 * float(bound)
    return None
