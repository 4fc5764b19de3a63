"""A saver run: from Kafka to the realtime database, beginning at the head.

Every saver notebook calls `ingest` with its contract. A Spark query brings the raw messages, and its Python worker writes
each micro-batch through `lib.ingest.sink`. A checkpoint folder belongs to one query; the head alone says
where reading begins. A run may use several queries one after the other, each with an epoch of its own: with a larger cap while it
catches up, with a smaller one where messages are huge. The next query starts before the last one is stopped, and takes
over with its first micro-batch.
"""

import contextlib
import functools
import json
import logging
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pyarrow as pa
from kafka.errors import KafkaError
from psycopg2.extensions import connection as Connection
from pydantic import SecretStr
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import DataStreamWriter
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from lib import causes, database, servers, spark
from lib.ingest import sink
from lib.ingest.columnar import decode_batch
from lib.ledger import offsets, receipt
from lib.ledger.head import Head, pass_over, read_head
from lib.ledger.offsets import backlog
from lib.ledger.receipt import Receipt
from lib.schemas import Contract
from lib.settings import settings

logger = logging.getLogger(__name__)

TRIGGER_INTERVAL = "200 milliseconds"
MAX_OFFSETS = 10_000
"""The usual cap: the most messages of a micro-batch."""
CATCH_UP_OFFSETS = 50_000
FAR_BEHIND = 10
"""A run catches up with the larger cap when it lags by more than this many micro-batches of the usual one."""
LOOK_SECONDS = 5
READ_SECONDS = 0.5
"""How often a run without a duration looks whether it has read all that was there when it began."""
UNREADABLE = re.compile(
    r"overflows|ArithmeticException|CorruptRecordException|RecordTooLargeException|OutOfMemoryError"
)
"""Signs of a message that Spark can't bring: its record time is beyond Spark's range, or it is huge when decompressed."""
FRESH = timedelta(seconds=3 * LOOK_SECONDS)
"""A heartbeat older than this belongs to a run that is gone."""

PLAIN = {"spark.sql.adaptive.enabled": "false", "spark.sql.codegen.wholeStage": "false"}
"""A micro-batch is one scan, so planning it would cost more than running it: Spark's optimisations are off."""
ASYNCHRONOUS = {
    "asyncProgressTrackingEnabled": "true",
    # each file forks several processes
    "asyncProgressTrackingCheckpointIntervalMs": "60000",
    "_asyncProgressTrackingOverrideSinkSupportCheck": "true",
}
"""The checkpoint is written while batches go on. Spark allows that for its own Kafka sink only, since another sink could
write a batch twice after a crash; ours can't, because the head says what is written."""


class AtWork(Exception):
    """Another run is writing this table, and only the scheduler may take over from it."""


class BatchTooLarge(Exception):
    """The messages of one micro-batch have more bytes than a worker should hold; nothing was written."""


@dataclass(frozen=True)
class Progress:
    """How a run is doing since the last look: messages per second and in all, latency (p95, as an upper bound in ms).

    `lag` counts the messages in Kafka that aren't stored, `cap` is the most that a micro-batch may have.
    """

    rate: float
    lag: int
    p95: float | None
    rows_in: int
    cap: int


Watch = Callable[[Progress], None]


def ingest(
    session: SparkSession,
    contract: Contract,
    *,
    run_minutes: float = 0,
    publish: bool = False,
    trigger_interval: str = TRIGGER_INTERVAL,
    max_offsets: int = MAX_OFFSETS,
    catch_up_offsets: int = CATCH_UP_OFFSETS,
    watch: Watch = lambda progress: None,
) -> Receipt:
    """Bring the topic's messages from the head on into the realtime table.

    With `publish`, it runs for `run_minutes`; when that is 0, until all that is there now is read. It ends early when a
    successor takes over, or on an interrupt. Without `publish`, it returns the receipt of the run at work, if there is one;
    else it writes one batch and rolls it back.

    Parameters
    ----------
    trigger_interval
        Time between two micro-batches of live events; `0 seconds` is as fast as possible, at more than twice the CPU.
    max_offsets, catch_up_offsets
        Most messages of a micro-batch, usually and while the run is more than ten such batches behind.
    watch
        Called every few seconds with the run's progress.

    Raises
    ------
    offsets.DataLoss, offsets.OffsetGap
        When messages are gone.
    AtWork
        When another run is writing this table, and this one isn't the scheduler's.
    """
    behind = backlog(contract)
    if not publish:
        return _at_work(contract) or _try_out(session, contract, behind)
    run = SaverRun(session, contract, trigger_interval, max_offsets, catch_up_offsets, watch)
    run.register()
    for name, value in PLAIN.items():
        session.conf.set(name, value)
    with contextlib.ExitStack() as later:
        try:
            with contextlib.suppress(KeyboardInterrupt):
                run.work(behind, run_minutes)
            later.enter_context(_no_interrupts())
            if run.queries:
                run.look(quiet=False)
        finally:
            run.end()
        with closing(database.connect("realtime")) as connection:
            return receipt.read(connection, contract, run.query_id, "published")


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore interrupts: one that comes after the reading is over must not cost the run its receipt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@dataclass
class Query:
    """One of a run's streaming queries; `handle` is Spark's."""

    handle: Any
    cap: int
    epoch: int
    checkpoint: Path
    started: float = field(default_factory=time.monotonic)


