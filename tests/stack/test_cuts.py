"""Cuts at any moment, midnight above all: as long as no event is late, nothing in the warehouse depends on them."""

import json
import random
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import stored
from line import Schedule
from psycopg2.extras import execute_values

from generators.model import Scenario, simulate
from lib import database, incremental, migrate
from lib.incremental import GRACE, Cut
from lib.schemas import CONTRACTS
from lib.settings import Settings, overridden

DAYS, EVENTS, CUTS = 30, 20_000, 200
WINDOW = timedelta(seconds=30)
"""A micro-batch holds what arrived in so long."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch of a table: when it was committed, and its events, each with its own time."""

    table: str
    number: int
    committed: datetime
    events: list[tuple[datetime, dict[str, Any]]]


def batches(start: datetime, rng: random.Random) -> list[Batch]:
    """The micro-batches of 30 days in the order of their commits; each event is on its way for less than the grace."""
    arrived: dict[tuple[int, str], list[tuple[datetime, dict[str, Any]]]] = {}
    scenario = Scenario(start=start, history=timedelta(days=DAYS), events=EVENTS, users=300, products=80, seed=11)
    for event in simulate(scenario):
        own = datetime.fromtimestamp(event.time_ms / 1000, UTC)
        window = (own + rng.random() * (GRACE - WINDOW) - start) // WINDOW
        arrived.setdefault((window, event.table), []).append((own, json.loads(event.value)))
    numbers = {table: count(1) for table in CONTRACTS}
    return [
        Batch(table, next(numbers[table]), start + (window + 1) * WINDOW, arrived[window, table])
        for window, table in sorted(arrived)
    ]


def moments(start: datetime, rng: random.Random) -> list[datetime]:
    """200 moments: a minute before and after each midnight, just before its grace is over, the end, others at random."""
    end = start + timedelta(days=DAYS, hours=1)
    midnights = [start + timedelta(days=number) for number in range(1, DAYS + 1)]
    chosen = [midnight + timedelta(minutes=minutes) for midnight in midnights for minutes in (-1, 1, 14)]
    return sorted([*chosen, end, *(start + rng.random() * (end - start) for _ in range(CUTS - len(chosen) - 1))])


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
        for variable, admin in (("DSN", False), ("ADMIN_DSN", True)):
            url = urlsplit(config.dsn(name, admin=admin))._replace(path=f"/{name}_apart")
            variables[f"GM_{name.upper()}_{variable}"] = url.geturl()
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


def live(start: datetime, seed: int, config: Settings) -> Iterator[tuple[int, Cut]]:
    """Live through 30 days: at each of the moments what has arrived is in the realtime tables, and a cut is stored."""
    rng = random.Random(seed)
    waiting = batches(start, rng)[::-1]
    with stored.connected(config, "realtime") as realtime, closing(database.connect("warehouse")) as warehouse:
        for number, moment in enumerate(moments(start, rng)):
            new: dict[str, list[Batch]] = {table: [] for table in CONTRACTS}
            while waiting and waiting[-1].committed <= moment:
                batch = waiting.pop()
                new[batch.table].append(batch)
            for table, arrived in new.items():
                commit(realtime, table, arrived)
            with warehouse, warehouse.cursor() as cursor:
                cut = incremental.store_cut(cursor, incremental.next_cut(cursor, (moment - GRACE).date()))
            yield number, cut
    assert not waiting


def test_whatever_the_cuts_an_event_in_time_is_booked_on_its_own_day_and_read_no_earlier(
    stack: Settings, tmp_path: Path
) -> None:
    with apart(stack, tmp_path) as config:
        cuts = [cut for _, cut in live(day_start(60), 1, config)]
        assert len({cut.run_date for cut in cuts}) == DAYS + 1
        with closing(database.connect("warehouse")) as connection, connection.cursor() as cursor:
            windows = [incremental.window(cursor, "job", cuts[-1])]
            for since in random.Random(2).sample(cuts, 5):
                incremental.advance(cursor, "job", since)
                windows.append(incremental.window(cursor, "job", cuts[-1]))
        with stored.connected(config, "realtime") as realtime:
            for table, contract in CONTRACTS.items():
                own = incremental.own_day(contract.time)
                for window in windows:
                    after, _ = window.open(table)
                    query = (
                        f"select count(*) as events, count(*) filter (where {window.booked_day(table, contract.time)} <> {own})"
                        f" as late from {table} where ingest_batch_id > %s"
                    )
                    found = stored.rows(realtime, query, after)[0]
                    assert found["late"] == 0
                    assert found["events"] > 0
                query = f"select distinct ingest_batch_id as batch, {own} as day from {table} order by batch"
                days = stored.rows(realtime, query)
                ends = [cut.batches[table] for cut in cuts]
                assert days[-1]["batch"] == ends[-1]
                assert all(row["day"] <= cuts[bisect_left(ends, row["batch"])].run_date for row in days)


def test_three_loads_among_200_cuts_make_the_same_warehouse_as_one_load_to_one_cut(
    stack: Settings, schedule: Schedule, tmp_path: Path, soak: bool
) -> None:
    if not soak:
        pytest.skip("long: --soak runs it")
    with apart(stack, tmp_path) as config:
        for number, cut in live(day_start(DAYS), 3, config):
            if number in (70, 140):
                schedule("run", "batch", f"--run-date={cut.run_date}")
        schedule("run", "batch")
        shown = schedule("rebuild", "--fresh", "--compare").stdout
    assert "one new cut" in shown
