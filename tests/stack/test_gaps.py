"""Offsets that no committed message has, and offsets whose messages were lost, as Kafka itself tells them apart."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import psycopg2
import pytest
from batches import Message, head, next_run, own_database, rows, write
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from psycopg2.extensions import connection as Connection
from world import TABLE, World, cart, carts, eventually

from lib.ingest.sink import Committed
from lib.ledger import offsets
from lib.ledger.offsets import DataLoss, OffsetGap, backlog
from lib.schemas import CART_EVENTS
from lib.settings import Settings

NUMBERS = count(1)


@pytest.fixture(scope="module")
def config(stack: Settings) -> Iterator[Settings]:
    """The settings, with a realtime database of this module's own."""
    with own_database(stack, "gaps") as config:
        yield config


@pytest.fixture
def saver(config: Settings) -> Iterator[Connection]:
    """A saver's connection; what it did is rolled back."""
    with closing(psycopg2.connect(config.dsn("realtime"))) as connection:
        yield connection


@pytest.fixture
def topic(config: Settings) -> str:
    """A new topic with two partitions."""
    name = f"gaps{next(NUMBERS)}"
    with closing(KafkaAdminClient(bootstrap_servers=config.kafka_bootstrap)) as admin:
        admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])
    return name


@contextmanager
def transactional(config: Settings, topic: str, **options: Any) -> Iterator[KafkaProducer]:
    """A producer of transactions."""
    options |= {"bootstrap_servers": config.kafka_bootstrap, "transactional_id": f"{topic}-{next(NUMBERS)}"}
    with closing(KafkaProducer(**options)) as producer:
        producer.init_transactions()
        yield producer


