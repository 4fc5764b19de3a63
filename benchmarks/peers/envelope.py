"""Events with their schema in each message, which Debezium's sink needs to know the columns' types."""

import json

import msgspec

from lib.schemas import CONTRACTS, Contract, Field

TYPES: dict[str, dict[str, object]] = {
    "text": {"type": "string"},
    "whole": {"type": "int32"},
    "money": {"type": "double"},
    "time": {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "version": 1},
    "lines": {"type": "string", "name": "io.debezium.data.Json", "version": 1},
}
"""Kafka Connect's type of each kind of field."""


def enveloped(table: str, value: bytes) -> bytes:
    """The message of an event of a table; its bytes stay, but order lines become one JSON text, as a column has them."""
    if table == "transactions":
        event = msgspec.json.decode(value)
        event["products"] = json.dumps(event["products"])
        value = msgspec.json.encode(event)
    return _PREFIXES[table] + value + b"}"


def _prefix(contract: Contract) -> bytes:
    schema = {"type": "struct", "optional": False, "fields": [_field(field) for field in contract.fields]}
    return b'{"schema":' + msgspec.json.encode(schema) + b',"payload":'


def _field(field: Field) -> dict[str, object]:
    return {"field": field.name, "optional": not field.required, **TYPES[field.kind]}


_PREFIXES = {table: _prefix(contract) for table, contract in CONTRACTS.items()}
