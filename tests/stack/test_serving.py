"""What is served: loaded facts and unread events as one, each event once, with what was valid on its own day."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg2
import pytest
import stored
import story
from line import Line, Schedule
from psycopg2.extensions import connection as Connection
from psycopg2.extras import RealDictCursor

from lib import servers
from lib.cycles import holding
from lib.jobs import discovery
from lib.settings import ROOT, Settings
from lib.stack import lifecycle as parts_of_stack
from lib.warehouse import load as warehouse_room

CENT = Decimal("0.01")
UNREAD = [
    # a product whose category has changed twice, sold on a day long past: late, and of the version of that day
    story.sale("late order", "12-20", story.line("aba", 10, 2, category="Books"), user="twice", country="Narnia"),
    story.sale("two lines", "01-20T10:00", story.line("gift", 0.335, 3), story.line("gift", 2.5), user="nobody knew"),
    story.sale("unheard of", "01-20T11:00", story.line("never seen", 7), country=""),
    story.view("unread view", "01-20T23:59", "gift", user="looker"),
    story.view("unread view of nothing known", "01-20", "never seen", user="nobody knew"),
    story.cart("unread cart", "01-20", "gift", quantity=3, price=0.335),
    story.cart("unread cart without a price", "01-20", "gift", quantity=3),
]


@pytest.fixture(scope="module")
def unread(line: Line, schedule: Schedule) -> Line:
    """The story, and behind it events that are stored and that no job has loaded."""
    line.send(UNREAD)
    schedule("run", "stream")
    return line


@pytest.fixture
def reader(stack: Settings) -> Iterator[Connection]:
    """The warehouse as the reader sees it."""
    with closing(servers.connect(stack.address("warehouse", reader=True))) as connection:
        connection.autocommit = True
        yield connection


def rows(connection: Connection, query: str, *values: Any) -> list[dict[str, Any]]:
    """The rows of a query, in a statement of its own."""
    with connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(query, values)
        return [dict(row) for row in cursor.fetchall()]


class Versions:
    """The versions of a dimension: what a key was on a day."""

    def __init__(self, warehouse: Connection, table: str, key: str, value: str) -> None:
        self.by_key: dict[str, list[tuple[date, date | None, str]]] = defaultdict(list)
        for row in stored.rows(warehouse, f"select {key}, effective_date, end_date, {value} from {table}"):
            self.by_key[row[key]].append((row["effective_date"], row["end_date"], row[value]))

    def on(self, key: str, day: date) -> str:
        """The value of the version that is valid on the day."""
        for begins, ends, value in self.by_key.get(key, []):
            if begins <= day and (ends is None or day < ends):
                return value
        return "Unknown"


def expected(realtime: Connection, warehouse: Connection) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Every event that is stored and not held, by view and id, as it has to be served; computed by hand."""
    segments = Versions(warehouse, "dim_customers", "user_id", "customer_segment")
    categories = Versions(warehouse, "dim_products", "product_id", "category")
    held = {
        (row["source_table"], row["event_id"])
        for row in stored.rows(realtime, "select * from ops.held_events where released_batch is null")
    }
    found: dict[str, dict[str, tuple[Any, ...]]] = {"sales": {}, "product_views": {}, "cart_events": {}}

    def members(user: str, product: str, country: str | None, day: date) -> tuple[str, ...]:
        return user, segments.on(user, day), product, categories.on(product, day), country or "Unknown"

    for order in stored.rows(realtime, "select * from transactions"):
        if ("transactions", order["transaction_id"]) in held:
            continue
        day = order["transaction_timestamp"].astimezone(UTC).date()
        for number, line in enumerate(order["products"], start=1):
            quantity, price = (
                int(line["quantity"]),
                Decimal(str(line["price"])).quantize(Decimal("0.0001"), ROUND_HALF_UP),
            )
            amount = (quantity * price).quantize(CENT, ROUND_HALF_UP)
            of = members(order["user_id"], line["product_id"], order["country"], day)
            found["sales"][f"{order['transaction_id']}:{number}"] = (day, *of, quantity, amount)
    for event in stored.rows(realtime, "select * from product_view_events"):
        if ("product_view_events", event["event_id"]) not in held:
            day = event["event_timestamp"].astimezone(UTC).date()
            of = members(event["user_id"], event["product_id"], event["country"], day)
            found["product_views"][event["event_id"]] = (day, *of, event["view_duration"])
    for event in stored.rows(realtime, "select * from cart_events"):
        if ("cart_events", event["event_id"]) not in held:
            day = event["event_timestamp"].astimezone(UTC).date()
            of = members(event["user_id"], event["product_id"], event["country"], day)
            known = event["quantity"] is not None and event["price"] is not None
            amount = (event["quantity"] * event["price"]).quantize(CENT, ROUND_HALF_UP) if known else None
            found["cart_events"][event["event_id"]] = (day, *of, event["quantity"], amount)
    return found


