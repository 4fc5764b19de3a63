"""A bare Python loader: Kafka → json → COPY into a staging table → INSERT … ON CONFLICT; three processes.

It checks nothing: no dead letters, no ledger; a message that isn't as expected would end it.
"""

import csv
import io
import json
import subprocess
import sys
from contextlib import closing
from typing import Any

import psycopg2
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

PROCESSES = 3
MOST = 10_000
"""Messages of a transaction."""

Topics = dict[str, tuple[str, dict[str, str]]]
"""Table of each topic, with the column of each of its events' fields."""


def run(bootstrap: str, dsn: str, topics: Topics) -> None:
    """Load what the topics hold now, in processes that import nothing but what they need.

    Raises
    ------
    RuntimeError
        When one of them failed.
    """
    command = [sys.executable, "-m", "benchmarks.peers.loader"]
    loaders = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    for number, loader in enumerate(loaders):
        assert loader.stdin is not None
        with loader.stdin as pipe:
            json.dump({"number": number, "bootstrap": bootstrap, "dsn": dsn, "topics": topics}, pipe)
    if any([loader.wait() for loader in loaders]):
        raise RuntimeError("a loader failed; its message is above")


def load(number: int, bootstrap: str, dsn: str, topics: Topics) -> None:
    """Load every third partition of the topics, offsets committed to Kafka after each transaction."""
    connection = psycopg2.connect(dsn, options="-c timezone=UTC")
    with closing(_consumer(bootstrap)) as consumer, closing(connection), connection.cursor() as cursor:
        for table, _ in topics.values():
            create = "create temp table {} on commit delete rows as select * from {} limit 0"
            cursor.execute(sql.SQL(create).format(_staging(table), sql.Identifier(table)))
        connection.commit()
        places = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in consumer.partitions_for_topic(topic)
            if partition % PROCESSES == number
        ]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = {place: end for place, end in consumer.end_offsets(places).items() if end}
        while ends:
            batch = consumer.poll(timeout_ms=500, max_records=MOST)
            for place, messages in batch.items():
                _write(cursor, *topics[place.topic], messages)
            connection.commit()
            positions = {place: messages[-1].offset + 1 for place, messages in batch.items()}
            consumer.commit({place: OffsetAndMetadata(position, "", -1) for place, position in positions.items()})
            ends = {place: end for place, end in ends.items() if positions.get(place, 0) < end}


def _consumer(bootstrap: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id="loader",
        enable_auto_commit=False,
        max_poll_records=MOST,
        max_partition_fetch_bytes=10 * 2**20,
        check_crcs=False,  # computed in Python, they would take most of the time
    )


def _write(cursor: Cursor, table: str, fields: dict[str, str], messages: list[Any]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for message in messages:
        event = json.loads(message.value)
        if "products" in event:
            event["products"] = json.dumps(event["products"])
        writer.writerow([event.get(name) for name in fields])
    buffer.seek(0)
    columns = sql.SQL(", ").join(map(sql.Identifier, fields.values()))
    cursor.copy_expert(sql.SQL("copy {} ({}) from stdin csv").format(_staging(table), columns), buffer)
    merge = "insert into {0} ({1}) select {1} from {2} on conflict do nothing"
    cursor.execute(sql.SQL(merge).format(sql.Identifier(table), columns, _staging(table)))


def _staging(table: str) -> sql.Identifier:
    return sql.Identifier(f"staging_{table}")


if __name__ == "__main__":
    load(**json.load(sys.stdin))
