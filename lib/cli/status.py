"""Where everything stands: the last run of each job, ingestion, and the last cut."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from psycopg2.extras import RealDictCursor
from rich.table import Table

from lib import database
from lib.jobs.discovery import Problem
from lib.runs import registry

INGESTION = """
select h.source_table, h.epoch, h.last_batch, h.heartbeat_at, b.committed_at, b.last_event_at,
       (select count(*) from ops.held_events e
        where e.source_table = h.source_table and e.released_batch is null) as held,
       (select coalesce(sum(rows_written), 0)::bigint from ops.ingest_batches r
        where r.source_table = h.source_table and r.committed_at > clock_timestamp() - interval '1 minute') as rows_last_minute
from ops.ingest_heads h
left join lateral (
    select committed_at, last_event_at from ops.ingest_batches r
    where r.source_table = h.source_table and r.rows_in > 0 order by ingest_batch_id desc limit 1
) b on true
order by h.source_table
"""


def read(job_names: Sequence[str], broken: Sequence[Problem] = ()) -> dict[str, Any]:
    """The state as plain data: `jobs` by name, `broken` notebooks with what is wrong, `ingestion` by table, `cut`.

    A job that is running again after a failed run has the error of that run.
    """
    with registry.warehouse() as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        last = registry.last_runs(connection)
        failed, good = (registry.last_runs(connection, status=status) for status in ("failed", "done"))
        for name, run in last.items():
            before = failed.get(name)
            if run.status == "running" and before and (name not in good or good[name].started_at < before.started_at):
                last[name] = replace(run, error=f"the run before failed: {before.error}")
        cursor.execute("select * from ops.cuts where superseded_by is null order by cut_id desc limit 1")
        cut = cursor.fetchone()
    with closing(database.connect("realtime")) as realtime, realtime.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(INGESTION)
        heads = cursor.fetchall()
    return {
        "jobs": {name: asdict(last[name]) if name in last else None for name in job_names},
        "broken": {problem.notebook: problem.message for problem in reversed(broken)},
        "ingestion": {
            head["source_table"]: dict(head)
            | {"batches_after_cut": head["last_batch"] - (cut or {}).get(head["source_table"], 0)}
            for head in heads
        },
        "cut": dict(cut) if cut else None,
    }


def tables(state: dict[str, Any]) -> list[Table]:
    """The state as tables for people."""
    jobs = Table("job", "last", "run date", "started (UTC)", "seconds", "error", box=None, header_style="bold")
    for name, row in state["jobs"].items():
        if row is None:
            jobs.add_row(name, "–")
            continue
        seconds = f"{(row['finished_at'] - row['started_at']).total_seconds():.1f}" if row["finished_at"] else ""
        started = f"{row['started_at']:%Y-%m-%d %H:%M:%S}"
        jobs.add_row(name, row["status"], str(row["run_date"]), started, seconds, row["error"] or "")
    for name, message in state["broken"].items():
        jobs.add_row(name, "broken", "", "", "", f"not run: {message}")
    ingestion = Table(
        "table", "last commit (UTC)", "last event (UTC)", "rows/min", "batches after the cut", "held", box=None
    )
    ingestion.header_style = "bold"
    for name, head in state["ingestion"].items():
        times = [f"{head[key]:%Y-%m-%d %H:%M:%S}" if head[key] else "–" for key in ("committed_at", "last_event_at")]
        counts = [f"{head[key]:,}" for key in ("rows_last_minute", "batches_after_cut", "held")]
        ingestion.add_row(name, *times, *counts)
    cut = Table("last cut", "run date", "opened (UTC)", box=None, header_style="bold")
    if state["cut"]:
        opened = f"{state['cut']['created_at']:%Y-%m-%d %H:%M:%S}"
        cut.add_row(str(state["cut"]["cut_id"]), str(state["cut"]["run_date"]), opened)
    return [jobs, ingestion, cut]
