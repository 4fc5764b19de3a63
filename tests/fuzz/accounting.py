"""What became of every message: stored as it says, a duplicate of a stored one, or a dead letter; and the facts that follow.

Computed from what Kafka holds, with the rules of `tests.fuzz.rules` and the tables of `tests.oracle`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import Any

import psycopg2.extras
import stored

from tests.fuzz.rules import ID, TIME, Verdict, judge

Place = tuple[int, int]
"""Partition and offset."""

MOST = 10
"""Failures that are told in full."""


@dataclass(frozen=True)
class Message:
    """A message as Kafka holds it."""

    table: str
    place: Place
    value: bytes | None

    def __str__(self) -> str:
        return f"{self.table} {self.place[0]}/{self.place[1]}: {self.value!r:.1500}"


@dataclass
class Account:
    """What is stored, by table; each row once. `events` are in the form that the oracle reads."""

    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in ID})
    ids: dict[str, set[str]] = field(default_factory=lambda: {table: set() for table in ID})
    seen: dict[str, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(ID, (0, 0)))
    """Last batch and last dead letter that have been looked at."""
    fates: Counter[str] = field(default_factory=Counter)

    def take(
        self, connection: stored.Connection, messages: Iterable[Message], earliest: datetime, latest: datetime
    ) -> list[str]:
        """Account for the messages since the last time, decoded between two instants; what is wrong, a line each."""
        of_table: dict[str, list[Message]] = {table: [] for table in ID}
        for message in messages:
            of_table[message.table].append(message)
        return [
            failure
            for table, sent in of_table.items()
            for failure in self._take(connection, table, sent, earliest, latest)
        ]

    def _take(
        self, connection: stored.Connection, table: str, sent: list[Message], earliest: datetime, latest: datetime
    ) -> list[str]:
        rows, added = self._rows(connection, table)
        dead = self._dead(connection, table)
        self.ids[table] |= {row[ID[table]] for row in rows.values()}
        failures = []
        for message in sent:
            row, letter = rows.pop(message.place, None), dead.pop(message.place, None)
            verdict = judge(table, message.value, earliest, latest)
            wrong = self._wrong(table, message, verdict, row, letter, added)
            if wrong:
                failures.append(f"{message}\n    {wrong}")
            if row is not None and verdict.event is not None:
                self.events[table].append(_for_oracle(table, verdict.event, row["ingest_batch_id"]))
        failures += [f"{table} {place} is stored, but nobody sent it" for place in rows]
        failures += [f"{table} {place} is a dead letter, but nobody sent it" for place in dead]
        return failures

    def _wrong(
        self,
        table: str,
        message: Message,
        verdict: Verdict,
        row: dict[str, Any] | None,
        letter: dict[str, Any] | None,
        added: set[str],
    ) -> str:
        """What is wrong with a message's fate; empty when nothing is."""
        if row is not None and letter is not None:
            return "is stored, and a dead letter"
        if letter is not None:
            self.fates["dead"] += 1
            payload = None if letter["payload"] is None else bytes(letter["payload"])
            if payload != message.value:
                return "is a dead letter with other bytes"
            return f"is dead: {letter['reason']}, {letter['detail']}" if verdict.accept else ""
        if verdict.accept is False or verdict.event is None:
            return f"isn't dead: {verdict.why}"
        if row is not None:
            self.fates["stored"] += 1
            return differences(table, verdict, row, added)
        if verdict.event[ID[table]] not in self.ids[table]:
            return "is lost"
        self.fates["duplicate"] += 1
        return ""

    def _rows(self, connection: stored.Connection, table: str) -> tuple[dict[Place, dict[str, Any]], set[str]]:
        """The new rows by their place, and the names of the columns that were added."""
        exact = partial(json.loads, parse_float=Decimal, parse_int=Decimal)
        psycopg2.extras.register_default_jsonb(connection, loads=exact)
        added = stored.rows(connection, "select column_name from ops.schema_changes where source_table = %s", table)
        last, letter = self.seen[table]
        rows = stored.rows(connection, f"select * from {table} where ingest_batch_id > %s", last)
        (head,) = stored.rows(connection, "select last_batch from ops.ingest_heads where source_table = %s", table)
        self.seen[table] = head["last_batch"], letter
        found = {(row["kafka_partition"], row["kafka_offset"]): row for row in rows}
        assert len(found) == len(rows), "two rows of one message"
        return found, {row["column_name"] for row in added}

    def _dead(self, connection: stored.Connection, table: str) -> dict[Place, dict[str, Any]]:
        """The new dead letters by their place."""
        batch, last = self.seen[table]
        letters = stored.rows(
            connection, "select * from ops.dead_letters where source_table = %s and dead_letter_id > %s", table, last
        )
        self.seen[table] = batch, max((letter["dead_letter_id"] for letter in letters), default=last)
        return {(letter["kafka_partition"], letter["kafka_offset"]): letter for letter in letters}


def _for_oracle(table: str, event: Mapping[str, Any], batch: int) -> dict[str, Any]:
    told = dict(event) | {TIME[table]: event[TIME[table]].isoformat()}
    if "products" in told:
        told["products"] = [line["known"] for line in event["products"]]
    return {"event": told, "batch": batch}


# --- a row


def differences(table: str, verdict: Verdict, row: Mapping[str, Any], added: Iterable[str]) -> str:
    """How a stored row differs from its message; empty when it doesn't. Numbers of the row are Decimal or int.

    `added` are the columns for fields that nobody has declared.
    """
    assert verdict.event is not None and verdict.others is not None
    found = []
    for name, value in verdict.event.items():
        column = "event_timestamp" if name == "timestamp" else name
        there = row[column]
        if name == "products":
            value = [line["whole"] for line in value]
        elif isinstance(value, Decimal) and there is not None:
            there = there.quantize(value, ROUND_HALF_UP)
        if not equal(there, value):
            found.append(f"{column} is {there!r:.200}, not {value!r:.200}")
    extra = row["extra"] or {}
    kept = {name: row[name] for name in added if row[name] is not None}
    if both := kept.keys() & {name for name, value in extra.items() if value is not None}:
        found.append(f"{sorted(both)} are both columns and in extra")
    others = {name: value for name, value in verdict.others.items() if value is not None}
    for name in others.keys() | kept.keys() | extra.keys():
        there = kept.get(name, extra.get(name))
        if not equal(there, others.get(name)):
            found.append(f"{name!r:.80} is {there!r:.200}, not {others.get(name)!r:.200}")
    return "; ".join(found)


def equal(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same: true isn't 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return bool(one == other)
