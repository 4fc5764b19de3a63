"""Stores the messages of a micro-batch: decodes them, adds columns for new fields, and copies the rows into their table.

Messages that can't be processed, for whatever reason, are found by halving the micro-batch; the others are stored.
"""

import functools
import io
import logging
import zlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import sql
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor
from pyarrow import csv

from lib.database import is_elsewhere, savepoint
from lib.ingest import evolution
from lib.ingest.columnar import PLACE, decode_batch
from lib.ingest.decode import Dead
from lib.ingest.evolution import Shape
from lib.plain import one_line
from lib.schemas import UNPROCESSABLE, Contract

CHUNK = 1 << 18
"""Bytes that are sent to COPY at a time."""

FEW = 20
SHARE = 0.05
"""When more messages than both, this many and this share of all, are unprocessable, the program is probably at fault."""

_DETAIL = 1000
"""How many characters of an error a dead letter keeps."""

logger = logging.getLogger(__name__)


class ProgramFault(Exception):
    """So many messages can't be processed that it is the program that looks faulty; nothing of the micro-batch was written."""


@dataclass
class Stored:
    """What became of messages: how many were written, per partition, the times of their events, and which are dead.

    `conflicts` counts duplicates whose payload differs from the stored event's. `first` and `last` are the earliest and
    latest time of the written events, `times` those of all events. `dead` is by place, the message's index in the
    micro-batch.
    """

    written: Counter[int] = field(default_factory=Counter)
    conflicts: Counter[int] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    times: list[pa.Array] = field(default_factory=list)
    dead: dict[int, Dead] = field(default_factory=dict)

    def add(self, other: "Stored") -> "Stored":
        """Both together."""
        times = [time for time in (self.first, self.last, other.first, other.last) if time]
        return Stored(
            self.written + other.written,
            self.conflicts + other.conflicts,
            min(times, default=None),
            max(times, default=None),
            self.times + other.times,
            self.dead | other.dead,
        )


def store(cursor: Cursor, contract: Contract, messages: pa.Table, batch: int, run: str) -> Stored:
    """Store the events of a micro-batch in the order of its messages; of several with the same key the first is kept.

    A message that can't be processed doesn't keep the others from being stored. It is `dead`: `rejected_by_database` when
    the database refuses its values, `unprocessable` for any other reason.

    Parameters
    ----------
    messages
        `partition`, `offset` and `value` of each.
    batch
        The number of the micro-batch in the ledger.
    run
        The `query_id` of the run, whose earlier micro-batches count when messages can't be processed.

    Raises
    ------
    ProgramFault
        When more than 20 messages and more than 5 % of the micro-batch, or of the run so far, are unprocessable.
    psycopg2.Error
        When the database is away, or can't take anything from us.
    """
    return _Storing(cursor, messages, batch, run, evolution.shape(cursor, contract)).store(0, len(messages))


@dataclass
class _Storing:
    """One micro-batch on its way into its table; `shape` are the table's columns, those added on the way included."""

    cursor: Cursor
    messages: pa.Table
    batch: int
    run: str
    shape: Shape
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    unprocessable: int = 0

    def store(self, start: int, stop: int) -> Stored:
        """Store the messages from one place up to another, in halves where an error is raised."""
        try:
            with savepoint(self.cursor):
                stored, shape = self._store_whole(start, stop)
        except Exception as error:  # whatever it is, it must cost only the message that raises it
            if is_elsewhere(error):
                raise
            if stop - start > 1:
                middle = (start + stop) // 2
                return self.store(start, middle).add(self.store(middle, stop))
            return Stored(dead={start: self._why(error)})
        self.shape = shape
        return stored

    def _store_whole(self, start: int, stop: int) -> tuple[Stored, Shape]:
        messages = self.messages if stop - start == len(self.messages) else self.messages[start:stop]
        decoded = decode_batch(self.shape.contract, messages["value"].to_pylist(), self.now)
        shape = evolution.grow(self.cursor, self.shape, decoded.odd.values(), self.batch)
        events = _placed(decoded.rows(shape.contract), messages, self.batch)
        stored = insert_events(self.cursor, shape.contract, events) if len(events) else Stored()
        stored.times = events[shape.contract.time].chunks
        stored.dead = {start + place: why for place, why in decoded.dead.items()}
        return stored, shape

    def _why(self, error: Exception) -> Dead:
        """Why a single message that raises this error is dead."""
        if isinstance(error, psycopg2.DataError | psycopg2.IntegrityError):
            return Dead("rejected_by_database", f"SQLSTATE {error.pgcode}: {str(error).splitlines()[0]}")
        why = one_line(f"{type(error).__name__}: {error}", _DETAIL)
        logger.warning("%s: a message can't be processed", self.shape.contract.table, exc_info=error)
        self.unprocessable += 1
        earlier_dead, earlier_read = self.earlier
        for dead, read, where in (
            (self.unprocessable, len(self.messages), "a micro-batch"),
            (self.unprocessable + earlier_dead, len(self.messages) + earlier_read, "this run"),
        ):
            if dead > FEW and dead > SHARE * read:
                raise ProgramFault(
                    f"{self.shape.contract.table}: {dead} of {read} messages of {where} can't be processed, which looks like a"
                    f" fault of the program and not of the messages; nothing of this micro-batch was written. The last: {why}"
                )
        return Dead(UNPROCESSABLE, why)

    @functools.cached_property
    def earlier(self) -> tuple[int, int]:
        """How many messages of the run's earlier micro-batches were unprocessable, and how many these have read."""
        self.cursor.execute(_EARLIER, {"table": self.shape.contract.table, "run": self.run, "reason": UNPROCESSABLE})
        dead, read = self.cursor.fetchall()[0]
        return int(dead), int(read)


