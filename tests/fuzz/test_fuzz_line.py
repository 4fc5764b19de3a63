"""Messages of the fuzzer through the real line: savers, a cycle, and everything accounted for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import count

import ledger
import pytest
import stored
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from line import Schedule

from lib.ingest.columnar import decode_batch
from lib.schemas import CONTRACTS
from lib.settings import TOPICS, Settings
from tests.fuzz.accounting import MOST, Account, Message
from tests.fuzz.corpus import CASES
from tests.fuzz.events import messages
from tests.oracle import expected

SHORT = (2, 10_000)
LONG = (10, 100_000)
"""Cycles, and messages before each."""
PARTITIONS = 3
PATIENCE_SECONDS = 60


def test_everything_that_is_accepted_arrives_and_nothing_stops_the_line(
    stack: Settings, schedule: Schedule, soak: bool, seed: int
) -> None:
    cycles, size = LONG if soak else SHORT
    account, ends = Account(), Counter[tuple[str, int]]()
    corpus = [message for case in CASES for message in case.messages]
    print(f"seed {seed}")
    for cycle in range(cycles):
        began = datetime.now(UTC)
        sent = list(messages(seed + cycle, size, began))
        if not cycle:
            # first of all, so that their fields become columns
            _send(stack, corpus, [0])
        _send(stack, sent, range(PARTITIONS))
        arrived = list(_arrived(stack, ends))
        assert len(arrived) == len(sent) + (0 if cycle else len(corpus))
        name = f"seed {seed} + {cycle}"
        _run(stack, schedule, name, arrived, "stream", "-p", f"catch_up_offsets={size // 8}")
        with stored.connected(stack, "realtime") as realtime:
            failures = account.take(realtime, arrived, began, datetime.now(UTC))
            for table in TOPICS:
                ledger.assert_whole(realtime, table)
        assert not failures, _told(name, failures)
        _run(stack, schedule, name, arrived, "batch")
    print(dict(account.fates))
    assert min(account.fates[fate] for fate in ("stored", "duplicate", "dead")) > size / 100
    _compare(stack, account, seed)


def _send(config: Settings, sent: Sequence[tuple[str, bytes | None]], partitions: Sequence[int]) -> None:
    """Send messages, dealt to the partitions in turn; Kafka has taken each of them."""
    numbers = {table: count() for table in TOPICS}
    with closing(KafkaProducer(bootstrap_servers=config.kafka_bootstrap, acks="all", linger_ms=20)) as producer:
        futures = [
            # kafka-python wants a key or a value
            producer.send(
                TOPICS[table],
                value,
                key=None if value else b"key",
                partition=partitions[next(numbers[table]) % len(partitions)],
            )
            for table, value in sent
        ]
        for future in futures:
            future.get(timeout=PATIENCE_SECONDS)


def _arrived(config: Settings, ends: Counter[tuple[str, int]]) -> Iterator[Message]:
    """What Kafka holds beyond the known ends, which move on."""
    with closing(KafkaConsumer(bootstrap_servers=config.kafka_bootstrap, enable_auto_commit=False)) as consumer:
        tables = {
            TopicPartition(topic, partition): table
            for table, topic in TOPICS.items()
            for partition in consumer.partitions_for_topic(topic)
        }
        consumer.assign(list(tables))
        for place, table in tables.items():
            consumer.seek(place, ends[table, place.partition])
        upto = consumer.end_offsets(list(tables))
        while any(consumer.position(place) < end for place, end in upto.items()):
            for place, records in consumer.poll(timeout_ms=500).items():
                for record in records:
                    yield Message(tables[place], (place.partition, record.offset), record.value)
        for place, table in tables.items():
            ends[table, place.partition] = upto[place]


def _run(config: Settings, schedule: Schedule, seed: str, arrived: Sequence[Message], *arguments: str) -> None:
    """Run jobs; where one fails, say on which messages as far as that can be found out."""
    try:
        schedule("run", *arguments)
    except AssertionError as error:
        with stored.connected(config, "warehouse") as warehouse:
            runs = stored.rows(
                warehouse, "select job, error from ops.job_runs where error is not null order by started_at"
            )
        told = [f"{run['job']}: {run['error']:.3000}" for run in runs]
        pytest.fail(_told(seed, [*told, *_culprits(config, arrived), str(error)[-3000:]]))


def _culprits(config: Settings, arrived: Sequence[Message]) -> Iterator[str]:
    """The messages beyond the heads that raise when they are decoded alone."""
    with stored.connected(config, "realtime") as realtime:
        heads = stored.rows(realtime, "select source_table, end_offsets from ops.ingest_heads")
    ends = {head["source_table"]: head["end_offsets"] for head in heads}
    for message in arrived:
        if message.place[1] >= ends[message.table].get(str(message.place[0]), 0):
            contract = CONTRACTS[message.table]
            try:
                decode_batch(contract, [message.value], datetime.now(UTC)).rows(contract)
            except Exception as error:
                yield f"{message}\n    raises {error!r}"


def _compare(config: Settings, account: Account, seed: int) -> None:
    """Compare the warehouse with what the oracle computes from what is stored."""
    with stored.connected(config, "warehouse") as warehouse:
        cuts = stored.rows(warehouse, "select * from ops.cuts order by cut_id")
        found = {table: stored.read(warehouse, table) for table in stored.WAREHOUSE}
    assert {table: cuts[-1][table] for table in TOPICS} == {table: seen[0] for table, seen in account.seen.items()}
    right = expected(account.events, cuts)
    failures = [stored.differences(table, right[table], found[table]) for table in stored.WAREHOUSE]
    assert not any(failures), _told(f"seed {seed}", [failure for failure in failures if failure])


def _told(seed: str, failures: Sequence[str]) -> str:
    shown = "\n".join(failures[:MOST])
    return f"{seed}: {len(failures)} failures (repeat with --seed)\n{shown}"
