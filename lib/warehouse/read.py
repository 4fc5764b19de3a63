"""What a load reads: queries on both databases, and events by batch, as frames of Spark."""

from contextlib import closing

from pyspark.sql import DataFrame

from lib import database
from lib.settings import settings
from lib.spark import jdbc
from lib.warehouse import held
from lib.warehouse.load import Load

ROWS_PER_PARTITION = 50_000
"""Fewer rows aren't worth a second task, nor a shuffle afterwards."""


def read_events(load: Load, table: str, columns: str, batches: tuple[int, int], *, beside: str = "") -> DataFrame:
    """The rows of a realtime table whose batch is in `(after, upto]`, many of them in parallel by ranges of batches.

    `columns` is a list for PostgreSQL's SELECT, `beside` a function of each row for its FROM; `ingest_batch_id` comes with
    the columns.
    """
    after, upto = batches
    query = (
        f"(select {columns}, ingest_batch_id from {', '.join(filter(None, (held.source(load, table), beside)))}"
        f" where ingest_batch_id > {after} and ingest_batch_id <= {upto}) as events"
    )
    options = jdbc("realtime") | {"dbtable": query}
    partitions = min(settings().spark_parallelism, upto - after, 1 + _ledger_rows(table, batches) // ROWS_PER_PARTITION)
    if partitions <= 1:
        return _in_one_piece(load.session.read.format("jdbc").options(**options).load())
    bounds = {"partitionColumn": "ingest_batch_id", "lowerBound": str(after + 1), "upperBound": str(upto + 1)}
    options |= bounds | {"numPartitions": str(partitions)}
    return load.session.read.format("jdbc").options(**options).load()


def _ledger_rows(table: str, batches: tuple[int, int]) -> int:
    query = (
        "select coalesce(sum(rows_written), 0)::bigint from ops.ingest_batches"
        " where source_table = %s and ingest_batch_id > %s and ingest_batch_id <= %s"
    )
    with closing(database.connect("realtime")) as connection:
        return int(database.frame(connection, query, [table, *batches]).iloc[0, 0])


def _in_one_piece(frame: DataFrame) -> DataFrame:
    """A frame of one partition, which Spark then knows: windows and joins of such frames take no shuffle."""
    return frame.coalesce(1)


def read_realtime(load: Load, query: str) -> DataFrame:
    """The rows of a query on the realtime database."""
    return _read_query(load, "realtime", query)


def read_warehouse(load: Load, query: str) -> DataFrame:
    """The rows of a query on the warehouse, as last committed."""
    return _read_query(load, "warehouse", query)


def _read_query(load: Load, name: str, query: str) -> DataFrame:
    options = jdbc(name) | {"dbtable": f"({query}) as rows"}
    return _in_one_piece(load.session.read.format("jdbc").options(**options).load())
