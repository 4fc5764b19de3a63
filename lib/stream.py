"""A saver's run: Kafka to the realtime database through one Spark query, from the head on.

Every saver notebook calls `ingest` with its contract. The query's worker writes each micro-batch through `lib.sink`;
the checkpoint folder belongs to one run and decides nothing.
"""

import functools
import json
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psycopg2
from kafka import KafkaConsumer, TopicPartition
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from lib import database, sink, spark
from lib.schemas import Contract
from lib.settings import settings

TRIGGER_INTERVAL = "200 milliseconds"
MAX_OFFSETS_PER_TRIGGER = 10_000
CATCH_UP_OFFSETS = 50_000
RETRY_SECONDS = 30


class DataLoss(Exception):
    """The topic no longer holds messages that were not read; the message names the range."""


@dataclass(frozen=True)
class Run:
    """One finished run of a saver: the ledger batches that it wrote, and whether they were kept."""

    table: str
    query_id: str
    batches: pd.DataFrame
    published: bool

    def total(self, column: str) -> int:
        """The sum of a count over the run's batches."""
        return int(self.batches[column].sum())


def backlog(contract: Contract) -> pd.DataFrame:
    """One row per partition of the topic: `head` (next offset to read), `earliest`, `end`, and `lag` in messages.

    Raises
    ------
    DataLoss
        When the topic's earliest message lies beyond the head.
    """
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        ends = sink.read_head(cursor, contract.table).end_offsets
    rows = []
    for partition, (earliest, end) in sorted(_topic_offsets(contract.topic).items()):
        head = ends.get(partition, earliest)
        if earliest > head:
            raise DataLoss(
                f"{contract.topic}: offsets {head} to {earliest - 1} of partition {partition} are gone from Kafka "
                f"and were never stored; ingestion of {contract.table} stops here"
            )
        rows.append({"partition": partition, "head": head, "earliest": earliest, "end": end, "lag": end - head})
    return pd.DataFrame(rows)


def _topic_offsets(topic: str) -> dict[int, tuple[int, int]]:
    with closing(KafkaConsumer(bootstrap_servers=settings().kafka_bootstrap)) as consumer:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            raise LookupError(f"Kafka has no topic {topic}: `make up` makes it")
        earliest, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        return {place.partition: (earliest[place], ends[place]) for place in partitions}


def ingest(session: SparkSession, contract: Contract, *, run_minutes: float = 0, publish: bool = False) -> Run:
    """Bring the topic's messages from the head on into the realtime table.

    With `publish`, a streaming query runs for `run_minutes`, or until all that is there is read when that is 0; an
    interrupt stops it early. Without `publish`, at most one catch-up batch is written and rolled back.

    Raises
    ------
    DataLoss, sink.OffsetGap, sink.Fenced
        When messages are gone, or another run has taken over.
    """
    offsets = backlog(contract)
    if not publish:
        return _try_out(session, contract, offsets)
    head_epoch = _register(session, contract)
    writer = sink.Writer(head_epoch + 1, uuid.uuid4().hex)
    starts = {contract.topic: {str(row.partition): row.head for row in offsets.itertuples()}}
    catching_up = not run_minutes
    cap = CATCH_UP_OFFSETS if catching_up else MAX_OFFSETS_PER_TRIGGER
    frame = _messages(session.readStream, contract, startingOffsets=json.dumps(starts), maxOffsetsPerTrigger=cap)
    write = functools.partial(_write_frame, dsn=settings().dsn("realtime"), contract=contract, writer=writer)
    checkpoint = settings().data_dir / "checkpoints" / contract.table / f"{writer.epoch}-{writer.query_id}"
    query = (
        frame.writeStream.queryName(f"{contract.table}-{writer.epoch}-{writer.query_id[:8]}")
        .option("checkpointLocation", str(checkpoint))
        .foreachBatch(write)
        .trigger(**({"availableNow": True} if catching_up else {"processingTime": TRIGGER_INTERVAL}))
        .start()
    )
    _wait(query, run_minutes)
    return Run(contract.table, writer.query_id, _ledger(contract.table, writer.query_id), published=True)


def _register(session: SparkSession, contract: Contract) -> int:
    """Put the run's session into the head, so that its query can be found and stopped; return the head's epoch."""
    with closing(database.connect("realtime")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "update ops.ingest_heads set session_id = %s where source_table = %s returning epoch",
            [session.session_id, contract.table],
        )
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def _messages(reader: Any, contract: Contract, **options: str | int) -> DataFrame:
    """The topic's messages as they came, committed ones only."""
    source = reader.format("kafka").options(**options).option("subscribe", contract.topic)
    source = source.option("kafka.bootstrap.servers", settings().kafka_bootstrap)
    source = source.option("kafka.isolation.level", "read_committed")
    # a fetch waits up to 500 ms by default, even for what has just arrived
    frame: DataFrame = source.option("kafka.fetch.max.wait.ms", 20).load()
    return frame.select("partition", "offset", "key", "value")


