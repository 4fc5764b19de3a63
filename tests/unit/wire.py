"""Messages for the tests of decoding: examples, their JSON, and strategies."""

import json
import string
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from lib.schemas import CONTRACTS, Contract

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

LINE = {"product_id": "prod_456", "quantity": 2, "price": 29.99}
ORDER = {
    "transaction_id": "t-1",
    "user_id": "user_123",
    "products": [LINE],
    "total_amount": 59.98,
    "country": "USA",
    "transaction_timestamp": "2025-12-07T04:15:30.123Z",
}
VIEW = {
    "event_id": "v-1",
    "event_type": "view",
    "user_id": "user_123",
    "product_id": "prod_456",
    "session_id": "session_789",
    "timestamp": "2025-12-07T04:15:30.123Z",
    "country": "USA",
}
CART = VIEW | {"event_id": "c-1", "event_type": "add", "quantity": 2, "price": 29.99}
EXAMPLES = {"transactions": ORDER, "product_view_events": VIEW, "cart_events": CART}


def raw(document: dict[str, Any], **fields: str) -> bytes:
    """The document's JSON with fields whose values are JSON as given."""
    members = {name: json.dumps(value) for name, value in document.items()} | fields
    text = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members.items()) + "}"
    return text.encode("utf-8", "surrogatepass")


def lines(**fields: str) -> str:
    """One order line with fields whose values are JSON as given."""
    return f"[{raw(LINE, **fields).decode()}]"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)
ids = texts.filter(bool)
prices = st.decimals(0, 10**13, places=4).map(str)
times = st.datetimes(datetime(2000, 1, 2), datetime(2026, 11, 22)).flatmap(
    lambda time: st.sampled_from([f"{time.isoformat()}{offset}" for offset in ("", "Z", "+05:30", "-08:00")])
)
unknown_names = st.text(string.ascii_lowercase, min_size=1).map(lambda name: f"x_{name}")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def valid_messages(draw: st.DrawFn) -> tuple[Contract, dict[str, str]]:
    """A contract, and the fields of a valid message with their values as JSON."""
    contract = draw(st.sampled_from(list(CONTRACTS.values())))
    values = {
        "text": texts.map(json.dumps),
        "whole": st.integers(0, 2**31 - 1).map(str),
        "money": prices,
        "time": times.map(json.dumps),
    }
    line = st.fixed_dictionaries(
        {"product_id": ids.map(json.dumps), "quantity": st.integers(1, 100).map(str), "price": prices},
        optional={"category": texts.map(json.dumps)},
    )
    values["lines"] = st.lists(line.map(lambda fields: raw({}, **fields).decode()), min_size=1, max_size=3).map(
        lambda found: f"[{', '.join(found)}]"
    )
    fields = {}
    for field in contract.fields:
        if field.required or draw(st.booleans()):
            kind = ids.map(json.dumps) if field.is_id else values[field.kind]
            fields[field.name] = draw(st.sampled_from(field.choices).map(json.dumps) if field.choices else kind)
    return contract, dict(draw(st.permutations(list(fields.items()))))
