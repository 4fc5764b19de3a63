"""What events say about customers, products and countries; the dimensions of countries and of days."""

from datetime import date
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.facts import order_lines
from lib.scd2 import Dimension
from lib.schemas import CONTRACTS
from lib.warehouse import Load, read_events, read_realtime, read_warehouse

GEOGRAPHY = Dimension(table="dim_geography", key=("country",), type2=())

FIRST_DAY = date(2000, 1, 1)


def read_keys(load: Load, column: str) -> DataFrame:
    """Which keys occur in events of days that aren't settled. Grain: one row per source and key, with its first own `day`.

    `column` is `user_id` or `country`. PostgreSQL groups, so that one row per key leaves it and not one per event.
    """
    sources = []
    for table, contract in CONTRACTS.items():
        day = f"min({contract.time} at time zone 'UTC')::date as day"
        condition = f"{_is_open(load, table)} and {column} <> ''"
        sources.append(read_realtime(load, f"select {column}, {day} from {table} where {condition} group by {column}"))
    return reduce(DataFrame.unionByName, sources)


def read_orders(load: Load) -> DataFrame:
    """Transactions that are booked on days that aren't settled. Grain: one row per transaction.

    `id`, `user_id`, the own `day`, the `booked` day, and `amount`, the sum of the lines.
    """
    lines = order_lines(_read(load, "transactions", "transaction_id as id, user_id, products::text as products"))
    return lines.groupBy("id", "user_id", "day", "booked").agg(F.sum("total_amount").alias("amount"))


def read_mentions(load: Load) -> DataFrame:
    """Products in events that are booked on days that aren't settled. Grain: one row per event or order line.

    `product_id`, `category`, `time`, `id` of the event, `line` (0 but for order lines), the own `day` and the `booked` day.
    """
    lines = order_lines(_read(load, "transactions", "transaction_id as id, products::text as products"))
    columns = "event_id as id, product_id, category"
    singles = [
        _read(load, table, columns).withColumn("line", F.lit(0)) for table in ("product_view_events", "cart_events")
    ]
    names = ["product_id", "category", "time", "id", "line", "day", "booked"]
    return load.keep(reduce(DataFrame.unionByName, [frame.select(*names) for frame in (lines, *singles)]))


def _read(load: Load, table: str, columns: str) -> DataFrame:
    time = CONTRACTS[table].time
    events = read_events(
        load, table, f"{columns}, {time} as time", load.window.open(table), where=_is_open(load, table)
    )
    booked = load.window.booked_day(table, F.col("ingest_batch_id"), F.col("time"))
    return events.withColumn("day", F.to_date("time")).withColumn("booked", booked).drop("ingest_batch_id")


def _is_open(load: Load, table: str) -> str:
    """The SQL condition on a realtime table that finds the events booked on days that aren't settled.

    Of the batches that the first cut of the open day covered, these are the events of that very day; an earlier event
    in them was on time, and is settled. All later batches are booked on the open day or after it.
    """
    after, upto = load.window.open(table)
    batches = f"ingest_batch_id > {after} and ingest_batch_id <= {upto}"
    if load.window.since is None:
        return batches
    time, first = CONTRACTS[table].time, load.window.opened(table)
    return f"{batches} and (ingest_batch_id > {first} or {time} >= '{load.window.settled_before} 00:00+00')"


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
