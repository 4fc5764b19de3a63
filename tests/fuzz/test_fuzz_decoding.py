"""Messages of the fuzzer through the decoder alone, against a second one that was written from the pages."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from lib.ingest.columnar import decode_batch
from lib.schemas import CONTRACTS, Contract, Field, Kind
from tests.fuzz.accounting import differences
from tests.fuzz.corpus import CASES, Case
from tests.fuzz.events import Message, messages
from tests.fuzz.identifiers import harvest
from tests.fuzz.rules import judge

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AT_ONCE = 500
SEEDS = (1, 2, 3)
COUNT = 4000
LONG = (range(100, 140), 20_000)


def failures(batch: list[Message], contracts: dict[str, Contract], seed: int) -> list[str]:
    """What is decoded in another way than the rules say, a line for each message."""
    found = []
    for table, contract in contracts.items():
        payloads = [payload for name, payload in batch if name == table]
        added = [field.name for field in contract.added]
        decoded = decode_batch(contract, payloads, NOW)
        events = decoded.rows(contract)
        index = events.column_names[0]  # the index of the message; whatever its name, no field has it
        rows = {row.pop(index): row for row in events.to_pylist()}
        for place, payload in enumerate(payloads):
            verdict = judge(table, payload, NOW, NOW)
            said = f"seed {seed}, {table}: {payload!r:.700}"
            if (place in rows) == (place in decoded.dead):
                found.append(f"{said}\n  is lost, or stored and dead")
            elif verdict.accept is not None and (place in rows) != verdict.accept:
                why = decoded.dead.get(place, verdict.why)
                found.append(f"{said}\n  is {'stored' if place in rows else 'dead'}: {why}")
            elif place in rows and (wrong := differences(table, verdict, as_stored(contract, rows[place]), added)):
                found.append(f"{said}\n  {wrong}")
    return found


def as_stored(contract: Contract, row: dict[str, Any]) -> dict[str, Any]:
    """A row with numbers, instants and JSON as PostgreSQL would give them back."""
    found = dict(row)
    for field in (*contract.fields, *contract.added):
        value = row[field.column]
        if field.kind in ("money", "numeric"):
            found[field.column] = None if value is None else Decimal(value)
        elif field.kind == "lines":
            found[field.column] = json.loads(value, parse_float=Decimal, parse_int=Decimal)
        elif field.kind == "time":
            found[field.column] = value.replace(tzinfo=UTC)
    found["extra"] = row["extra"] and json.loads(row["extra"], parse_float=Decimal, parse_int=Decimal)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_is_decoded_as_the_rules_say(seed: int) -> None:
    _check(seed, COUNT)


def test_many_more_are(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("soak"):
        pytest.skip("with --soak")
    for seed in LONG[0]:
        _check(seed, LONG[1])


def _check(seed: int, count: int) -> None:
    made = list(messages(seed, count, NOW))
    for start in range(0, count, AT_ONCE):
        found = failures(made[start : start + AT_ONCE], CONTRACTS, seed)
        assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_once_failed_is_decoded_as_the_rules_say(case: Case) -> None:
    found = failures(list(case.messages), CONTRACTS, 0)
    assert not found, "\n".join(found)


VALUES: tuple[tuple[Kind, str], ...] = (("string", '"homepage"'), ("numeric", "12.50"), ("boolean", "true"))
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
TAKEN = {"kafka_partition", "kafka_offset", "ingest_batch_id", "created_at", "extra"}
"""Columns of the realtime tables that no field can have."""


@pytest.mark.parametrize("table", CONTRACTS)
def test_a_field_may_be_called_like_anything_of_ours(table: str) -> None:
    declared = CONTRACTS[table]
    names = [name for name in harvest() if name not in {field.name for field in declared.fields}]
    plain = next(
        value for name, value in messages(1, 200, NOW) if name == table and judge(name, value, NOW, NOW).accept
    )
    assert plain is not None
    for group in batched(names, 32):
        kinds = {name: VALUES[place % 3] for place, name in enumerate(group)}
        batch = [(table, plain.rstrip()[:-1] + f", {json.dumps(name)}: {kinds[name][1]}}}".encode()) for name in group]
        columns = [name for name in group if COLUMN.fullmatch(name) and name not in (*declared.columns, *TAKEN)]
        grown = replace(declared, added=tuple(Field(name, kinds[name][0]) for name in columns))
        for contract in (declared, grown):
            found = failures(batch, {table: contract}, 0)
            assert not found, "\n".join(found[:5])


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
