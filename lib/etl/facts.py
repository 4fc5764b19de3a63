"""The three facts: their columns, and their rows with natural keys, from realtime events."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib.warehouse import dedup
from lib.warehouse.fact import Fact
from lib.warehouse.load import Load
from lib.warehouse.read import read_events

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

_BESIDE = {"transactions": "jsonb_array_elements(transactions.products) with ordinality as line (value, number)"}
"""What is read beside a realtime table, from each of its rows."""

FACTS = (SALES, PRODUCT_VIEWS, CART_EVENTS)

_COMMON = ("event_id", "user_id", "product_id", "country")


def money(quantity: Column, price: Column) -> Column:
    """quantity × price in two decimals, half away from zero; a cart event's may have 24 digits before them."""
    return F.round(quantity.cast("decimal(10,0)") * price.cast("decimal(18,4)"), 2).cast("decimal(38,2)")


def read_unread(load: Load, fact: Fact) -> DataFrame:
    """The events that the fact hasn't loaded yet. Grain: one row per event; of transactions one per order line, from 1 on.

    PostgreSQL takes an order's lines apart, and gives the declared fields their types: whatever else a line holds, however
    large or deep, stays where it is. Spark's JSON reader would drop all lines of the order for it.
    """
    columns = {
        "transactions": "transaction_id, user_id, transaction_timestamp, country, line.number::integer as line,"
        " line.value ->> 'product_id' as product_id, (line.value ->> 'quantity')::integer as quantity,"
        " (line.value ->> 'price')::numeric(18, 4) as unit_price",
        "product_view_events": "event_id, event_type, user_id, product_id, session_id, event_timestamp, country,"
        " view_duration",
        "cart_events": "event_id, event_type, user_id, product_id, session_id, event_timestamp, country, quantity, price",
    }
    return read_events(
        load, fact.source, columns[fact.source], load.window.unread(fact.source), beside=_BESIDE.get(fact.source, "")
    )


def sales(lines: DataFrame) -> DataFrame:
    """Rows of `fact_sales` with natural keys. Grain: one row per order line, `<transaction_id>:<line number>`."""
    named = lines.withColumn("event_id", F.concat_ws(":", "transaction_id", "line"))
    return _rows(named.withColumn("total_amount", money(F.col("quantity"), F.col("unit_price"))), SALES)


def product_views(events: DataFrame) -> DataFrame:
    """Rows of `fact_product_views` with natural keys. Grain: one row per view."""
    return _rows(events, PRODUCT_VIEWS)


def cart_events(events: DataFrame) -> DataFrame:
    """Rows of `fact_cart_events` with natural keys. Grain: one row per cart event; no amount without price and quantity."""
    return _rows(events.withColumn("total_amount", money(F.col("quantity"), F.col("price"))), CART_EVENTS)


def _rows(frame: DataFrame, fact: Fact) -> DataFrame:
    """The fact's columns, with the event's own day, and one row per event id."""
    rows = frame.select(*_COMMON, *fact.columns, "ingest_batch_id", F.to_date(fact.time).alias("event_date"))
    return dedup.first_of_each(rows, fact.keys, [fact.time, "ingest_batch_id"])
