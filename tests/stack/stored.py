"""The 14 tables as a database holds them, in the columns of the oracle; checksums of everything; and differences in words."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn
from psycopg2.extras import RealDictCursor
from pydantic import SecretStr

from lib.settings import Settings
from tests.oracle import COLUMNS, KEYS, frame

REALTIME = ("transactions", "product_view_events", "cart_events")
WAREHOUSE = tuple(table for table in COLUMNS if table not in REALTIME)
ANALYTICS = ("product_performance", "customer_segments", "rfm_analysis", "sales_trends")
FACTS = ("fact_sales", "fact_product_views", "fact_cart_events")

_MEMBERS = (
    "select f.*, c.user_id, c.effective_date as customer_effective_date, c.customer_segment, p.product_id,"
    " p.effective_date as product_effective_date, p.category, g.country from {} f join dim_customers c using (customer_id)"
    " join dim_products p using (product_id_pk) join dim_geography g using (geography_id)"
)


def renamed(config: Settings, name: str, database: str = "realtime") -> dict[str, SecretStr]:
    """The settings of a database of another name on the same server."""
    return {
        f"{database}_{kind}": SecretStr(make_dsn(config.dsn(database, admin=kind == "admin_dsn"), dbname=name))
        for kind in ("dsn", "admin_dsn")
    }


@contextmanager
def connected(config: Settings, database: str, *, admin: bool = True) -> Iterator[Connection]:
    """A connection in UTC, as the owner of the schema or as the jobs' user."""
    connection = psycopg2.connect(config.dsn(database, admin=admin), options="-c timezone=UTC")
    try:
        yield connection
    finally:
        connection.close()


def rows(connection: Connection, query: str | sql.Composable, *parameters: Any) -> list[dict[str, Any]]:
    """The rows of a query, in a transaction of its own."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(query, parameters)
        return [dict(row) for row in cursor.fetchall()]


def scalar(connection: Connection, query: str, *parameters: Any) -> Any:
    """The one value of a query."""
    ((value,),) = (row.values() for row in rows(connection, query, *parameters))
    return value


def read(connection: Connection, table: str) -> pd.DataFrame:
    """A table in the columns of the oracle; a fact with the natural keys of its members."""
    query = _MEMBERS.format(table) if table in FACTS else f"select * from {table}"
    return frame(table, rows(connection, query))


def checksums(connection: Connection) -> dict[str, str]:
    """A checksum of each table's rows, the versions of the rows (`xmin`) included: what is written again shows."""
    named = rows(
        connection,
        "select schemaname || '.' || tablename as name from pg_tables where schemaname in ('public', 'ops', 'staging')",
    )
    query = "select count(*) || ' ' || coalesce(md5(string_agg(md5(xmin::text || t::text), '' order by ctid)), '') from {} t"
    return {row["name"]: scalar(connection, query.format(row["name"])) for row in named}


def differences(table: str, expected: pd.DataFrame, found: pd.DataFrame, most: int = 5) -> str:
    """What is missing, too much or different in `found`, the first few of each; empty for equal tables."""
    wanted, there = _by_key(table, expected), _by_key(table, found)
    changed = [
        f"{key}: {name} is {there[key][name]!r}, not {value!r}"
        for key in wanted.keys() & there.keys()
        for name, value in wanted[key].items()
        if not _equal(there[key][name], value)
    ]
    findings = {
        "missing": [f"{key}: {wanted[key]}" for key in wanted.keys() - there.keys()],
        "too much": [f"{key}: {there[key]}" for key in there.keys() - wanted.keys()],
        "different": changed,
    }
    return "\n".join(
        f"{table}: {len(lines)} {what}\n  " + "\n  ".join(sorted(lines)[:most])
        for what, lines in findings.items()
        if lines
    )


def _by_key(table: str, data: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Any]]:
    assert not data.duplicated(KEYS[table]).any(), f"{table}: keys repeat"
    return {tuple(row[name] for name in KEYS[table]): row for row in data.astype(object).to_dict("records")}


def _equal(one: Any, other: Any) -> bool:
    """Exactly equal, NULLs too; only averages and rates may differ in their last digits."""
    if isinstance(one, list) or isinstance(other, list):
        return bool(one == other)
    if pd.isna(one) or pd.isna(other):
        return bool(pd.isna(one) and pd.isna(other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)
