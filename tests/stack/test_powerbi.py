"""Power BI's model over the warehouse: its columns are there, and its measures are the numbers that SQL and the reports say."""

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import psycopg2
import pytest
import scrapbook
import stored
from line import Line

from lib import servers
from lib.settings import Settings
from tests.powerbi import model as powerbi

TYPES = {
    "int64": {"integer", "bigint"},
    "string": {"text", "character varying"},
    "dateTime": {"date"},
    "boolean": {"boolean"},
    "double": {"numeric", "double precision"},
}
"""What PostgreSQL's types are in the model."""

SOLD = (
    "select f.*, c.user_id, c.customer_segment, p.product_id, p.category, d.date, now.customer_segment as segment_now"
    " from fact_sales f join dim_customers c using (customer_id) join dim_products p using (product_id_pk)"
    " join dim_date d using (date_id) join dim_customers now on now.user_id = c.user_id and now.is_current"
)
CUSTOMERS = "select count(*) from dim_customers where is_current and user_id <> ''"
RFM = (
    "from rfm_analysis where analysis_date = (select run_date from serving.loaded where job = 'analytics/rfm_analysis')"
)
CART = "from fact_cart_events where event_type ="
LAST = "select {} from sales_trends where period_type = '{}' and category = 'All' order by analysis_date desc limit 1"

SQL = {
    "Revenue": "select sum(total_amount) from fact_sales",
    "Revenue so far": "select sum(total_revenue) from sales_trends where period_type = 'monthly' and category = 'All'",
    "Last month revenue": LAST.format("total_revenue", "monthly"),
    "Orders": "select count(distinct transaction_id) from fact_sales",
    "Quantity sold": "select sum(quantity) from fact_sales",
    "Average order value": "select sum(total_amount)::float / count(distinct transaction_id) from fact_sales",
    "Average price": "select sum(total_amount)::float / sum(quantity) from fact_sales",
    "Run date": "select run_date from ops.cuts join ops.watermarks using (cut_id) where job = 'analytics/sales_trends'",
    "First sale": "select min(date) from fact_sales join dim_date using (date_id)",
    "Weekly growth": LAST.format("growth_rate", "weekly"),
    "Monthly growth": LAST.format("growth_rate", "monthly"),
    "Quarterly growth": LAST.format("growth_rate", "quarterly"),
    "Product orders": "select sum(total_sales) from product_performance",
    "Views": "select sum(total_views) from product_performance",
    "Conversion": "select sum(total_sales)::float / sum(total_views) from product_performance",
    "Products": "select count(distinct product_id) from product_performance",
    "Sessions": "select count(distinct session_id) from fact_product_views",
    "Average view seconds": "select avg(view_duration)::float from fact_product_views",
    "Buyers": f"select count(distinct user_id) from ({SOLD}) s",
    "Active customers": "select count(distinct user_id) from dim_customers where customer_id in (select customer_id"
    " from fact_sales union select customer_id from fact_product_views union select customer_id from fact_cart_events)",
    "Customers": CUSTOMERS,
    "High Value customers": "select customer_count from customer_segments where segment_name = 'High Value'",
    "High Value revenue": "select total_revenue from customer_segments where segment_name = 'High Value'",
    "High Value share of revenue": "select (sum(total_revenue) filter (where segment_name = 'High Value')"
    " / sum(total_revenue))::float from customer_segments",
    "New buyers": f"{CUSTOMERS} and total_transactions > 0",
    "Last seen buyers": f"{CUSTOMERS} and total_transactions > 0",
    "Cart events": "select count(*) from fact_cart_events",
    "Added to cart": f"select count(*) {CART} 'add'",
    "Removed from cart": f"select count(*) {CART} 'remove'",
    "Checkouts": f"select count(*) {CART} 'checkout'",
    "Value added to cart": f"select sum(total_amount) {CART} 'add'",
    "RFM customers": f"select count(*) {RFM}",
    "RFM Champions": f"select count(*) {RFM} and rfm_segment = 'Champions'",
    "RFM At Risk": f"select count(*) {RFM} and rfm_segment = 'At Risk'",
    "RFM revenue": f"select sum(monetary_value) {RFM}",
    "RFM orders": f"select sum(frequency_count) {RFM}",
    "RFM days since last order": f"select avg(recency_days)::float {RFM}",
    "RFM snapshot": f"select max(analysis_date) {RFM}",
}
"""Each measure over everything, from the tables that the jobs have made."""

