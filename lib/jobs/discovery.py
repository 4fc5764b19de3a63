"""Jobs: notebooks whose first cell says when they run, what they read and what they write."""

import graphlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from lib.jobs import cells, front_matter
from lib.jobs.cells import Parameter
from lib.jobs.front_matter import SCHEDULES
from lib.plain import do_you_mean, one_line

DAILY = "0 2 * * *"
MARKERS = ("<!-- jobs: made by `schedule.py list --markdown` -->", "<!-- /jobs -->")

JOB_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
LONGEST_NAME = 150
"""A job's name is in the names of its runs' files, which have at most 255 bytes."""
RESERVED = ("assets", "index.html", "latest", "rebuild")
"""What is in `runs/` beside the folders of jobs."""
SETTLED_NS = 2_000_000_000
"""A file that changed less long ago may change again with the same time stamp, since clocks tick in milliseconds."""


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with a notebook; `cell` counts from 1, 0 means the notebook as a whole."""

    notebook: str
    cell: int
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.notebook}: {f'cell {self.cell}: ' if self.cell else ''}{self.message}")


class JobError(ValueError):
    """Jobs that can't be used as they are, or a name that means no job."""

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True)
class Job:
    """A notebook that the scheduler runs; `name` is its folder and file name, as `etl/fact_sales`.

    `snapshots` is the column of its table with the run date, when each run date has rows of its own.
    """

    name: str
    path: Path
    schedule: str
    reads: tuple[str, ...] = ()
    writes: str | None = None
    grain: str = ""
    snapshots: str = ""
    timeout: timedelta = timedelta(minutes=10)
    retries: int = 0
    title: str = ""
    description: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict, hash=False)

    @property
    def folder(self) -> str:
        """The folder, which says what the notebook does."""
        return self.name.rpartition("/")[0]

    @property
    def short_name(self) -> str:
        """The name without its folder."""
        return self.name.rpartition("/")[2]


Parsed = tuple[Job | None, list[Problem]]


def discover(folder: Path) -> list[Job]:
    """All jobs under `folder`, in the order of what they read and write.

    Raises
    ------
    JobError
        Naming each notebook and cell that is wrong.
    """
    jobs, problems = scan(folder)
    if problems:
        raise JobError(*problems)
    return jobs


def scan(folder: Path) -> tuple[list[Job], list[Problem]]:
    """The jobs under `folder` that can run, in order, and what is wrong with other notebooks.

    An exploration that can be read is neither. Nothing is raised, whatever the files are.
    """
    jobs: list[Job] = []
    problems: list[Problem] = []

    def unread(place: Path, error: OSError) -> None:
        name = place.relative_to(folder).as_posix()
        problems.append(Problem(name, 0, f"the folder {cells.why_unreadable(error)}"))

    for path in cells.find_notebooks(folder, unread):
        job, found = parse(name_of(path, folder), path)
        problems += found
        jobs += [job] if job else []
    for find in (_written_twice, _in_a_circle):
        problems += (found := find(jobs))
        jobs = [job for job in jobs if job.name not in {problem.notebook for problem in found}]
    return order(jobs), problems


def broken_lines(problems: Iterable[Problem]) -> list[str]:
    """What is wrong, in one line for each notebook."""
    by_notebook: dict[str, list[Problem]] = {}
    for problem in problems:
        by_notebook.setdefault(problem.notebook, []).append(problem)
    return [str(found[0]) + f" (and {len(found) - 1} more)" * (len(found) > 1) for found in by_notebook.values()]


def _written_twice(jobs: Sequence[Job]) -> list[Problem]:
    problems = []
    for table in sorted({job.writes for job in jobs if job.writes}):
        writers = [job for job in jobs if job.writes == table]
        # a copy made in JupyterLab must not stop the original, whose name is the table's
        owners = [job.name for job in writers if job.short_name == table.partition(".")[2]]
        for job in writers if len(writers) > 1 else []:
            if owners != [job.name]:
                others = ", ".join(other.name for other in writers if other is not job)
                problems.append(Problem(job.name, 1, f"writes {table}, as {others} does: one notebook, one table"))
    return problems


def _in_a_circle(jobs: Sequence[Job]) -> list[Problem]:
    edges = dependencies(jobs)
    reaches = {name: set(upstream) for name, upstream in edges.items()}
    for _ in edges:
        for upstream in reaches.values():
            upstream |= {further for name in upstream for further in edges[name]}
    circle = [name for name, upstream in reaches.items() if name in upstream]
    return [Problem(name, 1, f"reads what depends on its own table: {' and '.join(circle)}") for name in circle]


def name_of(path: Path, folder: Path) -> str:
    """The name of a notebook under `folder`."""
    return path.relative_to(folder).with_suffix("").as_posix()


_parsed: dict[tuple[str, Path], tuple[tuple[int, ...], Parsed]] = {}
"""What each notebook was when it was last read, with the marks of its file then: if they differ, it has changed."""


def parse(name: str, path: Path) -> Parsed:
    """The job that the notebook at `path` is, or what is wrong with it; neither when it is gone or no cell is tagged `job`.

    Nothing is raised. A file that hasn't changed isn't read again, since a scheduler looks every few seconds.
    """
    marks = _marks(path)
    if marks and (known := _parsed.get((name, path))) and known[0] == marks:
        return known[1]
    lasts = True
    try:
        found = _parse(name, path)
    except Exception as error:
        # Anybody may have written it, so reading it may raise anything; the other notebooks are read all the same.
        if isinstance(error, OSError) and not os.path.lexists(path):
            return None, []
        found = None, [Problem(name, 0, cells.why_unreadable(error))]
        lasts = isinstance(error, ValueError | RecursionError)  # what is wrong with the disk may pass
    if lasts and marks and marks[0] < time.time_ns() - SETTLED_NS:
        _parsed[name, path] = marks, found
    return found


