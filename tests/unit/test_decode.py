"""Decoding by the rules: what is accepted, what is dead and why, and that no message raises."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CART, EXAMPLES, LINE, NOW, ORDER, VIEW, json_values, lines, raw, unknown_names, valid_messages

from lib.ingest.decode import LARGEST, Dead, Event, decode, to_json
from lib.schemas import AGAINST_THE_RULES, CART_EVENTS, CONTRACTS, PRODUCT_VIEW_EVENTS, TRANSACTIONS, Contract
from lib.settings import TOPICS


def event(contract: Contract, payload: bytes) -> Event:
    """The event, which has to be one."""
    decoded = decode(contract, payload, NOW)
    assert isinstance(decoded, Event), decoded
    return decoded


def columns(contract: Contract, payload: bytes) -> dict[str, Any]:
    """The event's values by column."""
    return dict(zip(contract.columns, event(contract, payload).values, strict=True))


def reason(contract: Contract, payload: bytes | None) -> str:
    """Why the message is dead, which it has to be."""
    decoded = decode(contract, payload, NOW)
    assert isinstance(decoded, Dead), decoded
    assert decoded.detail
    return decoded.reason


# --- what is accepted


def test_every_topic_has_its_contract() -> None:
    assert {table: contract.topic for table, contract in CONTRACTS.items()} == TOPICS


def test_the_example_of_a_transaction_is_accepted_as_it_stands() -> None:
    payload = b"""{
      "transaction_id": "uuid",
      "user_id": "user_123",
      "products": [{"product_id": "prod_456", "quantity": 2, "price": 29.99}],
      "total_amount": 59.98,
      "country": "USA",
      "transaction_timestamp": "2025-12-07T04:15:30.123Z"
    }"""
    row = columns(TRANSACTIONS, payload)
    assert json.loads(row.pop("products")) == [LINE]
    assert row == {
        "transaction_id": "uuid",
        "user_id": "user_123",
        "transaction_timestamp": datetime(2025, 12, 7, 4, 15, 30, 123000, tzinfo=UTC),
        "total_amount": Decimal("59.98"),
        "country": "USA",
    }
    assert event(TRANSACTIONS, payload).others == {}


def test_the_example_of_a_product_view_is_accepted_as_it_stands() -> None:
    payload = b"""{
      "event_id": "uuid",
      "event_type": "view",
      "user_id": "user_123",
      "product_id": "prod_456",
      "session_id": "session_789",
      "timestamp": "2025-12-07T04:15:30.123Z",
      "country": "USA"
    }"""
    assert columns(PRODUCT_VIEW_EVENTS, payload) == {
        "event_id": "uuid",
        "event_type": "view",
        "user_id": "user_123",
        "product_id": "prod_456",
        "session_id": "session_789",
        "event_timestamp": datetime(2025, 12, 7, 4, 15, 30, 123000, tzinfo=UTC),
        "country": "USA",
        "category": None,
        "view_duration": None,
    }


@pytest.mark.parametrize("kind", ["add", "remove", "update", "checkout"])
def test_each_kind_of_cart_event_is_accepted(kind: str) -> None:
    assert columns(CART_EVENTS, raw(CART | {"event_type": kind}))["event_type"] == kind


def test_what_no_declared_field_holds_is_kept() -> None:
    found = event(PRODUCT_VIEW_EVENTS, raw(VIEW, device='{"os": ["a", null]}', score="0.10", big=str(10**30)))
    assert found.others == {"device": {"os": ["a", None]}, "score": Decimal("0.10"), "big": 10**30}


def test_an_unknown_field_of_an_order_line_stays_in_the_line() -> None:
    line = LINE | {"category": "Books", "colour": "red"}
    assert json.loads(columns(TRANSACTIONS, raw(ORDER | {"products": [line]}))["products"]) == [line]


def test_optional_fields_may_be_absent_or_null() -> None:
    absent = {name: value for name, value in CART.items() if name not in ("session_id", "country", "quantity", "price")}
    null = CART | dict.fromkeys(("session_id", "country", "quantity", "price", "category"))
    assert event(CART_EVENTS, raw(absent)) == event(CART_EVENTS, raw(null))


