"""A batch as columns: the typed decoder and the rules agree, and typical messages need no second look."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CART, EXAMPLES, NOW, ORDER, VIEW, json_values, lines, raw, texts, valid_messages

from generators.model import Scenario, simulate
from lib.ingest.columnar import PLACE, Batch, decode_batch
from lib.ingest.decode import Dead, decode
from lib.schemas import CART_EVENTS, CONTRACTS, PRODUCT_VIEW_EVENTS, TRANSACTIONS, Contract, Field

ADDED = (Field("class", "string"), Field("is_gift", "boolean"), Field("weight", "numeric"), Field("ref_id", "string"))


def evolved(contract: Contract) -> Contract:
    """The contract with columns that were added."""
    return replace(contract, added=ADDED)


def by_the_rules(contract: Contract, payloads: list[bytes]) -> Batch:
    """The batch, of which each message took the second look."""
    looked = {place: decode(contract, payload, NOW) for place, payload in enumerate(payloads)}
    dead = {place: found for place, found in looked.items() if isinstance(found, Dead)}
    events = {place: found for place, found in looked.items() if not isinstance(found, Dead)}
    return Batch(decode_batch(contract, [], NOW).typical, events, dead)


def comparable(contract: Contract, batch: Batch) -> list[dict[str, Any]]:
    """The rows of a batch, numbers and JSON as values."""
    rows = batch.rows(contract).to_pylist()
    for row in rows:
        for field in (*contract.fields, *contract.added):
            value = row[field.column]
            if field.kind in ("money", "numeric"):
                row[field.column] = None if value is None else Decimal(value)
            elif field.kind == "lines":
                row[field.column] = json.loads(value, parse_float=Decimal, parse_int=Decimal)
        row["extra"] = row["extra"] and json.loads(row["extra"], parse_float=Decimal, parse_int=Decimal)
    return rows


def row(contract: Contract, payload: bytes) -> dict[str, Any]:
    """The one row of a message that needs no second look."""
    batch = decode_batch(contract, [payload], NOW)
    assert not batch.odd and not batch.dead
    [found] = comparable(contract, batch)
    return found


@pytest.mark.parametrize("table", CONTRACTS)
@pytest.mark.parametrize("change", [lambda contract: contract, evolved], ids=["declared", "evolved"])
def test_typical_messages_need_no_second_look(table: str, change: Any) -> None:
    contract = change(CONTRACTS[table])
    start = NOW - timedelta(days=9)
    made = simulate(Scenario(start=start, history=timedelta(days=8), events=2000))
    batch = decode_batch(contract, [event.value for event in made if event.table == table], NOW)
    assert len(batch.typical) >= 150
    assert not batch.odd and not batch.dead
    row(contract, raw(EXAMPLES[table]))


def test_events_that_carry_added_columns_need_no_second_look() -> None:
    contract = evolved(CART_EVENTS)
    carried = {"class": "é" * 500, "is_gift": True, "weight": 0, "ref_id": ""}
    found = row(contract, raw(CART | carried, weight="1.10"))
    assert {name: found[name] for name in carried} == carried | {"weight": Decimal("1.10")}
    assert found["extra"] is None
    null = row(contract, raw(CART | dict.fromkeys(carried)))
    assert {name: null[name] for name in (*carried, "extra")} == dict.fromkeys((*carried, "extra"))


def test_a_value_that_contradicts_an_added_column_stays_in_extra() -> None:
    contract = evolved(CART_EVENTS)
    contrary = {"class": 1, "is_gift": "yes", "weight": True, "ref_id": ["a"]}
    [found] = comparable(contract, decode_batch(contract, [raw(CART | contrary | {"more": None})], NOW))
    assert found["extra"] == contrary | {"more": None}
    assert {found[name] for name in ("class", "is_gift", "weight", "ref_id")} == {None}


def test_columns_that_were_added_after_decoding_are_filled_from_the_other_fields() -> None:
    batch = decode_batch(CART_EVENTS, [raw(CART), raw(CART | {"weight": 2, "x": 1}), raw(CART | {"weight": "2"})], NOW)
    found = [(one[PLACE], one["weight"], one["extra"]) for one in comparable(evolved(CART_EVENTS), batch)]
    assert found == [(0, None, None), (1, 2, {"x": 1}), (2, None, {"weight": "2"})]


def test_rows_keep_the_order_of_their_messages_and_the_dead_are_left_out() -> None:
    second_look, dead = raw(VIEW | {"more": 1}), raw(VIEW | {"user_id": 1})
    payloads = [second_look, raw(VIEW), None, dead, raw(VIEW), second_look, raw(VIEW, timestamp='"2025-12-07"')]
    batch = decode_batch(PRODUCT_VIEW_EVENTS, payloads, NOW)
    assert [one[PLACE] for one in comparable(PRODUCT_VIEW_EVENTS, batch)] == [0, 1, 4, 5]
    assert {place: why.reason for place, why in batch.dead.items()} == {2: "not_json", 3: "wrong_type", 6: "wrong_type"}


def test_a_batch_without_events_has_no_rows_but_its_columns() -> None:
    for payloads in ([], [b"dead"]):
        rows = decode_batch(TRANSACTIONS, payloads, NOW).rows(TRANSACTIONS)
        assert (len(rows), rows.column_names) == (0, [PLACE, *TRANSACTIONS.columns, "extra"])


ISO = ["2025-12-07T04:15:30.123Z", "2025-12-07T04:15:30+01:00", "2025-12-07T04:15Z", "2025-12-07 04:15:30.5-0800"]
ODD_ISO = [
    *(
        "2025-12-07T04:15:30",
        "20251207T041530Z",
        "2025-12-07T23:59:59.9999999Z",
        "2025-12-07T04Z",
        "2025-12-07t04:15:30Z",
    ),
    *("2025-12-07", "2025-12-07Z", "2025-12-07+01:00", "2025-W49-7", "2025-12-07T24:00:00Z", "2025-12-07T04:15:30 Z"),
    *("2000-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00+00:01", "2026-11-23T12:05:00Z"),
    *("2026-11-23T12:05:00.000001Z", "9999-12-31T23:59:59-05:00", "0000-01-01T00:00:00Z", "", "yesterday", "1e9"),
]


@given(
    st.lists(st.sampled_from(ISO), max_size=3),
    st.sampled_from(ODD_ISO) | texts,
    st.lists(st.sampled_from(ISO), max_size=3),
)
def test_an_odd_time_is_judged_by_the_rules_whatever_its_neighbours(
    before: list[str], odd: str, after: list[str]
) -> None:
    payloads = [raw(VIEW | {"timestamp": text}) for text in (*before, odd, *after)]
    assert_agree(PRODUCT_VIEW_EVENTS, payloads)


@given(
    st.datetimes(datetime(1999, 12, 31), datetime(2026, 11, 24)),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    st.sampled_from(["Z", "+00:00", "-08:00", "+05:30", "+0530", ""]),
)
def test_times_are_the_same_instants_by_both_ways(time: datetime, digits: str, offset: str) -> None:
    assert_agree(PRODUCT_VIEW_EVENTS, [raw(VIEW | {"timestamp": time.isoformat(timespec=digits) + offset})])


def assert_agree(contract: Contract, payloads: list[bytes]) -> Batch:
    """Check that a batch has the rows and the dead that the rules say."""
    batch, right = decode_batch(contract, payloads, NOW), by_the_rules(contract, payloads)
    assert batch.dead == right.dead
    assert comparable(contract, batch) == comparable(contract, right)
    return batch


ODD_NUMBERS = [
    *(
        "-0",
        "-0.0",
        "0",
        "1E2",
        "-1",
        "-1e-400",
        "2e-5",
        "1.10",
        "2.0",
        "1e13",
        "1e14",
        "1e16",
        "1e308",
        "1e400",
        "-1e400",
    ),
    *("9999999999999999.99", "9999999999999999.995", "99999999999999.99995", "1e-99999999999999999999999"),
    *("9" * 25, "9" * 400, "9" * 5000, str(2**31 - 1), str(2**31)),
]
ODD_JSON = [
    *ODD_NUMBERS,
    *(
        "null",
        "true",
        "false",
        '""',
        '"2"',
        '"x"',
        '"view"',
        json.dumps("x" * 101),
        "[]",
        "{}",
        "[1]",
        '{"a": 1}',
        "NaN",
    ),
    *(
        r'"\u0000"',
        r'"\ud800"',
        r'"\ud83d\ude00"',
        r'"\\u0000"',
        '"\x01"',
        '"\ud800"',
        "[" * 120 + "]" * 120,
        "nul",
        '"',
    ),
    *(json.dumps(text) for text in ISO + ODD_ISO),
    *(lines(price=number) for number in ODD_NUMBERS),
    *(lines(quantity=number) for number in ("0", "-1", "2.0", str(2**31), '"2"', "true")),
    *(lines(product_id=text) for text in ('""', "null", "1", json.dumps("x" * 101), r'"\u0000"', r'"\ud800"')),
    *(
        lines(category="1"),
        lines(category="null"),
        lines(more="1"),
        f"[{lines()[1:-1]}, null]",
        f"[{lines()[1:-1]}, {{}}]",
    ),
]


@pytest.mark.parametrize("table", CONTRACTS)
@pytest.mark.parametrize("change", [lambda contract: contract, evolved], ids=["declared", "evolved"])
def test_both_ways_agree_on_each_odd_value_in_each_field(table: str, change: Any) -> None:
    contract, example = change(CONTRACTS[table]), EXAMPLES[table]
    for name in [*(field.name for field in (*contract.fields, *ADDED)), "unknown"]:
        payloads = [raw(example, **{name: value}) for value in ODD_JSON]
        payloads += [payload.replace(b"2025-12", b"\xff025-12") for payload in payloads[:1]]
        for payload in payloads:
            assert_agree(contract, [payload])
        assert_agree(contract, payloads)


odd_json = json_values.map(json.dumps) | st.sampled_from(ODD_JSON)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Contract, list[bytes]]:
    """A contract with or without added columns, and messages in which any field may hold anything."""
    contract, first = draw(valid_messages())
    contract = draw(st.sampled_from([contract, evolved(contract)]))
    names = [field.name for field in (*contract.fields, *ADDED)]
    payloads = [raw({}, **first)]
    for _ in range(draw(st.integers(0, 3))):
        changes = draw(st.dictionaries(st.sampled_from([*names, "unknown"]), odd_json, max_size=2))
        payload = raw({}, **(first | changes))
        if draw(st.booleans()):
            again = draw(st.sampled_from(names))
            payload = payload[:-1] + f', "{again}": {draw(odd_json)}}}'.encode("utf-8", "surrogatepass")
        payloads.append(payload)
    return contract, payloads


@given(batches())
def test_typed_and_untyped_decoding_agree_on_anything(batch: tuple[Contract, list[bytes]]) -> None:
    assert_agree(*batch)


@given(valid_messages(), st.integers(0), st.integers(0, 8), st.binary(max_size=8) | st.text(max_size=4).map(str.encode))
def test_they_agree_on_any_mutation_of_a_message(
    message: tuple[Contract, dict[str, str]], place: int, cut: int, put: bytes
) -> None:
    contract, fields = message
    payload = raw({}, **fields)
    place %= len(payload)
    assert_agree(contract, [payload[:place] + put + payload[place + cut :], payload])


@pytest.mark.parametrize(
    "time", ["20:13:035Z", "20:13:03 Z", "20:13:03.Z", "20:13:03x+01:00", "20:13:03 +01:00", "20:13Zx"]
)
def test_a_time_with_something_in_it_that_is_no_time_is_dead(time: str) -> None:
    batch = decode_batch(CART_EVENTS, [raw(CART | {"timestamp": f"2026-01-14T{time}"}), raw(CART)], NOW)
    assert (batch.dead[0].reason, len(batch.typical)) == ("wrong_type", 1)


@pytest.mark.parametrize(
    "time",
    [*("2026-01-14T20:13:03Z", "2026-01-14 20:13:03.5", "2026-01-14T20:13:03,123456789+05:30", "2026-01-14T20:13-08"),
     *("20260114T201303Z", "2026-W03-3T20:13:03", "2026W033T20", "2026-01-14T20:13:03.123456+0530")],
)  # fmt: skip
def test_a_time_in_any_form_of_iso_8601_is_stored(time: str) -> None:
    batch = decode_batch(CART_EVENTS, [raw(CART | {"timestamp": time})], NOW)
    assert not batch.dead


def test_free_and_dear_order_lines_are_stored_after_a_second_look() -> None:
    payloads = [raw(ORDER, products=lines(price=price)) for price in ("0", "-0.0", "999999.99", "1000000", "1e13")]
    assert set(assert_agree(TRANSACTIONS, payloads).odd) == {0, 1, 3, 4}


def test_an_event_is_as_old_as_the_clock_says() -> None:
    [found] = decode_batch(CART_EVENTS, [raw(CART | {"timestamp": NOW.isoformat()})], NOW).rows(CART_EVENTS).to_pylist()
    assert found["event_timestamp"].replace(tzinfo=UTC) == NOW
