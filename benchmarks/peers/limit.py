"""The limit: what PostgreSQL itself takes, from memory, into our own tables, by COPY and one merge per batch."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
from psycopg2 import sql

from benchmarks.peers.tables import connect
from lib.schemas import CONTRACTS
from lib.settings import Settings

LEDGER = ("kafka_partition", "kafka_offset", "ingest_batch_id")
Batches = dict[str, list[bytes]]


def rows(config: Settings, batch: int) -> Batches:
    """The stored events of each table in the order of their ledger, as COPY's CSV in batches of so many rows."""
    batches: Batches = {}
    with closing(connect(config.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        for table in CONTRACTS:
            buffer = io.BytesIO()
            query = "copy (select {} from {} order by ingest_batch_id, kafka_partition, kafka_offset) to stdout csv"
            cursor.copy_expert(sql.SQL(query).format(_columns(table), sql.Identifier(table)), buffer)
            lines = buffer.getvalue().splitlines(keepends=True)
            batches[table] = [b"".join(lines[start : start + batch]) for start in range(0, len(lines), batch)]
    return batches


def load(config: Settings, batches: Batches, connections: int) -> None:
    """Load all of it into the empty tables, over one connection or one for each table, a transaction per batch."""
    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(_load, config.dsn("realtime"), table, csv) for table, csv in batches.items()]:
            done.result()


def _load(dsn: str, table: str, batches: list[bytes]) -> None:
    target, staging, columns = sql.Identifier(table), sql.Identifier(f"staging_{table}"), _columns(table)
    with closing(psycopg2.connect(dsn, options="-c timezone=UTC")) as connection, connection.cursor() as cursor:
        create = "create temp table {} on commit delete rows as select {} from {} limit 0"
        cursor.execute(sql.SQL(create).format(staging, columns, target))
        connection.commit()
        for batch in batches:
            cursor.copy_expert(sql.SQL("copy {} from stdin csv").format(staging), io.BytesIO(batch))
            merge = "insert into {0} ({1}) select {1} from {2} on conflict do nothing"
            cursor.execute(sql.SQL(merge).format(target, columns, staging))
            connection.commit()


def _columns(table: str) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, [*CONTRACTS[table].columns, *LEDGER]))
