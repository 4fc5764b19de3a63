"""Connections to the two PostgreSQL databases."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib import servers
from lib.settings import settings


def connect(database: str) -> Connection:
    """A connection to `realtime` or `warehouse` as the jobs' user, in UTC."""
    return servers.connect(settings().address(database))


def frame(
    connection: Connection, query: str | sql.Composable, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> pd.DataFrame:
    """The rows of a query, for tables and charts; without parameters a `%` in it is a `%`."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        assert cursor.description is not None
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description])


_ELSEWHERE = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
"""SQLSTATE classes: connection, read-only server, login, missing database, conflict, resources, locks, shutdown, disk."""


def is_elsewhere(error: BaseException) -> bool:
    """Whether an error says only that the database is away, full, busy or closed to us.

    Then it says nothing about the values that were written: the same statement may succeed later.
    """
    if isinstance(error, psycopg2.InterfaceError):
        return True
    if not isinstance(error, psycopg2.Error):
        return False
    state = error.pgcode
    if state is None:
        return isinstance(error, psycopg2.OperationalError)
    return state.startswith(_ELSEWHERE) or isinstance(error, psycopg2.errors.InsufficientPrivilege)


@contextmanager
def savepoint(cursor: Cursor) -> Iterator[None]:
    """Undo what fails inside and raise its error, so that the transaction can go on."""
    cursor.execute("savepoint step")
    try:
        yield
    except Exception:
        if not cursor.connection.closed:
            cursor.execute("rollback to savepoint step; release savepoint step")
        raise
    cursor.execute("release savepoint step")
