"""What a stored event has to hold, field by field."""

from decimal import Decimal
from typing import Any

from tests.fuzz.rules import Verdict

OWN = ("kafka_partition", "kafka_offset", "ingest_batch_id", "created_at", "extra")


def differences(table: str, verdict: Verdict, row: dict[str, Any]) -> str:
    """How a stored row differs from its message; empty when it doesn't. Numbers of the row are Decimal or int."""
    assert verdict.event is not None and verdict.others is not None
    found = []
    rest = {name: value for name, value in row.items() if name not in OWN}
    for name, value in verdict.event.items():
        column = "event_timestamp" if name == "timestamp" else name
        there = rest.pop(column)
        if name == "products":
            value = [line["whole"] for line in value]
        elif isinstance(value, Decimal) and there is not None:
            there = there.quantize(value, "ROUND_HALF_UP") if there.adjusted() < 17 else there
        if not equal(there, value):
            found.append(f"{column} is {there!r:.200}, not {value!r:.200}")
    kept = {name: value for name, value in rest.items() if value is not None}
    extra = row["extra"] or {}
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
