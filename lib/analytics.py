"""The four analytics tables, computed from the warehouse. Each function's docstring states its grain and its formula."""

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib.customers import SEGMENTS

TOTAL = "All"

RFM_SEGMENTS = {
    5: ("New Customers", "Potential Loyalists", "Potential Loyalists", "Champions", "Champions"),
    4: ("Promising", "Potential Loyalists", "Loyal", "Loyal", "Champions"),
    3: ("About To Sleep", "Need Attention", "Need Attention", "Loyal", "Loyal"),
    2: ("Hibernating", "Hibernating", "At Risk", "At Risk", "At Risk"),
    1: ("Lost", "Lost", "At Risk", "Can't Lose Them", "Can't Lose Them"),
}
"""Segment by recency score (key) and by the mean of frequency and monetary score, 1 to 5 (position)."""


# --- product performance


def product_performance(sales: DataFrame, views: DataFrame, products: DataFrame) -> DataFrame:
    """Performance of products. Grain: one row per product and day with a sale or a view.

    `conversion_rate` is orders ÷ views (NULL without views), `avg_price` revenue ÷ quantity (NULL without sales); the
    category is that of the version valid on the day.

    Parameters
    ----------
    sales
        `product_id`, `analysis_date`, `transaction_id`, `quantity`, `total_amount` of each order line.
    views
        `product_id`, `analysis_date` of each view.
    products
        The versions: `product_id`, `category`, `effective_date`, `end_date`.
    """
    day = ["product_id", "analysis_date"]
    sold = sales.groupBy(*day).agg(
        F.countDistinct("transaction_id").alias("total_sales"),
        F.sum("total_amount").cast("decimal(18,2)").alias("total_revenue"),
        F.sum("quantity").alias("total_quantity"),
    )
    seen = views.groupBy(*day).agg(F.count("*").alias("total_views"))
    both = sold.join(seen, day, "full").select(
        *day,
        F.coalesce("total_sales", F.lit(0)).alias("total_sales"),
        F.coalesce("total_revenue", F.lit(0).cast("decimal(18,2)")).alias("total_revenue"),
        F.coalesce("total_quantity", F.lit(0)).alias("total_quantity"),
        F.coalesce("total_views", F.lit(0)).alias("total_views"),
    )
    rated = both.withColumn("conversion_rate", _ratio("total_sales", "total_views")).withColumn(
        "avg_price", _ratio("total_revenue", "total_quantity")
    )
    is_valid = (F.col("analysis_date") >= F.col("effective_date")) & (
        F.col("end_date").isNull() | (F.col("analysis_date") < F.col("end_date"))
    )
    versions = products.withColumnRenamed("product_id", "version_of")
    return rated.join(versions, (F.col("product_id") == F.col("version_of")) & is_valid).drop(
        "version_of", "effective_date", "end_date"
    )


def _ratio(numerator: str, denominator: str) -> Column:
    """numerator ÷ denominator as a double; NULL where the denominator is 0."""
    return F.when(F.col(denominator) != 0, F.col(numerator).cast("double") / F.col(denominator).cast("double"))


# --- customer segments


def customer_segments(customers: DataFrame, run_date: date) -> DataFrame:
    """Totals of each segment. Grain: one row per segment, all four always.

    `customers` are the current ones: `customer_segment`, `total_transactions`, `total_spent`. The average order value is
    revenue ÷ orders, 0 without orders.
    """
    session = customers.sparkSession
    names = session.createDataFrame([(name,) for name in SEGMENTS], "segment_name string")
    totals = customers.groupBy(F.col("customer_segment").alias("segment_name")).agg(
        F.count("*").alias("customer_count"),
        F.sum("total_spent").cast("decimal(18,2)").alias("total_revenue"),
        F.sum("total_transactions").alias("orders"),
    )
    filled = names.join(totals, "segment_name", "left").na.fill(0, ["customer_count", "orders"])
    average = F.coalesce(_ratio("total_revenue", "orders"), F.lit(0.0))
    revenue = F.coalesce("total_revenue", F.lit(0).cast("decimal(18,2)"))
    return filled.select(
        "segment_name",
        "customer_count",
        revenue.alias("total_revenue"),
        average.alias("avg_order_value"),
        F.lit(run_date).alias("analysis_date"),
    )


# --- RFM


