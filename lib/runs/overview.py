"""The gallery of reports, from the registry of runs."""

from collections.abc import Mapping
from typing import Any

from lib.jobs.discovery import Job, scan
from lib.plain import headline
from lib.report.gallery import Entry, gallery
from lib.runs.registry import Row
from lib.settings import settings


def refresh_gallery(last: Mapping[str, Row], good: Mapping[str, Row]) -> None:
    """Write `runs/index.html` from the last run and the last good one of each job."""
    gallery(
        settings().runs_dir,
        [_entry(job, last.get(job.name), good.get(job.name)) for job in scan(settings().notebooks_dir)[0]],
    )


def _entry(job: Job, last: Row | None, good: Row | None) -> Entry:
    facts: dict[str, Any] = {}
    if good:
        facts = {
            "run_date": good.run_date,
            "finished_at": good.finished_at,
            "seconds": (good.finished_at - good.started_at).total_seconds() if good.finished_at else None,
            "report": f"latest/{job.name}.html",
            "headline": headline(good.numbers or {}),
        }
    failed = last.report if last and last.status in ("failed", "killed") else None
    return Entry(
        job=job.name,
        title=job.title or job.name,
        grain=job.grain,
        status=last.status if last else None,
        failed_report=failed,
        **facts,
    )
