"""What events say about customers, products and countries; the dimensions of countries and of days."""

from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.facts import order_lines
from lib.scd2 import Dimension
from lib.schemas import CONTRACTS
from lib.warehouse import Load, read_events, read_warehouse

GEOGRAPHY = Dimension(table="dim_geography", key=("country",), type2=())

FIRST_DAY = date(2000, 1, 1)


@dataclass(frozen=True)
class Mentions:
    """What is booked on days that aren't settled, from all three sources; `day` is the event's own, `booked` the booked one.

    - `events`, one row per event: `user_id`, `country`, `day`, `booked`
    - `products`, one row per event and product: `product_id`, `category`, `time`, `id`, `line`, `day`, `booked`
    - `orders`, one row per transaction: `id`, `user_id`, `day`, `booked`, `amount`
    """

    events: DataFrame
    products: DataFrame
    orders: DataFrame


def read_mentions(load: Load) -> Mentions:
    """Read the batches from the first that may hold an event of a day that isn't settled."""
    transactions = _read(load, "transactions", "transaction_id as id, user_id, country, products::text as products")
    views = _read(load, "product_view_events", "event_id as id, user_id, product_id, category, country")
    carts = _read(load, "cart_events", "event_id as id, user_id, product_id, category, country")
    lines = load.keep(order_lines(transactions))
    views, carts = load.keep(views), load.keep(carts)
    places = ["user_id", "country", "day", "booked"]
    votes = ["product_id", "category", "time", "id", "line", "day", "booked"]
    singles = [frame.withColumn("line", F.lit(0)).select(*votes) for frame in (views, carts)]
    return Mentions(
        events=reduce(DataFrame.unionByName, [frame.select(*places) for frame in (transactions, views, carts)]),
        products=reduce(DataFrame.unionByName, singles, lines.select(*votes)),
        orders=lines.groupBy("id", "user_id", "day", "booked").agg(F.sum("total_amount").alias("amount")),
    )


def _read(load: Load, table: str, columns: str) -> DataFrame:
    time = CONTRACTS[table].time
    events = read_events(load, table, f"{columns}, {time} as time", load.window.open(table))
    booked = load.window.booked_day(table, F.col("ingest_batch_id"), F.col("time"))
    frame = events.withColumn("day", F.to_date("time")).withColumn("booked", booked)
    return frame.where(F.col("booked") >= F.lit(load.window.settled_before)).drop("ingest_batch_id")


def read_current(load: Load, dimension: Dimension) -> DataFrame:
    """The current versions of a dimension, without the unknown member: key, `effective_date`, attributes."""
    names = ", ".join((*dimension.key, "effective_date", *dimension.type2, *dimension.type1))
    return read_warehouse(load, f"select {names} from {dimension.table} where is_current and {dimension.key[0]} <> ''")


def first_days(frame: DataFrame, key: str) -> DataFrame:
    """The own day of each key's first event here, as `first_date`: where the start of its first version may move back to."""
    return frame.groupBy(key).agg(F.min("day").alias("first_date"))


def countries(events: DataFrame) -> DataFrame:
    """Rows of `dim_geography`. Grain: one row per country that occurs, from the day of its first event on."""
    named = events.where("country <> ''").groupBy("country").agg(F.min("day").alias("effective_date"))
    return named.withColumn("end_date", F.lit(None).cast("date")).withColumn("is_current", F.lit(True))


def calendar(session: SparkSession, run_date: date) -> DataFrame:
    """Rows of `dim_date`. Grain: one row per day from 2000-01-01 to the end of the year after `run_date`.

    `day_of_week` is 1 (Monday) to 7, `week_of_year` the ISO week.
    """
    bounds = session.range(1).select(
        F.explode(F.sequence(F.lit(FIRST_DAY), F.lit(date(run_date.year + 1, 12, 31)))).alias("date")
    )
    weekday = F.weekday("date") + 1
    return bounds.select(
        (F.year("date") * 10000 + F.month("date") * 100 + F.day("date")).alias("date_id"),
        "date",
        F.year("date").alias("year"),
        F.quarter("date").alias("quarter"),
        F.month("date").alias("month"),
        F.day("date").alias("day"),
        weekday.alias("day_of_week"),
        F.weekofyear("date").alias("week_of_year"),
        (weekday >= 6).alias("is_weekend"),
    )
