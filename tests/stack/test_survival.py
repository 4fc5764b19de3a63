"""Live savers under SIGKILL: whatever is killed heals by itself, and each event is stored exactly once.

Last of this folder by its name: it leaves savers' runs and more events behind.
"""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import psutil
import psycopg2
import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from generators.events import Event
from generators.model import Scenario, simulate
from generators.producer import produce
from lib import stack as parts_of_stack
from lib.settings import TOPICS, Settings

KEYS = {"transactions": "transaction_id", "product_view_events": "event_id", "cart_events": "event_id"}
HEAL_SECONDS = 180

Send = Callable[[], list[Event]]


class NotYetStored(Exception):
    """Events that were acknowledged aren't in their tables."""


@pytest.fixture(scope="module")
def savers(stack: Settings) -> Iterator[Settings]:
    """The test stack with its savers at work."""
    parts_of_stack.up(stack, ["savers"])
    yield stack
    parts_of_stack.stop(stack, ["savers"])


@pytest.fixture(scope="module")
def send(savers: Settings) -> Send:
    """Send 200 new events; all are acknowledged."""
    seeds = count(7000)

    def call() -> list[Event]:
        start = datetime.now(UTC) - timedelta(hours=1)
        events = list(simulate(Scenario(start=start, seed=next(seeds), events=200, history=timedelta(hours=1))))
        receipt = produce(events, TOPICS, bootstrap=savers.kafka_bootstrap)
        assert sum(receipt.acknowledged.values()) == len(events)
        return events

    return call


def await_stored(config: Settings, events: list[Event]) -> None:
    """Wait until each event has exactly one row; its id says which."""
    waiting = Retrying(
        stop=stop_after_delay(HEAL_SECONDS),
        wait=wait_fixed(0.25),
        retry=retry_if_exception_type((NotYetStored, psycopg2.OperationalError)),
        reraise=True,
    )
    waiting(_look, config, events)


def _look(config: Settings, events: list[Event]) -> None:
    connection = psycopg2.connect(config.realtime_dsn, connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            for table, key in KEYS.items():
                ids = [event.value.decode() for event in events if event.table == table]
                query = (
                    f"select count(*) from {table} where {key} in (select (value::jsonb)->>%s from unnest(%s) as value)"
                )
                cursor.execute(query, [key, ids])
                found = cursor.fetchall()[0][0]
                if found != len(ids):
                    raise NotYetStored(f"{table}: {found} of {len(ids)}")
    finally:
        connection.close()


def kill(config: Settings, program: str) -> None:
    os.kill(parts_of_stack.status(config)[program]["pid"], signal.SIGKILL)


def kernels(config: Settings) -> list[psutil.Process]:
    """The kernels of the stack's notebooks."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("GM_STACK") == str(config.data_dir)
            found += [process] if is_ours and "ipykernel_launcher" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


def test_a_killed_kernel_gets_a_successor_and_its_query_is_stopped(savers: Settings, send: Send) -> None:
    await_stored(savers, send())
    before = _epochs(savers)
    for kernel in kernels(savers):
        kernel.kill()
    await_stored(savers, send())
    waiting = Retrying(
        stop=stop_after_delay(HEAL_SECONDS), wait=wait_fixed(0.5), retry=retry_if_exception_type(NotYetStored)
    )
    # whatever wrote these, an orphan or its successor: a little later the successors have taken over
    waiting(_successors_write, savers, send, before)
    log = (savers.data_dir / "logs" / "savers.log").read_text()
    assert all(f"stopped the query {table}-" in log for table in KEYS)


def _epochs(config: Settings) -> dict[str, int]:
    connection = psycopg2.connect(config.realtime_dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select source_table, epoch from ops.ingest_heads")
            return dict(cursor.fetchall())
    finally:
        connection.close()


def _successors_write(config: Settings, send: Send, before: dict[str, int]) -> None:
    await_stored(config, send())
    if not all(epoch > before[table] for table, epoch in _epochs(config).items()):
        raise NotYetStored("an orphan still writes")


@pytest.mark.parametrize("program", ["spark-speed", "realtime", "warehouse", "kafka"])
def test_a_killed_part_heals_and_no_event_is_lost(savers: Settings, send: Send, program: str) -> None:
    before = send()
    kill(savers, program)
    await_stored(savers, before)
    parts_of_stack.await_health(savers)
    await_stored(savers, send())


def test_after_all_of_it_the_ledger_is_gapless_and_agrees_with_the_tables(
    savers: Settings, realtime: "psycopg2.extensions.connection"
) -> None:
    with realtime.cursor() as cursor:
        for table in KEYS:
            cursor.execute(
                "select count(*), max(ingest_batch_id), sum(rows_written) from ops.ingest_batches where source_table = %s",
                [table],
            )
            batches, last, written = cursor.fetchall()[0]
            cursor.execute(f"select count(*) from {table}")
            assert batches == last
            assert written == cursor.fetchall()[0][0]
