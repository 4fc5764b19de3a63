"""The three facts: which events each is loaded from, and its columns."""

from lib.warehouse.fact import Fact

SALES = Fact(
    table="fact_sales",
    source="transactions",
    columns=("transaction_id", "transaction_timestamp", "quantity", "unit_price", "total_amount"),
    time="transaction_timestamp",
)

PRODUCT_VIEWS = Fact(
    table="fact_product_views",
    source="product_view_events",
    columns=("event_timestamp", "event_type", "session_id", "view_duration"),
    time="event_timestamp",
)

CART_EVENTS = Fact(
    table="fact_cart_events",
    source="cart_events",
    columns=("event_timestamp", "event_type", "session_id", "quantity", "total_amount"),
    time="event_timestamp",
)

FACTS = (SALES, PRODUCT_VIEWS, CART_EVENTS)
