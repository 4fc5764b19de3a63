"""The peers' own database: our event tables without what only our savers can fill."""

from contextlib import closing
from datetime import datetime
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.schemas import CONTRACTS
from lib.settings import ROOT, Settings

DATABASE = "peer"


def dsn(config: Settings, *, admin: bool = False) -> str:
    """The libpq URI of the peers' database, on the realtime server."""
    return config.dsn("realtime", admin=admin).rpartition("/")[0] + f"/{DATABASE}"


def connect(address: str) -> Connection:
    """A connection in UTC that commits each statement."""
    connection = psycopg2.connect(address, options="-c timezone=UTC")
    connection.autocommit = True
    return connection


def create(config: Settings) -> None:
    """Make the database: the types, keys, checks and indexes of ours, but without ledger, `extra` and batch index."""
    with closing(connect(config.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    with closing(connect(dsn(config, admin=True))) as connection, connection.cursor() as cursor:
        cursor.execute((ROOT / "sql" / "realtime" / "001_events.sql").read_text())
        for table in map(sql.Identifier, CONTRACTS):
            ledger = "alter table {} drop extra, drop kafka_partition, drop kafka_offset, drop ingest_batch_id"
            cursor.execute(sql.SQL(ledger).format(table))
            cursor.execute(sql.SQL("grant all on {} to globalmart").format(table))


def clear(config: Settings) -> None:
    """Empty the tables, and write to disk what earlier runs left in memory."""
    with closing(connect(dsn(config, admin=True))) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(map(sql.Identifier, CONTRACTS))))
        cursor.execute("checkpoint")


def inserted(config: Settings) -> int:
    """Rows inserted so far, as the statistics have it: cheap, and up to a second late."""
    with closing(connect(dsn(config, admin=True))) as connection, connection.cursor() as cursor:
        cursor.execute("select coalesce(sum(n_tup_ins), 0)::bigint from pg_stat_user_tables")
        return int(cursor.fetchall()[0][0])


def count(config: Settings) -> int:
    """Rows of the three tables."""
    return sum(rows for rows, _ in _each(dsn(config), "select count(*), 0 from {table}").values())


def span(address: str) -> tuple[datetime, datetime]:
    """When the first and the last row of the three tables were written."""
    times = _each(address, "select min(created_at), max(created_at) from {table}").values()
    return min(first for first, _ in times), max(last for _, last in times)


def fingerprints(address: str) -> dict[str, tuple[int, int]]:
    """Rows of each table, and a sum over all their values: equal where two databases hold the same events."""
    found = _each(address, "select count(*), coalesce(sum(hashtextextended(row({columns})::text, 0)), 0) from {table}")
    return {table: (int(rows), int(digest)) for table, (rows, digest) in found.items()}


def _each(address: str, query: str) -> dict[str, tuple[Any, Any]]:
    """The two values of a query on each table."""
    with closing(connect(address)) as connection, connection.cursor() as cursor:
        found = {}
        for table, contract in CONTRACTS.items():
            columns = sql.SQL(", ").join(map(sql.Identifier, contract.columns))
            cursor.execute(sql.SQL(query).format(table=sql.Identifier(table), columns=columns))
            first, second = cursor.fetchall()[0]
            found[table] = (first, second)
        return found
