"""The story told to the stack: sent, drained and loaded step by step, with what Kafka took and what the tables then held."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import stored
import story
from kafka import KafkaConsumer, TopicPartition

from generators.producer import produce
from lib.settings import TOPICS, Settings
from tests.oracle import expected, first_of_each

ID = {"transactions": "transaction_id", "product_view_events": "event_id", "cart_events": "event_id"}
Schedule = Callable[..., CompletedProcess[str]]
"""`schedule.py` with arguments; keywords are variables of the environment, but for `expect`, the exit code."""


@dataclass(frozen=True)
class Message:
    """A message as Kafka holds it."""

    table: str
    partition: int
    offset: int
    value: bytes


@dataclass(frozen=True)
class State:
    """After a cycle: the cuts so far, how many messages had arrived, each job's last run, and what the tables held."""

    cuts: list[dict[str, Any]]
    arrived: int
    runs: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]


@dataclass
class Line:
    """Everything that was sent, in the order of its arrival, and the state after each cycle, by step."""

    config: Settings
    acknowledged: Counter[str] = field(default_factory=Counter)
    messages: list[Message] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)

    def send(self, *batches: list[story.Event]) -> None:
        """Send batches of events, and take down what has arrived in Kafka, by partition and offset."""
        for batch in batches:
            receipt = produce(batch, TOPICS, bootstrap=self.config.kafka_bootstrap)
            assert not receipt.failed
            self.acknowledged.update(receipt.acknowledged)
        self.messages += _arrived(self.config, self.messages)

    def look(self, step: int) -> None:
        """Take down what the tables hold after the cycle of a step."""
        with (
            stored.connected(self.config, "realtime") as realtime,
            stored.connected(self.config, "warehouse") as loaded,
        ):
            cuts = stored.rows(loaded, "select * from ops.cuts order by cut_id")
            runs = stored.rows(loaded, "select * from ops.job_runs order by started_at")
            found = {name: stored.read(realtime, name) for name in stored.REALTIME}
            found |= {name: stored.read(loaded, name) for name in stored.WAREHOUSE}
        self.states[step] = State(cuts, len(self.messages), {run["job"]: run for run in runs}, found)

    def good(self, arrived: int | None = None) -> Iterator[tuple[Message, dict[str, Any]]]:
        """Each message that isn't dead, with its event."""
        for message in self.messages[:arrived]:
            if message.value not in story.DEAD:
                yield message, json.loads(message.value)

    def events(self, arrived: int | None = None) -> dict[str, list[dict[str, Any]]]:
        """The good events among the messages, the first of each id, with the ledger batch that stored each."""
        good: dict[str, list[dict[str, Any]]] = {table: [] for table in TOPICS}
        for message, event in self.good(arrived):
            good[message.table].append({"event": event})
        with stored.connected(self.config, "realtime") as realtime:
            batch = {
                table: {
                    row[key]: row["ingest_batch_id"]
                    for row in stored.rows(realtime, f"select {key}, ingest_batch_id from {table}")
                }
                for table, key in ID.items()
            }
        return {
            table: [row | {"batch": batch[table][row["event"][ID[table]]]} for row in first]
            for table, first in first_of_each(good).items()
        }

    def expected(self, step: int) -> dict[str, pd.DataFrame]:
        """What the tables had to hold after the cycle of a step, computed from the messages."""
        state = self.states[step]
        return expected(self.events(state.arrived), state.cuts)


def tell(config: Settings, schedule: Schedule) -> Line:
    """Send the story step by step, drain each step, and run a cycle where the story has a cut."""
    line = Line(config)
    for step, batches in story.steps():
        line.send(*batches)
        if step not in story.CUTS:
            schedule("run", "stream", *story.PACE.get(step, []))
            continue
        day = [f"--run-date={story.CUTS[step]}"] if story.CUTS[step] else []
        schedule("run", "stream", "etl" if step in story.ETL_ONLY else "batch", *day)
        line.look(step)
    return line


def _arrived(config: Settings, messages: list[Message]) -> list[Message]:
    """The messages that Kafka holds and that aren't known yet, in the order of table, partition and offset."""
    counts = Counter((message.table, message.partition) for message in messages)
    found = []
    with closing(KafkaConsumer(bootstrap_servers=config.kafka_bootstrap, enable_auto_commit=False)) as consumer:
        places = {
            TopicPartition(topic, partition): table
            for table, topic in TOPICS.items()
            for partition in consumer.partitions_for_topic(topic)
        }
        consumer.assign(list(places))
        for place, table in places.items():
            consumer.seek(place, counts[table, place.partition])
        ends = consumer.end_offsets(list(places))
        while any(consumer.position(place) < end for place, end in ends.items()):
            for place, records in consumer.poll(timeout_ms=500).items():
                found += [Message(places[place], place.partition, record.offset, record.value) for record in records]
    return sorted(found, key=lambda message: (message.table, message.partition, message.offset))