def add(producer: KafkaProducer, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
    """Send messages, in few batches, and wait until Kafka has them."""
    for future in [producer.send(topic, value, partition=partition) for value in values]:
        future.get(timeout=180)


def send(
    config: Settings, topic: str, *transactions: tuple[Sequence[bytes], bool], partition: int = 0, **options: Any
) -> None:
    """Send transactions one after the other, each with its messages and whether it is committed."""
    with transactional(config, topic, **options) as producer:
        for values, is_committed in transactions:
            producer.begin_transaction()
            add(producer, topic, values, partition)
            if is_committed:
                producer.commit_transaction()
            else:
                producer.abort_transaction()


def committed(config: Settings, topic: str, until: int, partition: int = 0) -> list[Message]:
    """The committed messages of a partition up to the one at offset `until`."""
    place = TopicPartition(topic, partition)
    found: list[Message] = []
    with closing(
        KafkaConsumer(
            bootstrap_servers=config.kafka_bootstrap, isolation_level="read_committed", enable_auto_commit=False
        )
    ) as consumer:
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        while not found or found[-1].offset < until:
            for one in consumer.poll(timeout_ms=1000).get(place, []):
                found.append(Message(partition, one.offset, one.key, one.value))
    return found


def store(connection: Connection, topic: str, batch: Sequence[Message]) -> Committed | None:
    """Write a batch of carts from the topic."""
    return write(connection, replace(CART_EVENTS, topic=topic), batch, next_run(connection), 0)


def ingest(connection: Connection, topic: str, batch: Sequence[Message]) -> Committed:
    """Write a batch, and check what must hold of its ledger row."""
    receipt = store(connection, topic, batch)
    assert receipt
    query = "select start_offsets, end_offsets, by_partition from ops.ingest_batches where ingest_batch_id = %s"
    [(starts, ends, partitions)] = rows(connection, query, receipt.ingest_batch_id)
    assert sum(ends.values()) - sum(starts.values()) == receipt.rows_in + receipt.offset_gaps
    for name, counts in partitions.items():
        assert ends[name] - starts[name] == counts["rows_in"] + counts["offset_gaps"]
    return receipt


def test_markers_and_aborted_messages_are_counted_as_gaps(config: Settings, saver: Connection, topic: str) -> None:
    # offsets: 0-2 and a marker, 4-5 aborted and a marker, 7 and a marker, 9-10 aborted and a marker, 12 and a marker
    lost = [cart("aborted"), cart("aborted too")]
    send(config, topic, (carts(0, 3), True), (lost, False), (carts(3, 4), True), (lost, False), (carts(4, 5), True))
    batch = committed(config, topic, until=12)
    assert [message.offset for message in batch] == [0, 1, 2, 7, 12]
    receipt = ingest(saver, topic, batch)
    assert (receipt.rows_written, receipt.offset_gaps) == (5, 8)
    assert head(saver).end_offsets == {0: 13}


def test_gaps_between_batches_and_over_partitions_add_up(config: Settings, saver: Connection, topic: str) -> None:
    for partition in (0, 1):
        send(config, topic, (carts(0, 2), True), (carts(8, 9), False), partition=partition)
        send(config, topic, (carts(10 + partition, 12 + partition), True), partition=partition)
    parts = [committed(config, topic, until=6, partition=partition) for partition in (0, 1)]
    first = ingest(saver, topic, [*parts[0][:2], *parts[1][:3]])
    second = ingest(saver, topic, [*parts[0], *parts[1]])
    assert (first.rows_in, first.offset_gaps) == (5, 3)
    assert (second.rows_in, second.offset_gaps) == (3, 3)
    assert head(saver).end_offsets == {0: 7, 1: 7}


@pytest.mark.parametrize("unread", [{0}, {3}, {1, 5}])
def test_a_batch_without_a_message_that_kafka_has_is_refused(
    config: Settings, saver: Connection, topic: str, unread: set[int]
) -> None:
    send(config, topic, (carts(0, 2), True), (carts(2, 6), True))  # offsets 0, 1 and 3 to 6
    batch = [message for message in committed(config, topic, until=6) if message.offset not in unread]
    pattern = rf"{topic}: partition 0: {len(unread)} messages from offset {min(unread)} to {max(unread)} were not read"
    with pytest.raises(OffsetGap, match=pattern):
        store(saver, topic, batch)
    assert rows(saver, f"select count(*) from {TABLE}") == [(0,)]
    assert head(saver).last_batch == 0


def test_a_gap_behind_the_head_is_judged_like_one_within_a_batch(
    config: Settings, saver: Connection, topic: str
) -> None:
    send(config, topic, (carts(0, 4), True))
    batch = committed(config, topic, until=3)
    ingest(saver, topic, batch[:1])
    with pytest.raises(OffsetGap, match="2 messages from offset 1 to 2"):
        store(saver, topic, batch[3:])


def test_a_gap_that_kafka_no_longer_holds_is_a_loss(config: Settings, saver: Connection, topic: str) -> None:
    send(config, topic, (carts(0, 4), True))
    batch = committed(config, topic, until=3)
    ingest(saver, topic, batch[:1])
    truncate(config, topic, 3)
    with pytest.raises(DataLoss, match=f"{topic}: offsets 1 to 2 of partition 0 are gone from Kafka"):
        store(saver, topic, batch[3:])


def test_a_new_partition_begins_where_kafka_does(config: Settings, saver: Connection, topic: str) -> None:
    send(config, topic, (carts(0, 4), True))
    batch = committed(config, topic, until=3)
    truncate(config, topic, 2)
    receipt = ingest(saver, topic, batch[2:])
    assert (receipt.rows_in, receipt.offset_gaps) == (2, 0)


def truncate(config: Settings, topic: str, before: int) -> None:
    """Take the messages of the first partition before an offset out of Kafka."""
    with closing(KafkaAdminClient(bootstrap_servers=config.kafka_bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): before})


def test_a_gap_that_kafka_can_not_tell_about_stops_the_run(
    saver: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "PATIENCE_SECONDS", 1)
    with pytest.raises(KafkaError):
        store(saver, topic, [Message(7, 1, None, cart("a"))])  # the topic has two partitions


