"""The warehouse computed again from the realtime tables and the cuts, in one pass, in a database beside the living one.

The jobs' notebooks run as they are; only their environment names another database.
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from threading import Event

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn, parse_dsn

from lib import database, locks, migrate, servers
from lib.cycles import cycle, holding
from lib.cycles.compare import Comparison, compare
from lib.jobs.discovery import Job, Problem, upstream
from lib.ledger import cuts as incremental
from lib.ledger.cuts import Cut
from lib.runs.registry import Cycle
from lib.runs.run import Notify, new_id
from lib.settings import Settings, overridden, settings

Snapshot = tuple[int, date]
"""The cut that a snapshot is made from, and its run date."""


class RebuildError(Exception):
    """The warehouse can't be rebuilt; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """What is replayed: the cuts, in order, and the snapshots; `behind` are the jobs that haven't loaded the last cut yet."""

    cuts: tuple[Cut, ...]
    snapshots: tuple[Snapshot, ...]
    behind: tuple[str, ...]
    fresh: bool = False
    holds: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """When each held event was held, by table and id; the replayed jobs don't see these."""

    @property
    def target(self) -> Cut:
        """The last cut."""
        return self.cuts[-1]


@dataclass(frozen=True)
class Work:
    """A rebuild at work: its jobs, and how it is followed and stopped."""

    jobs: Sequence[Job]
    stop: Event
    notify: Notify
    say: Callable[[str], None]


def plan(jobs: Sequence[Job], *, fresh: bool = False, broken: Sequence[Problem] = ()) -> Plan:
    """What a rebuild replays: the stored cuts up to the last one that was loaded; with `fresh` one new cut instead.

    Each snapshot is made from the cut of its last run. Where the registry has no run any more, it is made from the last cut
    of its day, or of the first later day that has a cut.

    Raises
    ------
    RebuildError
        When nothing has been loaded yet, or a notebook that has loaded something is broken now.
    """
    with closing(_admin(settings())) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select job, cut_id from ops.watermarks order by job")
        marks = dict(cursor.fetchall())
        if missing := [str(problem) for problem in broken if problem.notebook in marks]:
            raise RebuildError("\n".join(missing))
        names = {job.name for job in jobs}
        loaded = {job: cut for job, cut in marks.items() if job in names}
        if not loaded:
            raise RebuildError("nothing has been loaded yet: `schedule.py run` first")
        last, holds = max(loaded.values()), holding.marks()
        cuts = incremental.cuts_upto(cursor, last)
        snapshots = _snapshots(cursor, [job for job in jobs if job.snapshots], cuts)
        behind = tuple(job for job, cut in loaded.items() if cut < last)
        if not fresh:
            return Plan(cuts, snapshots, behind, holds=holds)
        cut = incremental.numbered(cursor, incremental.next_cut(cursor))
        return Plan((cut,), tuple((cut.cut_id, day) for _, day in snapshots), behind, fresh=True, holds=holds)


def _snapshots(cursor: Cursor, jobs: Sequence[Job], cuts: Sequence[Cut]) -> tuple[Snapshot, ...]:
    """The snapshots of the registry of runs, and those that are in their tables though the registry has no run of them."""
    cursor.execute(
        "select distinct on (r.run_date) r.run_date, coalesce(c.superseded_by, c.cut_id) from ops.job_runs r"
        " join ops.cuts c using (cut_id) where r.status = 'done' and r.job = any(%s) order by 1, r.started_at desc",
        [[job.name for job in jobs]],
    )
    last_of = {cut.run_date: cut.cut_id for cut in cuts}
    known = {cut.cut_id for cut in cuts}
    made = {day: cut for day, cut in cursor.fetchall() if cut in known}
    for job in jobs:
        table = (job.writes or "").removeprefix("warehouse.")
        query = sql.SQL("select distinct {} from {}").format(sql.Identifier(job.snapshots), sql.Identifier(table))
        cursor.execute(query)
        for (day,) in cursor.fetchall():
            run_date = next((cut.run_date for cut in cuts if cut.run_date >= day), None)
            if run_date:
                made.setdefault(day, last_of[run_date])
    return tuple(sorted((cut, day) for day, cut in made.items()))


# --- build


def build(planned: Plan, work: Work) -> None:
    """Create the database of the rebuild, dropping an old one, and run the jobs in it.

    Raises
    ------
    RebuildError
        When a job isn't done, or the living warehouse's schema isn't up to date.
    """
    drop()
    with closing(_autocommit(settings())) as admin, admin.cursor() as cursor:
        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(database_name())))
    with beside() as config:
        shutil.rmtree(config.runs_dir, ignore_errors=True)
        config.runs_dir.mkdir(parents=True)
        migrate.migrate(config, "warehouse")
    with both() as (living, rebuilt):
        if _migrations(living) != _migrations(rebuilt):
            raise RebuildError("the living warehouse's schema isn't up to date: `make up` first")
    _replay(planned, work, made=())


