"""A steady load of live events, in a process of its own: clients of a broker that is killed stay out of the tests' process."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from generators.events import Event
from generators.producer import produce
from lib.ledger.offsets import backlog
from lib.schemas import CONTRACTS
from lib.settings import ROOT, TOPICS, Settings

TABLES = [*["product_view_events"] * 6, *["cart_events"] * 3, "transactions"]
KEYS = {"transactions": "transaction_id", "product_view_events": "event_id", "cart_events": "event_id"}
DEAD_EVERY, AGAIN_EVERY = 41, 23  # of every table some


@dataclass
class Sent:
    """What was sent and acknowledged, filled in when the load has ended: ids by table."""

    good: dict[str, list[str]] = field(default_factory=dict)
    dead: dict[str, list[str]] = field(default_factory=dict)
    """Ids of messages that can't be stored."""
    again: dict[str, int] = field(default_factory=dict)
    """How many good messages were sent a second time."""

    @property
    def messages(self) -> int:
        """Messages in all."""
        return sum(map(len, [*self.good.values(), *self.dead.values()])) + sum(self.again.values())


@contextmanager
def load(config: Settings, *, rate: float, name: str) -> Iterator[Sent]:
    """Send `rate` events a second for as long as the block lasts; each of them is acknowledged, or that fails the test."""
    sent = Sent()
    command = [sys.executable, __file__, config.kafka_bootstrap, str(rate), name]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield sent
    finally:
        process.terminate()
        output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    sent.__dict__ |= json.loads(output)


def is_level(table: str) -> bool:
    """Whether everything that Kafka holds for a table is stored."""
    return bool(backlog(CONTRACTS[table])["lag"].sum() == 0)


def _events(rate: float, name: str, stop: threading.Event, sent: Sent) -> Iterator[Event]:
    begin = time.time()
    last: dict[str, Event] = {}
    number = 0
    while not stop.is_set():
        moment = begin + number / rate
        table = TABLES[number % len(TABLES)]
        if number % AGAIN_EVERY == 0 and table in last:
            yield last[table]._replace(time_ms=int(moment * 1000))
            sent.again[table] = sent.again.get(table, 0) + 1
        else:
            key = f"{name}-{number:07}"
            is_dead = number % DEAD_EVERY == 0
            event = Event(table, int(moment * 1000), _payload(table, key, moment, is_dead))
            yield event
            (sent.dead if is_dead else sent.good).setdefault(table, []).append(key)
            if not is_dead:
                last[table] = event
        number += 1


def _payload(table: str, key: str, moment: float, is_dead: bool) -> bytes:
    at = datetime.fromtimestamp(moment, UTC).isoformat()
    user = 7 if is_dead else f"user-{key[-2:]}"
    if table == "transactions":
        line = {"product_id": "p", "quantity": 2, "price": 1.25}
        event = {"products": [line], "total_amount": 2.5, "transaction_timestamp": at}
    else:
        event = {"event_type": "view" if table == "product_view_events" else "add", "product_id": "p", "timestamp": at}
    return json.dumps({KEYS[table]: key, "user_id": user} | event).encode()


def main() -> None:
    """Send until SIGTERM, then print what was acknowledged as JSON."""
    bootstrap, rate, name = sys.argv[1:]
    stop, sent = threading.Event(), Sent()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # `stop` ends the events, not the sending: all that were given out are sent and waited for
    receipt = produce(_events(float(rate), name, stop, sent), TOPICS, bootstrap=bootstrap)
    if receipt.failed:
        sys.exit(f"not acknowledged: {Counter(receipt.failed)}, {receipt.error}")
    assert sum(receipt.acknowledged.values()) == sent.messages
    print(json.dumps(sent.__dict__))


if __name__ == "__main__":
    main()
