"""Periods of sales: which days belong to a week, month or quarter, and how revenue grows from one to the next."""

from datetime import date

from psycopg2 import sql
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib.warehouse.load import Load

SALES_DAY = ("date", "category", "orders", "quantity", "revenue")
"""The columns of `ops.sales_days`: sales of a day and category, and of the day in total."""


def keep_sales_days(load: Load, staged: str) -> None:
    """Keep the staged days for the next loads, in the place of what was kept of them."""
    table = sql.Identifier("staging", staged)
    days = sql.SQL("select date from {}").format(table)
    load.execute(sql.SQL("delete from ops.sales_days where date in ({})").format(days))
    load.insert_new("ops.sales_days", staged, ["date", "category"])


def by_period(days: DataFrame, run_date: date) -> DataFrame:
    """Each row three times, for its ISO week, month and quarter.

    `period_type`, the period's `start`, `end` (exclusive) and the start of the one before (`previous`); `is_completed` says
    whether the day lies before the run date, `is_compared` whether it counts when the next period is compared with this
    one: always, or among as many first days as the next one has completed when that contains `run_date`.
    """
    kinds = {"weekly": ("week", 7), "monthly": ("month", 1), "quarterly": ("quarter", 3)}
    periods = []
    for name, (unit, length) in kinds.items():
        start = F.to_date(F.date_trunc(unit, "date"))
        add = F.date_add if name == "weekly" else F.add_months
        end, next_end = add(start, length), add(start, 2 * length)
        next_is_running = (end <= F.lit(run_date)) & (F.lit(run_date) < next_end)
        is_among = F.date_diff(F.col("date"), start) < F.date_diff(F.lit(run_date), end)
        periods.append(
            F.struct(
                F.lit(name).alias("period_type"),
                start.alias("start"),
                end.alias("end"),
                add(start, -length).alias("previous"),
                (~next_is_running | is_among).alias("is_compared"),
                (F.col("date") < F.lit(run_date)).alias("is_completed"),
            )
        )
    return days.select("*", F.inline(F.array(*periods)))


def growth(periods: DataFrame, run_date: date) -> DataFrame:
    """The periods with their `growth_rate` and whether each `is_running`, that is, contains `run_date`.

    The growth rate is the change of revenue against the previous calendar period, a fraction; for the period that is
    running its completed days are compared with as many first days of the previous one. NULL where the previous one is
    absent, 0, or begins before the first day with a sale.

    Parameters
    ----------
    periods
        One row per period and category: `period_type`, `start`, `end`, `previous`, `category`, `total_revenue`, the revenue
        of its completed days (`completed_revenue`) and of those that the next one is compared with (`compared_revenue`),
        and its first day with a sale (`first_sale`).
    """
    before = Window.partitionBy("period_type", "category").orderBy("start")
    first_sale = F.min("first_sale").over(Window.partitionBy())
    is_running = (F.col("start") <= F.lit(run_date)) & (F.lit(run_date) < F.col("end"))
    follows = F.lag("start").over(before) == F.col("previous")
    revenue_before = F.when(follows, F.coalesce(F.lag("compared_revenue").over(before), F.lit(0)))
    revenue_now = F.when(is_running, F.coalesce("completed_revenue", F.lit(0))).otherwise(F.col("total_revenue"))
    grown = periods.select(
        "*",
        is_running.alias("is_running"),
        (F.col("previous") >= first_sale).alias("is_whole"),
        revenue_before.alias("revenue_before"),
        revenue_now.alias("revenue_now"),
    )
    has_days = ~F.col("is_running") | (F.date_diff(F.lit(run_date), "start") > 0)
    is_comparable = F.col("is_whole") & (F.col("revenue_before") != 0) & has_days
    change = (F.col("revenue_now") - F.col("revenue_before")).cast("double") / F.col("revenue_before").cast("double")
    return grown.withColumn("growth_rate", F.when(is_comparable, change)).drop(
        "is_whole", "revenue_before", "revenue_now"
    )


def label() -> Column:
    """The period's name: `2026-W47` (ISO), `2026-11` or `2026-Q4`."""
    start = F.col("start")
    # the ISO year of a week is that of its Thursday
    week = F.concat(F.year(F.date_add(start, 3)), F.lit("-W"), F.lpad(F.weekofyear(start).cast("string"), 2, "0"))
    quarter = F.concat(F.year(start), F.lit("-Q"), F.quarter(start))
    return (
        F.when(F.col("period_type") == "weekly", week)
        .when(F.col("period_type") == "monthly", F.date_format(start, "yyyy-MM"))
        .otherwise(quarter)
    )
