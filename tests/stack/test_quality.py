"""Each rule goes red on planted data, a hard one ends the load and keeps its findings, a soft one only shows.

What is planted stands in batches that no one else has, in a transaction that is rolled back.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import nbformat
import psycopg2
import pytest
import stored
from bs4 import BeautifulSoup
from line import Line, Schedule

from lib import warehouse
from lib.etl.customers import CUSTOMERS
from lib.etl.facts import CART_EVENTS, PRODUCT_VIEWS, SALES, Fact
from lib.etl.products import PRODUCTS
from lib.ledger.cuts import Cut, Window
from lib.schemas import CONTRACTS
from lib.settings import ROOT, Settings
from lib.warehouse import quality
from lib.warehouse.load import Load
from lib.warehouse.quality import BrokenRule, Finding

BATCH = 10**9
RUN_DATE = date(2026, 3, 10)
FACT = {fact.table: fact for fact in (SALES, PRODUCT_VIEWS, CART_EVENTS)}


@pytest.fixture(scope="module")
def begun(stack: Settings) -> Iterator[Load]:
    """A load of one batch of each table, on the day after the one that was open before it."""
    real = warehouse.begin("test/quality", reads=())
    since = Cut(0, date(2026, 3, 9), dict.fromkeys(CONTRACTS, BATCH - 1))
    cut = Cut(0, RUN_DATE, dict.fromkeys(CONTRACTS, BATCH))
    yield replace(real, window=Window(since, cut, (since, cut)))
    real.abandon()


@pytest.fixture
def load(begun: Load) -> Iterator[Load]:
    """The load, with two versions of a customer, a product, a country and a calendar, which no rule finds anything in."""
    do(begun, *BASE)
    yield begun
    begun.connection.rollback()


def do(load: Load, *statements: str) -> None:
    """Run statements in the load's transaction."""
    for statement in statements:
        load.execute(statement)


def broken(findings: Sequence[Finding]) -> dict[str, int]:
    """The rules that found rows, and how many."""
    return {finding.rule.name: finding.rows for finding in findings if finding.rows}


BASE = (
    "insert into dim_date select to_char(d, 'YYYYMMDD')::integer, d, extract(year from d), extract(quarter from d),"
    " extract(month from d), extract(day from d), extract(isodow from d), extract(week from d),"
    " extract(isodow from d) >= 6 from generate_series(date '2000-01-01', date '2027-12-31', interval '1 day') as d"
    " on conflict do nothing",
    "insert into dim_customers (customer_id, user_id, customer_segment, effective_date, end_date, is_current)"
    " values (-10, 'planted', 'New', '2026-03-01', '2026-03-05', false),"
    " (-11, 'planted', 'Low Value', '2026-03-05', null, true)",
    "insert into dim_products (product_id_pk, product_id, category, effective_date, end_date, is_current)"
    " values (-10, 'planted', 'A', '2026-03-01', '2026-03-05', false), (-11, 'planted', 'B', '2026-03-05', null, true)",
    "insert into dim_geography (geography_id, country, effective_date, is_current)"
    " values (-10, 'planted', '2026-03-01', true)",
    "create table staging.planted as select 'planted'::text as user_id, 'planted'::text as product_id,"
    " date '2026-03-01' as first_date",
)


# --- facts


def sale(key: str, *, day: str = "2026-03-09", customer: int = -11, product: int = -11, date_id: int = 20260309) -> str:
    """An order line of the planted batch."""
    order = key.rpartition(":")[0]
    return (
        "insert into fact_sales (event_id, transaction_id, date_id, customer_id, product_id_pk, geography_id,"
        " transaction_timestamp, quantity, unit_price, total_amount, ingest_batch_id)"
        f" values ('{key}', '{order}', {date_id}, {customer}, {product}, -10, '{day} 12:00+00', 2, 1.5, 3, {BATCH})"
    )


def event(fact: str, columns: str, values: str) -> str:
    """A view or cart event of the planted batch."""
    return (
        f"insert into {fact} (event_id, date_id, customer_id, product_id_pk, geography_id, event_timestamp,"
        f" ingest_batch_id, {columns}) values ('e', 20260309, -11, -11, -1, '2026-03-09 12:00+00', {BATCH}, {values})"
    )