_EARLIER = """
with run as (
    select min(ingest_batch_id - batches) as after, coalesce(sum(rows_in), 0) as messages
    from ops.ingest_batches where source_table = %(table)s and query_id = %(run)s
)
select (
    select count(*) from ops.dead_letters
    where source_table = %(table)s and ingest_batch_id > run.after and reason = %(reason)s
), messages from run
"""


def _placed(events: pa.Table, messages: pa.Table, batch: int) -> pa.Table:
    """The events with the partition and offset of their messages, and the number of the batch."""
    came = messages.select(["partition", "offset"])
    if len(events) < len(messages):
        came = came.take(events[PLACE])
    events = events.append_column("kafka_partition", came["partition"])
    events = events.append_column("kafka_offset", came["offset"])
    return events.append_column("ingest_batch_id", pa.repeat(pa.scalar(batch, pa.int64()), len(events)))


def insert_events(cursor: Cursor, contract: Contract, rows: pa.Table) -> Stored:
    """Copy the events into their table; where one of them is there already, through a temporary table."""
    try:
        with savepoint(cursor):
            _copy(cursor, contract.table, rows)
    except UniqueViolation:
        return _merge(cursor, contract, rows)
    counts = pc.value_counts(rows["kafka_partition"]).to_pylist()
    span = pc.min_max(rows[contract.time]).as_py()
    first, last = (span[end].replace(tzinfo=UTC) for end in ("min", "max"))
    return Stored(Counter({row["values"]: row["counts"] for row in counts}), first=first, last=last)


def _copy(cursor: Cursor, table: str, rows: pa.Table) -> None:
    """COPY the rows as CSV: NULL is empty and unquoted, a text is quoted, an instant is UTC."""
    rows = rows.drop_columns(PLACE)
    buffer = io.BytesIO()
    csv.write_csv(rows, buffer, csv.WriteOptions(include_header=False))
    buffer.seek(0)
    statement = sql.SQL("copy {} ({}) from stdin with (format csv)")
    columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    cursor.copy_expert(statement.format(sql.Identifier(table), columns), buffer, CHUNK)


_MERGE = sql.SQL("""
insert into {table} ({columns}) select {columns} from {incoming} order by kafka_partition, kafka_offset
on conflict do nothing;
with compared as (
    select i.kafka_partition, t.{time} as event_at,
        (t.ingest_batch_id, t.kafka_partition, t.kafka_offset)
        = (i.ingest_batch_id, i.kafka_partition, i.kafka_offset) as is_written,
        ({incoming_payload}) is distinct from ({stored_payload}) as is_other
    from {incoming} as i join {table} as t using ({key})
)
select kafka_partition, count(*) filter (where is_written), count(*) filter (where is_other),
    min(event_at) filter (where is_written), max(event_at) filter (where is_written)
from compared group by kafka_partition
""")


def _merge(cursor: Cursor, contract: Contract, rows: pa.Table) -> Stored:
    """Insert the events through a temporary table, named after the added columns, and compare those that were there."""
    names = [name for name in rows.column_names if name != PLACE]
    columns, table = sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(contract.table)
    staging = f"incoming_{contract.table}_{zlib.crc32(repr(contract.added).encode()):08x}"
    incoming = sql.Identifier(staging)
    create = sql.SQL("create temporary table if not exists {} as select {} from {} limit 0; truncate {}")
    cursor.execute(create.format(incoming, columns, table, incoming))
    _copy(cursor, staging, rows)
    parts = {"table": table, "columns": columns, "incoming": incoming}
    parts |= {"key": sql.Identifier(contract.key), "time": sql.Identifier(contract.time)}
    parts |= {"incoming_payload": _payload(contract, "i"), "stored_payload": _payload(contract, "t")}
    cursor.execute(_MERGE.format(**parts), {field.name: field.name for field in contract.added})
    stored = Stored()
    for partition, written, conflicts, first, last in cursor.fetchall():
        stored = stored.add(Stored(Counter({partition: written}), Counter({partition: conflicts}), first, last))
    return stored


def _payload(contract: Contract, alias: str) -> sql.Composable:
    """What an event says, to be compared: its declared columns, and one object of its other fields, in columns or `extra`.

    The names of added fields are parameters.
    """
    declared = [sql.Identifier(alias, field.column) for field in contract.fields]
    added = [
        item for field in contract.added for item in (sql.Placeholder(field.name), sql.Identifier(alias, field.column))
    ]
    other = sql.SQL("jsonb_strip_nulls(jsonb_build_object({})) || coalesce({}, '{{}}')")
    return sql.SQL(", ").join([*declared, other.format(sql.SQL(", ").join(added), sql.Identifier(alias, "extra"))])