def test_an_empty_optional_id_is_an_absent_one_and_an_empty_text_is_a_text() -> None:
    row = columns(CART_EVENTS, raw(CART | {"session_id": "", "country": ""}))
    assert (row["session_id"], row["country"]) == (None, "")


def test_of_a_key_that_occurs_twice_the_last_counts() -> None:
    typical = raw(VIEW)[:-1] + b', "user_id": "late", "view_duration": 1, "view_duration": 2}'
    assert columns(PRODUCT_VIEW_EVENTS, typical)["user_id"] == "late"
    assert columns(PRODUCT_VIEW_EVENTS, typical)["view_duration"] == 2
    corrected = raw(VIEW, view_duration='"no number"')[:-1] + b', "view_duration": 3, "x": 1, "x": 2}'
    assert columns(PRODUCT_VIEW_EVENTS, corrected)["view_duration"] == 3
    assert event(PRODUCT_VIEW_EVENTS, corrected).others == {"x": 2}
    spoiled = raw(VIEW, view_duration="3")[:-1] + b', "view_duration": "no number"}'
    assert reason(PRODUCT_VIEW_EVENTS, spoiled) == "wrong_type"


def test_texts_of_100_characters_are_accepted_whatever_the_characters() -> None:
    for text in ("x" * 100, "é" * 100, "😀" * 100, '"\\\n\r\t\x7f' * 16):
        assert columns(PRODUCT_VIEW_EVENTS, raw(VIEW | {"country": text}))["country"] == text
        unescaped = json.dumps(VIEW | {"country": text}, ensure_ascii=False).encode()
        assert columns(PRODUCT_VIEW_EVENTS, unescaped)["country"] == text


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2025-12-07T04:15:30.123Z", datetime(2025, 12, 7, 4, 15, 30, 123000, tzinfo=UTC)),
        ("2025-12-07T04:15:30+01:00", datetime(2025, 12, 7, 3, 15, 30, tzinfo=UTC)),
        ("2025-12-07T00:15:30+05:30", datetime(2025, 12, 6, 18, 45, 30, tzinfo=UTC)),
        ("2025-12-07T23:15:30-0800", datetime(2025, 12, 8, 7, 15, 30, tzinfo=UTC)),
        ("2025-12-07T04:15:30", datetime(2025, 12, 7, 4, 15, 30, tzinfo=UTC)),
        ("2025-12-07 04:15:30.5", datetime(2025, 12, 7, 4, 15, 30, 500000, tzinfo=UTC)),
        ("2025-12-07T04:15", datetime(2025, 12, 7, 4, 15, tzinfo=UTC)),
        ("20251207T041530Z", datetime(2025, 12, 7, 4, 15, 30, tzinfo=UTC)),
        # digits beyond microseconds never carry an event into the next day
        ("2025-12-07T23:59:59.9999999Z", datetime(2025, 12, 7, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=UTC)),
        ("1999-12-31T20:00:00-04:00", datetime(2000, 1, 1, tzinfo=UTC)),
        ("2026-11-23T12:05:00Z", NOW + timedelta(minutes=5)),
    ],
)
def test_times_with_and_without_offset_are_instants_in_utc(text: str, instant: datetime) -> None:
    for payload in (raw(VIEW | {"timestamp": text}), raw(VIEW | {"timestamp": text, "more": 1})):
        assert columns(PRODUCT_VIEW_EVENTS, payload)["event_timestamp"] == instant


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0"),
        ("59.98", "59.98"),
        ("1e3", "1000"),
        ("1234567890123456.78", "1234567890123456.78"),
        ("9999999999999999.99", "9999999999999999.99"),
        # a double would make 1.005 of it, and the database then 1.01
        ("1.00499999999999999999999", "1.00499999999999999999999"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ],
)
def test_amounts_are_exact(text: str, amount: str) -> None:
    for payload in (raw(ORDER, total_amount=text), raw(ORDER, total_amount=text, more="1")):
        assert columns(TRANSACTIONS, payload)["total_amount"] == Decimal(amount)


