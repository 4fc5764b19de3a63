"""What Kafka holds of a topic behind the head of its table, and what it doesn't hold any more."""

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import pandas as pd
from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition

from lib import database, sink
from lib.gaps import DataLoss, gone
from lib.schemas import Contract
from lib.settings import settings


def backlog(contract: Contract) -> pd.DataFrame:
    """One row per partition of the topic: `head` (next offset to read), `earliest`, `end`, `lag` and `open`.

    `end` is the last stable offset: a transaction that is open keeps its messages, and all behind them, from being read.
    `lag` counts the offsets that can be read, `open` those that wait for such a transaction.

    Raises
    ------
    DataLoss
        When the topic's earliest message lies beyond the head, or its end before it.
    """
    with closing(database.connect("realtime")) as connection, connection.cursor() as cursor:
        head = sink.read_head(cursor, contract.table)
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
    """The first offset of a partition, the next one that a reader of committed messages gets no further than, the next."""

    earliest: int
    stable: int
    end: int


def held(client: KafkaAdminClient, topics: Sequence[str]) -> dict[str, dict[int, Span]]:
    """What Kafka holds of each partition of these topics; nothing of a topic that it doesn't have."""
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
