"""One micro-batch into the realtime database: rows, dead letters, ledger row and head in one transaction.

The head row (`ops.ingest_heads`) is the truth of ingestion. It is locked first; messages below it are skipped, a
message beyond it stops the run, and a run whose epoch was taken over can't write any more. So a batch that is sent
again, after a crash or from a torn checkpoint, changes nothing.
"""

import bisect
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg2
import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values
from pyarrow import csv

from lib.decode import Dead, Event, decode
from lib.schemas import Contract

LATENCY_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 60.0)
"""Upper bounds of the ledger's latency buckets, event time to batch; the last bucket is open."""

_ARROW = {
    "text": pa.string(),
    "whole": pa.int32(),
    "money": pa.string(),
    "time": pa.timestamp("us"),
    "lines": pa.string(),
}


class Fenced(Exception):
    """Another run has taken over this table; the batch was not written."""


class OffsetGap(Exception):
    """The batch doesn't follow the head: messages between the two are missing; nothing was written."""


@dataclass(frozen=True)
class Writer:
    """Who writes: the epoch that the run takes in its first batch, and the unique name of its query."""

    epoch: int
    query_id: str


@dataclass(frozen=True)
class Message:
    """A Kafka message, as it came."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Stored:
    """A decoded message with its place in the topic."""

    message: Message
    event: Event


@dataclass(frozen=True)
class Refused:
    """A message that can't be stored, with the reason."""

    message: Message
    dead: Dead


@dataclass(frozen=True)
class Receipt:
    """What one batch did; `rows_in = rows_written + duplicates + dead_letters`."""

    ingest_batch_id: int
    rows_in: int
    rows_written: int
    duplicates: int
    dead_letters: int


def write_batch(
    connection: Connection, contract: Contract, messages: Iterable[Message], writer: Writer, spark_batch_id: int
) -> Receipt | None:
    """Write one micro-batch inside the caller's transaction, and return its receipt; None where nothing was new.

    Raises
    ------
    Fenced
        When another run has taken over.
    OffsetGap
        When messages between the head and this batch are missing.
    """
    with connection.cursor() as cursor:
        head = _lock_head(cursor, contract, writer)
        fresh = _after_head(messages, head.end_offsets, contract)
        if not fresh:
            return None
        now = datetime.now(UTC)
        decoded = [(message, decode(contract, message.value, now)) for message in fresh]
        stored = [Stored(message, event) for message, event in decoded if isinstance(event, Event)]
        refused = [Refused(message, dead) for message, dead in decoded if isinstance(dead, Dead)]
        written, rejected = _store(cursor, contract, stored, head.last_batch + 1)
        refused += rejected
        _bury(cursor, contract, refused, head.last_batch + 1)
        latencies = Counter(
            bisect.bisect_left(LATENCY_SECONDS, (now - row.event.time).total_seconds()) for row in stored
        )
        return _book(cursor, contract, writer, spark_batch_id, head, Batch(fresh, refused, written, latencies))


# --- the head


@dataclass(frozen=True)
class Head:
    """Where ingestion of a table stands: the last ledger batch, and the next offset of each partition."""

    epoch: int
    last_batch: int
    end_offsets: dict[int, int]


def read_head(cursor: Cursor, table: str, *, lock: bool = False) -> Head:
    """The head of a table; with `lock` no one else moves it before the transaction ends."""
    query = "select epoch, last_batch, end_offsets from ops.ingest_heads where source_table = %s"
    cursor.execute(query + (" for update" if lock else ""), [table])
    row = cursor.fetchone()
    if row is None:
        raise LookupError(f"ops.ingest_heads has no row for {table}: the realtime schema isn't up to date")
    epoch, last_batch, offsets = row
    return Head(epoch, last_batch, {int(partition): offset for partition, offset in offsets.items()})


