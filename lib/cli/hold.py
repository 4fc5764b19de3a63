"""`schedule.py hold`, `release` and `held`: put stored events aside, bring them back, and see which ones there are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import psycopg2.errors
import typer
from rich.table import Table
from rich.text import Text

from lib.cli.terminal import FAILED, clear_errors, complain, output, refuse
from lib.jobs import discovery
from lib.runs import registry
from lib.settings import TOPICS, settings

if TYPE_CHECKING:
    from lib.cycles.holding import Done

SourceTable = StrEnum("SourceTable", list(TOPICS))  # type: ignore[misc]
OfTable = Annotated[SourceTable, typer.Argument(metavar="TABLE", help=f"{', '.join(TOPICS)}.")]
Events = Annotated[
    list[str],
    typer.Argument(metavar="EVENT_ID", help="As a failed load names them; behind `--` where one begins with -."),
]


def hold(
    table: OfTable,
    events: Events,
    why: Annotated[str, typer.Option(metavar="TEXT", help="What is wrong with them, for those who come after you.")],
) -> None:
    """Put stored events aside: jobs that haven't loaded them go on without them, until they are released."""
    from lib.cycles import holding
    from lib.cycles.cycle import WAIT_SECONDS

    if not why.strip():
        refuse("--why: say in a few words what is wrong with the events")
    with clear_errors(), registry.warehouse():
        pass  # holding uses both databases: an error here says that it is the warehouse that is away
    with _clear_errors():
        found, _ = discovery.scan(settings().notebooks_dir)
        done = holding.hold(table, events, why=why.strip(), jobs=found, wait=WAIT_SECONDS, say=typer.echo)
    _tell(table, done, "held", "held already")
    if done.changed:
        typer.echo(f"`schedule.py release {table} …` brings them back")


def release(table: OfTable, events: Events) -> None:
    """Bring held events back: the next cycle loads them."""
    from lib.cycles import holding

    with _clear_errors():
        done = holding.release(table, events)
    _tell(table, done, f"released in batch {done.batch}, which the next cycle loads", "isn't held any more")


def held(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """The events that are held: since when, why, and which jobs had loaded them before."""
    from lib.cycles import holding
    from lib.plain import printable

    with _clear_errors():
        rows = holding.listing()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], default=str, indent=2))
        return
    if not rows:
        typer.echo("no event is held")
        return
    shown = Table("table", "event", "since (UTC)", "why", "loaded before by", box=None, header_style="bold")
    for row in rows:
        words = (printable(row.event_id), f"{row.held_at:%Y-%m-%d %H:%M:%S}", printable(row.why))
        names = ", ".join(sorted(name.rpartition("/")[2] for name in row.loaded_by))
        shown.add_row(row.source_table, *map(Text, (*words, names or "–")))
    output.print(shown)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """The errors of holding and releasing as one line each."""
    from lib.cycles.holding import AllLoaded, HoldError

    with clear_errors("realtime"):
        try:
            yield
        except HoldError as error:
            refuse(str(error))
        except AllLoaded as error:
            complain(str(error))
            raise typer.Exit(FAILED) from None
        except psycopg2.errors.InsufficientPrivilege as error:
            complain(f"this needs the owner of the realtime schema, GM_REALTIME_ADMIN_DSN: {error}".strip())
            raise typer.Exit(FAILED) from None


def _tell(table: str, done: "Done", changed: str, already: str) -> None:
    from lib.plain import printable

    for events, what in ((done.changed, changed), (done.already, already)):
        for event in events:
            typer.echo(f"{table} {printable(event)}: {what}")
