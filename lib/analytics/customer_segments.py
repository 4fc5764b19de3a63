"""Customer segments: how many customers each has, and what they spent."""

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.analytics.measures import ratio
from lib.etl.customers import SEGMENTS
from lib.warehouse.load import Load
from lib.warehouse.read import read_warehouse


def segments(load: Load) -> DataFrame:
    """Current customers by segment: `segment_name`, `customer_count`, `total_revenue`, `orders`."""
    return read_warehouse(
        load,
        "select customer_segment as segment_name, count(*) as customer_count,"
        " sum(total_spent)::numeric(38, 2) as total_revenue, sum(total_transactions)::bigint as orders"
        " from dim_customers where is_current and user_id <> '' group by customer_segment",
    )


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
        F.coalesce(ratio("total_revenue", "orders"), F.lit(0.0)).alias("avg_order_value"),
        F.lit(run_date).alias("analysis_date"),
    )
