"""Writes one micro-batch into the realtime database: rows, dead letters, ledger row and head in one transaction.

The head row (`ops.ingest_heads`) says what is stored. It is locked first. Messages below it are skipped; a batch that
leaves out messages above it stops the run; a run that another one has taken over from can't write any more. So a batch
that comes again, after a crash or from a torn checkpoint, changes nothing.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from lib.ingest import insert
from lib.ingest.decode import LARGEST, Dead
from lib.ledger import offsets
from lib.ledger.head import LATENCY_SECONDS, Head, read_head
from lib.schemas import Contract

MESSAGES = pa.schema(
    {"partition": pa.int32(), "offset": pa.int64(), "key": pa.binary(), "value": pa.binary()}  # as Spark reads them
)
"""The columns of a batch."""

KEPT = 1 << 20
"""How many bytes are kept of a message that is larger than allowed; all other dead letters are kept whole."""


class Fenced(Exception):
    """Another query has taken over this table; the batch was not written."""


@dataclass(frozen=True)
class Writer:
    """Who writes: the epoch that the query takes with its first batch, and the `query_id` of its saver run."""

    epoch: int
    query_id: str


@dataclass(frozen=True)
class Committed:
    """What became of one batch: `rows_in = rows_written + duplicates + dead_letters`.

    `conflicts` are those of the duplicates whose payload differs from the stored event's.
    """

    ingest_batch_id: int
    rows_in: int
    rows_written: int
    duplicates: int
    conflicts: int
    dead_letters: int
    offset_gaps: int


def write_batch(
    connection: Connection, contract: Contract, messages: pa.Table, writer: Writer, spark_batch_id: int, *, kafka: str
) -> Committed | None:
    """Write one micro-batch inside the caller's transaction, and return what became of it; None where nothing was new.

    Parameters
    ----------
    messages
        One row per message, with the columns of `MESSAGES`, in any order.
    kafka
        `host:port` of the broker to ask where offsets are missing.

    Raises
    ------
    Fenced
        When another query has taken over.
    offsets.OffsetGap, offsets.DataLoss
        When messages between the head and this batch are missing.
    insert.ProgramFault
        When so many messages can't be processed that the program looks faulty.
    """
    with connection.cursor() as cursor:
        head = _lock_head(cursor, contract, writer)
        messages = _after_head(messages, head.end_offsets)
        if not len(messages):
            return None
        starts = offsets.starts(contract.topic, _readings(messages, head), kafka=kafka)
        batch = head.last_batch + 1
        stored = insert.store(cursor, contract, messages, batch, writer.query_id)
        _bury(cursor, contract, messages, stored.dead, batch)
        counts = _counts(messages, starts, stored)
        return _book(cursor, contract, writer, spark_batch_id, head, Counted(counts, starts, stored))


def _lock_head(cursor: Cursor, contract: Contract, writer: Writer) -> Head:
    head = read_head(cursor, contract.table, lock=True)
    if head.epoch == writer.epoch:
        cursor.execute(
            # the last batch that has messages: a release of held events is a batch without, and fences nobody
            "select query_id from ops.ingest_batches where source_table = %s and ingest_batch_id <= %s and rows_in > 0"
            " order by ingest_batch_id desc limit 1",
            [contract.table, head.last_batch],
        )
        last = cursor.fetchone()
        if last and last[0] == writer.query_id:
            return head
    if head.epoch != writer.epoch - 1:
        raise Fenced(f"{contract.table}: epoch {head.epoch} has taken over from epoch {writer.epoch}; this run ends")
    return head


# --- messages


def _after_head(messages: pa.Table, ends: dict[int, int]) -> pa.Table:
    """The messages that the head doesn't cover yet, in the order of partition and offset."""
    messages = messages.combine_chunks()
    partitions, offsets = messages["partition"].to_numpy(), messages["offset"].to_numpy()
    fresh = np.ones(len(messages), bool)
    for partition, end in ends.items():
        fresh &= (partitions != partition) | (offsets >= end)
    order = np.lexsort((offsets, partitions))
    order = order[fresh[order]]
    in_order = len(order) == len(messages) and bool((np.diff(order) == 1).all())
    return messages if in_order else messages.take(order)


def _readings(messages: pa.Table, head: Head) -> dict[int, offsets.Reading]:
    partitions, read = messages["partition"].to_numpy(), messages["offset"].to_numpy()
    return {
        number: offsets.Reading(head.end_offsets.get(number), read[partitions == number], head.following(number))
        for number in np.unique(partitions).tolist()
    }


