"""`schedule.py backfill` and `schedule.py rebuild`: snapshots of past days, and the warehouse computed again."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Annotated

import psycopg2.errors
import typer
from rich.table import Table
from rich.text import Text

from lib.cli.terminal import FAILED, choose, clear_errors, complain, discover, output
from lib.jobs import discovery
from lib.settings import settings

if TYPE_CHECKING:
    from lib.cycles.backfill import Grid
    from lib.cycles.compare import Comparison
    from lib.cycles.rebuild import Plan


def backfill(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first run date.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last run date.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB|GROUP]…", help="Jobs or folders. [default: analytics]")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also for days that are done.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the notebooks and days, and what is there.")
    ] = False,
) -> None:
    """Make what is missing of past days: the ETL once, to one cut, then a snapshot for each day."""
    from lib.cli.progress import Board
    from lib.cycles import backfill as days
    from lib.cycles.cycle import failed

    with clear_errors():
        names = names or ["analytics"]
        chosen, found = choose(names), discovery.scan(settings().notebooks_dir)[0]
        grid = days.plan(chosen, first.date(), last.date(), again=again)
        if dry_run:
            output.print(grid_table(grid))
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with Board(output) as board:
            runs = days.backfill(
                grid,
                found,
                label="+".join(dict.fromkeys(["batch", *names])),
                stop=Event(),
                notify=board.notify,
                say=board.say,
            )
            if not runs:
                board.say("all of it is there; --again makes it once more")
        if failed(runs):
            raise typer.Exit(FAILED)


def grid_table(grid: "Grid") -> Table:
    """The grid for people: what is done, what would run, and what has nothing to make on a day."""
    note = f"First a cycle of all batch jobs and of these, to a new cut of {grid.today}."
    if not all(job.snapshots for job in grid.jobs):
        note += " – keeps no snapshots, and holds what is known by then."
    table = Table("run date", *(job.short_name for job in grid.jobs), box=None, header_style="bold", caption=note)
    for day in grid.days:
        to_run = grid.to_run(day)
        cells = ("run" if job in to_run else "done" if grid.can_run(job, day) else "–" for job in grid.jobs)
        table.add_row(day.isoformat(), *cells)
    return table


def rebuild(
    compare: Annotated[bool, typer.Option("--compare", help="Compare it with the living one, row by row.")] = False,
    swap: Annotated[bool, typer.Option("--swap", help="Put its rows in the place of the living ones.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take one new cut over everything, not the stored ones.")
    ] = False,
) -> None:
    """Make the warehouse again from the realtime tables and the cuts, in a database beside the living one."""
    from lib.cli.progress import Board
    from lib.cycles import rebuild as again
    from lib.cycles import swap as replacing

    with _clear_errors(), Board(output) as board:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        found, problems = discover(), discovery.scan(settings().notebooks_dir)[1]
        chosen = [job for job in found if (job.writes or "").startswith("warehouse.")]
        work = again.Work(chosen, Event(), board.notify, board.say)
        built = again.plan(chosen, fresh=fresh, broken=problems)
        cuts = "one new cut" if fresh else f"{len(built.cuts)} cuts"
        board.say(f"replaying {cuts} up to {built.target.run_date} into the database {again.database_name()}")
        again.build(built, work)
        if not compare and not swap:
            board.say("built; --compare says what differs from the living warehouse, --swap puts it in its place")
            return
        with again.living_lock(work):
            built = again.catch_up(built, work)
            differing = print_comparison(built, again.differences(work)) if compare else 0
            if swap:
                rows = replacing.swap(built)
                board.say(
                    f"swapped in: {sum(rows.values()):,} rows of {len(rows)} tables, up to {built.target.run_date}"
                )
            elif differing:
                board.say(f"the rebuilt rows stay in the database {again.database_name()} until the next rebuild")
            else:
                again.drop()
        if differing and not swap:
            raise typer.Exit(FAILED)


def print_comparison(built: "Plan", found: "Iterable[Comparison]") -> int:
    """Print what differs, and return the number of rows."""
    table = Table("table", box=None, header_style="bold")
    for side in ("living", "rebuilt", "differing"):
        table.add_column(side, justify="right")
    examples: list[str] = []
    differing = 0
    for one in found:
        differing += one.differing
        style = "bold red" if one.differing else ""
        table.add_row(one.table, f"{one.living:,}", f"{one.rebuilt:,}", Text(f"{one.differing:,}", style=style))
        examples += [f"{one.table}: {example}" for example in one.examples]
    output.print(table)
    for example in examples:
        output.print(Text(example), soft_wrap=True)
    if built.behind:
        jobs_behind = ", ".join(built.behind)
        output.print(f"not at the last cut yet, so they may differ until they have run: {jobs_behind}", soft_wrap=True)
    return differing


@contextmanager
def _clear_errors() -> Iterator[None]:
    """The errors of a rebuild as one line each."""
    from lib.cycles.rebuild import RebuildError
    from lib.migrate import MigrationError

    with clear_errors():
        try:
            yield
        except (RebuildError, MigrationError) as error:
            complain(str(error))
            raise typer.Exit(FAILED) from None
        except psycopg2.errors.InsufficientPrivilege as error:
            complain(f"a rebuild needs a user who may create a database, GM_WAREHOUSE_ADMIN_DSN: {error}".strip())
            raise typer.Exit(FAILED) from None