def test_a_saver_stores_what_a_transactional_producer_committed_and_nothing_else(world: World) -> None:
    kept = []
    for partition in range(3):
        pairs = [carts(100 * partition + 2 * number, 100 * partition + 2 * number + 2) for number in range(8)]
        send(
            world.config,
            world.topic,
            *((pair, number % 2 == 0) for number, pair in enumerate(pairs)),
            partition=partition,
        )
        kept += [event for pair in pairs[::2] for event in pair]
    world.ingest(max_offsets=20, catch_up_offsets=20)
    world.await_ids(kept)
    # a transaction of two takes three offsets; each partition's last committed one ends before offset 20
    assert (world.total("rows_in"), world.total("offset_gaps")) == (3 * 8, 3 * (20 - 8))


def test_compressed_transactions_of_every_kind_of_producer_are_stored(world: World) -> None:
    kept = []
    for number, codec in enumerate(["gzip", "snappy", "lz4", "zstd"]):
        place = {"partition": number % 3, "compression_type": codec}
        first, aborted, second = (carts(start, start + 50) for start in range(1000 * number, 1000 * number + 300, 100))
        send(world.config, world.topic, (first, True), (aborted, False), (second, True), **place)
        # Spark's own producer is Java's, whose formats differ; more than a megabyte in one of its batches
        java = [cart(f"java-{codec}-{one}", note="x" * 700) for one in range(3000)]
        send_by_java(world, java, codec, number % 3)
        third = carts(9100 + number, 9101 + number)
        send(world.config, world.topic, (carts(9000, 9050), False), (third, True), **place)
        kept += [*first, *second, *java, *third]
    world.ingest()
    world.await_ids(kept)
    # three markers around the first two, one behind the aborted last ones, and one at the very end that no message follows
    assert (world.total("rows_in"), world.total("offset_gaps")) == (len(kept), 4 * (50 + 3 + 50 + 1) + 1)


def send_by_java(world: World, values: Sequence[bytes], codec: str, partition: int) -> None:
    """Send messages without a transaction by Kafka's own client, in few and large batches."""
    rows = [(world.topic, partition, value) for value in values]
    frame = world.session.createDataFrame(rows, "topic string, partition int, value binary").coalesce(1)
    options = {"bootstrap.servers": world.config.kafka_bootstrap, "compression.type": codec}
    options |= {"batch.size": "800000", "linger.ms": "100"}
    writer = frame.write.format("kafka")
    writer.options(**{f"kafka.{name}": value for name, value in options.items()}).save()


def column(world: World, name: str) -> list[int]:
    """A column of the backlog, by partition."""
    return [int(value) for value in backlog(world.contract)[name]]


def test_a_run_over_what_is_there_ends_before_an_open_transaction(world: World) -> None:
    send(world.config, world.topic, (carts(0, 3), True))
    with transactional(world.config, world.topic) as producer:
        producer.begin_transaction()
        add(producer, world.topic, carts(10, 15))
        world.send(carts(20, 23), partitions=[0])  # committed, but behind what isn't decided
        world.send(carts(30, 33), partitions=[1])
        assert (column(world, "lag"), column(world, "open")) == ([4, 3, 0], [8, 0, 0])
        tried = world.ingest(publish=False)
        assert (tried.state, tried.total("rows_written")) == ("tried out", 6)
        world.ingest()
        world.await_ids([*carts(0, 3), *carts(30, 33)])
        assert (column(world, "lag"), column(world, "open")) == ([0, 0, 0], [8, 0, 0])
        assert world.ingest().total("rows_in") == 0
        producer.commit_transaction()
    world.ingest()
    world.await_ids([*carts(0, 3), *carts(10, 15), *carts(20, 23), *carts(30, 33)])
    assert (column(world, "lag"), column(world, "open")) == ([0, 0, 0], [0, 0, 0])
    assert world.total("rows_in") == 14


