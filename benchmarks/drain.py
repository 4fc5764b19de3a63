"""Catching up with a backlog: our savers at two caps, their peers, and PostgreSQL's own limit, on the same events.

A round runs each of them, so that a machine that gets slower does so for all. What has a JVM runs in two ways: from its
start, for the time to the last row, and in one that has drained the backlog a few times, for the rate once warm.
"""

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from math import nan

import pandas as pd
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from benchmarks import backlog, figures, processes, throwaway
from benchmarks.peers import debezium, limit, loader, tables
from lib import database, spark
from lib.ingest import stream
from lib.schemas import CONTRACTS, Contract
from lib.settings import Settings
from lib.stack import lifecycle

CAPS = (10_000, 50_000)
WARM_UP = 3
"""So often a JVM drains the backlog before it counts as warm: it compiles for more than a million events."""
LIMIT_BATCH = 50_000
DRAIN_SECONDS = 600
START_SECONDS = 60

DEBEZIUM = "Debezium's JDBC sink"

Record = dict[str, str | float]
Fingerprints = dict[str, tuple[int, int]]


def measure(events: int, rounds: int) -> pd.DataFrame:
    """One row per contestant and round: events/s once warm, seconds from start-up to the last row, CPU of all parts."""
    with throwaway.running("drain") as config:
        lifecycle.stop(config, ["spark-batch", "warehouse", "spark-speed"])
        throwaway.say(f"{events:,} events to Kafka, each as it is and with its schema …")
        sent = backlog.produce(config, events)
        tables.create(config)
        cold = [_starts(config, number, rounds) for number in range(1, rounds + 1)]
        lifecycle.start(config, ["spark-speed"])
        with debezium.running(config) as worker:
            for number in range(WARM_UP):
                throwaway.say(f"warm-up {number + 1} of {WARM_UP} …")
                run_savers(config, sent, CAPS[0])
                _debezium(config, worker, tables.fingerprints(config.dsn("realtime", admin=True)))
            return pd.DataFrame(
                [
                    record
                    | {"s to last row": starts.get(str(record["what"]), record["s to last row"]), "round": number}
                    for number, starts in enumerate(cold, 1)
                    for record in _warm(config, worker, sent, number, rounds)
                ]
            )


def _starts(config: Settings, number: int, rounds: int) -> dict[str, float]:
    """Seconds from the start of each contestant's JVM to the last row."""
    throwaway.say(f"from start-up, round {number} of {rounds} …")
    return {_name(cap): _savers_start(config, cap) for cap in CAPS} | {DEBEZIUM: _debezium_start(config)}


def _warm(config: Settings, worker: debezium.Worker, sent: Counter[str], number: int, rounds: int) -> Iterator[Record]:
    throwaway.say(f"warm, round {number} of {rounds} …")
    for cap in CAPS:
        yield run_savers(config, sent, cap)
    expected = tables.fingerprints(config.dsn("realtime", admin=True))
    batches = limit.rows(config, LIMIT_BATCH)
    yield _debezium(config, worker, expected)
    yield _loader(config, expected)
    for connections in (1, len(CONTRACTS)):
        yield _limit(config, batches, connections, expected)


def show(records: pd.DataFrame, events: int) -> None:
    """Print the medians, with the slowest and the fastest round."""
    title = f"catch-up from a backlog of {events:,} events, medians of {records['round'].max()}"
    table = figures.medians(records.drop(columns="round"), "what")
    rates = records.groupby("what", sort=False)["events/s"]
    spread = [f"{low:,.0f}–{high:,.0f}" for low, high in zip(rates.min(), rates.max(), strict=True)]
    table.insert(2, "lowest–highest", spread)
    figures.show(title, table.round({"events/s": 0, "s to last row": 1, "CPU s": 1, "others, cores": 2}))


# --- our savers


def _name(cap: int) -> str:
    return f"savers, {cap:,} per trigger"


def _savers_start(config: Settings, cap: int) -> float:
    """Drain from the start of a Spark server: seconds to the last row."""
    reset(config)
    began = datetime.now(UTC)
    lifecycle.start(config, ["spark-speed"])
    _await_port(config.spark_speed_port)
    _drain(cap)
    lifecycle.stop(config, ["spark-speed"])
    return float((_ledger(config)["committed_at"].max() - began).total_seconds())


def run_savers(config: Settings, sent: Counter[str], cap: int) -> Record:
    """Drain over the Spark server that runs."""
    reset(config)
    _await_port(config.spark_speed_port)
    with processes.metered(config) as use:
        _drain(cap)
    ledger = _ledger(config)
    if (stored := int(ledger["rows_written"].sum())) != sent.total():
        raise RuntimeError(f"{sent.total()} events were sent, and the savers stored {stored}")
    return _record(_name(cap), _rate(ledger), use)


def _await_port(port: int) -> None:
    """Wait until somebody listens there."""
    for attempt in Retrying(stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.05), reraise=True):
        with attempt:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()


