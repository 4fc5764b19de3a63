"""The warehouse as the API reads it: a pool of connections that can't write, and queries with bound parameters."""

from collections.abc import Mapping
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from lib.settings import Settings

MOST_CONNECTIONS = 4
WAIT_SECONDS = 3
"""How long a request waits for a connection before it is told to come back."""
STATEMENT_SECONDS = 10
OPTIONS = (
    "-c timezone=UTC -c default_transaction_read_only=on"
    f" -c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=10s"
)


class Database:
    """A pool of connections to the warehouse as its reader; each query is one statement, which sees one truth."""

    def __init__(self, config: Settings) -> None:
        self.pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
            config.address("warehouse", reader=True).get_secret_value(),
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "options": OPTIONS,
                "application_name": "globalmart api",
                "connect_timeout": WAIT_SECONDS,
                # the plan of a view depends on the values: none is kept for others
                "prepare_threshold": None,
            },
            min_size=1,
            max_size=MOST_CONNECTIONS,
            timeout=WAIT_SECONDS,
            reconnect_timeout=5,
            check=AsyncConnectionPool.check_connection,
            open=False,
            name="api",
        )

    async def rows(self, query: LiteralString | sql.Composed, values: Mapping[str, Any] | None = None) -> list[DictRow]:
        """The rows of a query.

        Raises
        ------
        psycopg.OperationalError, PoolTimeout
            When the warehouse, or the realtime database behind it, is away or too slow.
        """
        async with self.pool.connection() as connection:
            found = await connection.execute(query, values)
            return await found.fetchall()


def where(*conditions: tuple[Any, sql.SQL]) -> sql.Composed:
    """A WHERE clause of those conditions whose value is given: each a pair of value and SQL."""
    given = [condition for value, condition in conditions if value is not None]
    return sql.SQL("where {}").format(sql.SQL(" and ").join(given)) if given else sql.Composed([])