GOOD = ("t:1", "t:2", "t:3", "with:colon:1")
VIEW, CART = "event_type, view_duration", "event_type, quantity, total_amount"


def test_good_order_lines_break_no_rule(load: Load) -> None:
    do(load, *map(sale, GOOD))
    assert broken(quality.about_fact(load, SALES, 4, 2)) == {}


@pytest.mark.parametrize(
    ("planted", "read_rows", "ledger_rows", "rule"),
    [
        ([], 5, 2, "rows_read"),
        ([], 4, 3, "rows_of_the_ledger"),
        ([sale("o:1", customer=-10)], 5, 3, "members_of_the_day"),
        ([sale("o:1", product=-10)], 5, 3, "members_of_the_day"),
        ([sale("o:1", date_id=20260308)], 5, 3, "members_of_the_day"),
        ([sale("o:1", day="2026-03-04", date_id=20260304)], 5, 3, "members_of_the_day"),
        ([sale("o:1", customer=-1)], 5, 3, "known_members"),
        ([sale("o:1", product=-1)], 5, 3, "known_members"),
        ([sale("o:1", day="2026-03-11", date_id=20260311)], 5, 3, "until_the_run_date"),
        ([sale("o:2")], 5, 3, "order_lines"),
        ([sale("t:5")], 5, 2, "order_lines"),
    ],
)
def test_a_broken_fact_is_found(load: Load, planted: list[str], read_rows: int, ledger_rows: int, rule: str) -> None:
    do(load, *map(sale, GOOD), *planted)
    assert broken(quality.about_fact(load, SALES, read_rows, ledger_rows)) == {rule: 1}


@pytest.mark.parametrize(
    ("fact", "columns", "values", "rules"),
    [
        ("fact_product_views", VIEW, "'view', null", {}),
        ("fact_product_views", VIEW, "'look', 1", {"ranges": 1}),
        ("fact_product_views", VIEW, "'view', -1", {"ranges": 1}),
        ("fact_cart_events", CART, "'add', 2, null", {}),
        ("fact_cart_events", CART, "'take', 2, 3", {"ranges": 1}),
        ("fact_cart_events", CART, "'add', -1, 3", {"ranges": 1}),
        ("fact_cart_events", CART, "'add', 1, -3", {"ranges": 1}),
        ("fact_cart_events", CART, "'add', null, 3", {"ranges": 1}),
    ],
)
def test_a_view_or_cart_event_out_of_its_range_is_found(
    load: Load, fact: str, columns: str, values: str, rules: dict[str, int]
) -> None:
    do(load, event(fact, columns, values))
    assert broken(quality.about_fact(load, FACT[fact], 1, 1)) == rules


def test_rows_of_other_batches_are_not_looked_at(load: Load) -> None:
    do(load, sale("old:2", customer=-1).replace(f", {BATCH})", f", {BATCH - 1})"))
    assert broken(quality.about_fact(load, SALES, 0, 0)) == {}


# --- dimensions


@pytest.mark.parametrize(
    ("planted", "rules"),
    [
        ("select", {}),
        ("insert into staging.planted values ('nobody', '', '2026-03-01')", {"every_key": 1}),
        ("update dim_customers set end_date = '2026-03-04' where customer_id = -10", {"versions_follow_on": 1}),
        (
            "update dim_customers set end_date = '2026-03-20', is_current = false where customer_id = -11",
            {"versions_follow_on": 1},
        ),
        ("update staging.planted set first_date = '2026-02-28'", {"starts_in_time": 1}),
        ("update dim_customers set user_id = 'gone' where customer_id = -1", {"unknown_member": 1}),
        ("update dim_customers set total_transactions = 1 where customer_id = -11", {"totals": 1}),
        ("update dim_customers set total_transactions = -1 where customer_id = -11", {"totals": 1}),
        ("update dim_customers set first_transaction_date = '2026-03-02' where customer_id = -11", {"totals": 1}),
        ("update dim_customers set avg_order_value = 1 where customer_id = -11", {"average": 1}),
    ],
)
def test_a_broken_dimension_of_customers_is_found(load: Load, planted: str, rules: dict[str, int]) -> None:
    do(load, planted)
    assert broken(quality.about_dimension(load, CUSTOMERS, "planted")) == rules