@dataclass
class SaverRun:
    """A saver run at work; the last of its queries is the one that is to write."""

    session: SparkSession
    contract: Contract
    trigger_interval: str
    max_offsets: int
    catch_up_offsets: int
    watch: Watch
    query_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    ceiling: float = float("inf")
    """The largest cap allowed; lowered when a micro-batch was too large for its worker."""
    queries: list[Query] = field(default_factory=list)
    looked: tuple[float, int] = (0.0, 0)
    """When progress was last looked at, and the last batch at that time."""
    behind: dict[int, int] = field(default_factory=dict)
    """At that time, the next offset after the head of each partition of which the query had read further."""

    def register(self) -> None:
        """Put the run's session into the head, so that its queries can be found and stopped."""
        with closing(database.connect("realtime")) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "update ops.ingest_heads set session_id = %s, heartbeat_at = clock_timestamp() where source_table = %s"
                " and (%s or session_id is null or heartbeat_at < clock_timestamp() - %s) returning last_batch",
                [self.session.session_id, self.contract.table, bool(settings().run_id), FRESH],
            )
            if not (row := cursor.fetchone()):
                raise AtWork(
                    f"a saver is at work on {self.contract.table}, and only the scheduler takes over from it: without"
                    " `publish` this notebook shows its receipt; `make down` stops it"
                )
            self.looked = (time.monotonic(), row[0])

    def work(self, behind: pd.DataFrame, minutes: float) -> None:
        """Store what comes for so many minutes; with 0, what is there now by the backlog, `behind`."""
        lag = int(behind["lag"].sum())
        if minutes:
            self.start(self.catch_up_offsets if lag > FAR_BEHIND * self.max_offsets else self.max_offsets)
            self.follow(time.monotonic() + minutes * 60)
        elif lag:
            self.start(self.catch_up_offsets)
            self.read(dict(zip(behind["partition"], behind["end"], strict=True)))

    def start(self, cap: int) -> None:
        """Start a query at the head; the one before it goes on until this one writes."""
        contract = self.contract
        behind = backlog(contract)
        with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
            epoch = read_head(cursor, contract.table).epoch + 1
        starts = {contract.topic: {str(row.partition): row.head for row in behind.itertuples()}}
        frame = read_topic(
            self.session.readStream, contract, startingOffsets=json.dumps(starts), maxOffsetsPerTrigger=cap
        )
        name = f"{contract.table}-{epoch}-{self.query_id[:8]}"
        checkpoint = settings().data_dir / "checkpoints" / contract.table / f"{name}-{uuid.uuid4().hex[:4]}"
        writer = write_in_worker(frame, contract, sink.Writer(epoch, self.query_id))
        writer = writer.queryName(name).option("checkpointLocation", str(checkpoint))
        writer = writer.trigger(processingTime=self.trigger_interval).options(**ASYNCHRONOUS)
        self.queries.append(Query(writer.start(), cap, epoch, checkpoint))

    def follow(self, deadline: float) -> None:
        """Wait until the run is over: its time, or a successor."""
        while (rest := deadline - time.monotonic()) > 0:
            if self._await(min(LOOK_SECONDS, max(rest, 0.1))):
                return
            self._retire()
            if (cap := self._cap(self.look())) != self.queries[-1].cap:
                self.start(cap)

    def read(self, ends: dict[int, int]) -> None:
        """Wait until the messages before these offsets are read, or for a successor."""
        while not self._await(READ_SECONDS):
            at = _offsets(self.queries[-1].handle, "endOffset", self.contract.topic)
            if all(at.get(partition, 0) >= end for partition, end in ends.items() if end):
                return
            if time.monotonic() - self.looked[0] > LOOK_SECONDS:
                self._retire()
                self.look()

    def _await(self, seconds: float) -> bool:
        """Whether the run is over after at most so many seconds."""
        query = self.queries[-1]
        try:
            return bool(query.handle.awaitTermination(seconds))
        except PySparkException as error:
            # only the class at its beginning counts: what the error quotes may hold the names of our errors
            raised = causes.brief("", str(error)).partition(":")[0]
            if raised == sink.Fenced.__name__:
                return True
            if raised == BatchTooLarge.__name__ and query.cap > 1:
                self.ceiling = query.cap // 4 or 1
                self.start(int(self.ceiling))
                return False
            if (raised == BatchTooLarge.__name__ or _is_unreadable(error)) and self._read_without_spark():
                self.ceiling = float("inf")
                self.start(self.max_offsets)
                return False
            with contextlib.suppress(KafkaError, psycopg2.Error):
                backlog(self.contract)  # raises DataLoss with the offset range, where messages are gone
            raise

    def _read_without_spark(self) -> bool:
        """Read the next messages, one of which Spark can't bring, and write them here; False when there are none."""
        contract, kafka = self.contract, settings().kafka_bootstrap
        messages = _fetched(contract, backlog(contract))
        with closing(database.connect("realtime")) as connection, connection, connection.cursor() as cursor:
            writer = sink.Writer(read_head(cursor, contract.table).epoch + 1, self.query_id)
            taken = sink.write_batch(connection, contract, messages, writer, -1, kafka=kafka)
        read = taken.rows_in if taken else 0
        logger.warning(
            "%s: Spark can't bring what stands at the head; %d messages read without it", contract.table, read
        )
        return taken is not None

    def _retire(self) -> None:
        """Stop all queries but the last one, once it has had the time to take over."""
        if len(self.queries) > 1 and time.monotonic() - self.queries[-1].started > LOOK_SECONDS:
            while len(self.queries) > 1:
                _stop(self.queries.pop(0))

    def look(self, *, quiet: bool = True) -> int | None:
        """Write the heartbeat, report the progress, and return the lag; None while the database is away.

        With `quiet`, Kafka is asked what follows the head only for partitions whose head hasn't moved since the last look.
        """
        try:
            with closing(database.connect("realtime")) as connection, connection, connection.cursor() as cursor:
                cursor.execute(
                    "update ops.ingest_heads set heartbeat_at = clock_timestamp()"
                    " where source_table = %s and session_id = %s",
                    [self.contract.table, self.session.session_id],
                )
                head = read_head(cursor, self.contract.table)
                cursor.execute(
                    "select coalesce(sum(rows_in), 0), jsonb_agg(latency_buckets) from ops.ingest_batches"
                    " where source_table = %s and ingest_batch_id > %s",
                    [self.contract.table, self.looked[1]],
                )
                rows, buckets = cursor.fetchall()[0]
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            return None  # the query retries on its own, and fails the run when that takes too long
        query = self.queries[-1]
        latest = _offsets(query.handle, "latestOffset", self.contract.topic)
        lag = sum(max(end - (head.following(partition) or 0), 0) for partition, end in latest.items())
        now = time.monotonic()
        rate = int(rows) / (now - self.looked[0])
        self.looked = (now, head.last_batch)
        self.watch(Progress(rate, lag, receipt.percentile(buckets or [], 0.95), int(rows), query.cap))
        self._pass_over(head, quiet)
        return lag

    def _pass_over(self, head: Head, quiet: bool) -> None:
        """Note in the head's row where the query has read further than the head, because no message is there.

        A transaction leaves a marker after its messages, and perhaps aborted ones. Once Kafka has removed these, only the
        note says that no message was lost.
        """
        read = _offsets(self.queries[-1].handle, "endOffset", self.contract.topic)
        behind = {number: at for number, end in read.items() if (at := head.following(number)) is not None and at < end}
        before, self.behind = self.behind, behind
        asked = {number: at for number, at in behind.items() if not quiet or before.get(number) == at}
        if not asked:
            return
        # while Kafka or the database is away nothing is noted; the next look, or the next run, does it
        with (
            contextlib.suppress(KafkaError, psycopg2.OperationalError, psycopg2.InterfaceError),
            closing(database.connect("realtime")) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            upto = offsets.passed(self.contract.topic, asked, witnessed=read, kafka=settings().kafka_bootstrap)
            pass_over(cursor, self.contract.table, head, upto)

    def _cap(self, lag: int | None) -> int:
        """The cap for this lag: the larger one when far behind, the usual one again when level."""
        cap = self.queries[-1].cap
        if lag is None:
            return cap
        if lag > FAR_BEHIND * self.max_offsets:
            cap = self.catch_up_offsets
        elif lag <= self.max_offsets:
            cap = self.max_offsets
        return int(min(cap, self.ceiling))

    def end(self) -> None:
        """Stop what still runs, and take the session out of the head's row, as far as server and database are there."""
        with contextlib.suppress(PySparkException):
            for query in self.queries:
                _stop(query)
        with (
            contextlib.suppress(psycopg2.OperationalError),
            closing(database.connect("realtime")) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "update ops.ingest_heads set session_id = null where source_table = %s and session_id = %s",
                [self.contract.table, self.session.session_id],
            )


def _is_unreadable(error: PySparkException) -> bool:
    """Whether Spark failed to bring a message, before any code of ours saw it."""
    text = str(error)
    return causes.TRACEBACK not in text and bool(UNREADABLE.search(text))


def _stop(query: Query) -> None:
    """Stop a query, and remove its checkpoint, which nobody reads again."""
    query.handle.stop()
    shutil.rmtree(query.checkpoint, ignore_errors=True)


def _offsets(query: Any, name: str, topic: str) -> dict[int, int]:
    """The offsets of that name in the query's last progress; none before its first batch."""
    progress = query.lastProgress
    offsets = progress["sources"][0].get(name) if progress and progress["sources"] else None
    if isinstance(offsets, str):
        offsets = json.loads(offsets)
    return {int(partition): offset for partition, offset in (offsets or {}).get(topic, {}).items()}


def read_topic(reader: Any, contract: Contract, **options: str | int) -> DataFrame:
    """The topic's messages as they came, committed ones only."""
    patience = settings().stream_retry_seconds * 1000
    source = reader.format("kafka").options(**options).option("subscribe", contract.topic)
    source = source.options(
        **{
            "kafka.bootstrap.servers": settings().kafka_bootstrap,
            "kafka.isolation.level": "read_committed",
            # When Spark asks for a partition's offsets, a fetch is often under way, and the broker answers in order: with
            # the default, Spark would wait half a second for messages that nobody needs yet.
            "kafka.fetch.max.wait.ms": 1,
            "kafka.default.api.timeout.ms": patience,
            "kafka.request.timeout.ms": min(patience, 30_000),
        }
    )
    frame: DataFrame = source.load()
    return frame.select("partition", "offset", "key", "value")


def write_in_worker(messages: DataFrame, contract: Contract, writer: sink.Writer) -> DataStreamWriter:
    """The stream writer that makes one task of each micro-batch; the task's Python worker writes the messages.

    It gets them as they are read, and hands on no rows: to Spark the query writes nothing (`noop`). `foreachBatch` would
    run a query of its own for each micro-batch, and send the messages through the driver.
    """
    write = functools.partial(
        _write_batch,
        address=settings().address("realtime"),
        kafka=settings().kafka_bootstrap,
        contract=contract,
        writer=writer,
        retry_seconds=settings().stream_retry_seconds,
    )
    return messages.coalesce(1).mapInArrow(write, "nothing int").writeStream.format("noop")


# --- in the Python worker of a task, on Spark's server


MOST_BYTES = 128 << 20
"""A micro-batch with more bytes than this is read again in smaller ones, since the worker holds it several times."""

_connections: dict[SecretStr, Connection] = {}


def _write_batch(
    batches: Iterator[pa.RecordBatch],
    *,
    address: SecretStr,
    kafka: str,
    contract: Contract,
    writer: sink.Writer,
    retry_seconds: float,
) -> Iterator[pa.RecordBatch]:
    """Write one micro-batch over the worker's lasting connection; the transaction is retried while PostgreSQL is away."""
    task = TaskContext.get()
    assert task is not None
    spark_batch_id = int(task.getLocalProperty("streaming.sql.batchId") or -1)
    retrying = Retrying(
        retry=retry_if_exception_type((psycopg2.OperationalError, psycopg2.InterfaceError)),
        stop=stop_after_delay(retry_seconds),
        wait=wait_exponential(0.1, max=1),
        reraise=True,
    )
    retrying(_write, _together(batches), spark_batch_id, address, kafka, contract, writer)
    yield from ()


def _together(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    """All messages of a micro-batch in one table."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size > MOST_BYTES:
            raise BatchTooLarge(f"more than {MOST_BYTES >> 20} MiB in one micro-batch")
    return pa.Table.from_batches(held, sink.MESSAGES)


def _write(
    messages: pa.Table, spark_batch_id: int, address: SecretStr, kafka: str, contract: Contract, writer: sink.Writer
) -> None:
    connection = _connections.get(address)
    if connection is None or connection.closed:
        connection = _connections[address] = servers.connect(address, timeout=5)
        # A process's first decoding takes far longer than all others, so it comes before the head is locked: the query
        # before this one still writes.
        with contextlib.suppress(Exception):  # the sink finds out which messages can't be decoded
            decode_batch(contract, messages["value"].to_pylist(), datetime.now(UTC)).rows(contract)
    try:
        with connection:
            sink.write_batch(connection, contract, messages, writer, spark_batch_id, kafka=kafka)
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        connection.close()
        raise


# --- without `publish`, and after a run


def _at_work(contract: Contract) -> Receipt | None:
    """The receipt of the run that is writing this table, if one is."""
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select b.query_id from ops.ingest_heads h join ops.ingest_batches b using (source_table)"
            " where h.source_table = %s and b.rows_in > 0 and h.session_id is not null"
            " and h.heartbeat_at >= clock_timestamp() - %s order by b.ingest_batch_id desc limit 1",
            [contract.table, FRESH],
        )
        row = cursor.fetchone()
        return receipt.read(connection, contract, row[0], "at work") if row else None


def _try_out(session: SparkSession, contract: Contract, behind: pd.DataFrame) -> Receipt:
    """Write one batch of what is there in a transaction that is rolled back."""
    share = CATCH_UP_OFFSETS // len(behind)
    rows = list(behind.itertuples())
    starts = {contract.topic: {str(row.partition): row.head for row in rows}}
    ends = {contract.topic: {str(row.partition): min(row.end, row.head + share) for row in rows}}
    frame = read_topic(session.read, contract, startingOffsets=json.dumps(starts), endingOffsets=json.dumps(ends))
    try:
        messages = frame.toArrow()
    except PySparkException as error:
        if not _is_unreadable(error):
            raise
        messages = _fetched(contract, behind)
    query_id = uuid.uuid4().hex
    with closing(database.connect("realtime")) as connection:
        with connection.cursor() as cursor:
            epoch = read_head(cursor, contract.table).epoch
        writer, kafka = sink.Writer(epoch + 1, query_id), settings().kafka_bootstrap
        sink.write_batch(connection, contract, messages, writer, -1, kafka=kafka)
        tried = receipt.read(connection, contract, query_id, "tried out")
        connection.rollback()
    return tried


def _fetched(contract: Contract, behind: pd.DataFrame) -> pa.Table:
    """The next messages of each partition, read by a Kafka client of our own: as many as a worker should hold."""
    share = MAX_OFFSETS // len(behind)
    spans = {row.partition: (row.head, min(row.end, row.head + share)) for row in behind.itertuples() if row.lag}
    rows: list[dict[str, Any]] = []
    size = 0
    for one in offsets.messages(contract.topic, spans, kafka=settings().kafka_bootstrap):
        size += len(one.value or b"") + len(one.key or b"")
        if size > MOST_BYTES and rows:
            break
        rows.append({"partition": one.partition, "offset": one.offset, "key": one.key, "value": one.value})
    return pa.Table.from_pylist(rows, sink.MESSAGES)


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
        # where the server is gone, so are its queries
        if any(word in str(error) for word in ("SESSION_CLOSED", "SESSION_CHANGED", "UNAVAILABLE")):
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
