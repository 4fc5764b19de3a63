"""The customer dimension: segments by total spend as type 2, totals as type 1."""

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.window import WindowSpec

from lib.etl.events import select_events, still_open, unread
from lib.schemas import CONTRACTS
from lib.warehouse import scd2
from lib.warehouse.load import Load
from lib.warehouse.read import read_realtime
from lib.warehouse.scd2 import Dimension

_AMOUNT = (
    "(select sum(round((line.value ->> 'quantity')::numeric * (line.value ->> 'price')::numeric(18, 4), 2))"
    " from jsonb_array_elements(products) as line (value))"
)

CUSTOMER_DAY = ("user_id", "booked", "first_date", "transactions", "spent", "first_order", "last_order")
"""The columns of `read_customer_days`."""

CUSTOMERS = Dimension(
    table="dim_customers",
    key=("user_id",),
    type2=("customer_segment",),
    type1=(
        "first_transaction_date",
        "last_transaction_date",
        "total_transactions",
        "total_spent",
        "avg_order_value",
    ),
)


MEDIUM_VALUE, HIGH_VALUE = 300, 1000
"""Total spend from which a customer with more than one transaction is of medium and of high value."""

SEGMENTS = ("High Value", "Medium Value", "Low Value", "New")
"""Every segment, best first."""


def segment(transactions: Column, spent: Column) -> Column:
    """A customer's segment by all transactions and their total up to the end of a day."""
    return (
        F.when(F.coalesce(transactions, F.lit(0)) <= 1, "New")
        .when(spent >= HIGH_VALUE, "High Value")
        .when(spent >= MEDIUM_VALUE, "Medium Value")
        .otherwise("Low Value")
    )


def customer_versions(days: DataFrame, run_date: date) -> DataFrame:
    """Versions of the customers in `days` from the current one on, with their totals; the input of `scd2.apply`.

    A customer begins as `New`, on the day of the first event. The segment at the end of each booked day before
    `run_date` takes effect on the following day. A version that is closed here keeps the totals at the end of its last day.

    Parameters
    ----------
    days
        One row per customer and booked day: `user_id`, `booked`, and what new events say: `first_date`, `transactions`,
        `spent`, `first_order`, `last_order`; beside it the current version, if there is one (`known_…`).
    """
    so_far = Window.partitionBy("user_id").orderBy("booked")
    whole = so_far.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    known_from = F.col("known_effective_date")
    ends = days.withColumn("totals", _totals(so_far)).select(
        "user_id",
        "totals",
        F.last("totals").over(whole).alias("latest"),
        F.when(
            F.row_number().over(so_far) == 1,
            scd2.change(
                F.coalesce(known_from, F.min("first_date").over(whole)),
                known_from.isNotNull(),
                customer_segment=F.coalesce("known_customer_segment", F.lit("New")),
            ),
        ).alias("beginning"),
        F.when(
            F.col("booked") < F.lit(run_date),
            scd2.change(
                F.date_add("booked", 1),
                F.lit(False),
                customer_segment=segment(F.col("totals.total_transactions"), F.col("totals.total_spent")),
            ),
        ).alias("evaluated"),
    )
    changes = ends.select("user_id", "totals", "latest", F.inline(F.array("beginning", "evaluated")))
    made = scd2.collapse(changes.where("effective_date is not null"), key=CUSTOMERS.key, attributes=CUSTOMERS.type2)
    # what closes a version is the evaluation of its last day, which has the totals of that day
    at_end = F.lead("totals").over(Window.partitionBy("user_id").orderBy("effective_date"))
    found = made.withColumn("at_end", F.coalesce(at_end, "latest")).drop("totals", "latest")
    average = F.when(F.col("total_transactions") == 0, 0.0).otherwise(
        F.col("total_spent").cast("double") / F.col("total_transactions")
    )
    return found.select("*", "at_end.*").drop("at_end").withColumn("avg_order_value", average)


def _totals(so_far: WindowSpec) -> Column:
    """A customer's totals at the end of a booked day: those of the current version, and what is new up to that day."""
    return F.struct(
        F.least("known_first_transaction_date", F.min("first_order").over(so_far)).alias("first_transaction_date"),
        F.greatest("known_last_transaction_date", F.max("last_order").over(so_far)).alias("last_transaction_date"),
        (F.coalesce("known_total_transactions", F.lit(0)) + F.sum("transactions").over(so_far)).alias(
            "total_transactions"
        ),
        (F.coalesce("known_total_spent", F.lit(0)) + F.sum("spent").over(so_far))
        .cast("decimal(38,2)")
        .alias("total_spent"),
    )


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
        f" from ({select_events(load, columns, places)}) as events group by user_id, booked"
    )
    return read_realtime(load, query)
