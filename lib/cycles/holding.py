"""Events put aside by hand, and released again: what `ops.held_events` says, and how it changes.

Whoever holds an event takes the lock of the cycles and that of loads by hand, so that no load has read half of what it
reads; so what the watermarks say of each job then is what it had loaded. Released events get a batch of their own, a row
of the ledger that no message came with.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json, RealDictCursor

from lib import database, locks, servers
from lib.cycles.cycle import LOCK
from lib.jobs.discovery import Job
from lib.ledger.head import read_head
from lib.runs import registry
from lib.schemas import CONTRACTS, Contract
from lib.settings import settings

RELEASE = "release-"
"""How the `query_id` of a release in the ledger begins."""


class HoldError(Exception):
    """These events can't be held or released; the message says why, and nothing was done."""


class AllLoaded(Exception):
    """Every job that reads the events has loaded them; the message says which, and nothing was done."""


@dataclass(frozen=True)
class Held:
    """A row of `ops.held_events` that isn't released; `loaded_by` has the batch under which a job had loaded the event."""

    source_table: str
    event_id: str
    why: str
    held_at: datetime
    loaded_by: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The events of which something was changed, and those that were already as was asked for."""

    changed: list[str]
    already: list[str]
    batch: int | None = None
    """That of a release."""


@dataclass(frozen=True)
class _Stored:
    """A stored event: its own batch, its time, and what is known of it as a held one."""

    batch: int
    at: datetime
    is_known: bool
    released_batch: int | None
    loaded_by: dict[str, int]

    @property
    def is_held(self) -> bool:
        return self.is_known and self.released_batch is None


def listing() -> list[Held]:
    """The events that are held, by table and time."""
    query = (
        "select source_table, event_id, why, held_at, loaded_by from ops.held_events where released_batch is null"
        " order by source_table, held_at, event_id"
    )
    with (
        closing(database.connect("realtime")) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        cursor.execute(query)
        return [Held(**row) for row in cursor.fetchall()]


def hold(
    table: str,
    ids: Sequence[str],
    *,
    why: str,
    jobs: Sequence[Job],
    wait: float = 0,
    stop: Event | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Done:
    """Put stored events aside: jobs that haven't loaded them go on without them. All of them, or none.

    `jobs` are those of the notebooks; what isn't among them counts as a reader of the table, too. A job that has loaded an
    event keeps it. Waits up to `wait` seconds for a cycle or a load at work.

    Raises
    ------
    HoldError
        When an id is unknown.
    AllLoaded
        When nobody is left who hasn't loaded one of the events.
    locks.LockHeld
        When a cycle or a load is at work for too long.
    """
    readers = {job.name for job in jobs if f"realtime.{table}" in job.reads}
    others = {job.name for job in jobs} - readers
    cycle = locks.hold(LOCK, wait=wait, stop=stop, say=say)
    with cycle, locks.hold(locks.LOADS, wait=wait, stop=stop, say=say), _changing() as cursor:
        reached = {job: batch for job, batch in _reached(table).items() if job not in others}
        events = _find(cursor, CONTRACTS[table], ids)
        new = {event: stored for event, stored in events.items() if not stored.is_held}
        loaded = {event: _loaded_by(stored, reached) for event, stored in new.items()}
        _refuse_loaded(table, loaded, readers)
        _put_aside(cursor, table, loaded, why)
    return Done(list(new), [event for event in events if event not in new])


def _refuse_loaded(table: str, loaded: Mapping[str, Mapping[str, int]], readers: Set[str]) -> None:
    """Refuse events that every reader of the table has loaded; `loaded` has the jobs that have, by event."""
    if done := [event for event, by in loaded.items() if readers <= by.keys()]:
        names = ", ".join(sorted(readers)) or "no job"
        which = ", ".join(map(repr, done))
        raise AllLoaded(f"{which}: loaded already by every job that reads {table} ({names}); nothing was held")


def _put_aside(cursor: Cursor, table: str, loaded: Mapping[str, Mapping[str, int]], why: str) -> None:
    """Write that the events are held; one that was released before is held anew."""
    for event, by in loaded.items():
        cursor.execute(
            "insert into ops.held_events (source_table, event_id, why, loaded_by) values (%s, %s, %s, %s)"
            " on conflict (source_table, event_id) do update set why = excluded.why, held_at = clock_timestamp(),"
            " loaded_by = excluded.loaded_by, released_at = null, released_batch = null",
            [table, event, why, Json(by)],
        )


def release(table: str, ids: Sequence[str]) -> Done:
    """Bring held events back: the next cut covers them, under a new batch of their table. All of them, or none.

    A saver at work goes on behind that batch.

    Raises
    ------
    HoldError
        When an id is unknown, or was never held.
    """
    contract = CONTRACTS[table]
    with _changing() as cursor:
        events = _find(cursor, contract, ids)
        if never := [event for event, stored in events.items() if not stored.is_known]:
            raise HoldError(f"{', '.join(map(repr, never))}: never held; nothing was released")
        held = {event: stored for event, stored in events.items() if stored.is_held}
        batch = _book(cursor, contract, [stored.at for stored in held.values()]) if held else None
        cursor.execute(
            "update ops.held_events set released_batch = %s, released_at = clock_timestamp()"
            " where source_table = %s and event_id = any(%s)",
            [batch, table, list(held)],
        )
    return Done(list(held), [event for event in events if event not in held], batch)


@contextmanager
def _changing() -> Iterator[Cursor]:
    """A transaction of the schema's owner, one at a time; readers aren't kept waiting."""
    connection = servers.connect(settings().address("realtime", admin=True))
    with closing(connection), connection, connection.cursor() as cursor:
        cursor.execute("lock table ops.held_events in share row exclusive mode")
        yield cursor


def _reached(table: str) -> Mapping[str, int]:
    """The batch of the table up to which each job has loaded."""
    query = sql.SQL("select w.job, c.{} from ops.watermarks w join ops.cuts c using (cut_id)").format(
        sql.Identifier(table)
    )
    with registry.warehouse() as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return dict(cursor.fetchall())


def _find(cursor: Cursor, contract: Contract, ids: Sequence[str]) -> dict[str, _Stored]:
    """The events with these ids, in the order in which they were asked for."""
    query = sql.SQL(
        "select t.{key}, t.ingest_batch_id, t.{time}, h.event_id is not null, h.released_batch, coalesce(h.loaded_by, '{{}}')"
        " from {table} t left join ops.held_events h on h.source_table = %s and h.event_id = t.{key} where t.{key} = any(%s)"
    ).format(key=sql.Identifier(contract.key), time=sql.Identifier(contract.time), table=sql.Identifier(contract.table))
    cursor.execute(query, [contract.table, list(ids)])
    found = {row[0]: _Stored(*row[1:]) for row in cursor.fetchall()}
    if unknown := [event for event in ids if event not in found]:
        raise HoldError(f"{contract.table} has no event {', '.join(map(repr, unknown))}; nothing was done")
    return {event: found[event] for event in ids}


def _loaded_by(stored: _Stored, reached: Mapping[str, int]) -> dict[str, int]:
    """The batch under which each job has loaded the event."""
    batch = stored.released_batch or stored.batch
    return {job: batch for job, upto in reached.items() if batch <= upto} | stored.loaded_by


def _book(cursor: Cursor, contract: Contract, times: Sequence[datetime]) -> int:
    """Write a release into the ledger and move the head on; its batch. No offset moves, so that savers don't notice."""
    head = read_head(cursor, contract.table, lock=True)
    batch = head.last_batch + 1
    cursor.execute(
        "insert into ops.ingest_batches (source_table, ingest_batch_id, epoch, query_id, spark_batch_id, start_offsets,"
        " end_offsets, offset_gaps, rows_in, rows_written, duplicates, dead_letters, by_partition, latency_buckets,"
        " first_event_at, last_event_at) values (%(table)s, %(batch)s, %(epoch)s, %(query)s, -1, %(ends)s, %(ends)s,"
        " 0, 0, 0, 0, 0, '{}', '{}', %(first)s, %(last)s)",
        {
            **{"table": contract.table, "batch": batch, "epoch": head.epoch},
            **{"query": f"{RELEASE}{uuid.uuid4().hex}", "ends": json.dumps(head.end_offsets)},
            **{"first": min(times), "last": max(times)},
        },
    )
    cursor.execute(
        "update ops.ingest_heads set last_batch = %s where source_table = %s and last_batch = %s",
        [batch, contract.table, head.last_batch],
    )
    return batch


def marks() -> Mapping[tuple[str, str], datetime]:
    """When each event that was ever held was held last, by table and id."""
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        cursor.execute("select source_table, event_id, held_at from ops.held_events")
        return {(table, event): at for table, event, at in cursor.fetchall()}