PERIODS = {
    "weekly": ("dim_date.week_label", "Weekly growth"),
    "monthly": ("dim_date.month_label", "Monthly growth"),
    "quarterly": ("dim_date.quarter_label", "Quarterly growth"),
}
"""How the model calls the periods of `sales_trends`, and their growth."""


@pytest.fixture(scope="module")
def model() -> powerbi.Model:
    return powerbi.model()


@pytest.fixture(scope="module")
def imported(stack: Settings, line: Line, model: powerbi.Model) -> dict[str, powerbi.Rows]:
    """What Power BI imports after the story, read by the user that it logs in as."""
    reader = servers.connect(stack.address("warehouse", reader=True))
    try:
        return {name: stored.rows(reader, powerbi.query(model, name)) for name in model.tables if model.source(name)}
    finally:
        reader.close()


@pytest.fixture(scope="module")
def data(imported: dict[str, powerbi.Rows], model: powerbi.Model) -> powerbi.Data:
    """The same, ready for measures."""
    return powerbi.load(model, imported)


def agree(one: Any, other: Any) -> bool:
    """Equal to the cent and in all digits that a rate has, where no row and the number 0 are the same."""
    one = one.date() if isinstance(one, datetime) else one
    if isinstance(one, date) or isinstance(other, date):
        return bool(one == other)
    return math.isclose(one or 0, other or 0, rel_tol=1e-9)


def disagreeing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (found[name], value) for name, value in wanted.items() if not agree(found[name], value)}


