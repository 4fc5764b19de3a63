"""Sales trends: revenue and orders by week, month and quarter, and their growth."""

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib.analytics.measures import ratio
from lib.etl.products import TOTAL
from lib.warehouse.load import Load
from lib.warehouse.read import read_warehouse


def sales_days(load: Load, stale: str) -> str:
    """The query for sales of the days that meet the condition of `stale_days`, whole days each.

    Grain: one row per day and category, and the total `All`; an order counts once in each of them.
    """
    days = "true" if stale == "true" else f"date_id in (select date_id from fact_sales where {stale})"
    lines = (
        "select date_id, category, transaction_id, quantity, total_amount from fact_sales"
        f" join dim_products using (product_id_pk) where ingest_batch_id <= {load.cut.batches['transactions']} and {days}"
    )
    return (
        f"select date, coalesce(category, '{TOTAL}') as category, count(distinct transaction_id) as orders,"
        f" sum(quantity)::numeric(38) as quantity, sum(total_amount)::numeric(38, 2) as revenue from ({lines}) as lines"
        " join dim_date using (date_id) group by grouping sets ((date, category), (date))"
    )


def read_sales_days(load: Load, staged: str) -> DataFrame:
    """Sales of all days: those that are staged, and of other days what is kept of them."""
    columns = "date, category, orders, quantity, revenue"
    return read_warehouse(
        load,
        f'select {columns} from staging."{staged}" union all select {columns} from ops.sales_days'
        f' where date not in (select date from staging."{staged}")',
    )


def keep_sales_days(load: Load, staged: str) -> None:
    """Keep the staged days for the next loads."""
    load.execute(f'delete from ops.sales_days where date in (select date from staging."{staged}")')
    load.insert_new("ops.sales_days", staged, ["date", "category"])


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
        ratio("total_revenue", "total_sales").alias("avg_order_value"),
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
