"""What a backfill has to run: snapshots of past days, and every job on the run date of the coming cut."""

from datetime import date
from pathlib import Path

from lib.cycles.backfill import Grid
from lib.jobs.discovery import Job

MONDAY, TUESDAY, WEDNESDAY = date(2026, 11, 16), date(2026, 11, 17), date(2026, 11, 18)
SCORES = Job("analytics/scores", Path("scores.ipynb"), "batch", snapshots="analysis_date")
TOTALS = Job("analytics/totals", Path("totals.ipynb"), "batch")


def grid(*done: tuple[str, date]) -> Grid:
    """Three days of two jobs."""
    return Grid((SCORES, TOTALS), (MONDAY, TUESDAY, WEDNESDAY), WEDNESDAY, frozenset(done))


def test_for_a_past_day_only_a_job_that_keeps_snapshots_runs() -> None:
    assert [grid().to_run(day) for day in grid().days] == [[SCORES], [SCORES], [SCORES, TOTALS]]


def test_what_is_done_is_left_out() -> None:
    done = grid((SCORES.name, MONDAY), (SCORES.name, WEDNESDAY))
    assert [done.to_run(day) for day in done.days] == [[], [SCORES], [TOTALS]]