def test_a_category_that_is_called_like_the_total_is_found(load: Load) -> None:
    assert broken(quality.about_dimension(load, PRODUCTS, "planted")) == {}
    do(load, "update dim_products set category = 'All' where product_id_pk = -10")
    assert broken(quality.about_dimension(load, PRODUCTS, "planted")) == {"no_total": 1}


@pytest.mark.parametrize(
    ("planted", "rules"),
    [
        ("select", {}),
        ("insert into dim_date values (29990101, '2999-01-01', 2999, 1, 1, 1, 2, 1, false)", {"no_hole": 1}),
        ("update dim_date set day_of_week = 1 where date = '2026-03-10'", {"parts_of_the_date": 1}),
        ("update dim_date set is_weekend = true where date = '2026-03-10'", {"parts_of_the_date": 1}),
    ],
)
def test_a_broken_calendar_is_found(load: Load, planted: str, rules: dict[str, int]) -> None:
    do(load, planted)
    assert broken(quality.about_table(load, "dim_date")) == rules


# --- analytics


PERFORMANCE = (
    "delete from product_performance",
    sale("t:1"),
    event("fact_product_views", VIEW, "'view', 1"),
    "insert into product_performance (product_id, category, analysis_date, total_sales, total_revenue, total_quantity,"
    " total_views, conversion_rate, avg_price) values ('planted', 'B', '2026-03-09', 1, 3, 2, 1, 1, 1.5)",
    "create table staging.computed as select product_id, analysis_date from product_performance",
)
SEGMENTS = (
    "delete from customer_segments",
    "insert into customer_segments (segment_name, customer_count, total_revenue, analysis_date) select name, count(user_id),"
    " coalesce(sum(total_spent), 0), '2026-03-10' from (values ('High Value'), ('Medium Value'), ('Low Value'), ('New')) as"
    " n (name) left join dim_customers on customer_segment = name and is_current and user_id <> '' group by name",
)
RFM = (
    "delete from rfm_analysis where analysis_date = '2026-03-10'",
    sale("t:1"),
    "insert into rfm_analysis (user_id, analysis_date, recency_days, frequency_count, monetary_value, recency_score,"
    " frequency_score, monetary_score, rfm_segment) select user_id, '2026-03-10', 1, 1, sum(total_amount), 1, 1, 1, 'x'"
    " from fact_sales join dim_customers using (customer_id) where date_id < 20260310 group by user_id",
)
TRENDS = (
    "delete from sales_trends",
    "delete from ops.sales_days",
    sale("t:1"),
    "insert into ops.sales_days select date, 'All', 1, sum(quantity), sum(total_amount) from fact_sales"
    " join dim_date using (date_id) group by date",
    "insert into sales_trends (period_type, period_value, category, total_revenue, is_running, analysis_date)"
    " select kind, 'p', category, sum(total_amount), true, '2026-03-10' from fact_sales,"
    " (values ('weekly'), ('monthly'), ('quarterly')) as k (kind), (values ('All'), ('A')) as c (category)"
    " group by kind, category",
)
SNAPSHOT = (
    "insert into rfm_analysis (user_id, analysis_date, recency_days, frequency_count, monetary_value, recency_score,"
    " frequency_score, monetary_score, rfm_segment) values ('nobody', '{}', 1, 1, 3, {}, 1, 1, 'x')"
)
LOST, ONE_SCORE = SNAPSHOT.format("2026-03-09", 1), SNAPSHOT.format("2026-03-10", 2)
SALES_AND_VIEWS = {"sales_of_the_fact": 1, "views_of_the_fact": 1}


