"""Which events a load fails on, and the command that puts them aside, so that somebody can move the line on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from lib import database
from lib.schemas import CONTRACTS
from lib.warehouse import held
from lib.warehouse.load import Load

SHOWN = 5
"""Events that a message names; of more it says how many there are."""

CHUNK = 10_000
LARGEST = 200_000
"""Most events among which the ones that a statement fails on are looked for."""

SEARCH_SECONDS = 30


class FailedOn(Exception):
    """The database refuses some of the events of a load; the message names them, and says what to do."""


# --- in words


def message(what: str, more: str, events: Mapping[str, Sequence[str]]) -> str:
    """What went wrong, and more of it; where events are known, by table, the command that puts them aside.

    It stands in the first line, of which the registry keeps the beginning, and as the last one, to be copied.
    """
    if not events:
        return f"{what}, {more}"
    commands = [command(table, found) for table, found in events.items()]
    left = sum(max(len(found) - SHOWN, 0) for found in events.values())
    rest = f" (and {left:,} more)" if left else ""
    return f"{what}; `{' && '.join(commands)}` goes on without these events{rest}; {more}\n" + "\n".join(commands)


def command(table: str, events: Sequence[str]) -> str:
    """The command that puts the events aside, the first few of them."""
    names = " ".join(map(quoted, events[:SHOWN]))
    if any(event.startswith("-") for event in events[:SHOWN]):
        return f'schedule.py hold {table} --why "…" -- {names}'
    return f'schedule.py hold {table} {names} --why "…"'


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


def of_examples(source: str, examples: Sequence[dict[str, Any]]) -> list[str]:
    """The events that rows of the fact, or of its events, are about; none where the rows are counts."""
    found = []
    for row in examples:
        line = row.get("event_id")
        own = line.rpartition(":")[0] if line and source == "transactions" else line
        found.append(row.get(CONTRACTS[source].key) or own)
    return list(dict.fromkeys(event for event in found if event))


_LOST = sql.SQL("""
select id from unnest(%s::text[], %s::integer[]) as event (id, lines)
where exists (
    select from generate_series(least(lines, 1), lines) as line
    where not exists (
        select from {fact} as f
        where f.event_id = id || case when lines > 0 then ':' || line else '' end
            and f.ingest_batch_id > %s and f.ingest_batch_id <= %s
    )
)
""")

_EVENTS = sql.SQL(
    "select {key}, {column} from {source} where ingest_batch_id > %(after)s and ingest_batch_id <= %(upto)s and {where}"
    " order by 1"
)

_NOTHING, _ALL, _LINES = sql.SQL("0"), sql.SQL("true"), sql.SQL("jsonb_array_length(products)")

_IN_LINES = sql.SQL(
    "exists (select from jsonb_array_elements(products) as line (value)"
    " where line.value ->> 'product_id' = any(%(keys)s))"
)


def missing(load: Load, fact: str, source: str) -> list[str]:
    """Events of this load's batches that the fact hasn't got from them, or not with all of their lines: the first few."""
    after, upto = load.window.unread(source)
    query = _LOST.format(fact=sql.Identifier(fact))
    found: list[str] = []
    for chunk in _events(load, source, _LINES if source == "transactions" else _NOTHING):
        lost = load.query(query, *map(list, zip(*chunk, strict=True)), after, upto)
        found.extend(lost["id"])
        if len(found) > SHOWN:
            break
    return found


def of_keys(load: Load, column: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """The events of this load that name one of these customers, products or countries, by table."""
    in_column = sql.SQL("{} = any(%(keys)s)").format(sql.Identifier(column))
    found = {}
    for table in CONTRACTS:
        where = _IN_LINES if (table, column) == ("transactions", "product_id") else in_column
        if events := [event for event, _ in next(_events(load, table, _NOTHING, where, keys=list(keys)), [])]:
            found[table] = events
    return found


def _events(
    load: Load, table: str, column: sql.Composable, where: sql.Composable = _ALL, **values: Any
) -> Iterator[list[tuple[str, Any]]]:
    """The ids of the load's events that meet an SQL condition, with a column, in chunks."""
    after, upto = load.window.unread(table)
    key, source = sql.Identifier(CONTRACTS[table].key), held.source(load, table)
    query = _EVENTS.format(key=key, column=column, source=source, where=where)
    with closing(database.connect("realtime")) as connection, connection.cursor("events_of_load") as cursor:
        cursor.execute(query, {"after": after, "upto": upto, **values})
        while rows := cursor.fetchmany(CHUNK):
            yield rows


# --- by trying


def of_statement(load: Load, events: Sequence[str], attempt: Callable[[Cursor, list[str]], object]) -> list[str]:
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
