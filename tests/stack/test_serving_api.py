"""The API over a real warehouse, cache and server: what it answers, what it refuses, and what it does without its parts.

It sends events behind the story, as test_serving does: by their names both come after the tests that count those of the story.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import schemathesis
import stored
import story
from line import Line, Schedule
from redis import Redis, RedisError
from schemathesis.checks import load_all_checks
from world import eventually

from lib.settings import ROOT, Settings, settings
from lib.stack import lifecycle as parts_of_stack
from serving import access
from serving.api import answers
from serving.api.parameters import encode
from serving.client import ApiError, Client

OPEN = ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs")
KEPT = "/v1/products"


@pytest.fixture(scope="module")
def api(line: Line, stack: Settings) -> Iterator[Client]:
    """The API at work over the story, and a client that may ask everything."""
    parts_of_stack.up(stack, ["api"])
    try:
        eventually(lambda: ready(stack))
        with Client() as client:
            yield client
    finally:
        parts_of_stack.stop(stack, ["api"])


def ready(config: Settings) -> bool:
    """Whether the API can answer."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{config.api_url}/health/ready", timeout=5).status_code == 200
    return False


@pytest.fixture
def reader(stack: Settings) -> Iterator[stored.Connection]:
    """The warehouse."""
    with stored.connected(stack, "warehouse") as connection:
        yield connection


def metric(client: Client, name: str) -> float:
    """A figure of /metrics."""
    for line in client.http.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def send(config: Settings, *events: story.Event) -> None:
    """Store events, as a saver does."""
    from generators.producer import produce
    from lib.settings import TOPICS

    assert not produce(events, TOPICS, bootstrap=config.kafka_bootstrap).failed


# --- answers


def test_every_route_answers_what_the_views_say(api: Client, reader: stored.Connection) -> None:
    first, last = date(2025, 12, 1), date(2026, 1, 31)
    query = (
        "select product_id, sum(orders)::int as orders, sum(revenue) as revenue, sum(views)::int as views"
        " from serving.product_days where day between %s and %s group by 1"
    )
    wanted = {row["product_id"]: row for row in stored.rows(reader, query, first, last)}
    for sort in ("revenue", "orders", "views", "quantity"):
        found = list(api.products(start=first, end=last, sort=sort))
        assert [getattr(each, sort) for each in found] == sorted((getattr(each, sort) for each in found), reverse=True)
        assert {each.product_id: (each.orders, each.revenue, each.views) for each in found} == {
            name: (row["orders"], row["revenue"], row["views"]) for name, row in wanted.items()
        }
    best = next(api.products(start=first, end=last))
    one = api.product(best.product_id, start=first, end=last)
    assert one.total is not None and one.total.revenue == best.revenue == sum(day.revenue for day in one.days)
    assert [each.product_id for each in api.ranking()] == [
        row["product_id"]
        for row in stored.rows(reader, "select * from serving.product_ranking order by revenue_rank, product_id")
    ]
    segments = stored.rows(
        reader, "select segment_name as name, customer_count as n, total_revenue as r from customer_segments"
    )
    assert {(each.segment, each.customers, each.revenue) for each in api.segments()} == {
        (row["name"], row["n"], row["r"]) for row in segments
    }
    snapshot = "select * from rfm_analysis where analysis_date = (select max(analysis_date) from rfm_analysis)"
    assert {(each.user_id, each.monetary, each.segment) for each in api.rfm()} == {
        (row["user_id"], row["monetary_value"], row["rfm_segment"]) for row in stored.rows(reader, snapshot)
    }
    trends = stored.rows(reader, "select * from sales_trends where period_type = 'monthly' and category = 'All'")
    assert {(each.period, each.revenue, each.growth_rate) for each in api.trends(period="monthly")} == {
        (row["period_value"], row["total_revenue"], row["growth_rate"]) for row in trends
    }
    days = stored.rows(
        reader,
        "select day, revenue from serving.sales_days where category = 'All' and day between %s and %s",
        first,
        last,
    )
    assert {(each.day, each.revenue) for each in api.days(start=first, end=last)} == {
        (row["day"], row["revenue"]) for row in days
    }
    assert len(api.last_hour()) == 60
    runs = stored.rows(reader, "select run_id from ops.job_runs order by started_at desc, run_id desc")
    assert [run.run_id for run in api.runs()] == [row["run_id"] for row in runs]
    assert {each.table for each in api.freshness()} == {each.table for each in api.lag()}
    assert {finding.job for finding in api.quality()} == {
        row["job"] for row in stored.rows(reader, "select distinct job from ops.data_quality")
    }