@pytest.mark.parametrize(
    ("table", "base", "planted", "rules"),
    [
        ("product_performance", PERFORMANCE, (), {}),
        ("product_performance", PERFORMANCE, ("delete from product_performance",), SALES_AND_VIEWS),
        ("product_performance", PERFORMANCE, (sale("u:1"),), {"sales_of_the_fact": 1}),
        (
            "product_performance",
            PERFORMANCE,
            ("update product_performance set category = 'A'",),
            {"category_of_the_day": 1},
        ),
        ("product_performance", PERFORMANCE, ("update product_performance set conversion_rate = 2",), {"ratios": 1}),
        ("product_performance", PERFORMANCE, ("update product_performance set conversion_rate = null",), {"ratios": 1}),
        ("product_performance", PERFORMANCE, ("update product_performance set avg_price = 3",), {"ratios": 1}),
        ("customer_segments", SEGMENTS, (), {}),
        (
            "customer_segments",
            SEGMENTS,
            (BASE[1].replace("planted", "more").replace("-1", "-2"),),
            {"every_customer": 1},
        ),
        (
            "customer_segments",
            SEGMENTS,
            ("update customer_segments set segment_name = 'Newer' where segment_name = 'New'",),
            {"four_segments": 2},
        ),
        ("rfm_analysis", RFM, (), {}),
        ("rfm_analysis", RFM, (sale("u:1"),), {"new_buyers": 1}),
        ("rfm_analysis", RFM, ("delete from rfm_analysis where user_id = 'planted'",), {"new_buyers": 1}),
        (
            "rfm_analysis",
            RFM,
            ("update rfm_analysis set recency_days = 2 where user_id = 'planted'",),
            {"new_buyers": 1},
        ),
        ("rfm_analysis", RFM, (LOST,), {"nobody_lost": 1}),
        ("rfm_analysis", RFM, (ONE_SCORE,), {"equal_values_equal_scores": 1}),
        ("sales_trends", TRENDS, (), {}),
        ("sales_trends", TRENDS, (sale("u:1"),), {"days_of_the_fact": 1}),
        (
            "sales_trends",
            TRENDS,
            ("update ops.sales_days set revenue = revenue + 1 where date = '2026-03-09'",),
            {"days_of_the_fact": 1, "totals_of_the_days": 3},
        ),
        (
            "sales_trends",
            TRENDS,
            ("update sales_trends set total_revenue = total_revenue + 1 where category = 'A'",),
            {"categories_add_up": 3},
        ),
        (
            "sales_trends",
            TRENDS,
            (
                "insert into sales_trends (period_type, period_value, category, is_running, analysis_date)"
                " values ('weekly', 'q', 'All', true, '2026-03-10'), ('weekly', 'q', 'A', true, '2026-03-10')",
            ),
            {"one_running_period": 1},
        ),
    ],
)
def test_broken_analytics_are_found(
    load: Load, table: str, base: Sequence[str], planted: Sequence[str], rules: dict[str, int]
) -> None:
    do(load, *base, *planted)
    staged = "computed" if table == "product_performance" else ""
    assert broken(quality.about_table(load, table, staged)) == rules


# --- events


def ledger(source: str, *, dead: int = 0, committed: str = "now()") -> str:
    """The ledger's row of the planted batch."""
    return (
        "insert into ops.ingest_batches (source_table, ingest_batch_id, epoch, query_id, spark_batch_id, start_offsets,"
        " end_offsets, offset_gaps, rows_in, rows_written, duplicates, dead_letters, by_partition, latency_buckets,"
        f" last_event_at, committed_at) values ('{source}', {BATCH}, 1, '', 1, '{{}}', '{{}}', 0, {1 + dead}, 1, 0, {dead},"
        f" '{{}}', '{{}}', now(), {committed})"
    )


def stored_sale(lines: str, total: float, at: str = "2026-03-10", country: str = "'Peru'") -> str:
    """A transaction of the planted batch."""
    return (
        "insert into transactions (transaction_id, user_id, transaction_timestamp, total_amount, country, products,"
        f" kafka_partition, kafka_offset, ingest_batch_id) values ('planted', 'u', '{at} 00:00+00', {total}, {country},"
        f" '{lines}', 0, 0, {BATCH})"
    )


