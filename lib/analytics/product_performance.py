"""Product performance: what is sold and looked at, by product and day."""

from pyspark.sql import DataFrame

from lib.analytics.measures import ratio
from lib.warehouse.load import Load
from lib.warehouse.read import read_warehouse


def product_days(load: Load, stale: str) -> DataFrame:
    """Sales and views of products that meet the condition of `stale_days`. Grain: one row per product, category and day."""
    upto = load.cut.batches
    return read_warehouse(
        load,
        "select product_id, category, date as analysis_date, sum(orders)::bigint as total_sales,"
        " coalesce(sum(revenue), 0)::numeric(38, 2) as total_revenue, coalesce(sum(quantity), 0)::numeric(38) as total_quantity,"
        " sum(views)::bigint as total_views from ("
        "select product_id_pk, date_id, count(distinct transaction_id) as orders, sum(total_amount) as revenue,"
        " sum(quantity) as quantity, 0 as views from fact_sales"
        f" where ingest_batch_id <= {upto['transactions']} and {stale} group by product_id_pk, date_id"
        " union all select product_id_pk, date_id, 0, null, null, count(*) from fact_product_views"
        f" where ingest_batch_id <= {upto['product_view_events']} and {stale} group by product_id_pk, date_id"
        ") as facts join dim_date using (date_id) join dim_products using (product_id_pk)"
        " group by product_id, category, date",
    )


def product_performance(days: DataFrame) -> DataFrame:
    """Performance of products. Grain: one row per product and day with a sale or a view.

    `conversion_rate` is orders ÷ views (NULL without views), `avg_price` revenue ÷ quantity (NULL without sales).

    Parameters
    ----------
    days
        `product_id`, `category`, `analysis_date`, `total_sales`, `total_revenue`, `total_quantity`, `total_views`.
    """
    return days.withColumn("conversion_rate", ratio("total_sales", "total_views")).withColumn(
        "avg_price", ratio("total_revenue", "total_quantity")
    )
