"""`runs/index.html`, the page of all reports: business reports with their figures, then savers, dimensions and facts."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import jinja2

from lib.report.page import TEMPLATES, duration, instant, write_whole

BUSINESS = "analytics"
FOLDERS = {
    "ingest": ("Savers", "From Kafka into the realtime database, as the events happen."),
    "etl": ("Dimensions and facts", "From the realtime database into the star schema of the warehouse."),
    "explore": ("Explore", "Notebooks for people."),
    "": ("Others", "Notebooks that stand in no folder."),
}
"""Heading and sentence of each folder, in the order of the page; other folders follow under their own names."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the gallery says of one job.

    `run_date`, `finished_at`, `seconds`, `report` and `headline` are those of the last good run, None or empty without
    one. `status` is that of the last run, as in `ops.job_runs`, None if the job never ran. `report` and `failed_report`
    are relative to the folder of runs; `failed_report` is that of the last run, if it failed and left one.
    """

    job: str
    title: str
    grain: str = ""
    status: str | None = None
    run_date: date | str | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    report: str | None = None
    failed_report: str | None = None
    headline: Mapping[str, str] | Sequence[Sequence[str]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The first folder of the notebook: what kind of job it is; empty for one that is in none."""
        return self.job.partition("/")[0] if "/" in self.job else ""

    @property
    def is_bad(self) -> bool:
        """Whether the last run failed."""
        return self.status in ("failed", "killed")


def gallery(runs_dir: Path, entries: Sequence[Entry]) -> Path:
    """Write `runs/index.html`, whole or not at all, and return its path.

    Parameters
    ----------
    entries
        One per job. Their order is kept within each folder.
    """
    order = [*FOLDERS, *dict.fromkeys(entry.folder for entry in entries if entry.folder not in FOLDERS)]
    others = sorted((e for e in entries if e.folder != BUSINESS), key=lambda entry: order.index(entry.folder))
    page = (
        _environment()
        .get_template("gallery.html.j2")
        .render(
            business=[entry for entry in entries if entry.folder == BUSINESS],
            groups=[
                (*FOLDERS.get(folder, (folder.capitalize(), "")), list(group))
                for folder, group in itertools.groupby(others, key=lambda entry: entry.folder)
            ],
        )
    )
    index = runs_dir / "index.html"
    write_whole(index, page)
    return index


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"duration": duration, "instant": instant}
    return environment