def stored_event(table: str, columns: str, values: str) -> str:
    """A view or cart event of the planted batch."""
    return (
        f"insert into {table} (event_id, user_id, product_id, event_timestamp, country, kafka_partition, kafka_offset,"
        f" ingest_batch_id, {columns}) values ('planted', 'u', 'p', '2026-03-10 00:00+00', 'Peru', 0, 0, {BATCH}, {values})"
    )


HALF = '[{"product_id": "p", "quantity": 3, "price": 0.335}, {"product_id": "q", "quantity": 1, "price": 1e1}]'
MANY = '[{"product_id": "p", "quantity": 1001, "price": 0}]'
LONG = json.dumps([{"product_id": "p", "quantity": 1, "price": 0}] * 101)


@pytest.mark.parametrize(
    ("fact", "planted", "rules"),
    [
        (SALES, [ledger("transactions"), stored_sale(HALF, 11.01)], {}),
        (SALES, [ledger("transactions"), stored_sale(HALF, 11.00)], {"total_of_the_lines": 1}),
        (SALES, [ledger("transactions"), stored_sale(MANY, 0)], {"plausible_lines": 1}),
        (SALES, [ledger("transactions"), stored_sale(LONG, 0)], {"plausible_lines": 1}),
        (SALES, [ledger("transactions"), stored_sale(HALF, 11.01, at="2026-03-09")], {}),
        (SALES, [ledger("transactions"), stored_sale(HALF, 11.01, at="2026-03-08")], {"on_time": 1}),
        (SALES, [ledger("transactions"), stored_sale(HALF, 11.01, country="null")], {"has_a_country": 1}),
        (SALES, [ledger("transactions", dead=2)], {"no_dead_letters": 1}),
        (SALES, [ledger("transactions", committed="now() - interval '2 hours'")], {"fresh": 1}),
        (
            PRODUCT_VIEWS,
            [ledger("product_view_events"), stored_event("product_view_events", VIEW, "'view', 3600")],
            {},
        ),
        (
            PRODUCT_VIEWS,
            [ledger("product_view_events"), stored_event("product_view_events", VIEW, "'view', 3601")],
            {"plausible_duration": 1},
        ),
        (
            CART_EVENTS,
            [ledger("cart_events"), stored_event("cart_events", "event_type, quantity, price", "'add', 1, 0")],
            {},
        ),
        (
            CART_EVENTS,
            [ledger("cart_events"), stored_event("cart_events", "event_type, quantity, price", "'add', 1, null")],
            {"says_how_many": 1},
        ),
    ],
)
def test_what_is_strange_about_events_is_found(
    load: Load, realtime: stored.Connection, fact: Fact, planted: list[str], rules: dict[str, int]
) -> None:
    with realtime.cursor() as cursor:
        cursor.execute(f"delete from ops.ingest_batches where source_table = '{fact.source}'")
        for statement in planted:
            cursor.execute(statement)
    findings = quality.about_events(realtime, load, fact)
    realtime.rollback()
    assert broken(findings) == rules
    assert {finding.rule.severity for finding in findings} == {"soft"}


# --- what becomes of it