LAST = {"sales": "quantity, revenue", "product_views": "seconds", "cart_events": "quantity, amount"}


def served(reader: Connection, view: str) -> dict[str, tuple[Any, ...]]:
    """Every row of a view, by its id."""
    query = f"select event_id, day, user_id, customer_segment, product_id, category, country, {LAST[view]} from serving.{view}"
    found = rows(reader, query)
    by_id = {row.pop("event_id"): tuple(row.values()) for row in found}
    assert len(by_id) == len(found), "an event is served twice"
    return by_id


@pytest.mark.parametrize("view", LAST)
def test_every_event_is_served_once_with_what_was_valid_on_its_own_day(
    unread: Line, reader: Connection, realtime: Connection, warehouse: Connection, view: str
) -> None:
    wanted = expected(realtime, warehouse)[view]
    assert served(reader, view) == wanted
    live = stored.scalar(warehouse, f"select count(*) from serving.{view} where is_live")
    assert 0 < live < len(wanted)


def test_unread_events_of_what_no_load_has_seen_are_of_unknown(unread: Line, reader: Connection) -> None:
    (order,) = rows(reader, "select * from serving.sales where transaction_id = 'unheard of'")
    assert (order["category"], order["country"], order["is_live"]) == ("Unknown", "Unknown", True)
    lines = rows(reader, "select customer_segment, revenue from serving.sales where transaction_id = 'two lines'")
    assert sorted((row["customer_segment"], row["revenue"]) for row in lines) == [
        ("Unknown", Decimal("1.01")),
        ("Unknown", Decimal("2.50")),
    ]


def test_sums_are_those_of_the_events(unread: Line, reader: Connection) -> None:
    sales = rows(reader, "select * from serving.sales")
    views = rows(reader, "select * from serving.product_views")
    products: dict[Any, list[Any]] = defaultdict(lambda: [set(), 0, Decimal(0), 0])
    days: dict[Any, list[Any]] = defaultdict(lambda: [set(), 0, Decimal(0)])
    for row in sales:
        of_days = [days[row["day"], row["category"]], days[row["day"], "All"]]
        for sums in (products[row["product_id"], row["category"], row["day"]], *of_days):
            sums[0].add(row["transaction_id"])
            sums[1] += row["quantity"]
            sums[2] += row["revenue"]
    for row in views:
        products[row["product_id"], row["category"], row["day"]][3] += 1
    found = rows(reader, "select * from serving.product_days")
    assert {
        (row["product_id"], row["category"], row["day"]): (row["orders"], row["quantity"], row["revenue"], row["views"])
        for row in found
    } == {key: (len(sums[0]), *sums[1:]) for key, sums in products.items()}
    assert len(found) == len(products)
    found = rows(reader, "select * from serving.sales_days")
    assert {(row["day"], row["category"]): (row["orders"], row["quantity"], row["revenue"]) for row in found} == {
        key: (len(sums[0]), *sums[1:]) for key, sums in days.items()
    }
    assert len(found) == len(days)


def test_today_and_the_last_hour_are_those_of_the_events(unread: Line, reader: Connection) -> None:
    today = rows(reader, "select category, orders, quantity, revenue from serving.sales_today order by 1")
    of_days = "where day = (now() at time zone 'UTC')::date order by 1"
    assert today == rows(reader, f"select category, orders, quantity, revenue from serving.sales_days {of_days}")
    query = """
        select
            minute,
            (select count(distinct transaction_id) from serving.sales where date_trunc('minute', sold_at) = minute) as orders,
            (select coalesce(sum(revenue), 0) from serving.sales where date_trunc('minute', sold_at) = minute) as revenue,
            (select count(*) from serving.product_views where date_trunc('minute', viewed_at) = minute) as views,
            (select count(*) from serving.cart_events where date_trunc('minute', happened_at) = minute) as cart_events
        from generate_series(date_trunc('minute', now()) - interval '59 minutes', date_trunc('minute', now()), '1 minute')
            as minute order by 1
    """
    hour = rows(reader, "with hour as materialized (select * from serving.last_hour) select * from hour order by 1")
    by_hand = rows(reader, query)
    # between the two statements a minute may have begun
    both = {row["minute"] for row in hour} & {row["minute"] for row in by_hand}
    assert len(hour) == 60 and len(both) >= 58
    assert [row for row in hour if row["minute"] in both] == [row for row in by_hand if row["minute"] in both]


