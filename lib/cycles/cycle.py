"""A cycle: jobs over one cut, in the order of what they read and write."""

import graphlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from threading import Event
from typing import Any

import psycopg2

from lib import locks
from lib.jobs.discovery import Job, JobError, dependencies, scan
from lib.ledger import compaction
from lib.ledger.cuts import open_cut
from lib.plain import one_line
from lib.runs import registry
from lib.runs.attempt import close, run_job
from lib.runs.registry import Cycle
from lib.runs.run import Notify, Run, new_id
from lib.settings import settings

logger = logging.getLogger(__name__)

LOCK = "cycle"
WAIT_SECONDS = 600


def run_cycle(
    jobs: Sequence[Job],
    *,
    label: str = "batch",
    given: Mapping[str, Any] | None = None,
    run_date: date | None = None,
    resume: Cycle | None = None,
    parallel: int | None = None,
    stop: Event,
    notify: Notify,
    say: Callable[[str], None],
) -> list[Run]:
    """Run the jobs over one cut; when a job isn't done, those that depend on it are `skipped`.

    Savers come first, then the cut is opened (or taken over from the cycle to `resume`), then all others run, at most
    `parallel` at once. Only one cycle is at work at a time: a second one waits, and says for which. A cycle ends with
    refreshing the materialized views, and one that has opened a cut with merging old rows of the ledger.

    Raises
    ------
    locks.LockHeld
        When another cycle is at work and doesn't end in time.
    """
    jobs = [job for job in jobs if resume is None or job.name not in resume.done]
    savers = [job for job in jobs if job.schedule == "stream"]
    others = [job for job in jobs if job.schedule != "stream"]
    cycle_id = resume.cycle_id if resume else new_id(label)
    run_one = partial(run_job, cycle_id=cycle_id, given=given, stop=stop, notify=notify)
    runs = run_in_order(savers, lambda job: _run_saver(job, run_one, notify), len(savers), stop, notify)
    if not others:
        return runs
    with locks.hold(LOCK, wait=WAIT_SECONDS, stop=stop, say=say):
        with registry.warehouse() as connection:
            registry.sweep(connection)
        cycle = resume or _open_cycle(cycle_id, run_date)
        say(f"{cycle.cycle_id}: cut {cycle.cut_id}, run date {cycle.run_date}")
        over_cut = partial(run_one, run_date=cycle.run_date, cut_id=cycle.cut_id)
        parallel = parallel or settings().parallel_jobs
        runs = run_in_order(others, over_cut, parallel, stop, notify, before=runs, cycle=cycle)
        refresh_views()
        if resume is None:
            merge_ledger(stop)
        return runs


def refresh_views() -> None:
    """Compute the materialized views of `serving` anew; a failure is logged, and the next cycle tries again."""
    try:
        with registry.warehouse() as connection, connection.cursor() as cursor:
            cursor.execute("select serving.refresh()")
    except psycopg2.Error as error:
        logger.error("what is served wasn't refreshed; the next cycle tries again: %s", " ".join(str(error).split()))


def merge_ledger(stop: Event) -> None:
    """Merge old rows of the ledger; a failure is logged, and the next cycle tries again."""
    try:
        compaction.merge(scan(settings().notebooks_dir)[0], days=settings().ledger_days, stop=stop)
    except psycopg2.Error as error:
        logger.error("the ledger wasn't merged; the next cycle tries again: %s", " ".join(str(error).split()))


def _open_cycle(cycle_id: str, run_date: date | None) -> Cycle:
    try:
        cut = open_cut(run_date)
    except ValueError as error:
        raise JobError(str(error)) from error
    return Cycle(cycle_id, cut.run_date, cut.cut_id)


def _run_saver(job: Job, run_one: Callable[..., Run], notify: Notify) -> Run:
    """Run a saver once, unless it is at work already."""
    today = datetime.now(UTC).date()
    try:
        with locks.hold(job.name):
            with registry.warehouse() as connection:
                registry.sweep(connection, saver=job.name)
            return run_one(job, run_date=today)
    except locks.LockHeld:
        with registry.warehouse() as connection:
            last = registry.last_runs(connection, status="running").get(job.name)
        run = Run(job, today, run_id=last.run_id if last else "", error="is at work already, left alone")
        notify(run)
        return run