def _lock_head(cursor: Cursor, contract: Contract, writer: Writer) -> Head:
    head = read_head(cursor, contract.table, lock=True)
    if head.epoch == writer.epoch:
        cursor.execute(
            "select query_id from ops.ingest_batches where source_table = %s and ingest_batch_id = %s",
            [contract.table, head.last_batch],
        )
        last = cursor.fetchone()
        if last and last[0] == writer.query_id:
            return head
    if head.epoch != writer.epoch - 1:
        raise Fenced(f"{contract.table}: epoch {head.epoch} has taken over from epoch {writer.epoch}; this run ends")
    return head


def _after_head(messages: Iterable[Message], ends: dict[int, int], contract: Contract) -> list[Message]:
    """The messages that follow the head, in the order of partition and offset."""
    fresh = sorted(
        (message for message in messages if message.offset >= ends.get(message.partition, 0)),
        key=lambda message: (message.partition, message.offset),
    )
    expected = dict(ends)
    for message in fresh:
        after = expected.get(message.partition, message.offset)
        if message.offset != after:
            raise OffsetGap(
                f"{contract.topic}: partition {message.partition} goes on at offset {message.offset}, "
                f"and {after} to {message.offset - 1} were not read; nothing of this batch was written"
            )
        expected[message.partition] = message.offset + 1
    return fresh


# --- rows


@dataclass
class Written:
    """Rows written per partition, and the span of their times."""

    rows: Counter[int]
    first: datetime | None = None
    last: datetime | None = None

    def add(self, other: "Written") -> "Written":
        """Both together."""
        times = [time for time in (self.first, self.last, other.first, other.last) if time]
        return Written(self.rows + other.rows, min(times, default=None), max(times, default=None))


def _store(cursor: Cursor, contract: Contract, stored: list[Stored], batch: int) -> tuple[Written, list[Refused]]:
    """Insert what isn't there yet; what the database itself refuses is found by halving, and the rest is stored."""
    if not stored:
        return Written(Counter()), []
    cursor.execute("savepoint rows")
    try:
        written = _insert(cursor, contract, stored, batch)
    except (psycopg2.DataError, psycopg2.IntegrityError) as error:
        cursor.execute("rollback to savepoint rows")
        if len(stored) == 1:
            detail = f"SQLSTATE {error.pgcode}: {str(error).splitlines()[0]}"
            return Written(Counter()), [Refused(stored[0].message, Dead("rejected_by_database", detail))]
        middle = len(stored) // 2
        (one, bad), (other, worse) = (
            _store(cursor, contract, half, batch) for half in (stored[:middle], stored[middle:])
        )
        return one.add(other), bad + worse
    cursor.execute("release savepoint rows")
    return written, []


def _insert(cursor: Cursor, contract: Contract, stored: list[Stored], batch: int) -> Written:
    table, incoming = sql.Identifier(contract.table), sql.Identifier(f"incoming_{contract.table}")
    names = [*contract.columns, "extra", "kafka_partition", "kafka_offset"]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    create = "create temporary table if not exists {} on commit delete rows as select {} from {} limit 0; truncate {}"
    cursor.execute(sql.SQL(create).format(incoming, columns, table, incoming))
    copy = sql.SQL("copy {} ({}) from stdin with (format csv)").format(incoming, columns)
    cursor.copy_expert(copy, _as_csv(contract, stored))
    cursor.execute(
        sql.SQL(
            "with written as ("
            " insert into {table} ({columns}, ingest_batch_id)"
            " select {columns}, %s from {incoming} order by kafka_partition, kafka_offset"
            " on conflict do nothing returning kafka_partition, {time} as event_at)"
            " select kafka_partition, count(*), min(event_at), max(event_at) from written group by kafka_partition"
        ).format(table=table, incoming=incoming, columns=columns, time=sql.Identifier(contract.time)),
        [batch],
    )
    rows = cursor.fetchall()
    first, last = min((row[2] for row in rows), default=None), max((row[3] for row in rows), default=None)
    return Written(Counter({row[0]: row[1] for row in rows}), first, last)


