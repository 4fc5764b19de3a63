"""What goes over the wire: one JSON object per event, and the realtime table that it is for."""

from typing import NamedTuple

import msgspec

SHARES = {"product_view_events": 0.6, "cart_events": 0.3, "transactions": 0.1}
"""Share of each realtime table in the events."""


class Line(msgspec.Struct):
    """A line of a transaction or of a cart; money has two decimals."""

    product_id: str
    quantity: int
    price: float
    category: str


class Transaction(msgspec.Struct):
    """A purchase; `total_amount` is the sum of its lines, exact to the cent."""

    transaction_id: str
    user_id: str
    products: list[Line]
    total_amount: float
    country: str
    transaction_timestamp: str


class View(msgspec.Struct):
    """A look at a product, `view_duration` whole seconds long."""

    event_id: str
    event_type: str
    user_id: str
    product_id: str
    session_id: str
    timestamp: str
    country: str
    category: str
    view_duration: int


class CartEvent(msgspec.Struct):
    """An `add`, `remove`, `update` (to the new quantity) or `checkout` (with the cart's dearest line)."""

    event_id: str
    event_type: str
    user_id: str
    product_id: str
    session_id: str
    timestamp: str
    country: str
    category: str
    quantity: int
    price: float


class Event(NamedTuple):
    """One message: the realtime table that it is for, its own time (milliseconds since 1970), its JSON."""

    table: str
    time_ms: int
    value: bytes
