"""The offsets of a topic: what Kafka holds after the head, what it no longer holds, and which offsets have no message."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from kafka import IsolationLevel, KafkaAdminClient, KafkaConsumer, OffsetSpec, TopicPartition
from kafka.errors import KafkaTimeoutError

from lib import database
from lib.ledger.head import read_head
from lib.schemas import Contract
from lib.settings import settings


def backlog(contract: Contract) -> pd.DataFrame:
    """One row per partition of the topic: `head` (next offset to read), `earliest`, `end`, `lag` and `open`.

    `end` is the last stable offset: while a transaction is open, neither its messages nor any after them can be read.
    `lag` counts the offsets that can be read, `open` those that wait for such a transaction.

    Raises
    ------
    DataLoss
        When the topic's earliest message lies beyond the head, or its end before it.
    """
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        head = read_head(cursor, contract.table)
    rows = []
    for partition, (earliest, stable, end) in sorted(_topic_offsets(contract.topic).items()):
        following = head.following(partition)
        start = earliest if following is None else following
        if earliest > start:
            lost = gone(contract.topic, partition, start, earliest)
            raise DataLoss(f"{lost}; ingestion of {contract.table} stops here")
        if end < start:
            raise DataLoss(
                f"{contract.topic}: partition {partition} ends at offset {end}, and {contract.table} has read up to "
                f"{start}: the topic was made anew, or cut; ingestion of {contract.table} stops here"
            )
        lag = max(stable - start, 0)
        rows.append({"partition": partition, "head": start, "earliest": earliest, "end": stable, "lag": lag})
        rows[-1]["open"] = end - stable
    return pd.DataFrame(rows)


class Span(NamedTuple):
    """A partition's first offset, its last stable one (where readers of committed messages have to stop), and its end."""

    earliest: int
    stable: int
    end: int


def held(client: KafkaAdminClient, topics: Sequence[str]) -> dict[str, dict[int, Span]]:
    """What Kafka holds of each partition of these topics; a topic that it doesn't have has no partition."""
    found = {topic["name"]: topic["partitions"] for topic in client.describe_topics(list(topics))}
    places = [TopicPartition(topic, one["partition_index"]) for topic in topics for one in found.get(topic, [])]
    earliest, stable, end = (
        client.list_partition_offsets(dict.fromkeys(places, spec), isolation_level=level)
        # in this order: what is written meanwhile must not make an end lie before a last stable offset
        for spec, level in (
            (OffsetSpec.EARLIEST, IsolationLevel.READ_UNCOMMITTED),
            (OffsetSpec.LATEST, IsolationLevel.READ_COMMITTED),
            (OffsetSpec.LATEST, IsolationLevel.READ_UNCOMMITTED),
        )
    )
    spans: dict[str, dict[int, Span]] = {topic: {} for topic in topics}
    for place in places:
        spans[place.topic][place.partition] = Span(*(offsets[place].offset for offsets in (earliest, stable, end)))
    return spans


def _topic_offsets(topic: str) -> dict[int, Span]:
    with closing(KafkaAdminClient(bootstrap_servers=settings().kafka_bootstrap.split(","))) as client:
        spans = held(client, [topic])[topic]
    if not spans:
        raise LookupError(f"Kafka has no topic {topic}: `make up` makes it")
    return spans


PATIENCE_SECONDS = 20
"""How long Kafka may bring nothing before it counts as away."""


class OffsetGap(Exception):
    """Messages between the head and this batch were not read, though Kafka has them; nothing was written."""


class DataLoss(Exception):
    """The topic no longer holds messages that were not read; the message names the range."""


def gone(topic: str, partition: int, first: int, earliest: int) -> str:
    """The sentence for offsets from `first` on that Kafka has removed before anybody knew whether messages had them."""
    return (
        f"{topic}: offsets {first} to {earliest - 1} of partition {partition} are gone from Kafka and were never stored; "
        "whether they were messages, or only what transactions leave, can't be told any more"
    )


@dataclass(frozen=True)
class Reading:
    """The offsets that a batch brings of a partition, ascending.

    `head` is where the batch before it ended, None for a new partition. `following` is the next offset to read: later than
    the head where Kafka has said already that there is no message in between.
    """

    head: int | None
    offsets: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    following: int | None = None

    def window(self, start: int) -> tuple[int, int] | None:
        """The first missing offset from `start` on, and the one that was read after the last missing one; None if none is."""
        if self.following is not None and self.following <= self.offsets[0]:
            start = max(start, self.following)
        before = np.concatenate(([start - 1], self.offsets[:-1]))
        after = np.flatnonzero(self.offsets - before > 1)
        return (int(before[after[0]]) + 1, int(self.offsets[after[-1]])) if len(after) else None