def _as_csv(contract: Contract, stored: Sequence[Stored]) -> io.BytesIO:
    """The rows in COPY's CSV: NULL is empty and unquoted, a text is quoted, an instant is UTC."""
    arrays = []
    for index, field in enumerate(contract.fields):
        values = [row.event.values[index] for row in stored]
        if field.kind == "money":
            values = [None if value is None else str(value) for value in values]
        elif field.kind == "time":
            values = [value.replace(tzinfo=None) for value in values]
        arrays.append(pa.array(values, _ARROW[field.kind]))
    arrays.append(pa.array([row.event.extra for row in stored], pa.string()))
    arrays.append(pa.array([row.message.partition for row in stored], pa.int32()))
    arrays.append(pa.array([row.message.offset for row in stored], pa.int64()))
    buffer = io.BytesIO()
    table = pa.table(arrays, names=[str(index) for index in range(len(arrays))])
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False))
    buffer.seek(0)
    return buffer


# --- dead letters and the receipt


def _bury(cursor: Cursor, contract: Contract, refused: list[Refused], batch: int) -> None:
    execute_values(
        cursor,
        "insert into ops.dead_letters (topic, kafka_partition, kafka_offset, message_key, payload, reason, detail,"
        " source_table, ingest_batch_id) values %s on conflict do nothing",
        [
            (
                contract.topic,
                letter.message.partition,
                letter.message.offset,
                letter.message.key,
                letter.message.value,
                letter.dead.reason,
                letter.dead.detail.encode("utf-8", "replace").decode().replace("\0", "\\0"),
                contract.table,
                batch,
            )
            for letter in refused
        ],
    )


@dataclass(frozen=True)
class Batch:
    """What became of one micro-batch; latencies are counts per bucket of `LATENCY_SECONDS`."""

    fresh: list[Message]
    refused: list[Refused]
    written: Written
    latencies: Counter[int]


def _book(cursor: Cursor, contract: Contract, writer: Writer, spark_batch_id: int, head: Head, batch: Batch) -> Receipt:
    """Write the ledger row and move the head on."""
    seen = Counter(message.partition for message in batch.fresh)
    dead = Counter(letter.message.partition for letter in batch.refused)
    rows = batch.written.rows
    starts = {message.partition: message.offset for message in reversed(batch.fresh)}
    ends = head.end_offsets | {message.partition: message.offset + 1 for message in batch.fresh}
    by_partition = {
        partition: {
            "rows_in": seen[partition],
            "rows_written": rows[partition],
            "duplicates": seen[partition] - dead[partition] - rows[partition],
            "dead_letters": dead[partition],
        }
        for partition in sorted(seen)
    }
    total: dict[str, int] = defaultdict(int)
    for counts in by_partition.values():
        for name, count in counts.items():
            total[name] += count
    number = head.last_batch + 1
    cursor.execute(
        "insert into ops.ingest_batches (source_table, ingest_batch_id, epoch, query_id, spark_batch_id, start_offsets,"
        " end_offsets, offset_gaps, rows_in, rows_written, duplicates, dead_letters, by_partition, latency_buckets,"
        " first_event_at, last_event_at) values (%s, %s, %s, %s, %s, %s, %s, 0, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(contract.table, number, writer.epoch, writer.query_id, spark_batch_id),
            *(json.dumps(head.end_offsets | starts), json.dumps(ends)),
            *(total["rows_in"], total["rows_written"], total["duplicates"], total["dead_letters"]),
            *(json.dumps(by_partition), json.dumps(_labelled(batch.latencies))),
            *(batch.written.first, batch.written.last),
        ],
    )
    cursor.execute(
        "update ops.ingest_heads set epoch = %s, last_batch = %s, end_offsets = %s, heartbeat_at = clock_timestamp()"
        " where source_table = %s",
        [writer.epoch, number, json.dumps(ends), contract.table],
    )
    return Receipt(number, **total)


def _labelled(latencies: Counter[int]) -> dict[str, int]:
    """Counts by the upper bound of their bucket in seconds."""
    labels = [*map(str, LATENCY_SECONDS), "inf"]
    return {labels[index]: count for index, count in sorted(latencies.items())}