def run_in_order(
    jobs: Sequence[Job],
    run_one: Callable[[Job], Run],
    parallel: int,
    stop: Event,
    notify: Notify,
    *,
    before: Iterable[Run] = (),
    cycle: Cycle | None = None,
) -> list[Run]:
    """Run each job as soon as those that it depends on are done, at most `parallel` at once.

    A job that no other waits for, as most explorations are, leaves one place free while jobs that others wait for are still
    to come: an exploration that hangs doesn't keep the facts waiting.
    """
    by_name = {job.name: job for job in jobs}
    ended = {run.job.name: run for run in before}
    upstream = dependencies([*by_name.values(), *(run.job for run in ended.values())])
    needed = {name: upstream[name] & by_name.keys() for name in by_name}
    awaited = set().union(*needed.values())
    sorter = graphlib.TopologicalSorter(needed)
    sorter.prepare()
    at_work: dict[Future[Run], str] = {}
    ready: list[str] = []
    parallel = max(parallel, 1)
    with ThreadPoolExecutor(parallel) as pool, _told_to_stop(pool, stop):
        while sorter.is_active():
            ready += sorter.get_ready()
            # those that others wait for come first
            for name in sorted(ready, key=lambda name: name not in awaited):
                if reason := _obstacle(sorted(upstream[name]), ended, stop):
                    ready.remove(name)
                    ended[name] = _skip(by_name[name], reason, cycle, notify)
                    sorter.done(name)
                elif len(at_work) < parallel and (name in awaited or _is_room(at_work, awaited, ended, parallel)):
                    ready.remove(name)
                    at_work[pool.submit(_run_whatever_comes, run_one, by_name[name], cycle, notify)] = name
            for future in wait(at_work, return_when=FIRST_COMPLETED).done if at_work else ():
                name = at_work.pop(future)
                ended[name] = future.result()
                sorter.done(name)
    return list(ended.values())


@contextmanager
def _told_to_stop(pool: ThreadPoolExecutor, stop: Event) -> Iterator[None]:
    """Let an interrupt ask the runs at work to end by themselves, and any other error keep more from being started."""
    try:
        yield
    except KeyboardInterrupt:
        stop.set()
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _is_room(at_work: Mapping[Future[Run], str], awaited: set[str], ended: Mapping[str, Run], parallel: int) -> bool:
    """Whether one more job that nobody waits for may start."""
    return awaited <= ended.keys() or len(set(at_work.values()) - awaited) < parallel - 1


def _obstacle(upstream: Iterable[str], ended: Mapping[str, Run], stop: Event) -> str | None:
    bad = [f"{name} {ended[name].status}" for name in upstream if name in ended and _is_bad(ended[name])]
    return ", ".join(bad) or ("stopped" if stop.is_set() else None)


def _is_bad(run: Run) -> bool:
    return run.status not in ("done", "running")


def _run_whatever_comes(run_one: Callable[[Job], Run], job: Job, cycle: Cycle | None, notify: Notify) -> Run:
    """Run a job; an error that it raises becomes a failed run, so that the other jobs of the cycle go on."""
    try:
        return run_one(job)
    except Exception as error:
        logger.exception("%s", job.name)
        run = _run_of(job, cycle)
        run.finish("failed", one_line(f"{type(error).__name__}: {error}"))
        close(run, notify)
        return run


def _run_of(job: Job, cycle: Cycle | None) -> Run:
    return Run(
        job,
        cycle.run_date if cycle else datetime.now(UTC).date(),
        cycle_id=cycle.cycle_id if cycle else None,
        cut_id=cycle.cut_id if cycle else None,
    )


def _skip(job: Job, reason: str, cycle: Cycle | None, notify: Notify) -> Run:
    run = _run_of(job, cycle)
    run.finish("skipped", reason)
    close(run, notify)
    return run


def failed(runs: Iterable[Run]) -> bool:
    """Whether any of the runs isn't what was asked for."""
    return any(_is_bad(run) for run in runs)
