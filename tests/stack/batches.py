"""Micro-batches of a test's own, and the sink's view of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import stored
from psycopg2.extensions import connection as Connection

from lib import migrate
from lib.ingest import sink
from lib.ingest.sink import Committed, Writer
from lib.ledger.head import Head, read_head
from lib.schemas import CART_EVENTS, Contract
from lib.settings import Settings, settings

PARTITION = 100


@contextmanager
def own_database(config: Settings, name: str) -> Iterator[Settings]:
    """The settings, with a new realtime database meanwhile."""
    with stored.connected(config, "realtime") as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"create database {name}")
    with pytest.MonkeyPatch.context() as patch:
        for setting, address in stored.renamed(config, name).items():
            patch.setattr(config, setting, address)
        migrate.migrate(config, "realtime")
        yield config


class Message(NamedTuple):
    """A message as Kafka has it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def write(
    connection: Connection, contract: Contract, batch: Iterable[Message], writer: Writer, spark_batch_id: int
) -> Committed | None:
    """Write one micro-batch in the connection's transaction."""
    table = pa.Table.from_pylist([message._asdict() for message in batch], sink.MESSAGES)
    kafka = settings().kafka_bootstrap
    return sink.write_batch(connection, contract, table, writer, spark_batch_id, kafka=kafka)


def messages(*payloads: bytes | None, start: int = 0, partition: int = PARTITION) -> list[Message]:
    """Consecutive messages of one partition."""
    return [Message(partition, start + number, None, payload) for number, payload in enumerate(payloads)]


def head(connection: Connection, contract: Contract = CART_EVENTS) -> Head:
    """Where ingestion of the table stands."""
    with connection.cursor() as cursor:
        return read_head(cursor, contract.table)


def next_run(connection: Connection, query_id: str = "query one", contract: Contract = CART_EVENTS) -> Writer:
    """A run that plans to take the next epoch."""
    return Writer(head(connection, contract).epoch + 1, query_id)


def rows(connection: Connection, query: str, *parameters: Any) -> list[Any]:
    """The rows of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()
