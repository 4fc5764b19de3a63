"""The customer dimension: segments by total spend as type 2, totals as type 1."""

from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lib.warehouse import scd2
from lib.warehouse.scd2 import Dimension

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

SEGMENTS = ("High Value", "Medium Value", "Low Value", "New")
"""Every segment, best first."""


TOTALS = ("first_transaction_date", "last_transaction_date", "total_transactions", "total_spent")


def day_ends(days: DataFrame) -> DataFrame:
    """The days, each with the customer's totals at its end (`TOTALS`): those of the current version, and what is new since.

    Parameters
    ----------
    days
        One row per customer and booked day: `user_id`, `booked`, and what new events say: `first_date`, `transactions`,
        `spent`, `first_order`, `last_order`; beside it the current version, if there is one (`known_…`).
    """
    so_far = Window.partitionBy("user_id").orderBy("booked")
    spent = F.coalesce("known_total_spent", F.lit(0)) + F.sum("spent").over(so_far)
    return days.select(
        "*",
        F.least("known_first_transaction_date", F.min("first_order").over(so_far)).alias("first_transaction_date"),
        F.greatest("known_last_transaction_date", F.max("last_order").over(so_far)).alias("last_transaction_date"),
        (F.coalesce("known_total_transactions", F.lit(0)) + F.sum("transactions").over(so_far)).alias(
            "total_transactions"
        ),
        spent.cast("decimal(38,2)").alias("total_spent"),
    )


def customer_versions(ends: DataFrame, run_date: date) -> DataFrame:
    """Versions of the customers in `ends` from the current one on, with their totals; the input of `scd2.apply`.

    A customer begins as `New`, on the day of the first event. The segment at the end of each booked day before
    `run_date` takes effect on the following day. A version that is closed here keeps the totals at the end of its last day.

    Parameters
    ----------
    ends
        What `day_ends` makes, with the `segment` of a customer who has these totals.
    """
    so_far = Window.partitionBy("user_id").orderBy("booked")
    whole = so_far.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    beginning = scd2.change(
        F.coalesce("known_effective_date", F.min("first_date").over(whole)),
        F.col("known_effective_date").isNotNull(),
        customer_segment=F.coalesce("known_customer_segment", F.lit("New")),
    )
    evaluated = scd2.change(F.date_add("booked", 1), F.lit(False), customer_segment=F.col("segment"))
    days = ends.withColumn("totals", F.struct(*TOTALS)).select(
        "user_id",
        "totals",
        F.last("totals").over(whole).alias("latest"),
        F.when(F.row_number().over(so_far) == 1, beginning).alias("beginning"),
        F.when(F.col("booked") < F.lit(run_date), evaluated).alias("evaluated"),
    )
    changes = days.select("user_id", "totals", "latest", F.inline(F.array("beginning", "evaluated")))
    made = scd2.collapse(changes.where("effective_date is not null"), key=CUSTOMERS.key, attributes=CUSTOMERS.type2)
    # what closes a version is the evaluation of its last day, which has the totals of that day
    at_end = F.lead("totals").over(Window.partitionBy("user_id").orderBy("effective_date"))
    found = made.withColumn("at_end", F.coalesce(at_end, "latest")).select("*", "at_end.*")
    average = F.when(F.col("total_transactions") == 0, 0.0).otherwise(
        F.col("total_spent").cast("double") / F.col("total_transactions")
    )
    return found.drop("totals", "latest", "at_end").withColumn("avg_order_value", average)
