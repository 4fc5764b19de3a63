"""What the analytics jobs read of the star schema: sums that PostgreSQL makes of the facts that a job has to look at."""

from pyspark.sql import DataFrame

from lib.warehouse import Load, read_warehouse

TOTAL = "All"
"""The category of the total."""


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


def segments(load: Load) -> DataFrame:
    """Current customers by segment: `segment_name`, `customer_count`, `total_revenue`, `orders`."""
    return read_warehouse(
        load,
        "select customer_segment as segment_name, count(*) as customer_count,"
        " sum(total_spent)::numeric(38, 2) as total_revenue, sum(total_transactions)::bigint as orders"
        " from dim_customers where is_current and user_id <> '' group by customer_segment",
    )