def _latencies(times: Sequence[pa.Array]) -> tuple[Counter[str], float]:
    """How old the events are now, in seconds: their number by the upper bound of a bucket, and the sum of their ages."""
    now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")
    ages = (now - pa.chunked_array(times, pa.timestamp("us")).to_numpy()) / np.timedelta64(1, "s")
    labels = [*map(str, LATENCY_SECONDS), "inf"]
    found, counts = np.unique(np.searchsorted(LATENCY_SECONDS, ages), return_counts=True)
    buckets = Counter({labels[index]: int(count) for index, count in zip(found, counts, strict=True)})
    # an event from a clock that runs ahead has a negative age, and the sum must never fall
    return buckets, float(np.maximum(ages, 0).sum())


# --- dead letters and the ledger


def _bury(cursor: Cursor, contract: Contract, messages: pa.Table, dead: dict[int, Dead], batch: int) -> None:
    def letters() -> Iterator[tuple[Any, ...]]:
        for place, why in sorted(dead.items()):
            partition, offset, key, value = (
                messages[name][place].as_py() for name in ("partition", "offset", "key", "value")
            )
            detail = why.detail.encode("utf-8", "replace").decode().replace("\0", "\\0")
            kept = value[:KEPT] if value and len(value) > LARGEST else value
            yield contract.topic, partition, offset, key, kept, why.reason, detail, contract.table, batch

    execute_values(
        cursor,
        "insert into ops.dead_letters (topic, kafka_partition, kafka_offset, message_key, payload, reason, detail,"
        " source_table, ingest_batch_id) values %s on conflict do nothing",
        letters(),
        page_size=20,  # a statement holds its payloads twice, and one may have a megabyte
    )


@dataclass(frozen=True)
class Counted:
    """What became of one micro-batch: its counts and first offset by partition, and what was stored."""

    counts: dict[int, dict[str, int]]
    starts: dict[int, int]
    stored: insert.Stored


def _counts(messages: pa.Table, starts: dict[int, int], stored: insert.Stored) -> dict[int, dict[str, int]]:
    """What became of the messages of each partition, as counts by the columns of the ledger."""
    partitions, offsets = messages["partition"].to_numpy(), messages["offset"].to_numpy()
    died = Counter(partitions[list(stored.dead)].tolist())
    counts = {}
    for partition, start in starts.items():
        read = offsets[partitions == partition]
        written = stored.written[partition]
        counts[partition] = {
            "rows_in": len(read),
            "rows_written": written,
            "duplicates": len(read) - written - died[partition],
            "conflicts": stored.conflicts[partition],
            "dead_letters": died[partition],
            "offset_gaps": int(read[-1]) + 1 - start - len(read),
        }
    return counts


def _book(
    cursor: Cursor, contract: Contract, writer: Writer, spark_batch_id: int, head: Head, batch: Counted
) -> Committed:
    """Write the ledger row and move the head on."""
    total: Counter[str] = Counter()
    for counts in batch.counts.values():
        total.update(counts)
    ends = head.end_offsets | {
        partition: batch.starts[partition] + counts["rows_in"] + counts["offset_gaps"]
        for partition, counts in batch.counts.items()
    }
    receipt = Committed(head.last_batch + 1, **total)
    buckets, seconds = _latencies(batch.stored.times)
    cursor.execute(
        "insert into ops.ingest_batches (source_table, ingest_batch_id, epoch, query_id, spark_batch_id, start_offsets,"
        " end_offsets, rows_in, rows_written, duplicates, conflicts, dead_letters, offset_gaps, by_partition,"
        " latency_buckets, latency_seconds, first_event_at, last_event_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(contract.table, receipt.ingest_batch_id, writer.epoch, writer.query_id, spark_batch_id),
            *(json.dumps(head.end_offsets | batch.starts), json.dumps(ends)),
            *(receipt.rows_in, receipt.rows_written, receipt.duplicates, receipt.conflicts, receipt.dead_letters),
            *(receipt.offset_gaps, json.dumps(batch.counts), json.dumps(buckets), seconds),
            *(batch.stored.first, batch.stored.last),
        ],
    )
    cursor.execute(
        "update ops.ingest_heads set epoch = %s, last_batch = %s, end_offsets = %s, heartbeat_at = clock_timestamp()"
        " where source_table = %s",
        [writer.epoch, receipt.ingest_batch_id, json.dumps(ends), contract.table],
    )
    return receipt
