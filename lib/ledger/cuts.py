"""Incremental loading by the ledger: cuts, watermarks, the batches in between, and the day on which an event is booked.

A cycle fixes one cut, the last ledger batch of each realtime table that it reads. A job reads from the cut of its
watermark to the cut of its cycle, and never asks the clock.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from lib import database
from lib.schemas import CONTRACTS

GRACE = timedelta(minutes=15)
"""The run date is the UTC day of so long ago, so that a day is closed only when its last events have arrived."""

_TABLES = sql.SQL(", ").join(map(sql.Identifier, CONTRACTS))
"""The columns of `ops.cuts` with the last batch of each realtime table."""

_VALID = sql.SQL("select cut_id, run_date, {} from ops.cuts where superseded_by is null").format(_TABLES)


@dataclass(frozen=True)
class Cut:
    """Up to where a cycle reads: the last ledger batch of each realtime table. `cut_id` 0 is one that isn't stored yet."""

    cut_id: int
    run_date: date
    batches: dict[str, int]


@dataclass(frozen=True)
class Window:
    """What a job has to read: `since` is the cut of its watermark (None before its first load), `cut` where it goes.

    `cuts` are those between them in order, with the whole open day of `since` and the cut before that one.
    """

    since: Cut | None
    cut: Cut
    cuts: tuple[Cut, ...]

    @property
    def settled_before(self) -> date:
        """Days before this one were evaluated by an earlier load: events booked on them aren't read again."""
        return self.since.run_date if self.since else date.min

    @property
    def ends_a_day(self) -> bool:
        """Whether this load settles the day that the one before left open."""
        return self.since is not None and self.cut.run_date > self.since.run_date

    def unread(self, table: str) -> tuple[int, int]:
        """The batches `(after, upto]` that no earlier load has read."""
        return (self.since.batches[table] if self.since else 0), self.cut.batches[table]

    def open(self, table: str) -> tuple[int, int]:
        """The unread batches, and the earlier ones with events that are booked on a day that isn't settled."""
        first = self.cuts[0]
        return (first.batches[table] if first.run_date < self.settled_before else 0), self.cut.batches[table]

    def opened(self, table: str) -> int:
        """The last batch of the first cut whose run date is that of `since`: it opened the day that isn't settled."""
        return next(cut.batches[table] for cut in self.cuts if cut.run_date >= self.settled_before)

    def bookings(self, table: str) -> list[tuple[int, date]]:
        """How the events of a realtime table are booked: for the batches up to each of these, the first day that is still open.

        An event is booked on its own UTC day, or on that first day if it is later: the run date of the cut before the one
        that first covers the event's batch. The days rise with the batches; the last one holds for all later batches, too.
        """
        last: dict[date, int] = {}
        for before, cut in zip([None, *self.cuts], self.cuts, strict=False):
            last[before.run_date if before else date.min] = cut.batches[table]
        return [(last[day], day) for day in sorted(last)]


def open_cut(run_date: date | None = None) -> Cut:
    """Fix and store the cut of a new cycle.

    Raises
    ------
    ValueError
        When `run_date` lies before that of an earlier cut, or after today.
    """
    with closing(database.connect("warehouse")) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtext('ops.cuts'))")
        return store_cut(cursor, next_cut(cursor, run_date))


def next_cut(cursor: Cursor, run_date: date | None = None) -> Cut:
    """The cut that a cycle would get now; nothing is stored."""
    before = latest_cut(cursor)
    today = (datetime.now(UTC) - GRACE).date()
    floor = before.run_date if before else date.min
    day = run_date or max(today, floor)
    if day < floor:
        raise ValueError(f"the run date {day} lies before {floor}, that of the last cut: cuts never go back")
    if day > datetime.now(UTC).date():
        raise ValueError(f"the run date {day} lies in the future")
    read = before.batches if before else dict.fromkeys(CONTRACTS, 0)
    with closing(database.connect("realtime")) as realtime, realtime.cursor() as ledger:
        return Cut(0, day, {table: _last_batch(ledger, table, read[table], day) for table in CONTRACTS})


def _last_batch(ledger: Cursor, table: str, read: int, run_date: date) -> int:
    """The last batch before the first unread one that holds an event after the run date."""
    ledger.execute(
        "select coalesce(min(ingest_batch_id - batches) filter (where last_event_at >= %s), max(ingest_batch_id), %s)"
        " from ops.ingest_batches where source_table = %s and ingest_batch_id > %s",
        [datetime.combine(run_date + timedelta(days=1), datetime.min.time(), UTC), read, table, read],
    )
    row = ledger.fetchone()
    assert row is not None
    return int(row[0])


def store_cut(cursor: Cursor, cut: Cut) -> Cut:
    """Store a cut in the caller's transaction, and return it with its number."""
    insert = sql.SQL("insert into ops.cuts (run_date, {}) values (%s, %s, %s, %s) returning cut_id").format(_TABLES)
    cursor.execute(insert, [cut.run_date, *(cut.batches[table] for table in CONTRACTS)])
    row = cursor.fetchone()
    assert row is not None
    return Cut(row[0], cut.run_date, cut.batches)