def _marks(path: Path) -> tuple[int, ...]:
    try:
        now = path.stat()
    except (OSError, ValueError):
        return ()
    return now.st_ctime_ns, now.st_mtime_ns, now.st_size, now.st_ino, now.st_dev


def _parse(name: str, path: Path) -> Parsed:
    content = cells.read_cells(path)
    tagged = [number for number, cell in enumerate(content, start=1) if "job" in cell.tags]
    if not tagged:
        return None, []
    if tagged != [1] or content[0].kind != "raw":
        return None, [Problem(name, tagged[-1], "the cell tagged `job` has to be the first one, and a raw cell")]
    values, messages = front_matter.read(content[0].source)
    if not JOB_NAME.fullmatch(name):
        messages.append("the name of a job's notebook holds only letters, digits, `_`, `-` and `.`")
    if len(name) > LONGEST_NAME:
        messages.append(f"the name of a job's notebook has at most {LONGEST_NAME} characters, folders included")
    if name.partition("/")[0] in RESERVED:
        messages.append(
            f"`runs/{name.partition('/')[0]}` is another thing: give the notebook or its folder another name"
        )
    problems = [Problem(name, 1, message) for message in messages]
    declared: dict[str, Parameter] = {}
    for number, cell in enumerate(content, start=1):
        try:
            declared |= cells.parameters(cell) if "parameters" in cell.tags else {}
        except ValueError as error:
            problems.append(Problem(name, number, str(error)))
    if problems:
        return None, problems
    title, description = cells.heading(content)
    return Job(name=name, path=path, title=title, description=description, parameters=declared, **values), []


def dependencies(jobs: Iterable[Job]) -> dict[str, set[str]]:
    """For each job those of `jobs` that write what it reads; a job that reads its own table doesn't depend on itself."""
    jobs = list(jobs)
    writers = {job.writes: job.name for job in jobs if job.writes}
    return {job.name: {writers[table] for table in job.reads if table in writers} - {job.name} for job in jobs}


def upstream(jobs: Iterable[Job], chosen: Iterable[Job]) -> list[Job]:
    """The jobs among `jobs` that the chosen ones depend on, directly or not, in the order of `jobs`."""
    jobs = list(jobs)
    edges = dependencies(jobs)
    found: set[str] = set()
    to_see = {name for job in chosen for name in edges[job.name]}
    while to_see:
        found |= to_see
        to_see = {further for name in to_see for further in edges[name]} - found
    return [job for job in jobs if job.name in found]


def order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, each one after those that write what it reads.

    Raises
    ------
    JobError
        Naming the jobs of a cycle.
    """
    by_name = {job.name: job for job in sorted(jobs, key=lambda job: job.name)}
    # sorted: a set's order differs from process to process
    graph = {name: sorted(upstream) for name, upstream in dependencies(by_name.values()).items()}
    try:
        return [by_name[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        raise JobError(f"jobs read each other's tables in a circle: {' → '.join(reversed(error.args[1]))}") from None


def select(jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """The jobs that `names` mean, in the order of `jobs`.

    A name is a job's (`etl/fact_sales`, or `fact_sales` where that is unique), a folder's (`etl`), a schedule's
    (`batch`, `daily`, `stream`, `manual`), or `all`, which is every job but the manual ones.

    Raises
    ------
    JobError
        For a name that means no job, or more than one.
    """
    chosen = {job.name for name in names for job in _select_one(jobs, name)}
    return [job for job in jobs if job.name in chosen]


def _select_one(jobs: Sequence[Job], name: str) -> list[Job]:
    if found := [job for job in jobs if job.name == name]:
        return found
    if name == "all":
        return [job for job in jobs if job.schedule != "manual"]
    if group := [job for job in jobs if name in (job.folder, job.schedule)]:
        return group
    found = [job for job in jobs if job.short_name == name]
    if len(found) == 1:
        return found
    if found:
        raise JobError(f"{name} may be {' or '.join(job.name for job in found)}")
    if name in SCHEDULES:
        return []
    known = [job.name for job in jobs] + [job.short_name for job in jobs] + sorted({job.folder for job in jobs})
    raise JobError(f"no job or group is called {name}{do_you_mean(name, [*known, *SCHEDULES, 'all'])}")


def cron_line(job: Job, batch: str) -> str | None:
    """The cron line that starts a job, where `batch` is that of the cycle; None for streams and manual jobs."""
    named = {"batch": batch, "daily": DAILY, "stream": None, "manual": None}
    return named.get(job.schedule, job.schedule)


def job_table(jobs: Iterable[Job]) -> str:
    """The jobs as a Markdown table between the markers of the README."""
    rows = [
        f"| `{job.name}` | {job.schedule.replace('|', '/')} | {', '.join(job.reads)} | {job.writes or ''} | {job.grain} |"
        for job in jobs
    ]
    head = ["| job | schedule | reads | writes | grain |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([MARKERS[0], *head, *rows, MARKERS[1]])
