"""Advisory locks in the warehouse: one cycle at a time, one scheduler per role, one run per saver.

A lock is held as long as its connection is open, so it ends with the process that holds it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event

from psycopg2 import Error
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from lib import servers
from lib.settings import settings

SPACE = "globalmart"
POLL_SECONDS = 0.5

LOADS = "a load"
"""The lock that loads which publish share while they are at work."""


class LockHeld(Exception):
    """Somebody else holds the lock; the message names it and its holder."""


@contextmanager
def hold(
    name: str, *, wait: float = 0, stop: Event | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Connection]:
    """Hold the lock `name`, waiting for it up to `wait` seconds; `say` is called once with whom it waits for.

    Raises
    ------
    LockHeld
        When it isn't free in time, or `stop` was set.
    """
    connection = acquire(name, wait=wait, stop=stop, say=say)
    try:
        yield connection
    finally:
        connection.close()


def acquire(
    name: str, *, wait: float = 0, stop: Event | None = None, say: Callable[[str], None] = lambda text: None
) -> Connection:
    """The connection that holds the lock `name`; closing it gives the lock back. See `hold`."""
    connection = servers.connect(
        settings().address("warehouse"), application_name=f"schedule.py {name}, pid {os.getpid()}"[:63]
    )
    connection.autocommit = True
    deadline = time.monotonic() + wait
    said = False
    while not _try(connection, name):
        holder = _holder(connection, name)
        if time.monotonic() >= deadline or (stop and stop.is_set()):
            connection.close()
            raise LockHeld(f"{name} is at work already: {holder}")
        if not said:
            said = True
            say(f"waiting up to {wait / 60:.0f} min: {name} is at work already: {holder}")
        (stop or Event()).wait(POLL_SECONDS)
    return connection


def share(cursor: Cursor, name: str, holder: str) -> None:
    """Share the lock `name` until the cursor's connection is closed; others that wait for it are shown `holder`."""
    cursor.execute(
        "select set_config('application_name', %s, false), pg_advisory_lock_shared(hashtext(%s), hashtext(%s))",
        [f"{holder}, pid {os.getpid()}"[:63], SPACE, name],
    )


def is_held(name: str) -> bool:
    """Whether somebody holds the lock `name`."""
    with closing(servers.connect(settings().address("warehouse"))) as connection:
        return _holder_row(connection, name) is not None


def is_alive(connection: Connection) -> bool:
    """Whether the connection, and so its lock, is still there."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    except Error:
        return False
    return True


def _try(connection: Connection, name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(hashtext(%s), hashtext(%s))", [SPACE, name])
        row = cursor.fetchone()
        return bool(row and row[0])


def _holder(connection: Connection, name: str) -> str:
    row = _holder_row(connection, name)
    return f"{row[0]}, since {row[1]} UTC" if row else "it has just ended"


def _holder_row(connection: Connection, name: str) -> tuple[str, str] | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') from pg_locks l"
            " join pg_stat_activity a using (pid) where l.locktype = 'advisory' and l.granted"
            " and l.database = (select oid from pg_database where datname = current_database())"
            " and l.classid = hashtext(%s)::oid and l.objid = hashtext(%s)::oid",
            [SPACE, name],
        )
        row: tuple[str, str] | None = cursor.fetchone()
    return row
