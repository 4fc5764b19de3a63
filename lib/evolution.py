"""New fields become columns while the stream runs; what can't have a column stays in `extra`, so nothing is lost.

A new top-level field with a scalar value gets a nullable column in the transaction of its first rows. The savers don't
own their tables: `ops.add_columns` in the database does it, and gives up after 50 ms when a long reader is in the way.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from weakref import WeakKeyDictionary

from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib.columns import kind_of
from lib.database import savepoint
from lib.decode import Event
from lib.schemas import Contract, Field, Kind

MOST = 32
"""Columns that may be added to a table."""
PAUSE_SECONDS = 30
"""After a reader was in the way, a field is tried again no sooner."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KIND: dict[str, Kind] = {"boolean": "boolean", "text": "string", "numeric": "numeric"}
_SQL = {kind: type_ for type_, kind in _KIND.items()}

_waiting: WeakKeyDictionary[Connection, dict[tuple[str, str], float]] = WeakKeyDictionary()
"""When a field (table, name) that a reader kept from its column may be tried again, by connection: a worker outlives its
query, and may write to several databases."""


@dataclass(frozen=True)
class Shape:
    """What a table's columns are now: the contract with those that were added, and every name that is taken."""

    contract: Contract
    taken: frozenset[str]


def shape(cursor: Cursor, contract: Contract) -> Shape:
    """The present shape of the contract's table; it holds as long as the head is locked."""
    cursor.execute(
        "select attname, column_type from pg_attribute left join ops.schema_changes"
        " on source_table = %s and column_name = attname"
        " where attrelid = %s::regclass and not attisdropped order by attnum",
        [contract.table, contract.table],
    )
    columns = cursor.fetchall()
    # a column that was added may have been declared since
    added = tuple(Field(name, _KIND[type_]) for name, type_ in columns if type_ and name not in contract.columns)
    return Shape(replace(contract, added=added), frozenset(name for name, _ in columns))


def grow(cursor: Cursor, now: Shape, events: Iterable[Event], batch: int) -> Contract:
    """Add a column for each new field of the events, in their order, and return the contract with those added.

    The first value that isn't null decides the type. Without the lock nothing is added for now.
    """
    contract = now.contract
    waiting = _waiting.get(cursor.connection, {})
    fields = list(islice(_new_fields(now, events, waiting), MOST - len(contract.added)))
    if not fields:
        return contract
    try:
        with savepoint(cursor):
            names, types = [field.name for field in fields], [_SQL[field.kind] for field in fields]
            cursor.execute("select ops.add_columns(%s, %s, %s, %s)", [contract.table, names, types, batch])
    except LockNotAvailable:
        _wait(cursor.connection, contract.table, fields)
        return contract
    return replace(contract, added=(*contract.added, *fields))


def _wait(connection: Connection, table: str, fields: Iterable[Field]) -> None:
    now = time.monotonic()
    left = {field: until for field, until in _waiting.get(connection, {}).items() if until > now}
    _waiting[connection] = left | {(table, field.name): now + PAUSE_SECONDS for field in fields}


def _new_fields(now: Shape, events: Iterable[Event], waiting: Mapping[tuple[str, str], float]) -> Iterator[Field]:
    seen = set(now.taken)
    for event in events:
        for name in sorted(event.others.keys() - seen):
            kind = kind_of(event.others[name])
            if kind is None:
                continue
            seen.add(name)
            if _NAME.fullmatch(name) and waiting.get((now.contract.table, name), 0) <= time.monotonic():
                yield Field(name, kind)
