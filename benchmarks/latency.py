"""Event to row: from an event's own time to the commit of its row, by PostgreSQL's commit timestamps."""

import subprocess
from contextlib import closing
from datetime import UTC, datetime

import pandas as pd
import psycopg2

from lib import database, demo, stack
from lib.schemas import CONTRACTS
from lib.settings import ROOT, Settings


def keep_commit_times(config: Settings) -> None:
    """Let the realtime server keep the time of each commit, which takes a restart."""
    with closing(psycopg2.connect(config.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("alter system set track_commit_timestamp = on")
    stack.stop(config, ["realtime"])
    stack.up(config)


def measure(generators: list[str], seconds: int) -> pd.DataFrame:
    """Send live events for so many seconds; p50, p95 and p99 in milliseconds per table."""
    began = datetime.now(UTC)
    subprocess.run([*generators, f"{seconds}s"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    demo.await_drained()
    rows = []
    with closing(database.connect("realtime")) as connection:
        for table, contract in CONTRACTS.items():
            query = (
                f"select percentile_cont(array[0.5, 0.95, 0.99]) within group (order by ms), count(*) from"
                f" (select 1000 * extract(epoch from pg_xact_commit_timestamp(xmin) - {contract.time})::float as ms"
                f" from {table} where created_at >= %s) as latency"
            )
            percentiles, events = database.frame(connection, query, [began]).iloc[0]
            rows.append([table, events, *(round(value) for value in percentiles)])
    return pd.DataFrame(rows, columns=["table", "events", "p50 ms", "p95 ms", "p99 ms"])


def show(title: str, figures: pd.DataFrame) -> None:
    """Print the figures as a Markdown table."""
    print(f"\n{title}\n\n{markdown(figures)}", flush=True)


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)
