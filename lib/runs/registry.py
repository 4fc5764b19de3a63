"""The registry of runs, `ops.job_runs` in the warehouse: every attempt of every job, and how it ended."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from lib import plain, servers
from lib.runs.run import Run
from lib.settings import settings


@dataclass(frozen=True)
class Cycle:
    """What the runs of a cycle have in common; `done` are the jobs that it need not run again."""

    cycle_id: str
    run_date: date
    cut_id: int
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """A row of `ops.job_runs`; `notebook` and `report` are relative to the folder of runs."""

    run_id: str
    cycle_id: str | None
    job: str
    run_date: date
    cut_id: int | None
    status: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    notebook: str | None
    report: str | None
    error: str | None
    numbers: dict[str, Any] | None


_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, Row.__dataclass_fields__))

_RECORD = sql.SQL(
    "insert into ops.job_runs ({}) values ({})"
    " on conflict (run_id) do update set (status, finished_at, notebook, report, error, numbers)"
    " = (excluded.status, excluded.finished_at, excluded.notebook, excluded.report, excluded.error, excluded.numbers)"
).format(_COLUMNS, sql.SQL(", ").join(map(sql.Placeholder, Row.__dataclass_fields__)))


def connect(application: str = "schedule.py") -> Connection:
    """A connection to the warehouse, in UTC; `application` is what others read of it."""
    return servers.connect(settings().address("warehouse"), application_name=application)


@contextmanager
def warehouse() -> Iterator[Connection]:
    """A connection for one transaction, committed at the end."""
    connection = connect()
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def record(connection: Connection, run: Run) -> None:
    """Insert the run's row, or bring it up to date. Committed by the caller.

    Whatever a notebook has made of its error and numbers is stored, in the form that PostgreSQL can hold.
    """
    folder = settings().runs_dir
    notebook, report = (
        path.relative_to(folder).as_posix() if os.path.exists(path) else None for path in (run.notebook, run.report)
    )
    values = {
        "run_id": run.run_id,
        "cycle_id": run.cycle_id,
        "job": run.job.name,
        "run_date": run.run_date,
        "cut_id": run.cut_id,
        "status": run.status,
        "attempt": run.attempt,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "notebook": notebook,
        "report": report,
        "error": None if run.error is None else plain.storable_text(run.error),
        "numbers": Json(plain.numbers(run.numbers)) if run.status == "done" else None,
    }
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, values)


def last_runs(connection: Connection, *, status: str | None = None) -> dict[str, Row]:
    """The last run of each job, or the last one that ended with `status`."""
    query = sql.SQL(
        "select distinct on (job) {} from ops.job_runs where %(status)s is null or status = %(status)s"
        " order by job, started_at desc, run_id desc"
    ).format(_COLUMNS)
    return {row.job: row for row in _rows(connection, query, {"status": status})}


def find_cycle(connection: Connection, run_or_cycle: str) -> Cycle | None:
    """The cycle that an id means, its own or that of one of its runs; None when there is no such cycle with a cut."""
    query = sql.SQL(
        "select {} from ops.job_runs where cut_id is not null and cycle_id in"
        " (select cycle_id from ops.job_runs where run_id = %(id)s or cycle_id = %(id)s)"
    ).format(_COLUMNS)
    rows = _rows(connection, query, {"id": plain.storable_text(run_or_cycle)})
    if not rows:
        return None
    first = rows[0]
    assert first.cycle_id is not None and first.cut_id is not None
    done = frozenset(row.job for row in rows if row.status == "done")
    return Cycle(first.cycle_id, first.run_date, first.cut_id, done)


def sweep(connection: Connection, *, saver: str = "") -> None:
    """Set rows that a dead scheduler left `running` to `killed`: those of a saver, or those of cycles, which have a cut.

    The caller holds the lock under which they run.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "update ops.job_runs set status = 'killed', finished_at = clock_timestamp(),"
            " error = 'its scheduler died' where status = 'running'"
            " and case when %(saver)s = '' then cut_id is not null else job = %(saver)s end",
            {"saver": saver},
        )


def _rows(connection: Connection, query: sql.Composable, values: dict[str, Any]) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return [Row(*row) for row in cursor.fetchall()]