@pytest.mark.parametrize("price", ["99999999999999.9999", "12345678901234.5678", "0.00000000000000000000000000001"])
def test_prices_are_exact(price: str) -> None:
    assert columns(CART_EVENTS, raw(CART, price=price))["price"] == Decimal(price)
    [line] = json.loads(columns(TRANSACTIONS, raw(ORDER, products=lines(price=price)))["products"], parse_float=Decimal)
    assert line["price"] == Decimal(price)


# --- what is dead


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (None, "not_json"),
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"{} {}", "not_json"),
        (raw(VIEW) + b"\x00", "not_json"),
        (raw(VIEW) + b",", "not_json"),
        (raw(VIEW) + raw(VIEW), "not_json"),
        (b'{"a": 01}', "not_json"),
        (b"{'a': 1}", "not_json"),
        (raw(VIEW).replace(b"user_123", b"user\x00123"), "not_json"),
        (raw(VIEW).replace(b"user_123", b"user\n123"), "not_json"),
        (b"\xef\xbb\xbf" + raw(VIEW), "invalid_utf8"),
        (raw(VIEW).replace(b"user_123", b"user\xff123"), "invalid_utf8"),
        (raw(VIEW).replace(b"user_123", b"user\xed\xa0\x80"), "invalid_utf8"),
        (raw(VIEW, x='"?"').replace(b"?", b"\xc3"), "invalid_utf8"),
        (raw(VIEW).decode().encode("utf-16"), "invalid_utf8"),
        (b"null", "not_an_object"),
        (b"42", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"[" + raw(VIEW) + b"]", "not_an_object"),
    ],
)
def test_what_is_not_one_json_object_in_utf8_is_dead(payload: bytes | None, why: str) -> None:
    assert reason(PRODUCT_VIEW_EVENTS, payload) == why


