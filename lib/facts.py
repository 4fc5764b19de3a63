"""Rows of the facts from realtime events, with natural keys; and their merge, which looks up the dimension keys."""

from dataclasses import dataclass

import pandas as pd
import psycopg2
from psycopg2 import sql
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib import culprits, dedup
from lib.schemas import CONTRACTS
from lib.warehouse import Load, read_events

_COMMON = ("event_id", "user_id", "product_id", "country")
_DIMENSIONS = ("date_id", "customer_id", "product_id_pk", "geography_id")


@dataclass(frozen=True)
class Fact:
    """A fact table: the realtime table that it is loaded from, its own columns, and the name of its time."""

    table: str
    source: str
    columns: tuple[str, ...]
    time: str
    keys: tuple[str, ...] = ("event_id",)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every column of the table, but for the time of writing."""
        return ("event_id", *_DIMENSIONS, *self.columns, "ingest_batch_id")


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


def stage(load: Load, fact: Fact, rows: DataFrame) -> str:
    """Stage rows with natural keys, and return the staging table's name."""
    more = {"user_id": "varchar(100)", "product_id": "varchar(100)", "country": "varchar(100)", "event_date": "date"}
    return load.stage(fact.table, rows, like=fact.table, **more)


def merge(load: Load, fact: Fact, staged: str) -> int:
    """Insert the staged rows that the fact doesn't hold yet, count them into `ops.fact_days`, and return their number.

    Each gets the dimension versions that were valid on the event's own day; a key that no dimension has fails the load
    (the column is NOT NULL), and a country that is absent is member -1.

    Raises
    ------
    culprits.FailedOn
        When the database refuses some of the events; it names them. The load is rolled back, and stays begun.
    """
    own = sql.SQL(", ").join(
        sql.SQL("s.{}").format(sql.Identifier(name)) for name in (*fact.columns, "ingest_batch_id")
    )
    statement = sql.SQL(
        "with added as ("
        " insert into {fact} (event_id, {dimensions}, {names}, ingest_batch_id)"
        " select s.event_id, d.date_id, c.customer_id, p.product_id_pk, g.geography_id, {own}"
        " from staging.{staged} s"
        " left join dim_date d on d.date = s.event_date"
        " left join dim_customers c on c.user_id = s.user_id and s.event_date >= c.effective_date"
        " and (c.end_date is null or s.event_date < c.end_date)"
        " left join dim_products p on p.product_id = s.product_id and s.event_date >= p.effective_date"
        " and (p.end_date is null or s.event_date < p.end_date)"
        " left join dim_geography g on g.country = coalesce(s.country, '')"
        # in the order of time, neighbours in the table are neighbours in most of its indexes: a fifth less work
        " where {new} and {among} order by s.{time} returning date_id, {amount} as amount"
        "), counted as ("
        " insert into ops.fact_days as f (fact, date_id, row_count, amount)"
        " select {name}, date_id, count(*), sum(amount) from added group by date_id"
        " on conflict (fact, date_id) do update"
        " set row_count = f.row_count + excluded.row_count,"
        " amount = coalesce(f.amount + excluded.amount, f.amount, excluded.amount)"
        ") select count(*) from added"
    )
    parts: dict[str, sql.Composable] = dict(
        fact=sql.Identifier(fact.table),
        dimensions=sql.SQL(", ").join(map(sql.Identifier, _DIMENSIONS)),
        names=sql.SQL(", ").join(map(sql.Identifier, fact.columns)),
        own=own,
        staged=sql.Identifier(staged),
        new=dedup.unless_known(fact.table, "s", fact.keys),
        amount=sql.SQL("total_amount" if "total_amount" in fact.columns else "null::numeric"),
        name=sql.Literal(fact.table),
        time=sql.Identifier(fact.time),
    )
    try:
        return int(load.query(statement.format(**parts, among=sql.SQL("true"))).iloc[0, 0])
    except (psycopg2.DataError, psycopg2.IntegrityError) as error:
        key = sql.Identifier("s", CONTRACTS[fact.source].key)
        only = statement.format(**parts, among=sql.SQL("{} = any(%s)").format(key))
        _blame(load, fact, staged, only, error)
        raise


def _blame(load: Load, fact: Fact, staged: str, only: sql.Composable, error: psycopg2.Error) -> None:
    """Raise an error that names the events that a merge fails on, if they can be found; `only` merges some of them."""
    load.connection.rollback()
    key = sql.Identifier(CONTRACTS[fact.source].key)
    ids = sql.SQL("select distinct {} as id from staging.{} order by 1").format(key, sql.Identifier(staged))
    events = list(load.query(ids)["id"])
    if found := culprits.of_statement(load, events, lambda cursor, some: cursor.execute(only, [some])):
        why = f"nothing was written: {' '.join(str(error).split())}"
        raise culprits.FailedOn(culprits.message(f"{fact.table} can't be loaded", why, {fact.source: found})) from error


def by_day(load: Load, fact: Fact) -> pd.DataFrame:
    """Rows of the fact, and the sum of its amounts (`amount`), by the day of the event."""
    return load.query(
        "select date, row_count as rows, amount from ops.fact_days join dim_date using (date_id)"
        " where fact = %s order by date",
        fact.table,
    )
