"""A batch cycle: seconds per notebook and where they go, for an initial load and for increments, with PostgreSQL's own limit."""

import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import nbformat
import pandas as pd
import psycopg2

from benchmarks import figures, history, limit, throwaway
from generators.model import Scenario, simulate
from lib import database, migrate
from lib.settings import ROOT, Settings, settings
from lib.stack import postgres

DAYS = 200
RATE = 50
PARTS = ["start-up", "Spark", "PostgreSQL", "other cells", "rendering"]


def measure(events: int, increment: int, rounds: int) -> dict[str, pd.DataFrame]:
    """Load a history of so many events at once, then increments, on a throwaway stack; the runs of each kind of cycle.

    The history is loaded by servers that have just been started, and once more, into an empty warehouse, after the increments.
    Grain: one row per cycle and notebook, with the cycle's whole in `cycle`; `limit` has the seconds of one statement for an
    increment, and its rows/s for the history.
    """
    live = timedelta(seconds=increment * (rounds + 1) / RATE)
    start = datetime.now(UTC) - live - timedelta(days=DAYS)
    scenario = Scenario(start=start, history=timedelta(days=DAYS), events=events, rate=RATE, duration=live)
    stream = simulate(scenario)
    with throwaway.running("cycle") as config:
        throwaway.say(f"cycle: {events:,} events of history …")
        history.load(islice(stream, events))
        first = cycle()
        throwaway.say("cycle: one increment to warm up, then those that count …")
        cycles = []
        for number in range(rounds + 1):
            history.load(islice(stream, increment))
            cycles.append(cycle().assign(round=number))
        seconds = limit.increment(rounds)
        throwaway.say("cycle: the whole history once more, and its facts inside PostgreSQL …")
        _empty_warehouse(config)
        return {
            "initial load": first,
            "increment": pd.concat(cycles[1:]),
            "initial load, servers at work before": cycle(),
            "limit": pd.DataFrame({"seconds": seconds, "rows/s": limit.everything()}),
        }


def _empty_warehouse(config: Settings) -> None:
    """Make the warehouse anew, while its server and Spark's go on."""
    server = config.dsn("warehouse", admin=True).rpartition("/")[0] + "/postgres"
    with closing(psycopg2.connect(server)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("drop database warehouse with (force)")
    postgres.ensure_database(config, "warehouse")
    migrate.migrate(config, "warehouse")


def show(measured: dict[str, pd.DataFrame], events: int, increment: int) -> None:
    """Print the figures as Markdown tables."""
    loads = [kind for kind in measured if kind.startswith("initial")]
    for kind in (loads[0], "increment"):
        runs, size = measured[kind], increment if kind == "increment" else events
        table = figures.medians(runs[["notebook", "seconds", *PARTS]], "notebook").round(1)
        figures.show(f"{kind} of {size:,} events, per notebook", table)
    print()
    for kind in (*loads, "increment"):
        print(f"{kind}: {measured[kind].groupby('cycle')['cycle_seconds'].first().median():.1f} s")
    for kind in loads:
        facts = measured[kind].query("notebook.str.startswith('etl/fact_')")
        span = (facts["finished_at"].max() - facts["started_at"].min()).total_seconds()
        print(f"{kind}, its facts: {facts['rows_written'].sum() / span:,.0f} rows/s over {span:.1f} s")
    limits = measured["limit"].median()
    print(f"the same facts by one statement inside PostgreSQL: {limits['rows/s']:,.0f} rows/s")
    print(f"facts of an increment by one statement inside PostgreSQL: {limits['seconds']:.1f} s")


def cycle() -> pd.DataFrame:
    """Run a cycle, and return what became of its time. Grain: one row per notebook."""
    began = time.monotonic()
    schedule("run")
    return runs_of_last_cycle().assign(cycle_seconds=time.monotonic() - began)


def schedule(*arguments: str) -> None:
    """Run `schedule.py`; its own lines are left out."""
    command = [sys.executable, str(ROOT / "schedule.py"), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def runs_of_last_cycle() -> pd.DataFrame:
    """The runs of the last cycle, each with its seconds in parts."""
    query = (
        "select job as notebook, cut_id as cycle, started_at, finished_at, notebook as file,"
        " (numbers ->> 'rows_written')::bigint as rows_written, (numbers -> 'seconds' ->> 'spark')::float as \"Spark\","
        " (numbers -> 'seconds' ->> 'postgres')::float as \"PostgreSQL\" from ops.job_runs"
        " where cut_id = (select max(cut_id) from ops.cuts) and status = 'done' order by started_at"
    )
    with closing(database.connect("warehouse")) as connection:
        runs = database.frame(connection, query)
    cells = pd.DataFrame([_cells(settings().runs_dir / file) for file in runs["file"]], columns=["first", "last"])
    runs["seconds"] = (runs["finished_at"] - runs["started_at"]).dt.total_seconds()
    runs["start-up"] = (cells["first"] - runs["started_at"]).dt.total_seconds()
    runs["rendering"] = (runs["finished_at"] - cells["last"]).dt.total_seconds()
    runs["other cells"] = runs["seconds"] - runs[["start-up", "Spark", "PostgreSQL", "rendering"]].sum(axis=1)
    return runs


def _cells(file: Path) -> tuple[pd.Timestamp, pd.Timestamp]:
    """When the first cell of an executed notebook began, and when the last one ended."""
    times = [cell.metadata.get("papermill", {}) for cell in nbformat.read(file, as_version=4).cells]
    begun = [pd.Timestamp(each["start_time"]) for each in times if each.get("start_time")]
    ended = [pd.Timestamp(each["end_time"]) for each in times if each.get("end_time")]
    return min(begun), max(ended)
