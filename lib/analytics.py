"""The four analytics tables, computed from the warehouse. Each function's docstring states its grain and its formula."""

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib.customers import SEGMENTS

RFM_SEGMENTS = {
    5: ("New Customers", "Potential Loyalists", "Potential Loyalists", "Champions", "Champions"),
    4: ("Promising", "Potential Loyalists", "Loyal", "Loyal", "Champions"),
    3: ("About To Sleep", "Need Attention", "Need Attention", "Loyal", "Loyal"),
    2: ("Hibernating", "Hibernating", "At Risk", "At Risk", "At Risk"),
    1: ("Lost", "Lost", "At Risk", "Can't Lose Them", "Can't Lose Them"),
}
"""Segment by recency score (key) and by the mean of frequency and monetary score, 1 to 5 (position)."""


# --- product performance


def product_performance(days: DataFrame) -> DataFrame:
    """Performance of products. Grain: one row per product and day with a sale or a view.

    `conversion_rate` is orders ÷ views (NULL without views), `avg_price` revenue ÷ quantity (NULL without sales).

    Parameters
    ----------
    days
        `product_id`, `category`, `analysis_date`, `total_sales`, `total_revenue`, `total_quantity`, `total_views`.
    """
    return days.withColumn("conversion_rate", _ratio("total_sales", "total_views")).withColumn(
        "avg_price", _ratio("total_revenue", "total_quantity")
    )


def _ratio(numerator: str, denominator: str) -> Column:
    """numerator ÷ denominator as a double; NULL where the denominator is 0."""
    return F.when(F.col(denominator) != 0, F.col(numerator).cast("double") / F.col(denominator).cast("double"))


# --- customer segments


def customer_segments(totals: DataFrame, run_date: date) -> DataFrame:
    """Totals of each segment. Grain: one row per segment, all four always.

    `totals` are those of the segments with a customer: `segment_name`, `customer_count`, `total_revenue`, `orders`. The
    average order value is revenue ÷ orders, 0 without orders.
    """
    names = totals.sparkSession.createDataFrame([(name,) for name in SEGMENTS], "segment_name string").coalesce(1)
    filled = names.join(totals, "segment_name", "left")
    return filled.select(
        "segment_name",
        F.coalesce("customer_count", F.lit(0)).alias("customer_count"),
        F.coalesce("total_revenue", F.lit(0).cast("decimal(38,2)")).alias("total_revenue"),
        F.coalesce(_ratio("total_revenue", "orders"), F.lit(0.0)).alias("avg_order_value"),
        F.lit(run_date).alias("analysis_date"),
    )


# --- RFM


def rfm(buyers: DataFrame, run_date: date) -> DataFrame:
    """Recency, frequency and monetary value. Grain: one row per customer with a sale before `run_date`.

    Scores are quintiles of the mid-rank, worst first, equal values equal:
    `(5*(2*(rank-1)+ties) + 2*n-1) / (2*n)` in whole numbers. The segment follows from `RFM_SEGMENTS`.

    Parameters
    ----------
    buyers
        `user_id`, `orders`, `revenue`, `last_day` of each customer.
    """
    customers = buyers.select(
        "user_id",
        F.date_diff(F.lit(run_date), "last_day").alias("recency_days"),
        F.col("orders").alias("frequency_count"),
        F.col("revenue").alias("monetary_value"),
    )
    scored = customers.select(
        "*",
        quintile(F.desc("recency_days"), "recency_days").alias("recency_score"),
        quintile(F.asc("frequency_count"), "frequency_count").alias("frequency_score"),
        quintile(F.asc("monetary_value"), "monetary_value").alias("monetary_score"),
    )
    together = F.expr("(frequency_score + monetary_score + 1) div 2").cast("int")
    table = F.create_map(
        *[item for score, names in RFM_SEGMENTS.items() for item in (F.lit(score), F.array(*map(F.lit, names)))]
    )
    segment = F.element_at(F.element_at(table, F.col("recency_score")), together)
    return scored.select("*", F.lit(run_date).alias("analysis_date"), segment.alias("rfm_segment"))


def quintile(worst_first: Column, value: str) -> Column:
    """The quintile, 1 to 5, of a value's mid-rank over all rows; `worst_first` is the order, `value` finds the ties."""
    rank = F.rank().over(Window.orderBy(worst_first)).cast("long")
    ties = F.count("*").over(Window.partitionBy(value))
    n = F.count("*").over(Window.partitionBy())
    return F.floor((5 * (2 * (rank - 1) + ties) + 2 * n - 1) / (2 * n)).cast("int")


# --- sales trends


def sales_trends(days: DataFrame, run_date: date) -> DataFrame:
    """Sales per period. Grain: one row per ISO week, month or quarter, and category with a sale, and the total `All`.

    An order counts once per category. `growth_rate` is the change of revenue against the previous calendar period, a
    fraction; for the period that contains `run_date` its completed days are compared with as many first days of the
    previous one. NULL where the previous one is absent, 0, or begins before the first day with a sale.

    Parameters
    ----------
    days
        `date`, `category`, `orders`, `quantity`, `revenue` of each day and category with a sale, the total `All` included.
    """
    first_sale = F.min("first_sale").over(Window.partitionBy())
    period = ["period_type", "start", "category"]
    sums = (
        _by_period(days, run_date)
        .groupBy(*period, "previous", "end")
        .agg(
            F.sum("orders").alias("total_sales"),
            F.sum("revenue").cast("decimal(38,2)").alias("total_revenue"),
            F.sum("quantity").alias("total_quantity"),
            F.sum(F.when(F.col("date") < F.lit(run_date), F.col("revenue"))).alias("completed_revenue"),
            F.sum(F.when(F.col("is_compared"), F.col("revenue"))).alias("compared"),
            F.min("date").alias("first_sale"),
        )
    )
    running = (F.col("start") <= F.lit(run_date)) & (F.lit(run_date) < F.col("end"))
    completed = F.date_diff(F.lit(run_date), F.col("start"))
    before = Window.partitionBy("period_type", "category").orderBy("start")
    follows = F.lag("start").over(before) == F.col("previous")
    grown = (
        sums.withColumn("first_sale", first_sale)
        .withColumn("is_running", running)
        .withColumn("revenue_before", F.when(follows, F.coalesce(F.lag("compared").over(before), F.lit(0))))
        .withColumn(
            "revenue_now", F.when(running, F.coalesce("completed_revenue", F.lit(0))).otherwise(F.col("total_revenue"))
        )
    )
    is_comparable = (F.col("previous") >= F.col("first_sale")) & (F.col("revenue_before") != 0)
    has_days = ~F.col("is_running") | (completed > 0)
    growth = (F.col("revenue_now") - F.col("revenue_before")).cast("double") / F.col("revenue_before").cast("double")
    return grown.select(
        "period_type",
        _label().alias("period_value"),
        "category",
        "total_sales",
        "total_revenue",
        _ratio("total_revenue", "total_sales").alias("avg_order_value"),
        "total_quantity",
        F.when(is_comparable & has_days, growth).alias("growth_rate"),
        "is_running",
        F.least(F.date_sub("end", 1), F.lit(run_date)).alias("analysis_date"),
    )


def _by_period(days: DataFrame, run_date: date) -> DataFrame:
    """Each row three times: with the start and end (exclusive) of its week, month and quarter, and the previous start.

    `is_compared` says whether the day counts when the next period is compared with this one: always, or among as many
    first days as the next one has completed when that contains `run_date`.
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
            )
        )
    return days.select("*", F.inline(F.array(*periods)))


def _label() -> Column:
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
