"""Messages of the fuzzer through the decoder alone, against a second one that was written from the pages."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from lib.columns import decode_batch
from lib.schemas import CONTRACTS, Contract, Field
from tests.fuzz.corpus import CASES, Case
from tests.fuzz.events import Message, messages
from tests.fuzz.identifiers import harvest
from tests.fuzz.rules import ID, judge
from tests.fuzz.accounting import differences

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
        decoded = decode_batch(contract, payloads, NOW)
        rows = {row.pop("place"): row for row in decoded.rows(contract).to_pylist()}
        for place, payload in enumerate(payloads):
            verdict = judge(table, payload, NOW, NOW)
            said = f"seed {seed}, {table}: {payload!r:.700}"
            if (place in rows) == (place in decoded.dead):
                found.append(f"{said}\n  is lost, or stored and dead")
            elif verdict.accept is not None and (place in rows) != verdict.accept:
                why = decoded.dead[place] if place in decoded.dead else verdict.why
                found.append(f"{said}\n  is {'stored' if place in rows else 'dead'}: {why}")
            elif place in rows and (wrong := differences(table, verdict, as_stored(contract, rows[place]))):
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


@pytest.mark.parametrize("table", CONTRACTS)
@pytest.mark.parametrize("kind", ["string", "numeric", "boolean"])
def test_a_field_may_be_called_like_anything_of_ours(table: str, kind: Any) -> None:
    value = {"string": '"homepage"', "numeric": "12.50", "boolean": "true"}[kind]
    declared = CONTRACTS[table]
    names = [name for name in harvest() if name not in {field.name for field in declared.fields}]
    plain = next(payload for name, payload in messages(1, 200, NOW) if name == table and judge(name, payload, NOW, NOW).accept)
    assert plain is not None and ID[table].encode() in plain
    for name in names:
        payload = plain.rstrip()[:-1] + f", {json.dumps(name)}: {value}}}".encode()
        contracts = [declared]
        if name not in declared.columns and name.islower():
            contracts.append(replace(declared, added=(Field(name, kind), Field("x_other", "string"))))
        for contract in contracts:
            found = failures([(table, payload)], {table: contract}, 0)
            assert not found, f"{name}: {found}"
