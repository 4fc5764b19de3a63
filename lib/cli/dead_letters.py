"""`schedule.py dead-letters`: see what couldn't be stored, and send it again once the cause is mended."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from psycopg2.extensions import connection as Connection
from rich.table import Table
from rich.text import Text

from lib.cli.terminal import FAILED, clear_errors, complain, output, refuse
from lib.plain import printable
from lib.settings import TOPICS

if TYPE_CHECKING:
    from lib.ingest.dead_letters import Letter, Outcome

SHOWN = 4000
"""Characters of a payload that fit on a few screens; `--raw` has all of it."""

app = typer.Typer(no_args_is_help=True, help="Messages that couldn't be stored: see them, and send them again.")

SourceTable = StrEnum("SourceTable", list(TOPICS))  # type: ignore[misc]
Reason = Annotated[
    str | None, typer.Option(metavar="REASON", help="Only letters with this reason, as `list` shows it.")
]
OfTable = Annotated[SourceTable | None, typer.Option("--table", help="Only letters of this table.")]


@app.command("list")
def list_letters(
    reason: Reason = None,
    table: OfTable = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """How many there are of each table and reason, how many wait to be replayed, and an example of each."""
    from lib.ingest import dead_letters

    with realtime() as connection:
        found = dead_letters.summary(connection, reason=reason, table=table)
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
        return
    if not found:
        typer.echo("no dead letters")
        return
    shown = Table("table", "reason", box=None, header_style="bold")
    for name in ("letters", "waiting"):
        shown.add_column(name, justify="right")
    for name in ("oldest (UTC)", "newest (UTC)", "example"):
        shown.add_column(name)
    for row in found:
        counts = (f"{row['messages']:,}", f"{row['waiting']:,}")
        times = (f"{row['oldest']:%Y-%m-%d %H:%M:%S}", f"{row['newest']:%Y-%m-%d %H:%M:%S}")
        example = Text(f"{row['example_id']}: {printable(row['example'])}")
        shown.add_row(row["source_table"], Text(row["reason"]), *counts, *times, example)
    output.print(shown)


@app.command()
def show(
    dead_letter_id: Annotated[int, typer.Argument(metavar="ID", help="As `list` and `replay` name it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the payload, byte for byte, to stdout.")] = False,
) -> None:
    """One letter: its place in Kafka, why it couldn't be stored, and its payload, with what a terminal obeys escaped."""
    from lib.ingest import dead_letters

    with realtime() as connection:
        letter = dead_letters.read(connection, dead_letter_id)
    if raw:
        typer.get_binary_stream("stdout").write(letter.payload or b"")
        return
    for line in described(letter):
        typer.echo(line)


@app.command()
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]…", help="These letters. [default: all]")] = None,
    reason: Reason = None,
    table: OfTable = None,
    payload: Annotated[
        typer.FileBinaryRead | None, typer.Option(metavar="FILE", help="What to send for the one ID; - is stdin.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send letters to their topics again, unchanged or mended, and stamp them.

    Only what the decoder takes today is sent: after a correction of the contract, when a time in the future has come,
    or with a mended payload. The others are named and left, and the exit code is 1. What the database itself refused
    is sent only by its ID.
    """
    from lib.ingest import dead_letters

    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters is raised
    choice = dead_letters.Choice(ids or (), reason, table)
    sent = left = 0
    with realtime() as connection:
        content = payload.read() if payload else None
        for outcome in dead_letters.replay(connection, choice, payload=content, again=again, dry_run=dry_run):
            typer.echo(fate(outcome))
            left += bool(outcome.left)
            sent += not outcome.left
    typer.echo(f"{sent:,} {'would be sent' if dry_run else 'sent'}, {left:,} left as they are")
    if left:
        raise typer.Exit(FAILED)


@contextmanager
def realtime() -> Iterator[Connection]:
    """A connection to the realtime database, with errors for people."""
    # pandas and Kafka's client take a second to import, which other commands shouldn't spend
    from lib import database
    from lib.ingest import dead_letters

    with clear_errors("realtime"):
        try:
            with closing(database.connect("realtime")) as connection:
                yield connection
        except dead_letters.LetterError as error:
            refuse(str(error))
        except dead_letters.BrokerError as error:
            complain(str(error))
            raise typer.Exit(FAILED) from None


def described(letter: "Letter") -> Iterator[str]:
    """A letter in lines for people."""
    from lib.ingest.dead_letters import readable

    yield f"letter {letter.dead_letter_id}, of {letter.source_table}"
    yield f"  place     {letter.topic}, partition {letter.kafka_partition}, offset {letter.kafka_offset}"
    yield f"  reason    {printable(letter.reason)}"
    yield f"  detail    {printable(letter.detail)}"
    yield f"  buried    {letter.created_at:%Y-%m-%d %H:%M:%S} UTC, in batch {letter.ingest_batch_id}"
    yield f"  replayed  {f'{letter.replayed_at:%Y-%m-%d %H:%M:%S} UTC' if letter.replayed_at else 'no'}"
    if letter.message_key is not None:
        yield f"  key       {printable(readable(letter.message_key))}"
    if letter.payload is None:
        yield "  payload   none"
        return
    text = readable(letter.payload)
    yield f"  payload   {len(letter.payload):,} bytes{' (the beginning; --raw has all)' if len(text) > SHOWN else ''}"
    yield text[:SHOWN]


def fate(outcome: "Outcome") -> str:
    """What became of a letter, in a line."""
    letter = outcome.letter
    if outcome.left:
        return f"letter {letter.dead_letter_id} is left: {printable(outcome.left)}"
    if outcome.place is None:
        return f"letter {letter.dead_letter_id} would be sent to {letter.topic}"
    partition, offset = outcome.place
    return f"letter {letter.dead_letter_id} sent to {letter.topic}, partition {partition}, offset {offset}"
