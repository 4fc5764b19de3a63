"""Runs: one notebook, one process. How a run has ended is what that process exits with, not what the notebook says."""

import logging
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Event
from typing import Any, Literal

from lib.jobs.discovery import Job
from lib.plain import one_line
from lib.runs.assignment import FAILED, KERNEL_DIED, LOST, Assignment, kill
from lib.runs.process import exit_code, start
from lib.settings import settings

logger = logging.getLogger(__name__)

Status = Literal["running", "done", "failed", "skipped", "killed"]
Notify = Callable[["Run"], None]

STOP_SECONDS = 30
TIMEOUT_SECONDS = 5
REPORT_SECONDS = 120
"""How long rendering a run's report may take; a notebook's outputs can be such that it would never end."""
POLL_SECONDS = 0.2


@dataclass
class Run:
    """One attempt of a job, a row of `ops.job_runs`; `cell`, `cells` and `where` say how far the notebook is."""

    job: Job
    run_date: date
    cycle_id: str | None = None
    cut_id: int | None = None
    attempt: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    status: Status = "running"
    error: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    cell: int = 0
    cells: int = 0
    where: str = "the start of the kernel"
    over: int | None = None
    """Once the last cell is over: the exit code that the process will have when it has rendered the report."""

    def __post_init__(self) -> None:
        self.run_id = self.run_id or new_id(self.job.short_name)

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return settings().runs_dir / self.job.name / self.run_date.isoformat() / f"{self.run_id}.ipynb"

    @property
    def report(self) -> Path:
        """The report that people read."""
        return self.notebook.with_suffix(".html")

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    @property
    def timeout(self) -> timedelta:
        """After how long it is killed: the job's timeout, and the minutes that a saver is asked to run."""
        return self.job.timeout + timedelta(minutes=self.parameters.get("run_minutes", 0))

    def finish(self, status: Status, error: str | None = None) -> None:
        """Set how and when it has ended."""
        self.status, self.error, self.finished_at = status, error, datetime.now(UTC)


def new_id(label: str) -> str:
    """An id that sorts by time, as `20261123T101502-fact_sales-3f2a`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{label}-{secrets.token_hex(2)}"


def execute(run: Run, *, stop: Event, notify: Notify = lambda run: None) -> None:
    """Execute a run's notebook in a process of its own, and set the run's status, error, numbers and `finished_at`.

    When `stop` is set or the time is over, the notebook is interrupted and has a moment to end by itself (a saver commits
    and goes on to its receipt). At the end, everything that belongs to the run is killed.
    """
    run.notebook.parent.mkdir(parents=True, exist_ok=True)
    latest = settings().runs_dir / "latest" / f"{run.job.name}.html"
    latest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gm-run-", ignore_cleanup_errors=True) as runtime:
        assignment = Assignment(
            run_id=run.run_id,
            source=run.job.path,
            notebook=run.notebook,
            reports=(run.report, latest),
            assets=settings().runs_dir / "assets",
            runtime=Path(runtime),
            parameters=run.parameters,
            environment=dict(os.environ),
            streams=run.job.schedule == "stream",
        )
        process, pipe = start(assignment)
        try:
            code, ended_by = _follow(run, process, pipe, stop, notify)
        finally:
            assert process.pid is not None
            kill(run.run_id, process.pid, ended=exit_code(process) not in (None, LOST))
            pipe.close()
    _conclude(run, code, ended_by, assignment.log)


def _follow(
    run: Run, process: ForkServerProcess, pipe: Connection, stop: Event, notify: Notify
) -> tuple[int, str | None]:
    """Follow the process until it has ended; return its exit code, and why it was told to end, if it was.

    Once the cells are over, the exit code is known: a report that fails or takes too long doesn't change it.
    """
    deadline = time.monotonic() + run.timeout.total_seconds()
    ended_by: str | None = None
    listening = True
    while (code := exit_code(process)) is None or (listening and code != LOST):
        wait([pipe, process.sentinel] if listening else [process.sentinel], timeout=POLL_SECONDS)
        at_cells = run.over is None
        listening = listening and _take_in(run, pipe, notify)
        now = time.monotonic()
        if run.over is not None and at_cells:
            deadline = now + REPORT_SECONDS
        elif run.over is None and ended_by is None and (stop.is_set() or now >= deadline):
            ended_by = "stopped" if stop.is_set() else f"timeout after {_brief(run.timeout)} in {run.where}"
            deadline = now + (STOP_SECONDS if stop.is_set() else TIMEOUT_SECONDS)
            process.terminate()
        elif (run.over is not None or ended_by is not None) and now >= deadline:
            assert process.pid is not None
            kill(run.run_id, process.pid)
    if run.over is not None and run.over != code:
        logger.error("%s has ended, but its report couldn't be drawn, or not in %d s", run.run_id, REPORT_SECONDS)
        code = run.over
    return code, ended_by


def _take_in(run: Run, pipe: Connection, notify: Notify) -> bool:
    """Apply the messages that have arrived; False when the sender is gone."""
    try:
        while pipe.poll():
            match pipe.recv():
                case "cell", cell, cells, where:
                    run.cell, run.cells, run.where = cell, cells, where
                    notify(run)
                case "numbers", numbers:
                    run.numbers = numbers
                case "error", error:
                    run.error = error
                case "over", code:
                    run.over, run.where = code, "its report"
    except EOFError:
        return False
    return True


def _conclude(run: Run, exit_code: int, ended_by: str | None, log: Path) -> None:
    if ended_by and (exit_code != 0 or ended_by != "stopped"):
        run.finish("killed", ended_by)
    elif exit_code == 0:
        run.finish("done")
    elif exit_code == FAILED:
        run.finish("failed", run.error or f"{_last_line(log)} (after {run.where}; see {log.name})")
    elif exit_code == KERNEL_DIED:
        run.finish("killed", run.error)
    else:
        by = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        run.finish("killed", f"its process was killed in {run.where} ({by})")


def _brief(time_out: timedelta) -> str:
    seconds = round(time_out.total_seconds())
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return one_line(next((line for line in reversed(lines) if line.strip()), "no output"), 300)
