"""The commands of `schedule.py` about jobs: list, graph, run, start, status, validate."""

import json
import logging
import re
import signal
import sys
import time
from datetime import UTC, date, datetime
from threading import Event
from typing import Annotated, Any

import psycopg2
import typer
from rich.table import Table

from lib import cron
from lib.cli.terminal import (
    FAILED,
    choose,
    clear_errors,
    complain,
    discover,
    errors,
    not_set_up,
    notebooks_folder,
    output,
    refuse,
    unreachable,
)
from lib.jobs import cells, conventions, discovery, parameters
from lib.jobs.discovery import Job, JobError
from lib.plain import one_line
from lib.runs import process, registry
from lib.settings import settings


def list_jobs(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the README.")] = False,
) -> None:
    """The jobs: when they run, how they last ended, when they run next."""
    with clear_errors():
        found = discover()
        if markdown:
            typer.echo(discovery.job_table(found))
            return
        last = last_runs()
        table = Table("job", "schedule", "last", "next (UTC)", box=None, header_style="bold")
        for job in found:
            row = last.get(job.name)
            ended = f"{row.status}, {row.finished_at or row.started_at:%Y-%m-%d %H:%M}" if row else "–"
            table.add_row(job.name, job.schedule, ended, next_time(job))
        output.print(table)


def graph(mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid diagram.")] = False) -> None:
    """The order of the jobs, and what each one waits for."""
    with clear_errors():
        found = discover()
        upstream = discovery.dependencies(found)
        if mermaid:
            typer.echo("graph LR")
            for job in found:
                typer.echo(f'  {node(job.name)}["{job.name}"]')
                for name in sorted(upstream[job.name]):
                    typer.echo(f"  {node(name)} --> {node(job.name)}")
            return
        for job in found:
            names = ", ".join(sorted(upstream[job.name]))
            typer.echo(f"{job.name:32}{f'← {names}' if names else ''}".rstrip())


def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB|GROUP]…", help="Jobs, folders, schedules, or all. [default: batch]"),
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="A parameter, by its declared type.")
    ] = None,
    run_date: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The logical UTC day.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, in which order.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN|CYCLE", help="Go on with a cycle, over its cut; what is done stays.")
    ] = None,
) -> None:
    """Run jobs over one cut, publishing what they write."""
    with clear_errors():
        day = run_date.date() if run_date else None
        cycle = find_cycle(resume, day) if resume else None
        names = names or (label_of(cycle).split("+") if cycle else ["batch"])
        chosen = choose(names)
        given = parameters.parse(pairs or [])
        for job in chosen:
            parameters.read(job, given)
        if dry_run:
            print_plan(chosen, given, day, cycle)
            return
        process.prepare()
        # imported here, since Spark and pandas take seconds, which a dry run shouldn't spend
        from lib.cli.progress import Board
        from lib.cycles.cycle import failed, run_cycle

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with Board(output) as board:
            runs = run_cycle(
                chosen,
                label="+".join(names),
                given=given,
                run_date=day,
                resume=cycle,
                stop=Event(),
                notify=board.notify,
                say=board.say,
            )
        if failed(runs):
            raise typer.Exit(FAILED)


def start(
    streams: Annotated[bool, typer.Option("--streams/--no-streams", help="Keep the savers running.")] = True,
    cron: Annotated[bool, typer.Option("--cron/--no-cron", help="Run cycles by cron.")] = True,
) -> None:
    """Stay in the foreground: run cycles by cron and keep the savers running."""
    if not streams and not cron:
        refuse("--no-streams and --no-cron together leave nothing to do")
    with clear_errors():
        notebooks_folder()
        process.prepare()
        from lib.cli.progress import Board
        from lib.cycles import scheduler

        log_to_stderr()
        with Board(output) as board:
            scheduler.start(streams=streams, cron=cron, notify=board.notify, say=board.say)


def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """How each job last ended, where ingestion stands, and what the last cut covers."""
    with clear_errors():
        from lib.cli import status as state

        found, broken = discovery.scan(notebooks_folder())
        now = state.read([job.name for job in found], broken)
        if as_json:
            typer.echo(json.dumps(now, default=str, indent=2))
            return
        for part in state.tables(now):
            output.print(part)


def validate() -> None:
    """Name each notebook and cell that isn't as it should be."""
    with clear_errors():
        folder = notebooks_folder()
        problems = conventions.validate(folder)
        for problem in problems:
            typer.echo(problem)
        if problems:
            broken = sorted({problem.notebook for problem in discovery.scan(folder)[1]})
            complain(f"not run until that is mended: {', '.join(broken)}" if broken else "each of them is run as it is")
            raise typer.Exit(FAILED)
        typer.echo(f"{len(cells.find_notebooks(folder))} notebooks are as they should be")


def node(name: str) -> str:
    """A job's name as the id of a Mermaid node."""
    return re.sub(r"\W", "_", name)


def find_cycle(run_or_cycle: str, day: date | None) -> registry.Cycle:
    """The cycle to go on with, by its id or that of one of its runs."""
    if day:
        refuse("--resume keeps the run date of its cycle: leave --run-date out")
    with registry.warehouse() as connection:
        cycle = registry.find_cycle(connection, run_or_cycle)
    if cycle is None:
        raise JobError(f"no cycle with a cut has the id {run_or_cycle}, or a run of that id")
    return cycle


def label_of(cycle: registry.Cycle) -> str:
    """What the cycle was asked to run: the middle part of its id."""
    return cycle.cycle_id.partition("-")[2].rpartition("-")[0]


def print_plan(chosen: list[Job], given: dict[str, Any], day: date | None, cycle: registry.Cycle | None) -> None:
    """What would run."""
    from lib.runs.attempt import parameters_for

    for job in chosen:
        if cycle and job.name in cycle.done:
            continue
        values = parameters_for(
            job, run_date=cycle.run_date if cycle else day, cut_id=cycle.cut_id if cycle else None, given=given
        )
        shown = {"run_date": "the cut's", "cut": "a new one"}
        texts = [f"{name}={shown[name] if name in shown and not value else value}" for name, value in values.items()]
        typer.echo(f"{job.name:32}{'  '.join(texts)}")


def last_runs() -> dict[str, registry.Row]:
    """The last run of each job; while the warehouse is away or not set up, a message on stderr and none."""
    try:
        with registry.warehouse() as connection:
            return registry.last_runs(connection)
    except psycopg2.OperationalError as error:
        errors.print(f"{unreachable()} ({one_line(str(error))})", style="yellow", soft_wrap=True)
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
        errors.print(not_set_up(error), style="yellow", soft_wrap=True)
    return {}


def next_time(job: Job) -> str:
    """When the job runs next."""
    line = discovery.cron_line(job, settings().cron)
    if line is None:
        return "kept running" if job.schedule == "stream" else "by hand"
    moment = cron.following(line, datetime.now(UTC))
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "never"


def log_to_stderr() -> None:
    """Log to stderr, with the time in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