def drop() -> None:
    """Drop the database of the rebuild, if there is one."""
    with closing(_autocommit(settings())) as admin, admin.cursor() as cursor:
        cursor.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database_name())))


def catch_up(built: Plan, work: Work) -> Plan:
    """Replay what the living warehouse has loaded since `built`, and return the new plan; the caller holds its cycles' lock.

    Raises
    ------
    RebuildError
        When events were held since, or a job isn't done.
    """
    if holding.marks().items() - built.holds.items():
        raise RebuildError("events were held since the rebuild began, and it may have loaded them: begin it again")
    if built.fresh:
        return built
    now = plan(work.jobs)
    if (now.cuts, now.snapshots) != (built.cuts, built.snapshots):
        work.say(f"catching up from cut {built.target.cut_id} to cut {now.target.cut_id}")
        _replay(now, work, made=built.snapshots)
    return now


def _replay(planned: Plan, work: Work, made: Collection[Snapshot]) -> None:
    """Run what snapshots read, then each snapshot that isn't `made`, by its cut, at last all other jobs."""
    keeping = [job for job in work.jobs if job.snapshots]
    needed = upstream(work.jobs, keeping)
    target = planned.target
    last = Cycle(new_id("rebuild"), target.run_date, target.cut_id, frozenset(job.name for job in needed))
    with beside():
        with closing(database.connect("warehouse")) as connection, connection, connection.cursor() as cursor:
            incremental.copy_cuts(cursor, planned.cuts)
        _run(needed, Cycle(last.cycle_id, target.run_date, target.cut_id), work)
        for cut, day in planned.snapshots:
            if (cut, day) not in made and (cut, day) != (target.cut_id, target.run_date):
                _run(keeping, Cycle(new_id("rebuild"), day, cut), work)
        _run(work.jobs, last, work)


def _run(jobs: Sequence[Job], at: Cycle, work: Work) -> None:
    runs = cycle.run_cycle(jobs, resume=at, stop=work.stop, notify=work.notify, say=work.say)
    if bad := [run for run in runs if run.status != "done"]:
        names = ", ".join(f"{run.job.name} {run.status}" for run in bad)
        raise RebuildError(f"the rebuild stops: {names}; the reports are in {settings().runs_dir}")


# --- compare


def differences(work: Work) -> Iterator[Comparison]:
    """Compare the living warehouse with the rebuilt one, table by table; the caller holds the living cycles' lock."""
    snapshots = {
        (job.writes or "").replace("warehouse.", "public."): job.snapshots for job in work.jobs if job.snapshots
    }
    with both() as (living, rebuilt):
        yield from compare(living, rebuilt, snapshots)


# --- the two databases


def database_name() -> str:
    """The name of the rebuild's database, on the living one's server."""
    return f"{parse_dsn(settings().dsn('warehouse'))['dbname']}_rebuild"


def beside() -> AbstractContextManager[Settings]:
    """Settings under which jobs load the rebuild's database, and their reports go to `runs/rebuild/`."""
    config = settings()
    app, admin = (make_dsn(config.dsn("warehouse", admin=admin), dbname=database_name()) for admin in (False, True))
    return overridden(
        GM_EMBEDDED=",".join(part for part in config.parts if part != "warehouse") or ",",
        GM_WAREHOUSE_DSN=app,
        GM_WAREHOUSE_ADMIN_DSN=admin,
        GM_RUNS_DIR=str(config.runs_dir / "rebuild"),
    )


@contextmanager
def both() -> Iterator[tuple[Connection, Connection]]:
    """Connections to the living and to the rebuilt warehouse, as the owner of the schema."""
    with beside() as config:
        rebuilt = _admin(config)
    with closing(rebuilt), closing(_admin(settings())) as living:
        yield living, rebuilt


def living_lock(work: Work) -> AbstractContextManager[Connection]:
    """The lock of the living warehouse's cycles; while it is held, none loads anything."""
    return locks.hold(cycle.LOCK, wait=cycle.WAIT_SECONDS, stop=work.stop, say=work.say)


def _admin(config: Settings) -> Connection:
    return servers.connect(config.address("warehouse", admin=True))


def _autocommit(config: Settings) -> Connection:
    connection = _admin(config)
    connection.autocommit = True
    return connection


def _migrations(connection: Connection) -> set[tuple[str, str]]:
    with connection, connection.cursor() as cursor:
        cursor.execute("select file, sha256 from ops.migrations")
        return set(cursor.fetchall())
