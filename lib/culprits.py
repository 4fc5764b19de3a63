"""Which events a load fails on, and the command that puts them aside, so that somebody can move the line on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib import database, held
from lib.schemas import CONTRACTS

if TYPE_CHECKING:
    from lib.facts import Fact
    from lib.warehouse import Load

SHOWN = 5
"""Events that a message names; of more it says how many there are."""

CHUNK = 10_000
LARGEST = 200_000
"""Most events among which the ones that a statement fails on are looked for."""

SEARCH_SECONDS = 30


class FailedOn(Exception):
    """The database refuses some of the events of a load; the message names them, and says what to do."""


# --- in words


def named(events: Sequence[str]) -> str:
    """The events as a shell takes them, a few of them."""
    more = f" and {len(events) - SHOWN:,} more" if len(events) > SHOWN else ""
    return " ".join(map(quoted, events[:SHOWN])) + more


def message(what: str, more: str, events: Mapping[str, Sequence[str]]) -> str:
    """What went wrong and on which events, by table; the first line names these first, the last ones put them aside."""
    which = ", ".join(f"{table} {named(found)}" for table, found in events.items())
    lines = [f"{what} on {which}, {more}" if which else f"{what}, {more}"]
    if events:
        lines += ["what goes on without these events:", *(command(table, found) for table, found in events.items())]
    return "\n".join(lines)


def command(table: str, events: Sequence[str]) -> str:
    """The command that puts the events aside, to be copied; where there are more than a message names, it says so."""
    chosen = events[:SHOWN]
    end = "-- " if any(event.startswith("-") for event in chosen) else ""
    more = f"   # and {len(events) - SHOWN:,} more" if len(events) > SHOWN else ""
    names = " ".join(map(quoted, chosen))
    why = '--why "…"'
    return f"schedule.py hold {table} " + (f"{why} {end}{names}" if end else f"{names} {why}") + more


def quoted(text: str) -> str:
    """A text as one word for a shell, on one line and safe for a terminal."""
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    safe = (letter if letter.isprintable() else _escape(letter) for letter in escaped)
    return "$'" + "".join(safe) + "'"


def _escape(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if letter < "\x80" else f"\\U{ord(letter):08x}"


# --- by the rules


def of_examples(fact: "Fact", examples: Sequence[dict[str, Any]]) -> list[str]:
    """The events that rows of the fact, or of its events, are about; none where the rows are counts."""
    found = []
    for row in examples:
        line = row.get("event_id")
        own = line.rpartition(":")[0] if line and fact.source == "transactions" else line
        found.append(row.get(CONTRACTS[fact.source].key) or own)
    return list(dict.fromkeys(event for event in found if event))


def missing(load: "Load", fact: "Fact", most: int = SHOWN) -> list[str]:
    """Events of this load's batches that aren't in the fact under the batch that they have for it: the first few."""
    after, upto = load.window.unread(fact.source)
    suffix = ":1" if fact.source == "transactions" else ""
    lost = (
        f"select id from unnest(%s::text[]) as id where not exists (select from {fact.table} as f where f.event_id = id || %s"
        " and f.ingest_batch_id > %s and f.ingest_batch_id <= %s)"
    )
    found: list[str] = []
    with closing(database.connect("realtime")) as realtime:
        for chunk in _events(realtime, load, fact.source, f"ingest_batch_id > {after} and ingest_batch_id <= {upto}"):
            found += load.query(lost, chunk, suffix, after, upto)["id"]
            if len(found) > most:
                break
    return found


def of_keys(load: "Load", column: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """The events of this load that name one of these customers, products or countries, by table: the first few of each."""
    found = {}
    with closing(database.connect("realtime")) as realtime:
        for table in CONTRACTS:
            after, upto = load.window.unread(table)
            is_new = f"ingest_batch_id > {after} and ingest_batch_id <= {upto}"
            about = f"{column} = any(%(keys)s)"
            if table == "transactions" and column == "product_id":
                about = "exists (select from jsonb_array_elements(products) as line where line ->> 'product_id' = any(%(keys)s))"
            if events := next(_events(realtime, load, table, f"{is_new} and {about}", keys=list(keys)), []):
                found[table] = events
    return found


def _events(connection: Connection, load: "Load", table: str, where: str, **values: Any) -> Iterator[list[str]]:
    """The ids of the load's events that meet an SQL condition, in chunks."""
    source = held.source(load, table).replace("%", "%%")
    query = f"select {CONTRACTS[table].key} from {source} where {where} order by 1"
    with connection, connection.cursor(f"{table}_of_load") as cursor:
        cursor.execute(query, values)
        while rows := cursor.fetchmany(CHUNK):
            yield [row[0] for row in rows]


# --- by trying


def of_statement(load: "Load", events: Sequence[str], attempt: Callable[[Cursor, list[str]], object]) -> list[str]:
    """The events without which `attempt` would work, found by halving; the first few, as long as that takes no longer than
    half a minute. The load's transaction is rolled back, and nothing of the attempts stays."""
    load.connection.rollback()
    deadline = time.monotonic() + SEARCH_SECONDS
    found: list[str] = []

    def works(some: list[str]) -> bool:
        with load.connection.cursor() as cursor:
            try:
                attempt(cursor, some)
            except (psycopg2.DataError, psycopg2.IntegrityError):
                return False
            finally:
                load.connection.rollback()
        return True

    def search(some: list[str]) -> None:
        if len(found) > SHOWN or time.monotonic() > deadline or not some or works(some):
            return
        if len(some) == 1:
            found.extend(some)
            return
        middle = len(some) // 2
        search(some[:middle])
        search(some[middle:])

    if len(events) <= LARGEST:
        search(list(events))
    return found