def rfm(sales: DataFrame, run_date: date) -> DataFrame:
    """Recency, frequency and monetary value. Grain: one row per customer with a sale before `run_date`.

    Scores are quintiles of the mid-rank, worst first, equal values equal:
    `(5*(2*(rank-1)+ties) + 2*n-1) / (2*n)` in whole numbers. The segment follows from `RFM_SEGMENTS`.

    Parameters
    ----------
    sales
        `user_id`, `date`, `transaction_id`, `total_amount` of each order line.
    """
    customers = (
        sales.where(F.col("date") < F.lit(run_date))
        .groupBy("user_id")
        .agg(
            F.date_diff(F.lit(run_date), F.max("date")).alias("recency_days"),
            F.countDistinct("transaction_id").alias("frequency_count"),
            F.sum("total_amount").cast("decimal(18,2)").alias("monetary_value"),
        )
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


def sales_trends(sales: DataFrame, run_date: date) -> DataFrame:
    """Sales per period. Grain: one row per ISO week, month or quarter, and category with a sale, and the total `All`.

    An order counts once per category. `growth_rate` is the change of revenue against the previous calendar period, a
    fraction; for the period that contains `run_date` its completed days are compared with as many first days of the
    previous one. NULL where the previous one is absent, 0, or begins before the first day with a sale.

    Parameters
    ----------
    sales
        `date`, `category`, `transaction_id`, `quantity`, `total_amount` of each order line.
    """
    first_sale = sales.agg(F.min("date").alias("first_sale"))
    lines = _by_period(sales.unionByName(sales.withColumn("category", F.lit(TOTAL))))
    period = ["period_type", "start", "category"]
    sums = lines.groupBy(*period, "previous", "end").agg(
        F.countDistinct("transaction_id").alias("total_sales"),
        F.sum("total_amount").cast("decimal(18,2)").alias("total_revenue"),
        F.sum("quantity").alias("total_quantity"),
    )
    running = (F.col("start") <= F.lit(run_date)) & (F.lit(run_date) < F.col("end"))
    completed = F.date_diff(F.lit(run_date), F.col("start"))
    compared = _compared(lines, run_date)
    before = compared.select(
        "period_type", F.col("start").alias("previous"), "category", F.col("compared").alias("revenue_before")
    )
    now = compared.select(*period, F.col("completed_revenue"))
    grown = (
        sums.join(now, period)
        .join(before, ["period_type", "previous", "category"], "left")
        .crossJoin(first_sale)
        .withColumn("is_running", running)
        .withColumn("revenue_now", F.when(running, F.col("completed_revenue")).otherwise(F.col("total_revenue")))
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


def _by_period(lines: DataFrame) -> DataFrame:
    """Each line three times: with the start and end (exclusive) of its week, month and quarter, and the previous start."""
    kinds = {"weekly": ("week", 7, "day"), "monthly": ("month", 1, "month"), "quarterly": ("quarter", 3, "month")}
    frames = []
    for name, (unit, length, step) in kinds.items():
        start = F.to_date(F.date_trunc(unit, "date"))
        add = F.date_add if step == "day" else F.add_months
        frames.append(
            lines.select(
                "*",
                F.lit(name).alias("period_type"),
                start.alias("start"),
                add(start, length).alias("end"),
                add(start, -length).alias("previous"),
            )
        )
    return frames[0].unionByName(frames[1]).unionByName(frames[2])


def _compared(lines: DataFrame, run_date: date) -> DataFrame:
    """Two revenues of each period and category: of its days before `run_date`, and of what the next period is compared with.

    The latter is the whole period, or as many first days as the next one has completed when that contains `run_date`.
    """
    next_start, next_completed = F.col("end"), F.date_diff(F.lit(run_date), F.col("end"))
    next_end = F.when(F.col("period_type") == "weekly", F.date_add(next_start, 7)).otherwise(
        F.add_months(next_start, F.when(F.col("period_type") == "monthly", 1).otherwise(3))
    )
    next_is_running = (next_start <= F.lit(run_date)) & (F.lit(run_date) < next_end)
    counts = ~next_is_running | (F.date_diff(F.col("date"), F.col("start")) < next_completed)
    amount = F.col("total_amount")
    zero = F.lit(0).cast("decimal(18,2)")
    return lines.groupBy("period_type", "start", "category").agg(
        F.sum(F.when(counts, amount).otherwise(zero)).alias("compared"),
        F.sum(F.when(F.col("date") < F.lit(run_date), amount).otherwise(zero)).alias("completed_revenue"),
    )


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
