"""RFM: recency, frequency and monetary value of each customer, and the segment that follows."""

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.analytics.measures import quintile
from lib.warehouse.load import Load
from lib.warehouse.read import read_warehouse

RFM_SEGMENTS = {
    5: ("New Customers", "Potential Loyalists", "Potential Loyalists", "Champions", "Champions"),
    4: ("Promising", "Potential Loyalists", "Loyal", "Loyal", "Champions"),
    3: ("About To Sleep", "Need Attention", "Need Attention", "Loyal", "Loyal"),
    2: ("Hibernating", "Hibernating", "At Risk", "At Risk", "At Risk"),
    1: ("Lost", "Lost", "At Risk", "Can't Lose Them", "Can't Lose Them"),
}
"""Segment by recency score (key) and by the mean of frequency and monetary score, 1 to 5 (position)."""


def buyers(load: Load) -> DataFrame:
    """Customers with a sale before the run date. Grain: one row per customer: `user_id`, `orders`, `revenue`, `last_day`.

    What the snapshot of the last load says of them, and the sales that have come in between: those of newer batches, and
    those of the days that it left out as too young.
    """
    since, cut = load.window.since, load.cut
    upto, before = f"ingest_batch_id <= {cut.batches['transactions']}", f"date < '{cut.run_date}'"
    snapshot, new = "", "true"
    if since:
        snapshot = (
            "select user_id, frequency_count as orders, monetary_value as revenue, analysis_date - recency_days as last_day"
            f" from rfm_analysis where analysis_date = '{since.run_date}' union all "
        )
        new = f"(ingest_batch_id > {since.batches['transactions']} or date >= '{since.run_date}')"
    sales = (
        "select user_id, count(distinct transaction_id) as orders, sum(total_amount) as revenue, max(date) as last_day"
        " from fact_sales join dim_date using (date_id) join dim_customers using (customer_id)"
        f" where {upto} and {before} and {new} group by user_id"
    )
    return read_warehouse(
        load,
        "select user_id, sum(orders)::bigint as orders, sum(revenue)::numeric(38, 2) as revenue, max(last_day) as last_day"
        f" from ({snapshot}{sales}) as parts group by user_id",
    )


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
