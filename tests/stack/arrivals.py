"""30 days of events as they arrive, committed to a realtime database of a test's own as a saver would."""

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import stored
from psycopg2.extras import execute_values

from generators.model import Scenario, simulate
from lib import migrate
from lib.ledger.cuts import GRACE
from lib.schemas import CONTRACTS
from lib.settings import Settings, overridden

DAYS, EVENTS = 30, 20_000
WINDOW = timedelta(seconds=30)
"""A micro-batch holds what arrived in so long."""
LATEST = timedelta(days=10)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of a table: when it was committed, and its events, each with its own time."""

    table: str
    number: int
    committed: datetime
    events: list[tuple[datetime, dict[str, Any]]]


def batches(start: datetime, rng: random.Random, late: float = 0) -> list[Batch]:
    """The micro-batches of 30 days in the order of their commits.

    Each event is on its way for less than the grace, but for a share of `late` ones, which take up to ten days.
    """
    arrived: dict[tuple[int, str], list[tuple[datetime, dict[str, Any]]]] = {}
    scenario = Scenario(start=start, history=timedelta(days=DAYS), events=EVENTS, users=300, products=80, seed=11)
    for event in simulate(scenario):
        own = datetime.fromtimestamp(event.time_ms / 1000, UTC)
        delay = LATEST if rng.random() < late else GRACE - WINDOW
        window = (own + rng.random() * delay - start) // WINDOW
        arrived.setdefault((window, event.table), []).append((own, json.loads(event.value)))
    numbers = {table: count(1) for table in CONTRACTS}
    return [
        Batch(table, next(numbers[table]), start + (window + 1) * WINDOW, arrived[window, table])
        for window, table in sorted(arrived)
    ]


def day_start(days_ago: int) -> datetime:
    """The beginning of a day."""
    return datetime.combine(datetime.now(UTC).date() - timedelta(days=days_ago), time(), UTC)


@contextmanager
def apart(config: Settings, runs: Path) -> Iterator[Settings]:
    """Settings of an empty realtime database and an empty warehouse, on the servers of the stack."""
    variables = {"GM_EMBEDDED": "kafka,spark,redis", "GM_RUNS_DIR": str(runs)}
    for name in ("realtime", "warehouse"):
        with closing(psycopg2.connect(config.dsn(name, admin=True))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"drop database if exists {name}_apart with (force)")
                cursor.execute(f"create database {name}_apart")
        for setting, address in stored.renamed(config, f"{name}_apart", name).items():
            variables[f"GM_{setting.upper()}"] = address.get_secret_value()
    with overridden(**variables) as there:
        for name in ("realtime", "warehouse"):
            migrate.migrate(there, name)
        yield there


def commit(connection: stored.Connection, table: str, new: list[Batch]) -> None:
    """Store micro-batches of a table as a saver would: rows and ledger."""
    fields = CONTRACTS[table].fields
    rows = [
        {field.column: event.get(field.name) for field in fields}
        | {"kafka_partition": 0, "kafka_offset": batch.number, "ingest_batch_id": batch.number}
        for batch in new
        for _, event in batch.events
    ]
    ledger = [(table, batch.number, len(batch.events), max(own for own, _ in batch.events)) for batch in new]
    with connection, connection.cursor() as cursor:
        names = ", ".join(rows[0]) if rows else ""
        if rows:
            insert = f"insert into {table} ({names}) select {names} from jsonb_populate_recordset(null::{table}, %s)"
            cursor.execute(insert, [json.dumps(rows)])
        execute_values(
            cursor,
            "insert into ops.ingest_batches (source_table, ingest_batch_id, rows_in, last_event_at, rows_written, epoch,"
            " query_id, spark_batch_id, start_offsets, end_offsets, offset_gaps, duplicates, dead_letters, by_partition,"
            " latency_buckets) select t, b, n, at::timestamptz, n, 1, 'made', 0, '{}', '{}', 0, 0, 0, '{}', '{}'"
            " from (values %s) as made (t, b, n, at)",
            ledger,
        )
