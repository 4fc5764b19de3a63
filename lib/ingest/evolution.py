"""New fields of events become columns while the stream runs; what can't have a column stays in `extra`.

A new top-level field with a scalar value gets a nullable column in the transaction of its first rows. The savers don't
own their tables, so a function of the database, `ops.add_columns`, adds it; it gives up after 50 ms when a long-running
reader holds a lock.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib.database import is_elsewhere, savepoint
from lib.ingest.columnar import kind_of
from lib.ingest.decode import Event
from lib.schemas import Contract, Field, Kind

MOST = 32
"""How many columns may be added to a table."""
PAUSE_SECONDS = 30
"""How long to wait with a field after its column couldn't be added."""

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KIND: dict[str, Kind] = {"boolean": "boolean", "text": "string", "numeric": "numeric"}
_SQL = {kind: type_ for type_, kind in _KIND.items()}

postponed: WeakKeyDictionary[Connection, dict[tuple[str, str], float]] = WeakKeyDictionary()
"""When a field (table, name) whose column couldn't be added may be tried again, by connection: a worker lives longer than
its query, and may write to several databases."""


@dataclass(frozen=True)
class Shape:
    """What a table's columns are now: `contract` includes those that were added, `taken` are the names of all columns.

    `recorded` are the columns that were added at any time, including those that somebody has dropped since.
    """

    contract: Contract
    taken: frozenset[str]
    recorded: frozenset[str]


def shape(cursor: Cursor, contract: Contract) -> Shape:
    """The present shape of the contract's table; it can't change while the head is locked.

    A column that was added belongs to the contract while it has one of the types that savers give, and isn't declared. The
    field of any other column stays in `extra`.
    """
    cursor.execute(
        "select attname, type, column_name from (select attname::text, format_type(atttypid, atttypmod) as type, attnum"
        " from pg_attribute where attrelid = %s::regclass and not attisdropped) as attribute"
        " full join (select column_name from ops.schema_changes where source_table = %s) as change"
        " on column_name = attname order by attnum",
        [contract.table, contract.table],
    )
    columns = cursor.fetchall()
    declared = {name for field in contract.fields for name in (field.name, field.column)}
    added = tuple(
        Field(name, _KIND[type_])
        for name, type_, change in columns
        if name and change and type_ in _KIND and name not in declared
    )
    taken = frozenset(name for name, *_ in columns if name)
    return Shape(replace(contract, added=added), taken, frozenset(change for *_, change in columns if change))


def grow(cursor: Cursor, now: Shape, events: Iterable[Event], batch: int) -> Shape:
    """Add a column for each new field of the events, in their order, and return the shape with those added.

    The first value that isn't null decides the type. When the database refuses to add them, they stay in `extra` for now.
    """
    fields = list(_new_fields(now, events, until=postponed.get(cursor.connection, {})))
    if not fields:
        return now
    names = [field.name for field in fields]
    try:
        with savepoint(cursor):
            types = [_SQL[field.kind] for field in fields]
            cursor.execute("select ops.add_columns(%s, %s, %s, %s)", [now.contract.table, names, types, batch])
    except psycopg2.Error as error:
        if not isinstance(error, LockNotAvailable):
            if is_elsewhere(error):
                raise
            logger.warning("%s: no columns for %s, which stay in extra: %s", now.contract.table, names, error)
        _wait(cursor.connection, now.contract.table, fields)
        return now
    return Shape(
        replace(now.contract, added=(*now.contract.added, *fields)), now.taken.union(names), now.recorded.union(names)
    )


def _wait(connection: Connection, table: str, fields: Iterable[Field]) -> None:
    now = time.monotonic()
    left = {field: until for field, until in postponed.get(connection, {}).items() if until > now}
    postponed[connection] = left | {(table, field.name): now + PAUSE_SECONDS for field in fields}


def _new_fields(now: Shape, events: Iterable[Event], *, until: Mapping[tuple[str, str], float]) -> Iterator[Field]:
    """The fields that get a column now: as many as there is room for; a dropped column still takes its room.

    Those that are postponed `until` a later time are left out.
    """
    seen = set(now.taken)
    room = MOST - len(now.recorded)
    for event in events:
        for name in sorted(event.others.keys() - seen):
            kind = kind_of(event.others[name])
            if kind is None:
                continue
            seen.add(name)
            if not _NAME.fullmatch(name) or until.get((now.contract.table, name), 0) > time.monotonic():
                continue
            if name not in now.recorded:
                if room <= 0:
                    continue
                room -= 1
            yield Field(name, kind)