def test_a_transaction_that_its_producer_left_is_aborted_by_kafka_and_never_stored(world: World) -> None:
    with transactional(world.config, world.topic, transaction_timeout_ms=1000) as producer:
        producer.begin_transaction()
        add(producer, world.topic, carts(0, 5))
        world.send(carts(10, 13), partitions=[0])
        with world.at_work():
            world.send(carts(20, 23), partitions=[1])
            world.await_ids(carts(20, 23))
            assert column(world, "open") == [8, 0, 0]
            # Kafka looks for such transactions every ten seconds
            world.await_ids([*carts(10, 13), *carts(20, 23)])
    assert world.total("rows_in") == 6


@pytest.mark.parametrize("is_committed", [True, False])
def test_markers_and_aborted_messages_behind_the_last_message_are_no_loss_when_kafka_removes_them(
    world: World, is_committed: bool
) -> None:
    send(world.config, world.topic, (carts(0, 3), True), (carts(3, 5), is_committed))
    world.send(carts(10, 12), partitions=[1])
    world.ingest()
    world.truncate(0, 7)  # all of it: three messages, a marker, two messages, a marker
    assert (column(world, "head"), column(world, "lag")) == ([7, 2, 0], [0, 0, 0])
    assert world.ingest().total("rows_in") == 0
    # and the ledger goes on without a hole
    world.send(carts(20, 23), partitions=[0])
    world.ingest()
    kept = [*carts(0, 5 if is_committed else 3), *carts(10, 12), *carts(20, 23)]
    world.await_ids(kept)
    assert world.total("rows_in") + world.total("offset_gaps") == 7 + 3 + 2
    assert world.ledger()[-1]["end_offsets"]["0"] == 10


def test_a_saver_at_work_knows_of_a_quiet_partition_that_nothing_follows(world: World) -> None:
    send(world.config, world.topic, (carts(0, 3), True))
    sent = 10
    with world.at_work():

        def is_known() -> bool:
            nonlocal sent
            world.send(carts(sent, sent + 1), partitions=[1])
            sent += 1
            return column(world, "head")[0] == 4

        eventually(is_known)
        world.truncate(0, 4)
        world.send(carts(5, 6), partitions=[0])
        world.await_ids([*carts(0, 3), *carts(5, 6), *carts(10, sent)])
    world.ledger()


def test_what_kafka_has_removed_unread_is_a_loss_behind_a_marker_too(world: World) -> None:
    send(world.config, world.topic, (carts(0, 3), True))
    world.ingest()
    send(world.config, world.topic, (carts(3, 5), True))
    world.truncate(0, 7)
    with pytest.raises(DataLoss, match=f"{world.topic}: offsets 4 to 6 of partition 0 are gone from Kafka .* any more"):
        world.ingest()
    assert world.total("rows_in") == 3


def test_a_head_that_is_moved_back_by_hand_is_read_again_from_there(world: World) -> None:
    send(world.config, world.topic, (carts(0, 3), True))
    world.ingest()
    world.execute(f"update ops.ingest_heads set end_offsets = '{{\"0\": 1}}' where source_table = '{TABLE}'")
    assert column(world, "head")[0] == 1


def test_kafka_says_how_far_there_is_no_message_and_the_query_where_kafka_can_not(config: Settings, topic: str) -> None:
    send(config, topic, (carts(0, 3), True), (carts(3, 5), False), (carts(5, 6), True))  # 0-2, 4-5, 7 and their markers

    def passed(head: int, witnessed: int = 0) -> int:
        found = offsets.passed(topic, {0: head}, witnessed={0: witnessed}, kafka=config.kafka_bootstrap)
        return found.get(0, head)

    assert [passed(head) for head in (0, 2, 3, 5, 7, 8)] == [0, 2, 7, 7, 7, 9]
    truncate(config, topic, 5)
    assert (passed(3), passed(3, witnessed=5), passed(3, witnessed=4)) == (3, 7, 4)
    truncate(config, topic, 9)
    assert (passed(8), passed(8, witnessed=9)) == (8, 9)
