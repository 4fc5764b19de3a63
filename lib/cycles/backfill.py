"""Runs for past days: the ETL once, up to a new cut, then a snapshot for each day that has none."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Event

from lib import database
from lib.cycles import cycle
from lib.jobs.discovery import Job, JobError
from lib.ledger import cuts
from lib.runs.registry import Cycle
from lib.runs.run import Notify, Run, new_id


@dataclass(frozen=True)
class Grid:
    """Jobs and days, in order, and what the registry of runs says is `done`; `today` is the run date of the next cut.

    On that day every job runs. For an earlier day only jobs that keep snapshots have something to make: the tables of the
    others hold what is known today, and a run for an older day must not overwrite newer rows.
    """

    jobs: tuple[Job, ...]
    days: tuple[date, ...]
    today: date
    done: frozenset[tuple[str, date]]

    def can_run(self, job: Job, day: date) -> bool:
        """Whether the job has something to make on that day."""
        return bool(job.snapshots) or day == self.today

    def to_run(self, day: date) -> list[Job]:
        """The jobs that aren't done on that day."""
        return [job for job in self.jobs if self.can_run(job, day) and (job.name, day) not in self.done]


def plan(jobs: Sequence[Job], first: date, last: date, *, again: bool = False) -> Grid:
    """The grid of jobs and days from `first` to `last`; with `again` nothing counts as done.

    Raises
    ------
    JobError
        When `first` is after `last`, `last` is in the future, or no job has something to make on any of the days.
    """
    with closing(database.connect("warehouse")) as connection, connection, connection.cursor() as cursor:
        today = cuts.next_cut(cursor).run_date
        cursor.execute(
            "select distinct job, run_date from ops.job_runs where status = 'done' and job = any(%s)"
            " and run_date between %s and %s",
            [[job.name for job in jobs], first, last],
        )
        done = frozenset(() if again else cursor.fetchall())
    if first > last:
        raise JobError(f"--from {first} lies after --to {last}")
    if last > today:
        raise JobError(f"--to {last} lies after {today}, the run date of a cycle by now")
    days = tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
    grid = Grid(tuple(jobs), days, today, done)
    if not any(grid.can_run(job, day) for job in jobs for day in days):
        names = ", ".join(job.name for job in jobs)
        raise JobError(f"nothing to make for past days: none keeps snapshots of {names}")
    return grid


def backfill(
    grid: Grid, jobs: Iterable[Job], *, label: str, stop: Event, notify: Notify, say: Callable[[str], None]
) -> list[Run]:
    """Run what isn't done: first a cycle over a new cut, of the grid's jobs and all batch jobs among `jobs`, then each day.

    Between two days the lock of the cycles is free, so that live cycles go on. It stops after the cycle or day in which a
    job isn't done; another call goes on there.
    """
    if not any(grid.to_run(day) for day in grid.days):
        return []
    together = [job for job in jobs if job.schedule == "batch" or job in grid.jobs]
    runs = cycle.run_cycle(together, label=label, stop=stop, notify=notify, say=say)
    cut = runs[0].cut_id
    assert cut is not None
    for day in grid.days:
        if cycle.failed(runs) or stop.is_set():
            break
        if day < runs[0].run_date and (to_run := grid.to_run(day)):
            at = Cycle(new_id("+".join(job.short_name for job in to_run)), day, cut)
            runs += cycle.run_cycle(to_run, resume=at, stop=stop, notify=notify, say=say)
    return runs