def _wait(query: Any, run_minutes: float) -> None:
    """Wait for the query's end, or stop it after `run_minutes` or on an interrupt."""
    deadline = time.monotonic() + run_minutes * 60 if run_minutes else float("inf")
    try:
        while time.monotonic() < deadline:
            if query.awaitTermination(min(5.0, max(deadline - time.monotonic(), 0.1))):
                return
    except KeyboardInterrupt:
        pass
    query.stop()


# --- on the server side, in the query's worker


_connections: dict[str, Connection] = {}


@retry(
    retry=retry_if_exception_type((psycopg2.OperationalError, psycopg2.InterfaceError)),
    stop=stop_after_delay(RETRY_SECONDS),
    wait=wait_exponential(0.1, max=3),
    reraise=True,
)
def _write_frame(frame: DataFrame, spark_batch_id: int, *, dsn: str, contract: Contract, writer: sink.Writer) -> None:
    """Write one micro-batch over the worker's lasting connection, in a transaction that is retried while PostgreSQL is away."""
    messages = _collect(frame)
    connection = _connections.get(dsn)
    if connection is None or connection.closed:
        connection = _connections[dsn] = psycopg2.connect(dsn, connect_timeout=5, options="-c timezone=UTC")
    try:
        with connection:
            sink.write_batch(connection, contract, messages, writer, spark_batch_id)
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        connection.close()
        raise


def _collect(frame: DataFrame) -> list[sink.Message]:
    """The messages of a frame that `maxOffsetsPerTrigger` bounds."""
    table = frame.toArrow()
    return [sink.Message(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


# --- by hand, and after


def _try_out(session: SparkSession, contract: Contract, offsets: pd.DataFrame) -> Run:
    """Write one batch of what is there in a transaction that is rolled back."""
    share = CATCH_UP_OFFSETS // len(offsets)
    rows = list(offsets.itertuples())
    starts = {contract.topic: {str(row.partition): row.head for row in rows}}
    ends = {contract.topic: {str(row.partition): min(row.end, row.head + share) for row in rows}}
    frame = _messages(session.read, contract, startingOffsets=json.dumps(starts), endingOffsets=json.dumps(ends))
    query_id = uuid.uuid4().hex
    with closing(database.connect("realtime")) as connection:
        with connection.cursor() as cursor:
            epoch = sink.read_head(cursor, contract.table).epoch
        sink.write_batch(connection, contract, _collect(frame), sink.Writer(epoch + 1, query_id), -1)
        batches = _ledger(contract.table, query_id, connection)
        connection.rollback()
    return Run(contract.table, query_id, batches, published=False)


def _ledger(table: str, query_id: str, connection: Connection | None = None) -> pd.DataFrame:
    """The ledger rows of a query, one row per micro-batch."""
    query = "select * from ops.ingest_batches where source_table = %s and query_id = %s order by ingest_batch_id"
    if connection is not None:
        return database.frame(connection, query, [table, query_id])
    with closing(database.connect("realtime")) as own:
        return database.frame(own, query, [table, query_id])


def stop_orphans(table: str) -> list[str]:
    """Stop the queries of the table's last saver run that outlived their notebook, and return their names.

    Spark Connect keeps a query running when its notebook dies; the head says in which session.
    """
    with closing(database.connect("realtime")) as connection, connection, connection.cursor() as cursor:
        cursor.execute("select session_id from ops.ingest_heads where source_table = %s", [table])
        row = cursor.fetchone()
    if row is None or row[0] is None:
        return []
    try:
        session = spark.attach(settings().spark_speed, row[0])
    except PySparkException as error:
        if "SESSION_CLOSED" in str(error) or "SESSION_CHANGED" in str(error):
            return []
        raise
    stopped = []
    try:
        for query in session.streams.active:
            query.stop()
            stopped.append(str(query.name))
    except PySparkException as error:
        if "SESSION_CLOSED" not in str(error):
            raise
    finally:
        spark.close(session)
    return stopped


# --- for the report


def stored_rows(run: Run) -> int:
    """The number of rows that the table holds of a run's batches, counted in the table."""
    batches = [int(number) for number in run.batches["ingest_batch_id"]]
    query = sql.SQL("select count(*) from {} where ingest_batch_id = any(%s)").format(sql.Identifier(run.table))
    with closing(database.connect("realtime")) as connection:
        return int(database.frame(connection, query, [batches]).iloc[0, 0]) if run.published else 0


def recent(contract: Contract, batches: int = 500) -> pd.DataFrame:
    """The last micro-batches of the table, one row each, oldest first."""
    query = (
        "select * from (select * from ops.ingest_batches where source_table = %s"
        " order by ingest_batch_id desc limit %s) as last order by ingest_batch_id"
    )
    with closing(database.connect("realtime")) as connection:
        return database.frame(connection, query, [contract.table, batches])


def dead_letters(contract: Contract) -> pd.DataFrame:
    """Dead letters of the table: one row per reason, with an example."""
    query = (
        "select reason, count(*) as messages, min(detail) as example, max(created_at) as latest"
        " from ops.dead_letters where source_table = %s group by reason order by messages desc, reason"
    )
    with closing(database.connect("realtime")) as connection:
        return database.frame(connection, query, [contract.table])
