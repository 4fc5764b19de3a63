"""The customer dimension: segments by total spend as type 2, totals as type 1. Computation only."""

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib import scd2
from lib.scd2 import Dimension
from lib.warehouse import Load, read_warehouse

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

TOTALS = tuple(name for name in CUSTOMERS.type1 if name != "avg_order_value")

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


def customer_days(orders: DataFrame, totals: DataFrame) -> DataFrame:
    """Running totals of each customer. Grain: one row per customer and booked day with an order.

    `totals` are those at the end of the last settled day (`ops.customer_totals`), `orders` what is booked after it.
    """
    days = orders.groupBy("user_id", "booked").agg(
        F.count("*").alias("transactions"),
        F.sum("amount").alias("spent"),
        F.min("day").alias("first_day"),
        F.max("day").alias("last_day"),
    )
    so_far = Window.partitionBy("user_id").orderBy("booked")
    base = totals.select(
        "user_id",
        F.col("total_transactions").alias("base_transactions"),
        F.col("total_spent").alias("base_spent"),
        F.col("first_transaction_date").alias("base_first"),
        F.col("last_transaction_date").alias("base_last"),
    )
    return days.join(base, "user_id", "left").select(
        "user_id",
        "booked",
        (F.coalesce("base_transactions", F.lit(0)) + F.sum("transactions").over(so_far)).alias("total_transactions"),
        (F.coalesce("base_spent", F.lit(0)) + F.sum("spent").over(so_far)).cast("decimal(18,2)").alias("total_spent"),
        F.least("base_first", F.min("first_day").over(so_far)).alias("first_transaction_date"),
        F.greatest("base_last", F.max("last_day").over(so_far)).alias("last_transaction_date"),
    )


def settled_totals(days: DataFrame, run_date: date) -> DataFrame:
    """Each customer's totals at the end of the day before `run_date`: the next load's base."""
    latest = Window.partitionBy("user_id").orderBy(F.desc("booked"))
    settled = days.where(F.col("booked") < F.lit(run_date)).withColumn("_rank", F.row_number().over(latest))
    return settled.where("_rank = 1").drop("_rank", "booked")


def customer_versions(events: DataFrame, days: DataFrame, current: DataFrame, run_date: date) -> DataFrame:
    """Versions of the customers that occur in `events`, with type 1 totals; the input of `scd2.apply`.

    A customer begins as `New`, on the day of the first event. The segment at the end of each booked day before
    `run_date` takes effect on the following day. A version that is closed here keeps the totals at the end of its last day.
    """
    firsts = events.groupBy("user_id").agg(F.min("day").alias("effective_date"))
    new = firsts.join(current.select("user_id"), "user_id", "left_anti")
    evaluated = days.where(F.col("booked") < F.lit(run_date)).select(
        "user_id",
        F.date_add("booked", 1).alias("effective_date"),
        segment(F.col("total_transactions"), F.col("total_spent")).alias("customer_segment"),
    )
    changes = new.withColumn("customer_segment", F.lit("New")).unionByName(evaluated)
    touched = current.join(firsts.select("user_id"), "user_id", "left_semi")
    made = scd2.versions(changes, touched, key=CUSTOMERS.key, attributes=CUSTOMERS.type2)
    return _with_totals(made, days, touched)


def _with_totals(made: DataFrame, days: DataFrame, current: DataFrame) -> DataFrame:
    """Join each version with the totals at the end of its last day: of the days here, else those it had."""
    booked = days.select("user_id", "booked", *[F.col(name).alias(f"new_{name}") for name in TOTALS])
    within = F.col("booked").isNull() | F.col("end_date").isNull() | (F.col("booked") < F.col("end_date"))
    version = ["user_id", "effective_date"]
    last = (
        made.join(booked, "user_id", "left")
        .withColumn("booked", F.when(within, F.col("booked")))
        .groupBy(*version, "customer_segment", "end_date", "is_current")
        .agg(*[F.max_by(f"new_{name}", "booked").alias(f"new_{name}") for name in TOTALS])
    )
    before = current.select("user_id", *[F.col(name).alias(f"old_{name}") for name in TOTALS])
    empty = {"total_transactions": F.lit(0), "total_spent": F.lit(0).cast("decimal(18,2)")}
    filled = last.join(before, "user_id", "left").select(
        *version,
        "customer_segment",
        "end_date",
        "is_current",
        *[F.coalesce(f"new_{name}", f"old_{name}", empty.get(name, F.lit(None))).alias(name) for name in TOTALS],
    )
    average = F.when(F.col("total_transactions") == 0, 0.0).otherwise(
        F.col("total_spent").cast("double") / F.col("total_transactions")
    )
    return filled.withColumn("avg_order_value", average)


def read_totals(load: Load) -> DataFrame:
    """Each customer's totals at the end of the last settled day."""
    names = ", ".join(("user_id", *TOTALS))
    return read_warehouse(load, f"select {names} from ops.customer_totals")


def settle(load: Load, days: DataFrame) -> int:
    """Keep the totals at the end of the day before the cut's run date for the next load; return how many changed."""
    staged = load.stage("customer_totals", settled_totals(days, load.cut.run_date), like="ops.customer_totals")
    return load.upsert("ops.customer_totals", staged, ["user_id"])
