"""A line of its own for a test: a topic and a realtime database on the test stack's Kafka and PostgreSQL, and one saver."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ledger
import psycopg2
import stored
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from pyspark.sql import SparkSession
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from lib.ingest import stream
from lib.ledger.receipt import Receipt
from lib.schemas import CART_EVENTS, Contract
from lib.settings import Settings

TABLE = CART_EVENTS.table
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC).isoformat()
PATIENCE_SECONDS = 180
AWAY = (psycopg2.OperationalError, psycopg2.InterfaceError)


def cart(event_id: str, **fields: Any) -> bytes:
    """A cart event's JSON; a field given as None is null."""
    document = {"event_id": event_id, "event_type": "add", "user_id": "u", "product_id": "p", "timestamp": TIME}
    return json.dumps(document | fields).encode()


def carts(start: int, end: int) -> list[bytes]:
    """Cart events numbered from `start` up to `end`."""
    return [cart(f"cart-{number:05}") for number in range(start, end)]


def eventually(look: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """What `look` returns as soon as that is true; a database that is away is looked at again."""
    waiting = Retrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(0.1),
        retry=retry_if_result(lambda found: not found) | retry_if_exception_type(AWAY),
    )
    return waiting(look)


@dataclass
class World:
    """One topic of cart events and the table that a saver fills from it; nobody else reads or writes either."""

    config: Settings
    session: SparkSession
    topic: str
    contract: Contract = CART_EVENTS

    def send(self, values: Sequence[bytes | None], *, partitions: Sequence[int] = (0, 1, 2)) -> list[tuple[int, int]]:
        """Send messages, dealt to the partitions in turn; the partition and offset that Kafka has each of them at."""
        with closing(KafkaProducer(bootstrap_servers=self.config.kafka_bootstrap)) as producer:
            futures = [
                # kafka-python wants a key or a value
                producer.send(self.topic, value, key=b"key", partition=partitions[number % len(partitions)])
                for number, value in enumerate(values)
            ]
            places = [future.get(timeout=PATIENCE_SECONDS) for future in futures]
            return [(place.partition, place.offset) for place in places]

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """Kafka's administrator."""
        with closing(KafkaAdminClient(bootstrap_servers=self.config.kafka_bootstrap)) as client:
            yield client

    def truncate(self, partition: int, before: int) -> None:
        """Take the messages of a partition before an offset out of Kafka."""
        with self.admin() as admin:
            admin.delete_records({TopicPartition(self.topic, partition): before})

    def ingest(self, session: SparkSession | None = None, **options: Any) -> Receipt:
        """Run a saver over what is there, or as long as `options` say."""
        return stream.ingest(session or self.session, self.contract, **{"publish": True} | options)

    @contextmanager
    def at_work(self, session: SparkSession | None = None, **options: Any) -> Iterator[Future[Receipt]]:
        """A saver's run at work meanwhile; its queries are stopped at the end, unless it has ended by itself."""
        session = session or self.session
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.ingest, session, **{"run_minutes": 5} | options)
            try:
                eventually(lambda: run.done() or session.streams.active)
                yield run
            finally:
                # a run that is between two queries has none at the moment
                eventually(lambda: self._stop_queries(session) or run.done())

    @staticmethod
    def _stop_queries(session: SparkSession) -> None:
        for query in session.streams.active:
            query.stop()

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query, as the owner of the schema."""
        with stored.connected(self.config, "realtime") as connection:
            return stored.rows(connection, query, *values)

    def execute(self, statement: str) -> None:
        """Execute a statement as the owner of the schema."""
        with stored.connected(self.config, "realtime") as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def ids(self) -> set[str]:
        """The ids of the stored events."""
        return {row["event_id"] for row in self.rows(f"select event_id from {TABLE}")}

    def await_ids(self, values: Sequence[bytes]) -> None:
        """Wait until exactly these events are stored."""
        wanted = {json.loads(value)["event_id"] for value in values}
        eventually(lambda: len(self.ids()) >= len(wanted))
        assert self.ids() == wanted

    def epoch(self) -> int:
        """The epoch of the run that wrote last."""
        (head,) = self.rows("select epoch from ops.ingest_heads where source_table = %s", TABLE)
        return int(head["epoch"])

    def ledger(self) -> list[dict[str, Any]]:
        """The batches of the ledger, after a look at what must hold of them while nobody writes."""
        with stored.connected(self.config, "realtime") as connection:
            return ledger.assert_whole(connection, TABLE)

    def total(self, column: str) -> int:
        """The sum of a count over the ledger."""
        return sum(batch[column] for batch in self.ledger())
