"""A history straight into the realtime tables and their ledger, past Kafka and the savers: for benchmarks of the batch layer."""

import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, TextIO

import msgspec
import psycopg2

from generators.events import CartEvent, Event, Transaction, View
from lib.settings import settings

PER_BATCH = 1000
"""Rows of a table per ledger batch."""

COLUMNS = {
    "transactions": ("transaction_id", "user_id", "transaction_timestamp", "total_amount", "country", "products"),
    "product_view_events": (
        *("event_id", "event_type", "user_id", "product_id", "session_id", "event_timestamp", "country", "category"),
        "view_duration",
    ),
    "cart_events": (
        *("event_id", "event_type", "user_id", "product_id", "session_id", "event_timestamp", "country", "category"),
        *("quantity", "price"),
    ),
}
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "transactions": msgspec.json.Decoder(Transaction),
    "product_view_events": msgspec.json.Decoder(View),
    "cart_events": msgspec.json.Decoder(CartEvent),
}

LEDGER = """
insert into ops.ingest_batches (
    source_table, ingest_batch_id, epoch, query_id, spark_batch_id, start_offsets, end_offsets, offset_gaps,
    rows_in, rows_written, duplicates, dead_letters, by_partition, latency_buckets, first_event_at, last_event_at
)
select %(table)s, ingest_batch_id, 1, 'benchmark', ingest_batch_id, '{}', '{}', 0, count(*), count(*), 0, 0, '{}', '{}',
    min({time}), max({time})
from {table} where ingest_batch_id > %(after)s group by ingest_batch_id order by ingest_batch_id
"""


def load(events: Iterable[Event]) -> int:
    """Append events to the realtime tables, in ledger batches that follow those that are there; returns their number."""
    with closing(psycopg2.connect(settings().dsn("realtime", admin=True))) as connection, connection:
        heads = _heads(connection)
        with tempfile.TemporaryDirectory() as folder:
            files = {table: open(f"{folder}/{table}.csv", "w+", newline="") for table in COLUMNS}  # noqa: SIM115
            rows = _write(events, files, heads)
            for table, file in files.items():
                file.seek(0)
                _store(connection, table, file, heads[table])
                file.close()
    return rows


def _heads(connection: psycopg2.extensions.connection) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute("select source_table, last_batch from ops.ingest_heads")
        return dict(cursor.fetchall())


def _write(events: Iterable[Event], files: Mapping[str, TextIO], heads: dict[str, int]) -> int:
    writers = {table: csv.writer(file) for table, file in files.items()}
    counts = dict.fromkeys(COLUMNS, 0)
    for table, _, value in events:
        counts[table] += 1
        batch = heads[table] + 1 + (counts[table] - 1) // PER_BATCH
        writers[table].writerow([*_values(table, value), 0, counts[table], batch])
    return sum(counts.values())


def _values(table: str, value: bytes) -> Iterator[object]:
    event = DECODERS[table].decode(value)
    for column in COLUMNS[table]:
        if column == "event_timestamp":
            yield event.timestamp
        elif column == "products":
            yield msgspec.json.encode(event.products).decode()
        else:
            yield getattr(event, column)


def _store(connection: psycopg2.extensions.connection, table: str, file: TextIO, after: int) -> None:
    names = ", ".join((*COLUMNS[table], "kafka_partition", "kafka_offset", "ingest_batch_id"))
    time = "transaction_timestamp" if table == "transactions" else "event_timestamp"
    with connection.cursor() as cursor:
        cursor.copy_expert(f"copy {table} ({names}) from stdin (format csv)", file)
        cursor.execute(LEDGER.replace("{time}", time).replace("{table}", table), {"table": table, "after": after})
        cursor.execute(
            "update ops.ingest_heads set last_batch = greatest(last_batch, (select max(ingest_batch_id) from"
            f" ops.ingest_batches where source_table = '{table}')) where source_table = '{table}'"
        )
        cursor.execute(f"analyze {table}")