def test_a_held_event_is_in_no_number_until_it_is_released(
    unread: Line, reader: Connection, realtime: Connection, warehouse: Connection
) -> None:
    jobs = discovery.discover(ROOT / "notebooks")
    ids = {"transactions": "two lines", "product_view_events": "unread view", "cart_events": "unread cart"}
    before = {view: served(reader, view) for view in LAST}
    version = rows(reader, "select version from serving.live_version")
    for table, event in ids.items():
        holding.hold(table, [event], why="a test", jobs=jobs)
    during = {view: served(reader, view) for view in LAST}
    assert during == expected(realtime, warehouse)
    assert [len(before[view]) - len(during[view]) for view in LAST] == [2, 1, 1]
    assert rows(reader, "select version from serving.live_version") != version
    for table, event in ids.items():
        holding.release(table, [event])
    assert {view: served(reader, view) for view in LAST} == before


def test_the_ranking_is_that_of_the_last_cycle(line: Line, reader: Connection, warehouse: Connection) -> None:
    ranked = rows(reader, "select * from serving.product_ranking order by revenue_rank, product_id")
    sums: dict[str, list[Any]] = defaultdict(lambda: [0, Decimal(0), 0])
    found = stored.rows(warehouse, "select * from product_performance where product_id <> ''")
    last = max(row["analysis_date"] for row in found)
    for row in found:
        if (last - row["analysis_date"]).days < 30:
            for place, name in enumerate(("total_sales", "total_revenue", "total_views")):
                sums[row["product_id"]][place] += row[name]
    assert {row["product_id"]: [row["orders"], row["revenue"], row["views"]] for row in ranked} == dict(sums)
    revenues = [row["revenue"] for row in ranked]
    assert revenues == sorted(revenues, reverse=True)
    assert [row["revenue_rank"] for row in ranked] == [1 + sum(other > each for other in revenues) for each in revenues]
    loaded = stored.scalar(
        warehouse, "select loaded_at from serving.loaded where job = 'analytics/product_performance'"
    )
    assert {row["as_of"] for row in ranked} == {loaded}


def test_the_reader_reads_what_is_served_and_nothing_else(line: Line, reader: Connection) -> None:
    refused = [
        *("select 1 from fact_sales", "select 1 from ops.job_runs", "select 1 from ops.api_keys"),
        *("select 1 from realtime.order_lines", "create table mine (a int)", "create table serving.mine (a int)"),
        *("select serving.refresh()", "delete from serving.customers", "update serving.rfm set user_id = ''"),
    ]
    for statement in refused:
        with pytest.raises(psycopg2.Error) as error:
            rows(reader, statement)
        assert error.value.pgcode in ("42501", "55000"), statement  # no right, or a view that can't be written


def test_every_view_and_column_says_what_it_is_and_stands_in_the_docs(stack: Settings, warehouse: Connection) -> None:
    columns = stored.rows(
        warehouse,
        "select relname, attname, obj_description(c.oid) as view, col_description(c.oid, attnum) as told"
        " from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0"
        " where relnamespace = 'serving'::regnamespace and relkind in ('v', 'm')",
    )
    assert len(columns) > 100
    assert [(row["relname"], row["attname"]) for row in columns if not row["told"] or not row["view"]] == []
    page = (ROOT / "docs" / "serving.md").read_text()
    assert {row["relname"] for row in columns} <= set(re.findall(r"`serving\.(\w+)`", page))


def test_spark_reads_what_is_served(unread: Line, reader: Connection) -> None:
    load = warehouse_room.begin("test/serving", reads=())
    try:
        found = load.session.sql(
            "select count(*), sum(revenue), count_if(is_live) from warehouse.serving.sales"
        ).collect()[0]
    finally:
        load.abandon()
    (told,) = rows(reader, "select count(*), sum(revenue), count(*) filter (where is_live) as live from serving.sales")
    assert tuple(found) == tuple(told.values())


def test_the_ways_in_that_the_docs_show_lead_there(
    unread: Line, stack: Settings, reader: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    pandas, spark, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("GM_READER_PASSWORD", stack.reader_password.get_secret_value())
    scope: dict[str, Any] = {"load": warehouse_room.begin("test/serving", reads=())}
    try:
        exec(pandas.replace("port=5432", f"port={stack.warehouse_port}"), scope)
        exec(spark, scope)
    finally:
        scope["load"].abandon()
    wanted = rows(reader, "select day, revenue from serving.sales_days where category = 'All' order by day")
    assert scope["days"].to_dict("records") == wanted


def test_without_the_realtime_database_facts_still_answer_and_the_same_session_recovers(
    unread: Line, stack: Settings, reader: Connection
) -> None:
    before = rows(reader, "select count(*) as n from serving.sales")
    parts_of_stack.stop(stack, ["realtime"])
    try:
        with pytest.raises(psycopg2.OperationalError, match=r"could not connect|server closed|connection"):
            rows(reader, "select count(*) as n from serving.sales")
        assert rows(reader, "select count(*) as n from serving.customers")[0]["n"] > 0
    finally:
        parts_of_stack.start(stack, ["realtime"])
        parts_of_stack.await_health(stack)
    assert rows(reader, "select count(*) as n from serving.sales") == before
