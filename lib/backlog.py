"""What Kafka holds of a topic behind the head of its table, and what it doesn't hold any more."""

from contextlib import closing

import pandas as pd
from kafka import KafkaConsumer, TopicPartition

from lib import database, sink
from lib.gaps import DataLoss
from lib.schemas import Contract
from lib.settings import settings


def backlog(contract: Contract) -> pd.DataFrame:
    """One row per partition of the topic: `head` (next offset to read), `earliest`, `end`, and `lag` in messages.

    Raises
    ------
    DataLoss
        When the topic's earliest message lies beyond the head, or its end before it.
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
        if end < head:
            raise DataLoss(
                f"{contract.topic}: partition {partition} ends at offset {end}, and {contract.table} has read up to "
                f"{head}: the topic was made anew, or cut; ingestion of {contract.table} stops here"
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
