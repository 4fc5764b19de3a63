"""What the 14 tables must hold, computed a second way: plain Python over the raw events and the cuts.

Nothing here comes from `lib` or `generators`. Everything is recomputed from scratch for the state after the last cut;
there is no loading step, no watermark and no update, so an error of incremental loading cannot be repeated here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .analytics import customer_segments, product_performance, rfm_analysis, sales_trends
from .dimensions import Dimensions
from .events import Cut, check_cuts, first_of_each, read, realtime_rows
from .facts import cart_rows, sales_rows, view_rows
from .frames import COLUMNS, KEYS, frame

__all__ = ["COLUMNS", "KEYS", "Cut", "expected", "first_of_each", "frame"]


def expected(events: Mapping[str, Sequence[Mapping[str, Any]]], cuts: Sequence[Cut]) -> dict[str, pd.DataFrame]:
    """Compute all 14 tables as they stand after the last cut, analytics having run at every cut.

    Parameters
    ----------
    events
        Realtime table name to its rows, each `{"event": parsed JSON object, "batch": ledger batch}`, ids unique.
    cuts
        Ascending: `cut_id`, `run_date`, and for each realtime table the last ledger batch that is read.

    Returns
    -------
    dict of DataFrame
        Columns and types of `COLUMNS`, rows sorted by `KEYS`. Surrogate keys are left out; a fact carries the natural
        key and the start of the version that it belongs to. The realtime tables hold every event, the others those up
        to the last cut.

    Raises
    ------
    ValueError
        If the cuts go back, cover an event after their run date, or ids repeat.
    """
    loaded = read(events, cuts)
    check_cuts(loaded, cuts)
    run_date = cuts[-1]["run_date"]
    dimensions = Dimensions(loaded, run_date)
    sales, views, carts = (rows(loaded, dimensions) for rows in (sales_rows, view_rows, cart_rows))
    customers = dimensions.customer_rows()
    rows = {
        **{table: realtime_rows(table, events[table]) for table in events},
        "dim_date": dimensions.date_rows(),
        "dim_geography": dimensions.geography_rows(),
        "dim_products": dimensions.product_rows(),
        "dim_customers": customers,
        "fact_sales": sales,
        "fact_product_views": views,
        "fact_cart_events": carts,
        "product_performance": product_performance(sales, views),
        "customer_segments": customer_segments(customers, run_date),
        "rfm_analysis": rfm_analysis(sales, cuts),
        "sales_trends": sales_trends(sales, run_date),
    }
    return {table: frame(table, rows.get(table, [])) for table in COLUMNS}
