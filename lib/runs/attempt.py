"""Attempts of a job, each with its row in the registry. How a run ends is never lost, and stops no other run."""

import contextlib
import itertools
import logging
from collections.abc import Mapping
from datetime import date
from threading import Event
from typing import Any

import psycopg2
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
)

from lib.jobs import parameters
from lib.jobs.discovery import Job
from lib.plain import one_line
from lib.runs import registry
from lib.runs.overview import refresh_gallery
from lib.runs.run import Notify, Run, execute

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = 10
RECORD_SECONDS = 10
"""How long to try again to record the end of a run while the warehouse is away."""


def run_job(
    job: Job,
    *,
    run_date: date,
    cycle_id: str | None = None,
    cut_id: int | None = None,
    given: Mapping[str, Any] | None = None,
    stop: Event,
    notify: Notify,
) -> Run:
    """Run a job, again after a short pause while it isn't done and has retries left, and return the last attempt."""
    values = parameters_for(job, run_date=run_date, cut_id=cut_id, given=given)
    attempts = itertools.count(1)

    def attempt() -> Run:
        run = Run(job, run_date, cycle_id, cut_id, next(attempts), values)
        _attempt(run, stop, notify)
        return run

    retrying = Retrying(
        stop=stop_after_attempt(1 + job.retries) | stop_when_event_set(stop),
        wait=wait_exponential(max=BACKOFF_SECONDS),
        sleep=sleep_using_event(stop),
        retry=retry_if_result(lambda run: run.status != "done"),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    return retrying(attempt)


def parameters_for(
    job: Job, *, run_date: date | None, cut_id: int | None, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The run's parameters: of those that the notebook declares, what the scheduler sets, then what was `given`, by type."""
    ours = {"run_date": run_date.isoformat() if run_date else "", "cut": cut_id or 0, "publish": True}
    return {name: value for name, value in ours.items() if name in job.parameters} | parameters.read(job, given or {})


def _attempt(run: Run, stop: Event, notify: Notify) -> None:
    if problem := _record(run):
        run.finish("failed", f"not begun, since it couldn't be recorded: {problem}")
        notify(run)
        return
    notify(run)
    try:
        execute(run, stop=stop, notify=notify)
    except Exception as error:
        # whatever it is, the other runs of the cycle go on
        logger.exception("%s", run.run_id)
        run.finish(
            "killed", f"its process couldn't be started or followed: {one_line(f'{type(error).__name__}: {error}')}"
        )
    finally:
        if run.status == "running":
            run.finish("killed", "its process couldn't be started or followed")
        close(run, notify)


def close(run: Run, notify: Notify) -> None:
    """Record how a run has ended, draw the gallery anew, and tell who follows the run."""
    if problem := _record(run, patience=RECORD_SECONDS):
        run.finish("failed", f"{run.status}, but that couldn't be recorded: {problem}")
        _record(run)  # of a failed run no numbers are stored, and these may have been the problem
    _refresh_gallery()
    notify(run)


unrecorded: dict[str, Run] = {}
"""Runs whose end couldn't be recorded: their rows say `running` until the end is recorded with that of a later run."""


def _record(run: Run, *, patience: float = 0) -> str | None:
    """Bring the run's row up to date, and those of unrecorded runs; return the problem, if there is one.

    While the warehouse is away, try again for `patience` seconds.
    """
    retrying = Retrying(
        stop=stop_after_delay(patience),
        wait=wait_exponential(multiplier=0.1, max=2),
        retry=retry_if_exception_type((psycopg2.OperationalError, psycopg2.InterfaceError)),
        reraise=True,
    )
    try:
        retrying(_record_once, run)
    except Exception as error:
        problem = one_line(f"{type(error).__name__}: {error}")
        logger.error("%s, %s, couldn't be recorded: %s", run.run_id, run.status, problem)
        if run.status != "running":
            unrecorded[run.run_id] = run
        return problem
    for late in list(unrecorded.values()):
        with contextlib.suppress(psycopg2.Error):
            _record_once(late)
    return None


def _record_once(run: Run) -> None:
    with registry.warehouse() as connection:
        registry.record(connection, run)
    unrecorded.pop(run.run_id, None)


def _refresh_gallery() -> None:
    """Draw the gallery anew; a failure is logged, and the next run draws it."""
    try:
        with registry.warehouse() as connection:
            last, good = registry.last_runs(connection), registry.last_runs(connection, status="done")
        refresh_gallery(last, good)
    except Exception:
        logger.exception("the gallery wasn't drawn anew")
