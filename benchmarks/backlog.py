"""A backlog in Kafka: the generators' events as they are, and the same ones with their schema for Debezium."""

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from benchmarks.peers import jars
from benchmarks.peers.envelope import enveloped
from generators.model import Scenario, simulate
from lib.settings import TOPICS, Settings

HISTORY = timedelta(days=200)
ENVELOPED = {table: table for table in TOPICS}
"""Topic of each table's events with schema; its name is the table's, so that the connector needs no routing."""


def produce(config: Settings, events: int) -> Counter[str]:
    """Send so many events of the generators' model to both kinds of topics; the number of events of each table.

    Raises
    ------
    RuntimeError
        When Kafka holds another number of messages afterwards.
    """
    create_topics(config)
    scenario = Scenario(start=datetime.now(UTC) - HISTORY, history=HISTORY, events=events)
    sent: Counter[str] = Counter()
    with ExitStack() as senders:
        topics = [*TOPICS.values(), *ENVELOPED.values()]
        pipes = {topic: senders.enter_context(_sender(config, topic)) for topic in topics}
        for event in simulate(scenario):
            pipes[TOPICS[event.table]].write(event.value + b"\n")
            pipes[ENVELOPED[event.table]].write(enveloped(event.table, event.value) + b"\n")
            sent[event.table] += 1
    found = held(config, topics)
    for topics_of in (TOPICS, ENVELOPED):
        if any(found[topics_of[table]] != count for table, count in sent.items()):
            raise RuntimeError(f"sent {dict(sent)}, and Kafka holds {dict(found)}: the producers lost messages")
    return sent


def create_topics(config: Settings) -> None:
    """Make the topics of the events with schema, of three partitions like ours."""
    with closing(KafkaAdminClient(bootstrap_servers=config.kafka_bootstrap)) as client:
        missing = set(ENVELOPED.values()) - set(client.list_topics())
        client.create_topics([NewTopic(name, num_partitions=3, replication_factor=1) for name in missing])


@contextmanager
def _sender(config: Settings, topic: str) -> Iterator[IO[bytes]]:
    """Kafka's own console producer, a message a line: many times faster than a producer in Python."""
    tool = [jars.java(), "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]
    tool += [f"{jars.folder('connect')}/*", "org.apache.kafka.tools.ConsoleProducer", "--topic", topic]
    options = {
        "acks": "all",
        "batch.size": 262_144,
        "linger.ms": 50,
        "partitioner.class": "org.apache.kafka.clients.producer.RoundRobinPartitioner",
    }
    for name, value in options.items():
        tool += ["--producer-property", f"{name}={value}"]
    with subprocess.Popen(
        [*tool, "--bootstrap-server", config.kafka_bootstrap], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        with process.stdin as pipe:
            yield pipe


def held(config: Settings, topics: Iterable[str]) -> Counter[str]:
    """Messages that Kafka has taken of each topic."""
    with closing(KafkaConsumer(bootstrap_servers=config.kafka_bootstrap)) as consumer:
        places = [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)]
        counts: Counter[str] = Counter()
        for place, end in consumer.end_offsets(places).items():
            counts[place.topic] += end
        return counts