def test_one_customer_has_totals_history_score_and_latest_orders(api: Client, reader: stored.Connection) -> None:
    (known,) = stored.rows(
        reader, "select * from dim_customers where is_current and customer_id <> -1 order by total_spent desc limit 1"
    )
    found = api.customer(known["user_id"])
    assert (found.total_spent, found.segment) == (known["total_spent"], known["customer_segment"])
    versions = stored.rows(
        reader, "select * from dim_customers where user_id = %s order by effective_date", known["user_id"]
    )
    assert [(each.segment, each.effective_date, each.end_date) for each in found.history] == [
        (row["customer_segment"], row["effective_date"], row["end_date"]) for row in versions
    ]
    assert found.score is not None and found.score.user_id == known["user_id"]
    times = [order.sold_at for order in found.latest_orders]
    assert 0 < len(times) <= 20 and times == sorted(times, reverse=True)
    with pytest.raises(ApiError, match="404: No load knows a customer nobody at all/%"):
        api.customer("nobody at all/%")
    with pytest.raises(ApiError, match="404"):
        api.product("no such product")


def test_a_report_of_the_gallery_is_served_and_no_notebook(api: Client, stack: Settings) -> None:
    reports = api.reports()
    assert {"analytics/rfm_analysis", "etl/fact_sales"} <= {report.job for report in reports}
    page = api.http.get(reports[0].url)
    assert page.status_code == 200 and "<h1>" in page.text
    assert "GlobalMart" in api.http.get("/reports/").text
    notebook = next(stack.runs_dir.glob("etl/*/*/*.ipynb")).relative_to(stack.runs_dir).as_posix()
    for path in (notebook, notebook.replace(".ipynb", ".log"), "../.env", "%2e%2e/%2e%2e/etc/passwd", ".hidden.html"):
        assert api.http.get(f"/reports/{path}").status_code in (400, 404), path
    # a browser is asked for the key, and gives it as a password
    plain = httpx.get(f"{stack.api_url}/reports/")
    assert plain.status_code == 401 and plain.headers["www-authenticate"].startswith("Basic")
    key = base64.b64encode(f"me:{stack.api_key.get_secret_value()}".encode()).decode()
    assert httpx.get(f"{stack.api_url}/reports/", headers={"Authorization": f"Basic {key}"}).status_code == 200


def test_amounts_are_exact_texts_and_times_are_utc(api: Client) -> None:
    product = api.http.get(KEPT, params={"from": "2025-12-01", "to": "2026-01-31"}).json()["products"][0]
    assert isinstance(product["revenue"], str) and Decimal(product["revenue"]).as_tuple().exponent == -2
    assert all(minute["minute"].endswith("Z") for minute in api.http.get("/v1/sales/last-hour").json()["minutes"])