def starts(topic: str, readings: Mapping[int, Reading], *, kafka: str) -> dict[int, int]:
    """The first offset that the batch covers of each partition: the head's, or where a new partition begins.

    Kafka (`host:port`) is asked only where offsets are missing, once about each partition: between committed messages,
    transactions leave markers and aborted messages.

    Raises
    ------
    OffsetGap
        When Kafka has a committed message that was not read.
    DataLoss
        When Kafka no longer holds what was not read.
    kafka.errors.KafkaError
        When Kafka can't tell.
    """
    found = {partition: reading.head or 0 for partition, reading in readings.items()}
    broken = [partition for partition, reading in readings.items() if reading.window(found[partition])]
    if broken:
        with closing(_consumer(kafka)) as consumer:
            found |= {number: _start(consumer, TopicPartition(topic, number), readings[number]) for number in broken}
    return found


def _consumer(kafka: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=kafka.split(","),
        bootstrap_timeout_ms=PATIENCE_SECONDS * 1000,
        isolation_level="read_committed",
        auto_offset_reset="none",
        enable_auto_commit=False,
        check_crcs=False,
        max_poll_records=10_000,
        metrics_enabled=False,
    )


def passed(topic: str, heads: Mapping[int, int], *, witnessed: Mapping[int, int], kafka: str) -> dict[int, int]:
    """Up to which offset a partition has no message from `heads`, its next offset to read; only those with such a stretch.

    The stretch ends at the next message, or at the last stable offset. What Kafka has removed counts as empty up to
    `witnessed`: up to there a query has read all that was committed, and written it.

    Raises
    ------
    kafka.errors.KafkaError
        When Kafka can't tell.
    """
    found = {}
    with closing(_consumer(kafka)) as consumer:
        places = {number: TopicPartition(topic, number) for number in heads}
        earliest = consumer.beginning_offsets(list(places.values()), timeout_ms=PATIENCE_SECONDS * 1000)
        stable = consumer.end_offsets(list(places.values()), timeout_ms=PATIENCE_SECONDS * 1000)
        for number, place in places.items():
            start = max(heads[number], min(earliest[place], witnessed.get(number, 0)))
            if start >= earliest[place]:
                first = next(_committed(consumer, place, start, stable[place]), None)
                start = max(start, stable[place]) if first is None else first.offset
            found[number] = start
    return {number: offset for number, offset in found.items() if offset > heads[number]}


def _start(consumer: KafkaConsumer, place: TopicPartition, reading: Reading) -> int:
    earliest = consumer.beginning_offsets([place], timeout_ms=PATIENCE_SECONDS * 1000)[place]
    start = min(earliest, int(reading.offsets[0])) if reading.head is None else reading.head
    if window := reading.window(start):
        if earliest > window[0]:
            raise DataLoss(gone(place.topic, place.partition, window[0], earliest))
        there = [record.offset for record in _committed(consumer, place, window[0], window[1] + 1)]
        unread = np.setdiff1d(there, reading.offsets)
        if len(unread):
            raise OffsetGap(
                f"{place.topic}: partition {place.partition}: {len(unread)} messages from offset {unread[0]} to "
                f"{unread[-1]} were not read, and Kafka has them; nothing of this batch was written"
            )
    return start


def messages(topic: str, spans: Mapping[int, tuple[int, int]], *, kafka: str) -> Iterator[Any]:
    """The committed messages of a topic, partition by partition: of each those from an offset up to another.

    Each has `partition`, `offset`, `key` and `value`.

    Raises
    ------
    kafka.errors.KafkaError
        When Kafka doesn't bring them.
    """
    with closing(_consumer(kafka)) as consumer:
        for partition, (first, end) in spans.items():
            yield from _committed(consumer, TopicPartition(topic, partition), first, end)


def _committed(consumer: KafkaConsumer, place: TopicPartition, first: int, end: int) -> Iterator[Any]:
    """The committed messages from offset `first` up to `end`, which must not lie beyond the last stable offset."""
    consumer.assign([place])
    consumer.seek(place, first)
    at, deadline = first, time.monotonic() + PATIENCE_SECONDS
    while at < end:
        for record in consumer.poll(timeout_ms=100).get(place, []):
            if record.offset < end:
                yield record
        # markers and aborted messages bring no record, and still move the position
        came = consumer.position(place, timeout_ms=PATIENCE_SECONDS * 1000)
        if came > at:
            at, deadline = came, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > deadline:
            raise KafkaTimeoutError(f"{place.topic}: Kafka doesn't bring offset {at} of partition {place.partition}")