@pytest.fixture
def run_id(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """The scheduler's run that the test pretends to be."""
    monkeypatch.setattr(stack, "run_id", "planted-run")
    return "planted-run"


@pytest.fixture
def hole(stack: Settings) -> Iterator[Callable[[bool], Load]]:
    """Begins a load, and makes a hole into its calendar."""
    begun: list[Load] = []

    def dig(publish: bool) -> Load:
        begun.append(warehouse.begin("etl/dim_date", publish=publish))
        do(begun[-1], "insert into dim_date values (29990101, '2999-01-01', 2999, 1, 1, 1, 2, 1, false)")
        return begun[-1]

    yield dig
    for load in begun:
        load.connection.close()


QUALITY = "select * from ops.data_quality where run_id = %s"


def test_a_broken_hard_rule_ends_the_load_and_its_findings_stay(
    hole: Callable[[bool], Load], run_id: str, warehouse: stored.Connection
) -> None:
    load = hole(True)
    with pytest.raises(
        BrokenRule, match=r"dim_date breaks its rules.*no_hole \(There is one row.*\): 1 row, such as days"
    ):
        quality.check(load, "dim_date")
    with pytest.raises(psycopg2.InterfaceError):
        load.finish()
    assert stored.rows(warehouse, "select from dim_date where year = 2999") == []
    found = {row["rule"]: row for row in stored.rows(warehouse, QUALITY, run_id)}
    assert found["no_hole"] | {"checked_at": None, "examples": None} == {
        "run_id": run_id,
        "job": "etl/dim_date",
        "rule": "no_hole",
        "severity": "hard",
        "failed_rows": 1,
        "examples": None,
        "checked_at": None,
    }
    assert found["no_hole"]["examples"][0]["last_day"] == "2999-01-01"
    assert found["parts_of_the_date"]["failed_rows"] == 0


def test_without_publish_a_broken_rule_ends_the_load_and_nothing_is_stored(
    hole: Callable[[bool], Load], warehouse: stored.Connection
) -> None:
    before = stored.scalar(warehouse, "select count(*) from ops.data_quality")
    with pytest.raises(BrokenRule):
        quality.check(hole(False), "dim_date")
    assert stored.scalar(warehouse, "select count(*) from ops.data_quality") == before


def test_a_notebook_that_breaks_a_hard_rule_fails_with_the_rule_in_error_and_report(
    stack: Settings, schedule: Schedule, warehouse: stored.Connection, tmp_path: Path
) -> None:
    (tmp_path / "etl").mkdir()
    source = nbformat.read(ROOT / "notebooks/etl/dim_date.ipynb", as_version=4)
    source.cells[0].source = source.cells[0].source.replace("retries: 2", "retries: 0")
    (check,) = (at for at, cell in enumerate(source.cells) if cell.source.startswith("## Check"))
    plant = "load.execute(\"update dim_date set day_of_week = 1 where date = '2026-03-10'\")"
    source.cells.insert(check, nbformat.v4.new_code_cell(plant))
    nbformat.write(source, tmp_path / "etl" / "dim_date.ipynb")
    schedule("run", "dim_date", expect=1, GM_NOTEBOOKS_DIR=str(tmp_path))
    runs = "select * from ops.job_runs where job = 'etl/dim_date' order by started_at desc limit 1"
    (run,) = stored.rows(warehouse, runs)
    assert run["status"] == "failed"
    assert "BrokenRule: dim_date breaks its rules" in run["error"]
    assert "parts_of_the_date" in run["error"]
    found = {row["rule"]: row["failed_rows"] for row in stored.rows(warehouse, QUALITY, run["run_id"])}
    assert found["parts_of_the_date"] == 1
    page = BeautifulSoup((stack.runs_dir / run["report"]).read_text(), "html.parser")
    (row,) = (row for row in page.select("tr") if "Year, quarter, month" in row.text)
    assert row.select("td")[0].text == "broken"
    assert stored.rows(warehouse, "select from dim_date where date = '2026-03-10' and day_of_week = 1") == []


def test_each_run_of_a_cycle_leaves_its_findings_and_soft_ones_stop_nothing(
    line: Line, stack: Settings, warehouse: stored.Connection
) -> None:
    for job, run in line.states[7].runs.items():
        found = {row["rule"]: row for row in stored.rows(warehouse, QUALITY, run["run_id"])}
        hard = [row["failed_rows"] for row in found.values() if row["severity"] == "hard"]
        assert hard == [0] * len(hard)
        assert bool(hard) == (not job.startswith("ingest/")), job
        if job == "etl/fact_sales":
            strange = found["total_of_the_lines"]
            assert (strange["severity"], strange["failed_rows"] > 0) == ("soft", True)
            assert strange["examples"][0]["total_amount"] == 1.5
            page = BeautifulSoup((stack.runs_dir / run["report"]).read_text(), "html.parser")
            (row,) = (row for row in page.select("tr") if "The event's own total" in row.text)
            assert row.select("td")[0].text == "look"