def test_what_has_not_changed_is_not_sent_again(api: Client) -> None:
    first = api.http.get(KEPT, headers={"Accept-Encoding": "identity"})
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache" and not etag.startswith("W/")
    for wanted in (etag, f'"other", {etag}', "*"):
        again = api.http.get(KEPT, headers={"Accept-Encoding": "identity", "If-None-Match": wanted})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert api.http.get(KEPT, headers={"Accept-Encoding": "identity", "If-None-Match": '"other"'}).status_code == 200
    head = api.http.head(KEPT, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
    assert int(head.headers["content-length"]) == len(first.content)
    packed = api.http.get(KEPT, params={"limit": 500, "from": "2025-12-01"})
    assert packed.headers["content-encoding"] == "gzip" and packed.headers["etag"].endswith('-gzip"')
    plain = api.http.get(KEPT, params={"limit": 500, "from": "2025-12-01"}, headers={"Accept-Encoding": "identity"})
    assert plain.content == packed.content and plain.headers["etag"] != packed.headers["etag"]
    raw = httpx.get(
        f"{settings().api_url}{KEPT}?limit=500&from=2025-12-01",
        headers={"X-API-Key": settings().api_key.get_secret_value()},
    )
    assert raw.content == plain.content


def test_every_answer_has_its_security_headers_and_no_cors(api: Client) -> None:
    for path in (*OPEN, KEPT, "/v1/nothing", "/nothing"):
        headers = api.http.get(path, headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY", path
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert not [name for name in headers if name.startswith("access-control")], path


def test_the_page_of_the_api_takes_nothing_from_elsewhere(api: Client) -> None:
    page = api.http.get("/docs").text
    assert "https://" not in page and "//cdn" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/assets/{asset}" in page
        assert api.http.get(f"/docs/assets/{asset}").status_code == 200


# --- what is refused


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("from=2026-02-30", "from"),
        ("from=0", "from"),
        ("from=1700000000", "from"),
        ("from=2026-01-02&to=2026-01-01", "lies after"),
        ("from=2000-01-01&to=2099-01-01", "at most"),
        ("sort=price", "sort"),
        ("categori=Books", "categori"),
        (f"category={'x' * 101}", "category"),
        ("category=", "category"),
        ("category=a%00b", "category"),
        ("cursor=rubbish", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("cursor=" + "A" * 2000, "cursor"),
    ],
)
def test_wrong_parameters_are_a_problem_that_names_them(api: Client, query: str, told: str) -> None:
    answer = api.http.get(f"{KEPT}?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert told in answer.json()["detail"]


def test_a_cursor_beyond_all_ranges_is_a_problem_of_who_made_it(api: Client) -> None:
    for path, values in {
        "/v1/products/ranking": [[10**30, "x"], [-(10**400), "x"], [1, "\ud800"]],
        KEPT: [["1e999999", "x"], ["nan", "x"], ["1", "\0"]],
        "/v1/customers/rfm": [["1e999999", "x"], ["-inf", "x"]],
        "/v1/pipeline/runs": [["0001-01-01T00:00:00+14:00", "x"], ["9999-12-31", "x"]],
    }.items():
        for each in values:
            answer = api.http.get(path, params={"cursor": encode(each)})
            assert answer.status_code in (200, 422), (path, each, answer.text)


def test_texts_that_look_like_sql_are_texts(api: Client) -> None:
    for text in ("' or 1=1 --", "Books'; drop table fact_sales; --", "%s", "%(category)s", "\\", "\ud7ff", "🛒" * 50):
        assert list(api.products(category=text)) == []
        with pytest.raises(ApiError, match="404"):
            api.product(text)


def test_a_key_opens_its_areas_until_it_ends_or_is_revoked(
    api: Client, stack: Settings, schedule: Schedule, reader: stored.Connection
) -> None:
    token = schedule("api-key", "create", "a team", "--scope", "sales", "--per-minute", "100").stdout.strip()
    key_id = token.split("_")[1]
    assert token not in schedule("api-key", "list").stdout and key_id in schedule("api-key", "list").stdout
    told = stored.rows(reader, "select * from ops.api_keys where key_id = %s", key_id)
    assert token not in str(told)

    def ask(path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{stack.api_url}{path}", headers=headers)

    assert ask("/v1/sales/today", **{"X-API-Key": token}).status_code == 200
    assert ask("/v1/sales/today", Authorization=f"Bearer {token}").status_code == 200
    refused = ask("/v1/products", **{"X-API-Key": token})
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    for wrong in ("", "x", token[:-1], token + "x", "gm_" + "a" * 200):
        answer = ask("/v1/sales/today", **({"X-API-Key": wrong} if wrong else {}))
        assert answer.status_code == 401 and answer.json()["status"] == 401 and answer.headers["www-authenticate"]
    assert access.revoke(key_id) and not access.revoke(key_id)
    eventually(lambda: ask("/v1/sales/today", **{"X-API-Key": token}).status_code == 401)
    ended, _ = access.create("short", days=0.00002)
    eventually(lambda: ask("/v1/sales/today", **{"X-API-Key": ended}).status_code == 401)
    assert "nosuchid" in schedule("api-key", "revoke", "nosuchid", expect=2).stderr
    for scopes, options in ((["everything"], {}), ([], {"days": -1}), ([], {"per_minute": 0})):
        with pytest.raises(access.AccessError):
            access.create("x", scopes or access.SCOPES, **options)
    with pytest.raises(access.AccessError):
        access.create(" ")


def test_a_key_that_asks_too_often_is_told_when_to_come_back(stack: Settings, api: Client) -> None:
    token, _ = access.create("eager", per_minute=5)
    answers = [httpx.get(f"{stack.api_url}/v1/sales/today", headers={"X-API-Key": token}) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12


def test_only_reading_is_possible(api: Client) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = api.http.request(method, KEPT)
        assert answer.status_code == 405 and answer.headers["content-type"] == "application/problem+json"


# --- crowds, streams and faults


def test_a_crowd_on_a_cold_answer_makes_one_query(api: Client) -> None:
    before = metric(api, 'globalmart_api_cache_total{source="computed"}')
    path = f"/v1/products?from=2025-12-0{1 + int(time.time()) % 9}&limit=77"
    with ThreadPoolExecutor(50) as pool, Client() as crowd:
        answers = list(pool.map(lambda _: crowd.http.get(path), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert metric(api, 'globalmart_api_cache_total{source="computed"}') - before == 1


def test_an_event_changes_what_is_answered_and_the_stream_tells(
    api: Client, stack: Settings, schedule: Schedule
) -> None:
    now = datetime.now(UTC)
    before = api.today()
    with Client() as other:
        stream = other.follow()
        assert next(stream).orders == before.orders
        key = f"live {now.isoformat()}"
        send(stack, story.sale(key, now.isoformat(), story.line("gift", 12.5, 2), user="streamed"))
        schedule("run", "ingest/transactions")
        after = next(each for each in stream if each.orders > before.orders)
    assert after.revenue - before.revenue == Decimal("25.00") and after.orders - before.orders == 1
    eventually(lambda: api.today() == after)
    assert any(order.transaction_id == key and order.is_live for order in api.customer("streamed").latest_orders)


def test_followers_who_go_away_or_read_nothing_disturb_nobody(api: Client, stack: Settings) -> None:
    request = (
        f"GET /v1/sales/stream HTTP/1.1\r\nHost: x\r\nX-API-Key: {stack.api_key.get_secret_value()}\r\n\r\n"
    ).encode()
    sockets = []
    for _ in range(50):
        one = socket.create_connection(("127.0.0.1", stack.api_port))
        one.sendall(request)
        sockets.append(one)
    eventually(lambda: metric(api, "globalmart_api_followers") >= 50)
    assert api.today() is not None
    for one in sockets:
        one.close()
    eventually(lambda: metric(api, "globalmart_api_followers") == 0, seconds=40)


def test_without_the_cache_and_with_rubbish_in_it_answers_are_right(api: Client, stack: Settings) -> None:
    wanted = list(api.products(start=date(2025, 12, 1)))
    redis = api_cache(stack)
    pid = parts_of_stack.status(stack)["redis"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for limit in range(1, 6):
            assert api.http.get(f"{KEPT}?limit={limit}&from=2025-12-01").status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    for limit in range(6, 12):
        found = api.http.get(f"{KEPT}?limit={limit}&from=2025-12-01")
        assert [each["product_id"] for each in found.json()["products"]] == [each.product_id for each in wanted[:limit]]
    eventually(lambda: parts_of_stack.status(stack)["redis"]["pid"] not in (pid, 0) and redis("ping"))
    # what stands under the key is neither an answer nor of this program
    limits = iter(range(12, 400))
    limit = eventually(lambda: _kept_in_redis(api, redis, next(limits)))
    redis("set", _place(limit), b"\x93rubbish")
    other = subprocess.run(
        [sys.executable, "-c", _SECOND_PROCESS],
        env=os.environ | {"GM_ASK": f"/v1/products?from=2025-12-01&limit={limit}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert other.returncode == 0, other.stderr
    assert [each["product_id"] for each in json.loads(other.stdout)["products"]] == [
        each.product_id for each in wanted[:limit]
    ]


_SECOND_PROCESS = """
import asyncio, httpx, os, sys
from lib.settings import settings
from serving.api.app import App
async def main():
    app = App(settings())
    async with app.api.router.lifespan_context(app.api):
        for _ in range(100):
            await asyncio.sleep(0.1)
            if app.versions.current("live") and app.keys.known: break
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.get(os.environ["GM_ASK"], headers={"X-API-Key": settings().api_key.get_secret_value()})
            assert answer.status_code == 200, answer.text
            sys.stdout.write(answer.text)
asyncio.run(main())
"""


def _kept_in_redis(api: Client, redis: Any, limit: int) -> int | None:
    """Ask for something new; its limit, if the answer was kept in Redis, which is asked again a while after it has failed."""
    assert api.http.get(f"{KEPT}?from=2025-12-01&limit={limit}").status_code == 200
    return limit if redis("get", _place(limit)) else None


def _place(limit: int) -> str:
    """Where Redis keeps that answer."""
    with stored.connected(settings(), "warehouse") as connection:
        version = stored.scalar(connection, "select version from serving.live_version")
    return f"gm:{answers._key(KEPT, f'from=2025-12-01&limit={limit}'.encode(), version)}"


def api_cache(config: Settings) -> Any:
    """Ask the cache as its own user; None when it is away."""
    client = Redis.from_url(config.redis_url.get_secret_value(), socket_timeout=2)

    def ask(command: str, *values: Any) -> Any:
        try:
            return getattr(client, command)(*values)
        except RedisError:
            return None

    return ask


def test_databases_that_restart_are_a_503_and_then_an_answer(api: Client, stack: Settings) -> None:
    stop = threading.Event()
    statuses: set[int] = set()
    problems: list[str] = []

    def ask() -> None:
        number = 0
        with Client() as client:
            while not stop.is_set():
                number += 1
                answer = client.http.get(f"{KEPT}?from=2025-12-01&limit={1 + number % 400}")
                statuses.add(answer.status_code)
                if answer.status_code == 503 and not answer.headers.get("retry-after"):
                    problems.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for database in ("realtime", "warehouse"):
            pid = parts_of_stack.status(stack)[database]["pid"]
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid, name=database: parts_of_stack.status(stack)[name]["pid"] not in (pid, 0))
            eventually(lambda: ready(stack), seconds=60)
            eventually(lambda: api.http.get(KEPT).status_code == 200)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses <= {200, 503} and 200 in statuses and not problems


def test_what_the_document_says_holds_for_whatever_is_asked(api: Client, stack: Settings, soak: bool) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{stack.api_url}/openapi.json")
    key = {"X-API-Key": stack.api_key.get_secret_value()}
    checks = schemathesis.checks.CHECKS.get_by_names(
        ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
    )
    from hypothesis import given
    from hypothesis import settings as how

    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/v1/sales/stream":
            continue

        @how(max_examples=600 if soak else 25)
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            nonlocal asked
            answer = case.call(headers=key)
            asked += 1
            if answer.status_code != 503:
                case.validate_response(answer, checks=checks)

        holds()
    assert asked > 100
    document = api.http.get("/openapi.json").json()
    assert all(operation["summary"] for methods in document["paths"].values() for operation in methods.values())


def test_the_api_says_nothing_of_its_secrets(api: Client, stack: Settings) -> None:
    log = (stack.data_dir / "logs" / "api.log").read_text(errors="replace")
    for secret in (stack.api_key, stack.reader_password, stack.redis_password, stack.warehouse_password):
        assert secret.get_secret_value() not in log


def test_the_client_works_as_the_docs_show_it(api: Client) -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    *_, code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code.replace('sort="revenue"', 'start=date(2025, 12, 1), sort="revenue"'), scope | {"date": date}, scope)
    assert scope["best"].revenue > 0


def test_a_day_that_has_no_events_is_an_empty_answer(api: Client) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert list(api.products(start=tomorrow, end=tomorrow)) == []
    assert api.days(start=tomorrow, end=tomorrow) == []
