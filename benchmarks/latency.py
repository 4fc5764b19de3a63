"""Event to commit at live rate, from an event's own time to PostgreSQL's commit timestamp, and the cores that it takes.

Measured are the savers at the default trigger, with the batch layer idle and at work, at the fastest trigger, and
Debezium's JDBC sink.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from threading import Event

import pandas as pd
import psycopg2
from tenacity import Retrying, stop_after_delay, wait_fixed

from benchmarks import backlog, figures, processes, throwaway
from benchmarks.cycle import schedule
from benchmarks.peers import debezium, tables
from lib import database
from lib.schemas import CONTRACTS
from lib.settings import ROOT, Settings
from lib.stack import demo, lifecycle

RATE = 50
COMPILE_SECONDS = 60
"""So long after the start the speed server still compiles a lot; savers run for days."""
WARM_UP = 30
LEAD = 5
"""Seconds in which a generator starts, before what it sends counts."""
PATIENCE = 30

GENERATORS = [sys.executable, "-m", "generators", "all"]
SENDER = [sys.executable, "-m", "benchmarks.peers.sender"]


def measure(rounds: int, seconds: int, history: str) -> pd.DataFrame:
    """One row per setting, round and table (and for all of them together)."""
    frames = []
    with throwaway.running("latency") as config:
        keep_commit_times(config)
        throwaway.say("a history, and the first batch cycle over it …")
        subprocess.run([*GENERATORS, "--history", history], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        schedule("run", "stream")
        schedule("run")
        lifecycle.up(config, ["savers"])
        _measure_savers(config, COMPILE_SECONDS)
        frames += _rounds(config, "default trigger", rounds, seconds)
        for _ in range(rounds):
            with _batch_cycles():
                figure = _measure_savers(config, seconds)
            frames.append(figure.assign(setting="default trigger, batch cycle at work"))
        lifecycle.stop(config, ["savers"])
        with _savers("-p", "trigger_interval=0 seconds"):
            frames += _rounds(config, "fastest trigger", rounds, seconds)
        lifecycle.stop(config, ["spark-speed", "spark-batch", "warehouse"])
        frames += _debezium(config, rounds, seconds)
    return pd.concat(frames)


def show(records: pd.DataFrame) -> None:
    """Print the medians of the rounds."""
    table = figures.medians(records, ["setting", "table"])
    columns = {name: 0 for name in ("events", "p50 ms", "p95 ms", "p99 ms")} | {"cores": 2, "others, cores": 2}
    rounds = int(records.groupby(["setting", "table"]).size().max())
    figures.show(f"event to commit at {RATE} events/s, medians of {rounds}", table.round(columns))


def keep_commit_times(config: Settings) -> None:
    """Let the realtime server keep the time of each commit, which takes a restart."""
    with closing(psycopg2.connect(config.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("alter system set track_commit_timestamp = on")
    lifecycle.stop(config, ["realtime"])
    lifecycle.up(config)


# --- our savers


def _rounds(config: Settings, setting: str, rounds: int, seconds: int) -> list[pd.DataFrame]:
    throwaway.say(f"{setting} …")
    _measure_savers(config, WARM_UP)
    return [_measure_savers(config, seconds).assign(setting=setting) for _ in range(rounds)]


def _measure_savers(config: Settings, seconds: int) -> pd.DataFrame:
    began, ended, use = _live(config, [*GENERATORS, "--rate", str(RATE), "--duration"], seconds)
    demo.await_drained()
    return _figures(config.dsn("realtime"), began, ended, use)


@contextmanager
def _savers(*options: str) -> Iterator[None]:
    """The three saver notebooks at work, with parameters."""
    command = [sys.executable, str(ROOT / "schedule.py"), "run", "stream", "-p", "run_minutes=600", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as savers:
        try:
            yield
        finally:
            savers.terminate()


@contextmanager
def _batch_cycles() -> Iterator[None]:
    """Batch cycles at work, one after the other, until the block is over."""
    over = Event()

    def run() -> None:
        while not over.is_set():
            schedule("run")

    with ThreadPoolExecutor(1) as pool:
        cycles = pool.submit(run)
        try:
            yield
        finally:
            over.set()
        cycles.result()


# --- the peer


def _debezium(config: Settings, rounds: int, seconds: int) -> list[pd.DataFrame]:
    throwaway.say("Debezium's JDBC sink …")
    backlog.create_topics(config)
    tables.create(config)
    with debezium.running(config) as worker, worker.sink() as check:
        _measure_debezium(config, WARM_UP)
        found = [_measure_debezium(config, seconds).assign(setting="Debezium's JDBC sink") for _ in range(rounds)]
        check()
        return found


def _measure_debezium(config: Settings, seconds: int) -> pd.DataFrame:
    began, ended, use = _live(config, [*SENDER, str(RATE)], seconds)
    sent = backlog.held(config, backlog.ENVELOPED.values()).total()
    for attempt in Retrying(stop=stop_after_delay(PATIENCE), wait=wait_fixed(0.5), reraise=True):
        with attempt:
            if (stored := tables.count(config)) < sent:
                raise RuntimeError(f"{sent} events were sent, and after {PATIENCE} s {stored} are stored")
    return _figures(tables.dsn(config), began, ended, use)


# --- both


def _live(config: Settings, command: list[str], seconds: int) -> tuple[datetime, datetime, processes.Use]:
    """Send live events; what counts are `seconds` of them, after the sender has started and before it ends."""
    length = f"{LEAD + seconds + 1}s"
    with subprocess.Popen([*command, length], cwd=ROOT, stdout=subprocess.DEVNULL) as sender:
        time.sleep(LEAD)
        began = datetime.now(UTC)
        with processes.metered(config) as use:
            time.sleep(seconds)
        ended = datetime.now(UTC)
    if sender.returncode:
        raise subprocess.CalledProcessError(sender.returncode, command)
    return began, ended, use


def _figures(dsn: str, began: datetime, ended: datetime, use: processes.Use) -> pd.DataFrame:
    """Percentiles of the events of that time, per table and together; cores only together."""
    each = " union all ".join(
        f"select '{table}' as name, 1000 * extract(epoch from pg_xact_commit_timestamp(xmin) - {contract.time})::float"
        f" as ms from {table} where {contract.time} >= %s and {contract.time} < %s"
        for table, contract in CONTRACTS.items()
    )
    percentiles = ", ".join(f'percentile_cont({p / 100}) within group (order by ms) as "p{p} ms"' for p in (50, 95, 99))
    query = (
        f"select coalesce(name, 'all') as table, count(*) as events, {percentiles}"
        f" from ({each}) as latency group by rollup (name) order by name"
    )
    with closing(tables.connect(dsn)) as connection:
        frame = database.frame(connection, query, [began, ended] * len(CONTRACTS))
    frame.loc[frame["table"] == "all", ["cores", "others, cores"]] = [use.cores, use.others]
    return frame