@pytest.mark.parametrize("field", ["country", "view_duration", "unknown"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (r'"a\u0000b"', "nul_character"),
        (r'["\u0000"]', "nul_character"),
        (r'{"\u0000": 1}', "nul_character"),
        (r'"\ud800"', "lone_surrogate"),
        (r'{"a": {"\udc00": 1}}', "lone_surrogate"),
        (r'"\ude00\ud83d"', "lone_surrogate"),
        ("NaN", "not_a_number"),
        ("[-Infinity]", "not_a_number"),
        ("1e400", "number_too_large"),
        ("[[-1e400]]", "number_too_large"),
        ("9" * 400, "number_too_large"),
        ("9" * 5000, "number_too_large"),
        ("1e-99999999999999999999999", "number_too_large"),
        ("[" * 100 + "]" * 100, "too_deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "too_deep"),
        ("[" * 100_000 + "]" * 100_000, "too_deep"),
    ],
)
def test_what_no_value_may_carry_is_dead_in_known_and_unknown_fields(field: str, value: str, why: str) -> None:
    assert reason(PRODUCT_VIEW_EVENTS, raw(VIEW, **{field: value})) == why


@pytest.mark.parametrize(("key", "why"), [(r"a\u0000", "nul_character"), (r"\ud800", "lone_surrogate")])
def test_what_no_key_may_carry_is_dead(key: str, why: str) -> None:
    assert reason(PRODUCT_VIEW_EVENTS, raw(VIEW)[:-1] + f', "{key}": 1}}'.encode()) == why


@pytest.mark.parametrize(("value", "why"), [(r'"\u0000"', "nul_character"), (r'"\udfff"', "lone_surrogate")])
def test_poison_is_dead_also_where_a_later_value_replaces_it(value: str, why: str) -> None:
    assert reason(PRODUCT_VIEW_EVENTS, raw(VIEW, user_id=value)[:-1] + b', "user_id": "u"}') == why


def test_what_only_looks_like_a_nul_or_a_surrogate_is_accepted() -> None:
    row = columns(PRODUCT_VIEW_EVENTS, raw(VIEW, country=r'"\\u0000 \ud83d\ude00\uD83D\uDE00 \\ud800 \" \u00e9"'))
    assert row["country"] == '\\u0000 😀😀 \\ud800 " é'


def test_nesting_to_100_is_accepted() -> None:
    nested = "[" * 99 + "]" * 99
    assert event(PRODUCT_VIEW_EVENTS, raw(VIEW, x=nested)).others == {"x": json.loads(nested)}
    assert event(PRODUCT_VIEW_EVENTS, raw(VIEW, x='"' + "[" * 500 + '"', y=f"[{', '.join(['[]'] * 500)}]"))


@pytest.mark.parametrize(
    ("contract", "field"),
    [(contract, field.name) for contract in CONTRACTS.values() for field in contract.fields if field.required],
)
def test_a_required_field_that_is_missing_null_or_an_empty_id_is_dead(contract: Contract, field: str) -> None:
    document = EXAMPLES[contract.table]
    without = {name: value for name, value in document.items() if name != field}
    assert reason(contract, raw(without)) == "missing_field"
    assert reason(contract, raw(document | {field: None})) == "missing_field"
    if field.endswith("_id"):
        assert reason(contract, raw(document | {field: ""})) == "missing_field"


@pytest.mark.parametrize(
    ("contract", "field", "value"),
    [
        *((PRODUCT_VIEW_EVENTS, "user_id", value) for value in ("42", "true", "{}", "[]", "4.2")),
        *((PRODUCT_VIEW_EVENTS, "country", value) for value in ("42", '["USA"]', '{"a": 1}')),
        *((PRODUCT_VIEW_EVENTS, "view_duration", value) for value in ('"2"', "2.0", "1e2", "true", "[2]", '""')),
        *((CART_EVENTS, "quantity", value) for value in ('"2"', "2.0", "false")),
        *((CART_EVENTS, "price", value) for value in ('"2"', "true", "[2]", '"2.5"', '""')),
        *((TRANSACTIONS, "total_amount", value) for value in ('"59.98"', "false", "{}")),
        *((TRANSACTIONS, "products", value) for value in ('"x"', "{}", "1", "[1]", f"[{json.dumps(LINE)}, null]")),
        *(
            (PRODUCT_VIEW_EVENTS, "timestamp", value)
            for value in (
                *("1765080930", "1765080930123", "1765080930.5", '"1765080930"', '""', '"yesterday"', "true"),
                *('"2025-12-07"', '"20251207"', '"2025-W49-7"', '"2025-12-07T"', '"2025-13-07T00:00:00Z"'),
                *('"2025-12-07x04:15:30"', '"2025-12-07T04:15:30+24:00"', '"2025-12-07T25:00:00Z"', '"04:15:30"'),
            )
        ),
        *((TRANSACTIONS, "products", lines(product_id=value)) for value in ("1", "[]")),
        *((TRANSACTIONS, "products", lines(quantity=value)) for value in ('"2"', "2.0", "true")),
        *((TRANSACTIONS, "products", lines(price=value)) for value in ('"29.99"', "true")),
        (TRANSACTIONS, "products", lines(category="7")),
    ],
)
def test_a_value_of_another_type_is_dead_and_never_coerced(contract: Contract, field: str, value: str) -> None:
    assert reason(contract, raw(EXAMPLES[contract.table], **{field: value})) == "wrong_type"


@pytest.mark.parametrize(
    ("contract", "field", "value"),
    [
        (PRODUCT_VIEW_EVENTS, "event_type", '"click"'),
        (PRODUCT_VIEW_EVENTS, "event_type", '""'),
        (CART_EVENTS, "event_type", '"view"'),
        (PRODUCT_VIEW_EVENTS, "view_duration", "-1"),
        (PRODUCT_VIEW_EVENTS, "view_duration", str(2**31)),
        (PRODUCT_VIEW_EVENTS, "view_duration", str(2**70)),
        (TRANSACTIONS, "total_amount", "-0.01"),
        (TRANSACTIONS, "total_amount", "-1e-400"),
        (TRANSACTIONS, "total_amount", "1e16"),
        (TRANSACTIONS, "total_amount", "9999999999999999.995"),  # rounded, it is 10**16
        (CART_EVENTS, "price", "1e14"),
        (CART_EVENTS, "price", "99999999999999.99995"),
        (TRANSACTIONS, "products", lines(quantity="0")),
        (TRANSACTIONS, "products", lines(quantity="-1")),
        (TRANSACTIONS, "products", lines(quantity=str(2**31))),
        (TRANSACTIONS, "products", lines(price="-0.01")),
        (TRANSACTIONS, "products", lines(price="-1e-400")),
        (TRANSACTIONS, "products", lines(price="1e14")),
        (TRANSACTIONS, "products", lines(quantity="1000", price="1e13")),
    ],
)
def test_a_value_out_of_its_range_is_dead(contract: Contract, field: str, value: str) -> None:
    assert reason(contract, raw(EXAMPLES[contract.table], **{field: value})) == "out_of_range"


@pytest.mark.parametrize("part", ["product_id", "quantity", "price"])
def test_an_order_line_without_a_required_part_is_dead(part: str) -> None:
    assert reason(TRANSACTIONS, raw(ORDER, products=lines(**{part: "null"}))) == "missing_field"
    line = {name: value for name, value in LINE.items() if name != part}
    assert reason(TRANSACTIONS, raw(ORDER | {"products": [LINE, line]})) == "missing_field"


def test_an_order_without_lines_is_dead() -> None:
    assert reason(TRANSACTIONS, raw(ORDER | {"products": []})) == "missing_field"


@pytest.mark.parametrize("text", ["x" * 101, "😀" * 101])
def test_a_text_of_more_than_100_characters_is_dead(text: str) -> None:
    for field in ("event_id", "user_id", "session_id", "country", "category"):
        assert reason(PRODUCT_VIEW_EVENTS, raw(VIEW | {field: text})) == "text_too_long"
    for part in ("product_id", "category"):
        assert reason(TRANSACTIONS, raw(ORDER, products=lines(**{part: json.dumps(text)}))) == "text_too_long"
    assert event(PRODUCT_VIEW_EVENTS, raw(VIEW | {"unknown": text}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1999-12-31T23:59:59.999999Z", "too_old"),
        ("2000-01-01T00:00:00+00:01", "too_old"),
        ("0001-01-01T00:00:00+05:00", "too_old"),
        ("2026-11-23T12:05:00.000001Z", "in_the_future"),
        ("2026-11-23T13:05:00-12:00", "in_the_future"),
        ("9999-12-31T23:59:59-05:00", "in_the_future"),
    ],
)
def test_a_time_before_2000_or_more_than_five_minutes_ahead_is_dead(text: str, why: str) -> None:
    assert reason(PRODUCT_VIEW_EVENTS, raw(VIEW | {"timestamp": text})) == why


# --- properties


@given(valid_messages(), unknown_names, json_values)
def test_an_unknown_field_changes_no_other(message: tuple[Contract, dict[str, str]], name: str, value: Any) -> None:
    contract, fields = message
    more = event(contract, raw({name: value}, **fields))
    assert event(contract, raw({}, **fields)).values == more.values
    assert json.loads(to_json(more.others)) == {name: value}


@given(st.sampled_from(list(CONTRACTS.values())), st.binary())
def test_no_bytes_raise(contract: Contract, payload: bytes) -> None:
    assert isinstance(decode(contract, payload, NOW), Dead)


@given(valid_messages(), st.integers(0), st.integers(0, 8), st.binary(max_size=8) | st.text(max_size=4).map(str.encode))
def test_no_mutation_of_a_message_raises(
    message: tuple[Contract, dict[str, str]], place: int, cut: int, put: bytes
) -> None:
    contract, fields = message
    payload = raw({}, **fields)
    place %= len(payload)
    decoded = decode(contract, payload[:place] + put + payload[place + cut :], NOW)
    assert isinstance(decoded, Event) or decoded.reason in AGAINST_THE_RULES


@given(st.sampled_from(list(CONTRACTS.values())), json_values)
def test_no_json_raises(contract: Contract, value: Any) -> None:
    document = EXAMPLES[contract.table] | value if isinstance(value, dict) else value
    decoded = decode(contract, json.dumps(document).encode(), NOW)
    assert isinstance(decoded, Event) or decoded.reason in AGAINST_THE_RULES


def test_what_is_larger_than_a_message_may_be_is_dead_unread() -> None:
    assert reason(CART_EVENTS, b"[" * (LARGEST + 1)) == "too_large"


def test_every_reason_has_a_test_above() -> None:
    source = Path(decode.__code__.co_filename).read_text()
    assert set(re.findall(r'Refused\(\s*"(\w+)"', source)) == set(AGAINST_THE_RULES)
