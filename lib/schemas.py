"""The contracts of the three event streams: what a message may hold, and which column keeps it."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lib.settings import TOPICS

Kind = Literal["text", "whole", "money", "time", "lines", "boolean", "string", "numeric"]
"""Type of a field; the last three are those of added columns, whose values have no bounds."""

MAX_TEXT = 100
"""The most characters of a text."""

MAX_WHOLE = 2**31 - 1
"""The greatest whole number, which is PostgreSQL's greatest `integer`."""


@dataclass(frozen=True)
class Field:
    """One field of an event: its name in JSON, its type and bounds, and the `column` that stores it (by default its name)."""

    name: str
    kind: Kind
    required: bool = False
    column: str = ""
    choices: tuple[str, ...] = ()
    minimum: int = 0
    digits: int = 16
    """Money is below 10 to this power."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", self.column or self.name)

    @property
    def is_id(self) -> bool:
        """Whether it is an id: an empty one counts as absent."""
        return self.kind == "text" and self.name.endswith("_id")


@dataclass(frozen=True)
class Contract:
    """The fields of one topic's events, and the realtime table (one row per event) that stores them.

    `added` are fields that nobody declared, and that have got a column as they came; all are optional.
    """

    table: str
    topic: str
    key: str
    time: str
    fields: tuple[Field, ...]
    added: tuple[Field, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all fields, in order, the added ones last."""
        return tuple(field.column for field in (*self.fields, *self.added))


LINE = (
    Field("product_id", "text", required=True),
    Field("quantity", "whole", required=True, minimum=1),
    Field("price", "money", required=True, digits=14),
    Field("category", "text"),
)
"""One order line of a transaction. A price is below 10**14, so that it fits `unit_price numeric(18, 4)`."""

TRANSACTIONS = Contract(
    table="transactions",
    topic=TOPICS["transactions"],
    key="transaction_id",
    time="transaction_timestamp",
    fields=(
        Field("transaction_id", "text", required=True),
        Field("user_id", "text", required=True),
        Field("transaction_timestamp", "time", required=True),
        Field("total_amount", "money", required=True),
        Field("country", "text"),
        Field("products", "lines", required=True),
    ),
)

_SHOPPER = (
    Field("user_id", "text", required=True),
    Field("product_id", "text", required=True),
    Field("session_id", "text"),
    Field("timestamp", "time", required=True, column="event_timestamp"),
    Field("country", "text"),
    Field("category", "text"),
)

PRODUCT_VIEW_EVENTS = Contract(
    table="product_view_events",
    topic=TOPICS["product_view_events"],
    key="event_id",
    time="event_timestamp",
    fields=(
        Field("event_id", "text", required=True),
        Field("event_type", "text", required=True, choices=("view",)),
        *_SHOPPER,
        Field("view_duration", "whole"),
    ),
)

CART_EVENTS = Contract(
    table="cart_events",
    topic=TOPICS["cart_events"],
    key="event_id",
    time="event_timestamp",
    fields=(
        Field("event_id", "text", required=True),
        Field("event_type", "text", required=True, choices=("add", "remove", "update", "checkout")),
        *_SHOPPER,
        Field("quantity", "whole"),
        Field("price", "money", digits=14),
    ),
)

CONTRACTS = {contract.table: contract for contract in (TRANSACTIONS, PRODUCT_VIEW_EVENTS, CART_EVENTS)}
"""Each contract by its table."""

ORDER_LINES = "order_lines"
"""The view of the realtime database with a row for each line of the orders in `transactions`, numbered from 1."""


def describe(contract: Contract) -> pd.DataFrame:
    """The fields of a contract, one row each, for people."""
    limits = {"text": f"up to {MAX_TEXT} characters", "whole": "whole number", "money": "amount", "time": "ISO 8601"}
    rows = [
        {
            "field": field.name,
            "type": ", ".join(field.choices) or limits.get(field.kind, "list of order lines"),
            "required": "yes" if field.required else "",
            "column": field.column,
        }
        for field in contract.fields
    ]
    return pd.DataFrame(rows)


AGAINST_THE_RULES = (
    *(
        "not_json",
        "invalid_utf8",
        "not_an_object",
        "too_deep",
        "too_large",
        "missing_field",
        "wrong_type",
        "out_of_range",
    ),
    *(
        "text_too_long",
        "nul_character",
        "lone_surrogate",
        "not_a_number",
        "number_too_large",
        "too_old",
        "in_the_future",
    ),
)
"""The reasons for which a message can break its contract."""

REFUSED_BY_DATABASE = "rejected_by_database"
"""The message keeps its contract, and the database refuses it all the same.

The decoder can't say whether the database would take it now, so such a letter is sent again only by its id.
"""

UNPROCESSABLE = "unprocessable"
"""The message keeps its contract, and the program can't process it all the same."""

REASONS = (*AGAINST_THE_RULES, REFUSED_BY_DATABASE, UNPROCESSABLE)
"""Every reason of a dead letter."""