def cuts_upto(cursor: Cursor, cut_id: int) -> tuple[Cut, ...]:
    """The stored cuts up to this one, in order."""
    return tuple(_cuts(cursor, sql.SQL("and cut_id <= %s order by cut_id"), [cut_id]))


def numbered(cursor: Cursor, cut: Cut) -> Cut:
    """A cut with a number that no other one gets; it isn't stored. Takes the owner of the schema."""
    cursor.execute("select nextval(pg_get_serial_sequence('ops.cuts', 'cut_id'))")
    row = cursor.fetchone()
    assert row is not None
    return replace(cut, cut_id=row[0])


def copy_cuts(cursor: Cursor, cuts: Sequence[Cut]) -> None:
    """Store cuts under the numbers that they have; those that are stored already stay."""
    insert = sql.SQL(
        "insert into ops.cuts (cut_id, run_date, {}) overriding system value values (%s, %s, %s, %s, %s)"
        " on conflict do nothing"
    ).format(_TABLES)
    for cut in cuts:
        cursor.execute(insert, [cut.cut_id, cut.run_date, *(cut.batches[table] for table in CONTRACTS)])


def supersede(cursor: Cursor, cut: Cut) -> None:
    """Store a cut in the place of all others, which stay only for the runs that refer to them."""
    copy_cuts(cursor, [cut])
    cursor.execute("update ops.cuts set superseded_by = %s where cut_id <> %s", [cut.cut_id, cut.cut_id])


def latest_cut(cursor: Cursor) -> Cut | None:
    """The last cut that was stored."""
    return next(iter(_cuts(cursor, sql.SQL("order by cut_id desc limit 1"))), None)


def find_cut(cursor: Cursor, cut: int, run_date: str = "") -> Cut:
    """The stored cut with this number; for 0 the one that a cycle would get now.

    Raises
    ------
    LookupError
        When there is no such cut.
    """
    if not cut:
        return next_cut(cursor, date.fromisoformat(run_date) if run_date else None)
    found = _cuts(cursor, sql.SQL("and cut_id = %s"), [cut])
    if not found:
        raise LookupError(f"ops.cuts has no cut {cut}, or a fresh rebuild has replaced it")
    return found[0]


def at_most(cursor: Cursor, cut: Cut, jobs: Sequence[str]) -> tuple[Cut, list[str]]:
    """The cut, or the earliest of the watermarks of `jobs` where that lies before it; and the jobs that are no further.

    Raises
    ------
    LookupError
        When one of the jobs has loaded nothing yet.
    """
    loaded: dict[str, Cut] = {}
    for job in jobs:
        mark = watermark(cursor, job)
        if mark is None:
            raise LookupError(f"{job} has loaded nothing yet: `schedule.py run {job}` first")
        loaded[job] = mark
    earliest = min([cut, *loaded.values()], key=lambda each: each.cut_id or math.inf)
    holding = [job for job, mark in loaded.items() if earliest is not cut and mark.cut_id == earliest.cut_id]
    return earliest, holding if earliest.cut_id != cut.cut_id else []


def watermark(cursor: Cursor, job: str) -> Cut | None:
    """The cut up to which a job has loaded; None before its first load."""
    loaded = sql.SQL("and cut_id = (select cut_id from ops.watermarks where job = %s)")
    return next(iter(_cuts(cursor, loaded, [job])), None)


def advance(cursor: Cursor, job: str, cut: Cut) -> None:
    """Move a job's watermark to a cut, in the transaction of its rows."""
    cursor.execute(
        "insert into ops.watermarks (job, cut_id) values (%s, %s) on conflict (job) do update"
        " set cut_id = excluded.cut_id, updated_at = clock_timestamp()",
        [job, cut.cut_id],
    )


def window(cursor: Cursor, job: str, cut: Cut) -> Window:
    """What a job has to read to get to a cut; nothing when it is there already."""
    since = watermark(cursor, job)
    if since and cut.cut_id and since.cut_id > cut.cut_id:
        cut = since
    stop = cut.cut_id or None
    between = _cuts(
        cursor,
        sql.SQL("and cut_id <= coalesce(%s, cut_id) and run_date >= %s order by cut_id"),
        [stop, since.run_date if since else date.min],
    )
    first = between[0].cut_id if between else stop
    last_before = sql.SQL("and cut_id < coalesce(%s, cut_id + 1) order by cut_id desc limit 1")
    before = _cuts(cursor, last_before, [first])
    cuts = [*before, *between] + ([] if cut.cut_id else [cut])
    return Window(since, cut, tuple(cuts))


def past_window(cut: Cut, run_date: date) -> Window:
    """What a job reads for a run date before that of its cut: everything up to the cut, as its first load would."""
    past = replace(cut, run_date=run_date)
    return Window(None, past, (past,))


def _cuts(cursor: Cursor, which: sql.SQL, parameters: Sequence[object] = ()) -> list[Cut]:
    """Those of the stored cuts that no rebuild has replaced; `which` is what follows in the statement."""
    cursor.execute(sql.SQL("{} {}").format(_VALID, which), parameters)
    return [Cut(row[0], row[1], dict(zip(CONTRACTS, row[2:], strict=True))) for row in cursor.fetchall()]
