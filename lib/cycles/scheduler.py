"""The scheduler: cycles by cron, and savers that are kept running."""

import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Thread

import psycopg2
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from psycopg2.extensions import connection as Connection
from tenacity import RetryCallState, Retrying, sleep_using_event, wait_exponential

from lib import locks
from lib.cron import following
from lib.cycles.cycle import run_cycle
from lib.ingest import stream
from lib.jobs.discovery import Job, Problem, broken_lines, cron_line, parse, scan
from lib.runs import registry
from lib.runs.attempt import run_job
from lib.runs.run import Notify, Run
from lib.settings import settings

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = 15
LOOK_SECONDS = 5
MISFIRE_SECONDS = 60
LEAD_SECONDS = 30
"""How long before the end of a saver run its successor is started; a kernel needs a few seconds."""


class Trigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires at the minutes of a cron line; APScheduler's own trigger reads cron lines otherwise than crontab(5)."""

    def __init__(self, line: str) -> None:
        self.line = line

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The line's first minute after the previous one, even when it is past already: a missed one isn't lost."""
        return following(self.line, min(previous_fire_time or now, now))


class SaverFailed(Exception):
    """A saver run failed or was killed."""


def start(*, streams: bool, cron: bool, notify: Notify, say: Callable[[str], None]) -> None:
    """Run cycles by cron and keep the savers running, until SIGTERM or SIGINT; a new notebook is picked up within seconds.

    Raises
    ------
    locks.LockHeld
        When another scheduler does this already.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    roles = [role for role, wanted in (("streams", streams), ("cron", cron)) if wanted]
    held = {role: locks.acquire(role) for role in roles}
    stop = Event()
    timer = BackgroundScheduler(timezone=UTC)
    timer.start()
    savers: dict[str, Thread] = {}
    known: set[str] = set()
    try:
        while True:
            jobs, problems = scan(settings().notebooks_dir)
            known = say_changes(problems, known)
            if streams:
                _start_savers(savers, jobs, stop, notify)
            if cron:
                _plan(timer, jobs, stop, notify, say)
            time.sleep(LOOK_SECONDS)
            _keep(held)
    except KeyboardInterrupt:
        say("stopping: each run has 30 s to end by itself")
    finally:
        stop.set()
        timer.shutdown(wait=True)
        for thread in savers.values():
            thread.join()
        for connection in held.values():
            connection.close()


def say_changes(problems: list[Problem], known: set[str]) -> set[str]:
    """Log each broken notebook in a line, unless the line is `known` from the last look, and return all lines."""
    lines = broken_lines(problems)
    for line in lines:
        if line not in known:
            logger.error("broken, so not run: %s", line)
    return set(lines)


def _keep(held: dict[str, Connection]) -> None:
    """Take a lock again that was lost because the warehouse was restarted."""
    for role, connection in held.items():
        if locks.is_alive(connection):
            continue
        try:
            held[role] = locks.acquire(role)
        except psycopg2.OperationalError as error:
            logger.error("the warehouse is away: %s", _brief(error))


def _plan(timer: BackgroundScheduler, jobs: list[Job], stop: Event, notify: Notify, say: Callable[[str], None]) -> None:
    """One timer per cron line; which jobs it starts is looked up when it fires."""
    lines = {line for job in jobs if (line := cron_line(job, settings().cron))}
    for line in lines - {timed.id for timed in timer.get_jobs()}:
        timer.add_job(
            _tick,
            Trigger(line),
            args=[line, stop, notify, say],
            id=line,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=MISFIRE_SECONDS,
        )


def _tick(line: str, stop: Event, notify: Notify, say: Callable[[str], None]) -> None:
    jobs = [job for job in scan(settings().notebooks_dir)[0] if cron_line(job, settings().cron) == line]
    if not jobs or stop.is_set():
        return
    label = "+".join(dict.fromkeys(job.schedule if job.schedule in ("batch", "daily") else job.name for job in jobs))
    try:
        run_cycle(jobs, label=label, stop=stop, notify=notify, say=say)
    except (psycopg2.Error, locks.LockHeld) as error:
        logger.error("the cycle of %s didn't run to its end; the next one catches up: %s", line, _brief(error))


def _start_savers(savers: dict[str, Thread], jobs: list[Job], stop: Event, notify: Notify) -> None:
    for job in jobs:
        if job.schedule == "stream" and not (job.name in savers and savers[job.name].is_alive()):
            savers[job.name] = Thread(target=keep_running, args=(job, stop, notify), name=job.name)
            savers[job.name].start()


def keep_running(job: Job, stop: Event, notify: Notify) -> None:
    """Keep a saver running until `stop` is set or its notebook is no job any more; failures in a row make longer pauses."""

    def is_over(*_: RetryCallState) -> bool:
        return stop.is_set() or parse(job.name, job.path)[0] is None

    while not is_over():
        Retrying(
            stop=is_over,
            wait=wait_exponential(multiplier=0.5, max=BACKOFF_SECONDS),
            sleep=sleep_using_event(stop),
            before_sleep=_log_failure,
            retry_error_callback=lambda state: None,
        )(run_in_succession, job, stop, notify)


def run_in_succession(job: Job, stop: Event, notify: Notify) -> None:
    """Run a saver again and again, until `stop` is set or a run fails that has no successor.

    A successor is started before its predecessor ends, and takes over with its first micro-batch: no event waits for a
    kernel to start.

    Raises
    ------
    SaverFailed
        When a run fails within seconds; a later failure is only logged.
    """
    minutes = settings().stream_run_minutes if "run_minutes" in job.parameters else 0
    # the caller tries again, since a new attempt has to clear the way as well
    once = replace(job, retries=0)
    given = {"run_minutes": minutes} if minutes else {}

    def run() -> Run:
        return run_job(once, run_date=datetime.now(UTC).date(), given=given, stop=stop, notify=notify)

    with locks.hold(job.name), ThreadPoolExecutor(2) as pool:
        _clear_the_way(job)
        current = pool.submit(run)
        while True:
            wait([current], timeout=60 * minutes - min(LEAD_SECONDS, 30 * minutes) if minutes else None)
            successor = None if current.done() or stop.is_set() else pool.submit(run)
            ended = current.result()
            if successor is None:
                if ended.status != "done":
                    failure = SaverFailed(f"{ended.run_id} {ended.status}: {ended.error}")
                    if ended.seconds <= BACKOFF_SECONDS:
                        raise failure
                    logger.error("%s, again at once: %s", job.name, _brief(failure))
                    return
                if stop.is_set() or parse(job.name, job.path)[0] is None:
                    return
                successor = pool.submit(run)
            elif ended.status != "done":
                logger.error("%s %s, its successor goes on: %s", ended.run_id, ended.status, ended.error)
            current = successor


def _clear_the_way(job: Job) -> None:
    """Mark the runs of a dead scheduler `killed`, and stop their queries: Spark Connect keeps a query running when its
    notebook dies."""
    with registry.warehouse() as connection:
        registry.sweep(connection, saver=job.name)
    for name in stream.stop_orphans((job.writes or "").partition(".")[2]):
        logger.warning("%s: stopped the query %s, which outlived its notebook", job.name, name)


def _log_failure(state: RetryCallState) -> None:
    job: Job = state.args[0]
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0
    logger.error(
        "%s fails (%d times in a row), again in %.1f s: %s", job.name, state.attempt_number, pause, _brief(error)
    )


def _brief(error: BaseException | None) -> str:
    text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]
