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
    """The rows of a query, for tables and charts."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        assert cursor.description is not None
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description])


_ELSEWHERE = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: the connection, a server that only reads, logins, conflicts, resources, locks, interventions, disks."""


def is_elsewhere(error: BaseException) -> bool:
    """Whether an error says that the database is away, full, busy or closed to us, and nothing about what was written.

    What was written may be fine then, and the same statement may succeed later.
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
    """What fails inside is undone, and the transaction goes on; the error is raised all the same."""
    cursor.execute("savepoint step")
    try:
        yield
    except Exception:
        if not cursor.connection.closed:
            cursor.execute("rollback to savepoint step; release savepoint step")
        raise
    cursor.execute("release savepoint step")
