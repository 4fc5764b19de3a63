"""What several analytics jobs share: ratios, quintiles, and the days that have to be computed again."""

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from lib.warehouse.load import Load


def stale_days(load: Load, *sources: str) -> str:
    """The SQL condition on `date_id` and `product_id_pk` of a fact that finds what has to be computed again.

    That is the days with facts of these realtime tables above the job's watermark, and the days of a product whose first
    version has changed in place.
    """
    since = load.window.since
    if since is None:
        return "true"
    facts = {"transactions": "fact_sales", "product_view_events": "fact_product_views"}
    new = " union ".join(
        f"select date_id from {facts[source]} where ingest_batch_id > {since.batches[source]}" for source in sources
    )
    changed = (
        "select product_id_pk from dim_products"
        f" where changed_by_cut > {since.cut_id} and first_booked_date >= '{since.run_date}'"
    )
    days, products = (", ".join(map(str, load.query(query).iloc[:, 0])) or "null" for query in (new, changed))
    return f"(date_id in ({days}) or product_id_pk in ({products}))"


def ratio(numerator: str, denominator: str) -> Column:
    """numerator ÷ denominator as a double; NULL where the denominator is 0."""
    return F.when(F.col(denominator) != 0, F.col(numerator).cast("double") / F.col(denominator).cast("double"))


def quintile(worst_first: Column, value: str) -> Column:
    """The quintile, 1 to 5, of a value's mid-rank over all rows; `worst_first` is the order, `value` finds the ties."""
    rank = F.rank().over(Window.orderBy(worst_first)).cast("long")
    ties = F.count("*").over(Window.partitionBy(value))
    n = F.count("*").over(Window.partitionBy())
    return F.floor((5 * (2 * (rank - 1) + ties) + 2 * n - 1) / (2 * n)).cast("int")
