"""Columns, types and keys of the 14 tables as they are compared."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

TEXT = DATE = MONEY = JSON = "object"  # str, datetime.date, Decimal, list; NULL is None
INSTANT = "datetime64[us, UTC]"
COUNT, NULLABLE_COUNT = "int64", "Int64"
RATE = "float64"  # NULL is NaN
FLAG = "bool"

VALIDITY = {"effective_date": DATE, "end_date": DATE, "is_current": FLAG}
REFERENCES = {
    "date_id": COUNT,
    "user_id": TEXT,
    "customer_effective_date": DATE,
    "customer_segment": TEXT,
    "product_id": TEXT,
    "product_effective_date": DATE,
    "category": TEXT,
    "country": TEXT,
}
SHOPPING = {
    "event_id": TEXT,
    "event_type": TEXT,
    "user_id": TEXT,
    "product_id": TEXT,
    "event_timestamp": INSTANT,
    "session_id": TEXT,
    "country": TEXT,
    "category": TEXT,
}
FACT_OF_SHOPPING = {"event_timestamp": INSTANT, "event_type": TEXT, "session_id": TEXT}

COLUMNS: dict[str, dict[str, str]] = {
    "transactions": {
        "transaction_id": TEXT,
        "user_id": TEXT,
        "transaction_timestamp": INSTANT,
        "total_amount": MONEY,
        "country": TEXT,
        "products": JSON,
    },
    "product_view_events": SHOPPING | {"view_duration": NULLABLE_COUNT},
    "cart_events": SHOPPING | {"quantity": NULLABLE_COUNT, "price": MONEY},
    "dim_date": {
        "date_id": COUNT,
        "date": DATE,
        "year": COUNT,
        "quarter": COUNT,
        "month": COUNT,
        "day": COUNT,
        "day_of_week": COUNT,
        "week_of_year": COUNT,
        "is_weekend": FLAG,
    },
    "dim_geography": {"country": TEXT} | VALIDITY,
    "dim_products": {"product_id": TEXT, "category": TEXT} | VALIDITY,
    "dim_customers": {
        "user_id": TEXT,
        "first_transaction_date": DATE,
        "last_transaction_date": DATE,
        "total_transactions": COUNT,
        "total_spent": MONEY,
        "avg_order_value": RATE,
        "customer_segment": TEXT,
    }
    | VALIDITY,
    "fact_sales": {"event_id": TEXT, "transaction_id": TEXT}
    | REFERENCES
    | {
        "transaction_timestamp": INSTANT,
        "quantity": COUNT,
        "unit_price": MONEY,
        "total_amount": MONEY,
        "ingest_batch_id": COUNT,
    },
    "fact_product_views": {"event_id": TEXT}
    | REFERENCES
    | FACT_OF_SHOPPING
    | {"view_duration": NULLABLE_COUNT, "ingest_batch_id": COUNT},
    "fact_cart_events": {"event_id": TEXT}
    | REFERENCES
    | FACT_OF_SHOPPING
    | {"quantity": NULLABLE_COUNT, "total_amount": MONEY, "ingest_batch_id": COUNT},
    "product_performance": {
        "product_id": TEXT,
        "category": TEXT,
        "analysis_date": DATE,
        "total_sales": COUNT,
        "total_revenue": MONEY,
        "total_quantity": COUNT,
        "total_views": COUNT,
        "conversion_rate": RATE,
        "avg_price": RATE,
    },
    "customer_segments": {
        "segment_name": TEXT,
        "customer_count": COUNT,
        "total_revenue": MONEY,
        "avg_order_value": RATE,
        "analysis_date": DATE,
    },
    "rfm_analysis": {
        "user_id": TEXT,
        "analysis_date": DATE,
        "recency_days": COUNT,
        "frequency_count": COUNT,
        "monetary_value": MONEY,
        "recency_score": COUNT,
        "frequency_score": COUNT,
        "monetary_score": COUNT,
        "rfm_segment": TEXT,
    },
    "sales_trends": {
        "period_type": TEXT,
        "period_value": TEXT,
        "category": TEXT,
        "total_sales": COUNT,
        "total_revenue": MONEY,
        "avg_order_value": RATE,
        "total_quantity": COUNT,
        "growth_rate": RATE,
        "analysis_date": DATE,
        "is_running": FLAG,
    },
}

KEYS: dict[str, list[str]] = {
    "transactions": ["transaction_id"],
    "product_view_events": ["event_id"],
    "cart_events": ["event_id"],
    "dim_date": ["date_id"],
    "dim_geography": ["country"],
    "dim_products": ["product_id", "effective_date"],
    "dim_customers": ["user_id", "effective_date"],
    "fact_sales": ["event_id"],
    "fact_product_views": ["event_id"],
    "fact_cart_events": ["event_id"],
    "product_performance": ["product_id", "analysis_date"],
    "customer_segments": ["segment_name"],
    "rfm_analysis": ["analysis_date", "user_id"],
    "sales_trends": ["period_type", "period_value", "category"],
}


def frame(table: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Type and sort rows of a table, so that what was computed and what a database holds can be compared.

    Parameters
    ----------
    table
        One of `COLUMNS`.
    rows
        Mappings of column to Python value; columns that aren't in `COLUMNS` are dropped, a missing one is an error.
    """
    ordered = sorted(rows, key=lambda row: tuple(row[column] for column in KEYS[table]))
    return pd.DataFrame(
        {column: pd.Series([row[column] for row in ordered], dtype=kind) for column, kind in COLUMNS[table].items()}
    )
