"""How the jobs of the warehouse stand, for Prometheus: their last good runs, failures, and what is overdue."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg2.extensions import connection as Connection

from lib.cron import following

JOBS = """
select name,
    (
        select status in ('failed', 'killed') from ops.job_runs
        where job = name and cut_id is not null and status in ('done', 'failed', 'killed')
        order by started_at desc limit 1
    ) as has_failed,
    good.finished_at,
    case
        when (
            select cycle_id from ops.job_runs
            where job = name and cut_id is not null
            order by started_at desc limit 1
        ) ~ '^[0-9T]+-(.*[+])?batch([+].*)?-[0-9a-f]+$' then good.began_at
    end
from unnest(%(names)s::text[]) as name
left join lateral (
    select run.finished_at, cut.created_at as began_at
    from ops.job_runs as run join ops.cuts as cut using (cut_id)
    where run.job = name and run.status = 'done'
    order by run.started_at desc limit 1
) as good on true
order by name
"""
"""A row per notebook. Savers have no cut; what ran last by hand, or by a cron line of its own, is in no batch cycle."""

LAST_CYCLE = "select created_at from ops.cuts order by cut_id desc limit 1"


@dataclass(frozen=True)
class Standing:
    """How a job stands: `began_at` is the start of the cycle of its last good run, for the jobs of the batch cycle only."""

    name: str
    has_failed: bool | None = None
    finished_at: datetime | None = None
    began_at: datetime | None = None


@dataclass(frozen=True)
class Standings:
    """All jobs that have a notebook, and when the last cycle began."""

    jobs: list[Standing] = field(default_factory=list)
    cycle_at: datetime | None = None


def notebook_names(folder: Path) -> list[str]:
    """The notebooks below a folder, as jobs are called; what can't be listed, or has a name that is no text, is left out."""
    files = [Path(place, file) for place, _, files in os.walk(folder) for file in files if file.endswith(".ipynb")]
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    return [name for name in names if name.isprintable()]


def read(connection: Connection, notebooks: Path) -> Standings:
    """How the jobs stand; one whose notebook was taken away isn't asked for any more."""
    names = notebook_names(notebooks)
    connection.set_session(readonly=True)
    with connection, connection.cursor() as cursor:
        cursor.execute(JOBS, {"names": names})
        jobs = [Standing(*row) for row in cursor.fetchall()]
        cursor.execute(LAST_CYCLE)
        cycle = cursor.fetchone()
    return Standings(jobs, cycle[0] if cycle else None)


def gauges(found: Standings, cron: str) -> list[Metric]:
    """The jobs' figures; `cron` is the line of the batch cycle."""
    failed = GaugeMetricFamily(
        "globalmart_job_last_run_failed", "Whether the last run that ended failed or was killed.", labels=["job"]
    )
    good = GaugeMetricFamily(
        "globalmart_job_last_good_run_timestamp_seconds", "When the last good run of a job ended.", labels=["job"]
    )
    expected = GaugeMetricFamily(
        "globalmart_job_expected_timestamp_seconds",
        "When the next good run of a job of the batch cycle is to end: when it is due, and as long again as the last took.",
        labels=["job"],
    )
    for job in found.jobs:
        if job.has_failed is not None:
            failed.add_metric([job.name], job.has_failed)
        if job.finished_at is not None:
            good.add_metric([job.name], job.finished_at.timestamp())
        if job.finished_at is not None and job.began_at is not None and (due := following(cron, job.began_at)):
            expected.add_metric([job.name], (due + (job.finished_at - job.began_at)).timestamp())
    return [failed, good, expected, *_cycle(found.cycle_at, cron)]


def _cycle(began_at: datetime | None, cron: str) -> Iterable[Metric]:
    due = following(cron, began_at) if began_at else None
    family = GaugeMetricFamily("globalmart_cycle_due_timestamp_seconds", "When the cycle after the last one is due.")
    if due:
        family.add_metric([], due.timestamp())
    yield family
