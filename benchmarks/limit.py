"""Facts once more, by one statement inside PostgreSQL, with keys, indexes and foreign keys: what a load is measured against."""

import io
import time
from contextlib import closing

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.etl.facts import FACTS
from lib.settings import settings

RAW = {
    "transactions": "transaction_id, user_id, transaction_timestamp, country, products",
    "product_view_events": "event_id, event_type, user_id, product_id, session_id, event_timestamp, country, view_duration",
    "cart_events": "event_id, event_type, user_id, product_id, session_id, event_timestamp, country, quantity, price",
}

KEYS = "join dim_date d on d.date = (e.{time} at time zone 'UTC')::date" + "".join(
    f" join {table} {alias} on {alias}.{key} = e.{key} and d.date >= {alias}.effective_date"
    f" and (d.date < {alias}.end_date or {alias}.end_date is null)"
    for table, alias, key in (("dim_customers", "c", "user_id"), ("dim_products", "p", "product_id"))
) + " left join dim_geography g on g.country = coalesce(e.country, '')"  # fmt: skip

STATEMENT = f"""
with lines as (
    select t.*, l.number, l.line ->> 'product_id' as product_id, (l.line ->> 'quantity')::integer as quantity,
        (l.line ->> 'price')::numeric(18, 4) as price
    from raw_transactions t cross join jsonb_array_elements(t.products) with ordinality as l (line, number)
),
sales as (
    insert into fact_sales (event_id, transaction_id, date_id, customer_id, product_id_pk, geography_id,
        transaction_timestamp, quantity, unit_price, total_amount, ingest_batch_id)
    select transaction_id || ':' || number, transaction_id, date_id, customer_id, product_id_pk, geography_id,
        transaction_timestamp, quantity, price, round(quantity * price, 2), ingest_batch_id
    from lines e {KEYS.format(time="transaction_timestamp")} on conflict do nothing returning 1
),
views as (
    insert into fact_product_views (event_id, date_id, customer_id, product_id_pk, geography_id, event_timestamp,
        event_type, session_id, view_duration, ingest_batch_id)
    select event_id, date_id, customer_id, product_id_pk, geography_id, event_timestamp, event_type, session_id,
        view_duration, ingest_batch_id
    from raw_product_view_events e {KEYS.format(time="event_timestamp")} on conflict do nothing returning 1
),
carts as (
    insert into fact_cart_events (event_id, date_id, customer_id, product_id_pk, geography_id, event_timestamp,
        event_type, session_id, quantity, total_amount, ingest_batch_id)
    select event_id, date_id, customer_id, product_id_pk, geography_id, event_timestamp, event_type, session_id,
        quantity, round(quantity * price, 2), ingest_batch_id
    from raw_cart_events e {KEYS.format(time="event_timestamp")} on conflict do nothing returning 1
)
select (select count(*) from sales) + (select count(*) from views) + (select count(*) from carts)
"""


NOTHING = dict.fromkeys(RAW, 0)
"""Before the first batch."""


def increment(rounds: int) -> list[float]:
    """Seconds of the statement for the last increment, in rounds; each takes it out of the facts first, and is rolled back."""
    with closing(_connect("warehouse")) as warehouse:
        after = _last_increment(warehouse)
        _copy_raw(warehouse, after)
        return [_load_once(warehouse, after)[1] for _ in range(rounds)]


def everything() -> float:
    """Rows/s of the statement for all events at once; it empties the facts first, and is rolled back."""
    with closing(_connect("warehouse")) as warehouse:
        _copy_raw(warehouse, NOTHING)
        rows, seconds = _load_once(warehouse, NOTHING)
        return rows / seconds


def _connect(name: str) -> Connection:
    return psycopg2.connect(settings().dsn(name, admin=True))


def _copy_raw(warehouse: Connection, after: dict[str, int]) -> None:
    """Copy the events after these batches into temporary tables of the warehouse."""
    with closing(_connect("realtime")) as realtime:
        for table, columns in RAW.items():
            _copy(realtime, warehouse, table, f"{columns}, ingest_batch_id", after[table])
    warehouse.commit()


def _last_increment(warehouse: Connection) -> dict[str, int]:
    """The batch of each realtime table after which the last cycle read."""
    with warehouse.cursor() as cursor:
        cursor.execute(f"select {', '.join(RAW)} from ops.cuts order by cut_id desc offset 1 limit 1")
        return dict(zip(RAW, cursor.fetchone() or (), strict=True))


def _copy(realtime: Connection, warehouse: Connection, table: str, columns: str, after: int) -> None:
    rows = io.StringIO()
    with realtime.cursor() as source, warehouse.cursor() as target:
        source.copy_expert(f"copy (select {columns} from {table} where ingest_batch_id > {after}) to stdout", rows)
        source.execute(
            "select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ') from pg_attribute"
            " where attrelid = %s::regclass and attname = any(%s)",
            [table, columns.split(", ")],
        )
        types = source.fetchone()
        assert types is not None
        rows.seek(0)
        target.execute(f"create temporary table raw_{table} ({types[0]})")
        target.copy_expert(f"copy raw_{table} ({columns}) from stdin", rows)
        target.execute(f"analyze raw_{table}")


def _load_once(warehouse: Connection, after: dict[str, int]) -> tuple[int, float]:
    """Rows that the statement brings back, and its seconds."""
    with warehouse.cursor() as cursor:
        taken = 0
        for fact in FACTS:
            cursor.execute(f"alter table {fact.table} disable trigger append_only")
            cursor.execute(f"select count(*) from {fact.table} where ingest_batch_id > %s", [after[fact.source]])
            taken += (cursor.fetchone() or (0,))[0]
            if after == NOTHING:
                cursor.execute(f"truncate {fact.table}")
            else:
                cursor.execute(f"delete from {fact.table} where ingest_batch_id > %s", [after[fact.source]])
        began = time.monotonic()
        cursor.execute(STATEMENT)
        seconds = time.monotonic() - began
        assert cursor.fetchone() == (taken,)
    warehouse.rollback()
    return taken, seconds
