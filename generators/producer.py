"""Events to Kafka: idempotent, acknowledged one by one, and counted exactly."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata

from generators.events import Event

MOST_IN_FLIGHT = 20_000
"""The most messages that wait for their acknowledgement, since kafka-python's own buffer has no limit."""
FIND_SECONDS = 5
STOP_SECONDS = 5
"""How long a stopped run waits for outstanding acknowledgements."""


class BrokerError(Exception):
    """Kafka can't take events; the message says why and what to do."""


@dataclass
class Delivery:
    """What became of the messages, per topic: each message is counted once, by its own future."""

    acknowledged: Counter[str]
    failed: Counter[str] = field(default_factory=Counter)
    error: str = ""
    """What the first failed message failed with."""

    def fail(self, topic: str, error: object) -> None:
        """Count a message that Kafka hasn't acknowledged, and keep the first error."""
        self.failed[topic] += 1
        self.error = self.error or str(error)


def produce(
    events: Iterable[Event], topics: dict[str, str], *, bootstrap: str, stop: threading.Event | None = None
) -> Delivery:
    """Send each event when its time has come, or at once if that is past; message i of a topic goes to partition i mod n.

    Parameters
    ----------
    events
        In order of their time.
    topics
        Topic of each table.
    bootstrap
        Kafka's `host:port`, several with commas.
    stop
        Once set, nothing more is sent; what is under way is waited for, and counted.

    Returns
    -------
    Delivery
        Every message sent is acknowledged or failed. The first failure ends the run.

    Raises
    ------
    BrokerError
        If no broker answers, or a topic is missing.
    """
    stop = stop or threading.Event()
    receipt = Delivery(Counter(dict.fromkeys(topics.values(), 0)))
    partitions = _partitions(list(topics.values()), bootstrap)
    in_flight: deque[tuple[str, FutureRecordMetadata]] = deque()
    sent: Counter[str] = Counter()
    with _producer(bootstrap) as producer:
        for event in events:
            delay = event.time_ms / 1000 - time.time()
            if (delay > 0 and stop.wait(delay)) or stop.is_set() or receipt.failed:
                break
            topic = topics[event.table]
            try:
                future = producer.send(topic, event.value, partition=sent[topic] % partitions[topic])
            except KafkaError as error:
                receipt.fail(topic, error)
                break
            sent[topic] += 1
            in_flight.append((topic, future))
            _settle(in_flight, receipt, stop, at_most=MOST_IN_FLIGHT)
        _settle(in_flight, receipt, stop, at_most=0)
    for topic, _ in in_flight:
        receipt.fail(topic, "no acknowledgement when the run was stopped")
    return receipt


def _settle(
    in_flight: deque[tuple[str, FutureRecordMetadata]], receipt: Delivery, stop: threading.Event, *, at_most: int
) -> None:
    """Count the oldest messages that are acknowledged or failed, and wait until at most `at_most` are left.

    Once `stop` is set, it waits for a few seconds only.
    """
    stopped = 0.0
    while in_flight and (in_flight[0][1].is_done or len(in_flight) > at_most):
        topic, future = in_flight[0]
        if future.succeeded():
            receipt.acknowledged[topic] += 1
            in_flight.popleft()
        elif future.failed():
            receipt.fail(topic, future.exception)
            in_flight.popleft()
        else:
            if stop.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped > STOP_SECONDS:
                    return
            with suppress(KafkaError):  # a failed one is counted in the next round
                future.get(timeout=0.1)


def _partitions(topics: list[str], bootstrap: str) -> dict[str, int]:
    """Number of partitions of each topic."""
    try:
        client = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), bootstrap_timeout_ms=FIND_SECONDS * 1000)
    except (KafkaError, ValueError) as error:
        raise BrokerError(f"no Kafka broker answers at {bootstrap}: start the stack with `make up`") from error
    try:
        found = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics(topics)}
    except KafkaError as error:
        raise BrokerError(f"Kafka at {bootstrap} doesn't tell its topics ({error}): see `make status`") from error
    finally:
        client.close()
    if missing := [topic for topic in topics if not found.get(topic)]:
        raise BrokerError(f"Kafka at {bootstrap} has no topic {', '.join(missing)}: `make up` creates them")
    return found


@contextmanager
def _producer(bootstrap: str) -> Iterator[KafkaProducer]:
    """A producer set for throughput. kafka-python computes checksums in Python, over compressed bytes, so gzip saves time."""
    try:
        producer = KafkaProducer(
            bootstrap_servers=bootstrap.split(","),
            bootstrap_timeout_ms=FIND_SECONDS * 1000,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            compression_type="gzip",
            batch_size=256 * 1024,
            linger_ms=5,
            reconnect_backoff_max_ms=1000,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise BrokerError(f"no Kafka broker answers at {bootstrap}: start the stack with `make up`") from error
    try:
        yield producer
    finally:
        try:
            producer.close(timeout=1)
        except KafkaTimeoutError:  # unsent messages are left, and its thread is still there: end that, then close again
            producer._sender.force_close()
            producer._sender.join(timeout=1)
            producer.close(timeout=1)
