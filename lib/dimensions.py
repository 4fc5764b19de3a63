"""What the new events say about customers, products and countries; the dimensions of countries and of days."""

from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib import held
from lib.incremental import own_day
from lib.scd2 import Dimension
from lib.schemas import CONTRACTS
from lib.warehouse import Load, read_realtime, read_warehouse

GEOGRAPHY = Dimension(table="dim_geography", key=("country",), type2=())

FIRST_DAY = date(2000, 1, 1)

_AMOUNT = (
    "(select sum(round((line.value ->> 'quantity')::numeric * (line.value ->> 'price')::numeric(18, 4), 2))"
    " from jsonb_array_elements(products) as line (value))"
)


CUSTOMER_DAY = ("user_id", "booked", "first_date", "transactions", "spent", "first_order", "last_order")
"""The columns of `read_customer_days`."""

MENTION = ("product_id", "category", "time", "id", "line", "first_date", "booked")
"""The columns of `read_mentions`."""


def read_countries(load: Load) -> DataFrame:
    """Which countries occur in new events. Grain: one row per country, with the own day of its first event here."""
    events = _events(
        load, {table: "country" for table in CONTRACTS}, {table: unread(load, table) for table in CONTRACTS}
    )
    query = f"select country, min(day) as first_date from ({events}) as events where country <> '' group by country"
    return read_realtime(load, query)


def read_customer_days(load: Load) -> DataFrame:
    """What new events say about customers. Grain: one row per customer and booked day with an event.

    The own day of the first of them (`first_date`), and the orders: `transactions`, `spent` (the sum of their lines), the
    first and the last own day. When the open day ends, those who bought on it have a row for it in any case: their
    segment is due.
    """
    places = {table: unread(load, table) for table in CONTRACTS}
    is_new = places["transactions"]
    if load.window.since and load.cut.run_date > load.window.settled_before:
        places["transactions"] = still_open(load, "transactions")
    booked = {table: load.window.booked_day(table, contract.time) for table, contract in CONTRACTS.items()}
    columns = {table: f"user_id, {day} as booked, null::numeric as amount" for table, day in booked.items()}
    columns["transactions"] = (
        f"user_id, {booked['transactions']} as booked, case when {is_new} then {_AMOUNT} end as amount"
    )
    query = (
        "select user_id, booked, min(day) as first_date, count(amount) as transactions,"
        " coalesce(sum(amount), 0)::numeric(38, 2) as spent,"
        " min(day) filter (where amount is not null) as first_order, max(day) filter (where amount is not null) as last_order"
        f" from ({_events(load, columns, places)}) as events group by user_id, booked"
    )
    return read_realtime(load, query)


def read_mentions(load: Load, *, whole_day: bool) -> DataFrame:
    """Products in new events, or in all of the open day with `whole_day`. Grain: one row per event or order line that counts.

    Of each product, booked day and kind (whether it votes on the category) the first and the last by (time, id, line):
    nothing else follows from the others. `product_id`, `category`, `time`, `id` of the event, `line` (0 but for order
    lines), the own day (`first_date`) and the `booked` day.
    """
    condition = still_open if whole_day and load.window.since else unread
    booked = {table: load.window.booked_day(table, contract.time) for table, contract in CONTRACTS.items()}
    columns = {
        table: f"product_id, category, {CONTRACTS[table].time} as time, event_id as id, 0 as line, {day} as booked"
        for table, day in booked.items()
    }
    columns["transactions"] = (
        "line.value ->> 'product_id' as product_id, line.value ->> 'category' as category, transaction_timestamp as time,"
        f" transaction_id as id, line.number::integer as line, {booked['transactions']} as booked"
    )
    lines = (
        f"{held.source(load, 'transactions')}, jsonb_array_elements(products) with ordinality as line (value, number)"
    )
    places = {table: condition(load, table) for table in CONTRACTS}
    events = _events(load, columns, places, {"transactions": lines})
    query = (
        "select product_id, category, time, id, line, day as first_date, booked from ("
        "select product_id, category, time, id, line, day, booked, row_number() over same as number,"
        f" lead(line) over same is null as is_last from ({events}) as events window same as ("
        "partition by product_id, booked, category <> '' and day = booked order by time, id collate \"C\", line)) as ordered"
        " where number = 1 or is_last"
    )
    return read_realtime(load, query)


def unread(load: Load, table: str) -> str:
    """The SQL condition on a realtime table that finds the events that no earlier load has read."""
    after, upto = load.window.unread(table)
    return f"ingest_batch_id > {after} and ingest_batch_id <= {upto}"


def still_open(load: Load, table: str) -> str:
    """The SQL condition on a realtime table that finds the events booked on days that aren't settled, read or not.

    Of the batches that the first cut of the open day covered, these are the events of that very day; an earlier event
    in them was on time, and is settled. All later batches are booked on the open day or after it.
    """
    after, upto = load.window.open(table)
    time, first = CONTRACTS[table].time, load.window.opened(table)
    of_the_day = f"(ingest_batch_id > {first} or {time} >= '{load.window.settled_before} 00:00+00')"
    return f"ingest_batch_id > {after} and ingest_batch_id <= {upto} and {of_the_day}"


def _events(load: Load, columns: Mapping[str, str], where: Mapping[str, str], sources: Mapping[str, str] = {}) -> str:
    """The query for columns of all three kinds of events, without held ones, and their own `day`."""
    tables = {table: held.source(load, table) for table in CONTRACTS} | dict(sources)
    return " union all ".join(
        f"select {columns[table]}, {own_day(contract.time)} as day from {tables[table]} where {where[table]}"
        for table, contract in CONTRACTS.items()
    )


def read_beside_current(load: Load, dimension: Dimension, query: str, columns: Sequence[str]) -> DataFrame:
    """These columns of a query on the warehouse, and the current version of each row's key, if it has one (`known_…`)."""
    names = ("effective_date", *dimension.type2, *dimension.type1)
    known = ", ".join(f"c.{name} as known_{name}" for name in names)
    same = " and ".join(f"c.{name} = n.{name}" for name in dimension.key)
    return read_warehouse(
        load,
        f"select {', '.join(f'n.{name}' for name in columns)}, {known} from ({query}) as n"
        f" left join {dimension.table} c on {same} and c.is_current",
    )


def countries(found: DataFrame) -> DataFrame:
    """Rows of `dim_geography`. Grain: one row per country that occurs, from the day of its first event on."""
    return found.select(
        "country",
        F.col("first_date").alias("effective_date"),
        F.lit(None).cast("date").alias("end_date"),
        F.lit(True).alias("is_current"),
        "first_date",
    )


def calendar(session: SparkSession, run_date: date) -> DataFrame:
    """Rows of `dim_date`. Grain: one row per day from 2000-01-01 to the end of the year after `run_date`.

    `day_of_week` is 1 (Monday) to 7, `week_of_year` the ISO week.
    """
    bounds = session.range(1, numPartitions=1).select(
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
