"""Gaps between the offsets of a batch: only Kafka can tell aborted messages and markers from lost messages."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

PATIENCE_SECONDS = 20
"""How long Kafka may bring nothing before it counts as away."""


class OffsetGap(Exception):
    """Messages between the head and this batch were not read, though Kafka has them; nothing was written."""


class DataLoss(Exception):
    """The topic no longer holds messages that were not read; the message names the range."""


@dataclass(frozen=True)
class Reading:
    """The offsets that a batch brings of a partition, ascending; `head` is the next one, None for a new partition."""

    head: int | None
    offsets: "np.ndarray[tuple[int], np.dtype[np.int64]]"

    def window(self, start: int) -> tuple[int, int] | None:
        """From the first offset missing after `start` to the one that was read after the last missing; None without."""
        before = np.concatenate(([start - 1], self.offsets[:-1]))
        after = np.flatnonzero(self.offsets - before > 1)
        return (int(before[after[0]]) + 1, int(self.offsets[after[-1]])) if len(after) else None


def starts(topic: str, readings: Mapping[int, Reading], *, kafka: str) -> dict[int, int]:
    """The first offset that the batch covers of each partition: the head's, or where a new partition begins.

    Only where offsets are missing, Kafka (`host:port`) is asked, once about each partition: transactions leave markers
    and aborted messages between the committed ones.

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


def _start(consumer: KafkaConsumer, place: TopicPartition, reading: Reading) -> int:
    earliest = consumer.beginning_offsets([place], timeout_ms=PATIENCE_SECONDS * 1000)[place]
    start = min(earliest, int(reading.offsets[0])) if reading.head is None else reading.head
    if window := reading.window(start):
        where = f"{place.topic}: partition {place.partition}"
        if earliest > window[0]:
            raise DataLoss(f"{where}: offsets {window[0]} to {earliest - 1} are gone from Kafka and were never stored")
        unread = np.setdiff1d(_committed(consumer, place, *window), reading.offsets)
        if len(unread):
            raise OffsetGap(
                f"{where}: {len(unread)} messages from offset {unread[0]} to {unread[-1]} were not read, and Kafka has "
                "them; nothing of this batch was written"
            )
    return start


def _committed(consumer: KafkaConsumer, place: TopicPartition, first: int, last: int) -> list[int]:
    """The offsets of the committed messages from `first` on, `last` and some after it included."""
    consumer.assign([place])
    consumer.seek(place, first)
    offsets: list[int] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not offsets or offsets[-1] < last:
        if records := consumer.poll(timeout_ms=500).get(place):
            offsets += [record.offset for record in records]
            deadline = time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > deadline:
            raise KafkaTimeoutError(f"{place.topic}: Kafka doesn't bring offset {last} of partition {place.partition}")
    return [offset for offset in offsets if offset <= last]