def test_each_column_of_the_model_is_in_the_warehouse_with_its_type(
    line: Line, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    there = {
        (row["table_name"], row["column_name"]): row["data_type"]
        for row in stored.rows(
            warehouse,
            "select table_name, column_name, data_type from information_schema.columns where table_schema = 'serving'",
        )
    }
    for name in model.tables:
        if view := model.source(name):
            for column, thing in model.columns(name).items():
                assert there[view, column] in TYPES[thing.properties["dataType"]], f"{name}.{column}"


def test_the_one_side_of_each_relationship_is_unique_and_has_a_row_for_every_key(
    imported: dict[str, powerbi.Rows], model: powerbi.Model
) -> None:
    for relationship in model.relationships:
        (many, foreign), (one, key) = powerbi.ends(relationship)
        keys = [row[key] for row in imported[one]]
        assert len(keys) == len(set(keys)) and None not in keys, relationship.name
        assert {row[foreign] for row in imported[many]} - {None} <= set(keys), relationship.name


def test_each_measure_is_the_number_that_sql_says(
    data: powerbi.Data, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    wanted = {name: stored.scalar(warehouse, query) for name, query in SQL.items()}
    found = powerbi.evaluate(model, data, model.measures)
    assert found.keys() == wanted.keys()
    assert disagreeing(found, wanted) == {}
    assert len([name for name, value in found.items() if value is not None]) > 30


def test_measures_are_the_numbers_that_the_reports_show(
    stack: Settings, line: Line, data: powerbi.Data, model: powerbi.Model
) -> None:
    shown = {
        "product_performance": {"revenue": "Revenue", "conversion": "Conversion", "products": "Products"},
        "customer_segments": {"customers": "Customers", "high_value": "High Value customers", "revenue": "Revenue"},
        "rfm_analysis": {"customers": "RFM customers", "champions": "RFM Champions", "at_risk": "RFM At Risk"},
        "sales_trends": {"revenue": "Revenue so far", "growth_rate": "Monthly growth"},
    }
    found = powerbi.evaluate(model, data, model.measures)
    last = max(line.states)
    for job, numbers in shown.items():
        run = line.states[last].runs[f"analytics/{job}"]
        scraps = scrapbook.read_notebook(str(stack.runs_dir / run["notebook"])).scraps
        glued = {name: scraps[name].data for name in numbers}
        agreed = {name: found[measure] for name, measure in numbers.items()}
        assert {name: (agreed[name], glued[name]) for name in numbers if not same(agreed[name], glued[name])} == {}, job


def same(measured: Any, glued: Any) -> bool:
    """As `agree`, where a report says NaN for a rate that isn't there."""
    return agree(measured, None if glued is None or float(glued) != float(glued) else float(glued))


def test_measures_by_period_and_category_are_those_of_sales_trends(
    data: powerbi.Data, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    rows = stored.rows(warehouse, "select * from sales_trends")
    assert rows
    for row in rows:
        label, growth = PERIODS[row["period_type"]]
        filters = {label: [row["period_value"]]}
        if row["category"] != "All":
            filters["dim_products.category"] = [row["category"]]
        wanted = {
            "Orders": row["total_sales"],
            "Revenue": row["total_revenue"],
            "Average order value": row["avg_order_value"],
            "Quantity sold": row["total_quantity"],
            growth: row["growth_rate"],
        }
        found = powerbi.evaluate(model, data, wanted, filters)
        assert disagreeing(found, wanted) == {}, filters
        assert (found[growth] is None) == (row["growth_rate"] is None), filters


def test_measures_by_product_are_those_of_product_performance(
    data: powerbi.Data, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    rows = stored.rows(
        warehouse,
        "select product_id, sum(total_sales) as orders, sum(total_views) as views, sum(total_revenue) as revenue,"
        " sum(total_sales)::float / nullif(sum(total_views), 0) as conversion from product_performance group by 1"
        " order by revenue desc limit 10",
    )
    for row in rows:
        names = {"Product orders": "orders", "Views": "views", "Revenue": "revenue", "Conversion": "conversion"}
        wanted = {measure: row[name] for measure, name in names.items()}
        found = powerbi.evaluate(model, data, wanted, {"dim_products.product_id": [row["product_id"]]})
        assert disagreeing(found, wanted) == {}, row["product_id"]


def test_measures_by_segment_are_those_of_the_segments(
    data: powerbi.Data, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    for row in stored.rows(warehouse, "select * from customer_segments"):
        wanted = {
            "Customers": row["customer_count"],
            "Revenue": row["total_revenue"],
            "Average order value": row["avg_order_value"],
        }
        found = powerbi.evaluate(model, data, wanted, {"dim_customers.current_segment": [row["segment_name"]]})
        assert disagreeing(found, wanted) == {}, row["segment_name"]
    scores = stored.rows(
        warehouse, f"select rfm_segment, count(*) as customers, sum(monetary_value) as revenue {RFM} group by 1"
    )
    for row in scores:
        wanted = {"RFM customers": row["customers"], "RFM revenue": row["revenue"]}
        found = powerbi.evaluate(model, data, wanted, {"rfm_snapshot.rfm_segment": [row["rfm_segment"]]})
        assert disagreeing(found, wanted) == {}, row["rfm_segment"]


def test_measures_by_country_are_what_sql_says_of_it(
    data: powerbi.Data, warehouse: stored.Connection, model: powerbi.Model
) -> None:
    rows = stored.rows(
        warehouse,
        "select coalesce(nullif(country, ''), 'Unknown') as country, sum(total_amount) as revenue,"
        " count(distinct transaction_id) as orders, count(distinct user_id) as buyers"
        f" from ({SOLD}) s join dim_geography using (geography_id) group by 1",
    )
    assert rows
    for row in rows:
        wanted = {"Revenue": row["revenue"], "Orders": row["orders"], "Buyers": row["buyers"]}
        found = powerbi.evaluate(model, data, wanted, {"dim_geography.country": [row["country"]]})
        assert disagreeing(found, wanted) == {}, row["country"]


def test_customers_are_listed_with_the_countries_that_they_were_seen_in(
    imported: dict[str, powerbi.Rows], warehouse: stored.Connection
) -> None:
    number = {row["user_id"]: row["customer_number"] for row in imported["dim_customers"]}
    seen = {
        (number[row["user_id"]], row["country"])
        for fact in stored.FACTS
        for row in stored.rows(
            warehouse,
            "select distinct user_id, coalesce(nullif(country, ''), 'Unknown') as country"
            f" from {fact} join dim_customers using (customer_id) join dim_geography using (geography_id)",
        )
    }
    assert {(row["customer_number"], row["country"]) for row in imported["customer_countries"]} == seen
    assert len(imported["customer_countries"]) == len(seen)


def test_the_reader_can_read_the_star_and_not_the_tables_below_it(stack: Settings, line: Line) -> None:
    reader = servers.connect(stack.address("warehouse", reader=True))
    try:
        for table in ("fact_sales", "dim_customers", "rfm_analysis"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                stored.rows(reader, f"select 1 from public.{table}")
    finally:
        reader.close()