def _drain(cap: int) -> None:
    """The three savers at once, until all that is there is read."""
    with ThreadPoolExecutor(len(CONTRACTS)) as pool:
        list(pool.map(lambda contract: _ingest(contract, cap), CONTRACTS.values()))


def _ingest(contract: Contract, cap: int) -> None:
    session = spark.speed()
    try:
        stream.ingest(session, contract, publish=True, max_offsets=cap, catch_up_offsets=cap)
    finally:
        spark.close(session)


def reset(config: Settings) -> None:
    """Empty the realtime tables and put the heads back to the start, so that the same messages are read again."""
    truncated = [*CONTRACTS, "ops.ingest_batches", "ops.dead_letters", "ops.schema_changes"]
    with closing(tables.connect(config.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        cursor.execute(f"truncate {', '.join(truncated)}")
        cursor.execute("update ops.ingest_heads set last_batch = 0, end_offsets = '{}', session_id = null")
        cursor.execute("update ops.merge_heads set last_batch = 0")
        cursor.execute("checkpoint")


def _ledger(config: Settings) -> pd.DataFrame:
    with closing(tables.connect(config.dsn("realtime"))) as connection:
        return database.frame(connection, "select committed_at, rows_written from ops.ingest_batches order by 1")


def _rate(ledger: pd.DataFrame) -> float:
    """Events/s from the first commit to the last one, over all tables."""
    seconds = (ledger["committed_at"].iloc[-1] - ledger["committed_at"].iloc[0]).total_seconds()
    return float(ledger["rows_written"].iloc[1:].sum() / seconds)


# --- their peers


def _debezium_start(config: Settings) -> float:
    """Drain from the start of a Connect worker, what the savers have stored: seconds to the last row."""
    expected = tables.fingerprints(config.dsn("realtime", admin=True))
    tables.clear(config)
    began = datetime.now(UTC)
    with debezium.running(config) as worker:
        _fill(config, worker, expected)
    return float((tables.span(tables.dsn(config))[1] - began).total_seconds())


def _debezium(config: Settings, worker: debezium.Worker, expected: Fingerprints) -> Record:
    """Drain in the Connect worker that runs."""
    tables.clear(config)
    with processes.metered(config) as use:
        _fill(config, worker, expected)
    return _record(DEBEZIUM, _peer_rate(config, expected), use)


def _fill(config: Settings, worker: debezium.Worker, expected: Fingerprints) -> None:
    """Run the connector until the tables hold all the rows; they are counted only when that may be."""
    wanted = sum(rows for rows, _ in expected.values())
    before = tables.inserted(config)
    with worker.sink() as check:

        def is_done() -> bool:
            check()
            return tables.inserted(config) - before >= wanted and tables.count(config) == wanted

        Retrying(
            stop=stop_after_delay(DRAIN_SECONDS), wait=wait_fixed(0.25), retry=retry_if_result(lambda done: not done)
        )(is_done)


def _loader(config: Settings, expected: Fingerprints) -> Record:
    topics: loader.Topics = {
        contract.topic: (table, {field.name: field.column for field in contract.fields})
        for table, contract in CONTRACTS.items()
    }
    tables.clear(config)
    began = datetime.now(UTC)
    with processes.metered(config) as use:
        loader.run(config.kafka_bootstrap, tables.dsn(config), topics)
    whole = (tables.span(tables.dsn(config))[1] - began).total_seconds()
    return _record(f"bare Python, {loader.PROCESSES} processes", _peer_rate(config, expected), use, whole)


def _peer_rate(config: Settings, expected: Fingerprints) -> float:
    """Events/s from the first row to the last one, of a peer that stored what our savers stored."""
    _compare(tables.dsn(config, admin=True), expected)
    first, last = tables.span(tables.dsn(config))
    return sum(rows for rows, _ in expected.values()) / (last - first).total_seconds()


def _compare(dsn: str, expected: Fingerprints) -> None:
    if (found := tables.fingerprints(dsn)) != expected:
        raise RuntimeError(f"not what the savers stored: rows and sums are {found} instead of {expected}")


def _limit(config: Settings, batches: limit.Batches, connections: int, expected: Fingerprints) -> Record:
    reset(config)
    with processes.metered(config) as use:
        limit.load(config, batches, connections)
    _compare(config.dsn("realtime", admin=True), expected)
    name = f"limit: COPY and merge from memory, {connections} connection{'s' * (connections > 1)}"
    events = sum(rows for rows, _ in expected.values())
    return _record(name, events / use.seconds, use, use.seconds)


def _record(what: str, rate: float, use: processes.Use, whole: float = nan) -> Record:
    """A row of the table; of what has a JVM, `whole` comes from another run."""
    return {"what": what, "events/s": rate, "s to last row": whole, "CPU s": use.cpu, "others, cores": use.others}
