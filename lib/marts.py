"""What the analytics jobs read of the star schema: facts with the attributes of the versions that were valid."""

from pyspark.sql import DataFrame

from lib.warehouse import Load, read_warehouse

FACT_JOBS = ("etl/fact_sales", "etl/fact_product_views", "etl/fact_cart_events")
"""Analytics never read past these jobs' watermarks."""


def sales(load: Load, where: str = "true") -> DataFrame:
    """Order lines. Grain: one row per row of `fact_sales` that meets the SQL condition on `d` (day) and `p` (product)."""
    return read_warehouse(
        load,
        "select s.transaction_id, s.quantity, s.total_amount, d.date, c.user_id, p.product_id, p.category"
        " from fact_sales s join dim_date d using (date_id) join dim_customers c using (customer_id)"
        f" join dim_products p using (product_id_pk) where {where}",
    )


def views(load: Load, where: str = "true") -> DataFrame:
    """Views. Grain: one row per row of `fact_product_views` that meets the SQL condition on `d` (day) and `p` (product)."""
    return read_warehouse(
        load,
        "select d.date, p.product_id from fact_product_views v join dim_date d using (date_id)"
        f" join dim_products p using (product_id_pk) where {where}",
    )


def product_versions(load: Load) -> DataFrame:
    """All versions of products: `product_id`, `category`, `effective_date`, `end_date`."""
    return read_warehouse(load, "select product_id, category, effective_date, end_date from dim_products")


def stale_days(load: Load) -> str:
    """The SQL condition on `d` and `p` that finds what `product_performance` has to compute again.

    That is the days with facts above the job's watermark, and every day of a product whose version has changed.
    """
    since = load.window.since
    if since is None:
        return "true"
    days = load.query(
        "select distinct date_id from fact_sales where ingest_batch_id > %s"
        " union select date_id from fact_product_views where ingest_batch_id > %s",
        since.batches["transactions"],
        since.batches["product_view_events"],
    )
    listed = ", ".join(str(day) for day in days["date_id"]) or "null"
    changed = f"select product_id from dim_products where changed_by_cut > {since.cut_id}"
    return f"(d.date_id in ({listed}) or p.product_id in ({changed}))"
