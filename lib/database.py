"""Connections to the two PostgreSQL databases."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib import servers
from lib.settings import settings


def connect(database: str) -> Connection:
    """A connection to `realtime` or `warehouse` as the jobs' user, in UTC."""
    return servers.connect(settings().address(database))


def frame(connection: Connection, query: str | sql.Composable, parameters: Sequence[Any] = ()) -> pd.DataFrame:
    """The rows of a query, for tables and charts."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        assert cursor.description is not None
        return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description])


@contextmanager
def savepoint(cursor: Cursor) -> Iterator[None]:
    """What fails inside is undone, and the transaction goes on; the error is raised all the same."""
    cursor.execute("savepoint step")
    try:
        yield
    except psycopg2.Error:
        if not cursor.connection.closed:
            cursor.execute("rollback to savepoint step; release savepoint step")
        raise
    cursor.execute("release savepoint step")
