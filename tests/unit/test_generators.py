"""The shoppers: what they send, how they behave, and that chance has a memory."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from generators.__main__ import TABLES, Kind, app, instant, length, share
from generators.events import SHARES, Event
from generators.model import Scenario, simulate
from lib.ingest import decode
from lib.schemas import CONTRACTS

START = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)
HISTORY = Scenario(start=START, history=timedelta(days=200), events=60_000, users=600, products=200)
LIVE = Scenario(start=START, events=20_000)
WINDOW = 10_000


def bodies(events: list[Event], table: str) -> list[dict[str, Any]]:
    return [json.loads(event.value) for event in events if event.table == table]


def digest(events: list[Event]) -> str:
    return hashlib.sha256(b"\n".join(event.value for event in events)).hexdigest()


@pytest.fixture(scope="module")
def history() -> list[Event]:
    return list(simulate(HISTORY))


@pytest.fixture(scope="module")
def live() -> list[Event]:
    return list(simulate(LIVE))


@pytest.fixture(scope="module")
def transactions(history: list[Event]) -> list[dict[str, Any]]:
    return bodies(history, "transactions")


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(LIVE, id="live"),
        pytest.param(Scenario(start=START, events=20_000, rate=2000), id="fast"),
        pytest.param(Scenario(start=START, events=20_000, rate=0.5, users=5, products=3), id="slow and small"),
        pytest.param(HISTORY, id="history"),
        pytest.param(
            Scenario(start=START, history=timedelta(days=3), events=9_000, duration=timedelta(minutes=4)), id="both"
        ),
    ],
)
def test_every_window_of_ten_thousand_events_holds_the_mix_within_a_point(scenario: Scenario) -> None:
    counts, before = [dict.fromkeys(SHARES, 0)], dict.fromkeys(SHARES, 0)
    for event in simulate(scenario):
        before[event.table] += 1
        counts.append(dict(before))
    for first, last in zip(counts, counts[WINDOW:], strict=False):
        for table, part in SHARES.items():
            assert abs((last[table] - first[table]) / WINDOW - part) < 0.01


def test_three_kinds_apart_are_the_whole_simulation_each_with_its_share(live: list[Event]) -> None:
    apart = {kind: list(share(simulate(LIVE), TABLES[kind])) for kind in (Kind.transactions, Kind.views, Kind.cart)}
    assert sorted(event for events in apart.values() for event in events) == sorted(live)
    assert list(share(live, TABLES[Kind.all])) == live
    for kind, part in ((Kind.transactions, 0.1), (Kind.views, 0.6), (Kind.cart, 0.3)):
        assert len(apart[kind]) / len(live) == pytest.approx(part, abs=0.01)


def test_equal_scenarios_give_equal_bytes_in_every_process() -> None:
    program = (
        "import hashlib; from datetime import datetime, timedelta, UTC; from generators.model import *; "
        "s = Scenario(start=datetime(2026, 3, 4, tzinfo=UTC), history=timedelta(days=9), events=2000, seed=7); "
        "print(hashlib.sha256(b'\\n'.join(e.value for e in simulate(s))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = Scenario(start=datetime(2026, 3, 4, tzinfo=UTC), history=timedelta(days=9), events=2000, seed=7)
    assert digests == {digest(list(simulate(here)))}


def test_same_instant_in_another_zone_gives_the_same_events() -> None:
    there = Scenario(start=START.astimezone(timezone(timedelta(hours=5.5))), events=500)
    assert list(simulate(there)) == list(simulate(Scenario(start=START, events=500)))


def test_longer_live_run_begins_like_the_shorter_one(live: list[Event]) -> None:
    assert list(simulate(Scenario(start=START, events=700))) == live[:700]
    assert list(simulate(Scenario(start=START, duration=timedelta(seconds=14)))) == live[:700]


@pytest.mark.parametrize(
    "other",
    [
        Scenario(start=START + timedelta(milliseconds=1), events=2000),
        Scenario(start=START, events=2000, seed=2),
        Scenario(start=START, events=2000, rate=51),
        Scenario(start=START, events=2000, users=2999),
        Scenario(start=START, events=2000, products=401),
        Scenario(start=START, events=2000, history=timedelta(hours=3)),
    ],
)
def test_two_different_runs_share_no_id(other: Scenario, live: list[Event]) -> None:
    def ids(events: list[Event]) -> set[str]:
        found = (json.loads(event.value) for event in events)
        return {body.get("event_id") or body["transaction_id"] for body in found}

    ours, theirs = ids(live), ids(list(simulate(other)))
    assert len(ours) == len(live)
    assert len(theirs) == 2000
    assert not ours & theirs


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("transactions", "transaction_id user_id products total_amount country transaction_timestamp"),
        (
            "product_view_events",
            "event_id event_type user_id product_id session_id timestamp country category view_duration",
        ),
        (
            "cart_events",
            "event_id event_type user_id product_id session_id timestamp country category quantity price",
        ),
    ],
)
def test_every_event_has_exactly_its_fields(table: str, fields: str, history: list[Event]) -> None:
    assert {tuple(body) for body in bodies(history, table)} == {tuple(fields.split())}


def test_savers_accept_every_event_and_read_its_own_time(history: list[Event]) -> None:
    for event in history[::7]:
        now = datetime.fromtimestamp(event.time_ms / 1000, UTC)
        assert isinstance(decode.decode(CONTRACTS[event.table], event.value, now), decode.Event)
        body = json.loads(event.value)
        stamp = body.get("timestamp") or body["transaction_timestamp"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
        assert round(datetime.fromisoformat(stamp).timestamp() * 1000) == event.time_ms


def test_ids_look_as_they_should(live: list[Event]) -> None:
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    for event in live[:1000]:
        body = json.loads(event.value)
        assert re.fullmatch(uuid, body.get("event_id") or body["transaction_id"])
        assert re.fullmatch(r"user_\d+", body["user_id"])
        assert re.fullmatch(
            r"prod_\d+", body["product_id"] if "product_id" in body else body["products"][0]["product_id"]
        )
        assert re.fullmatch(r"session_[0-9a-f]{12}", body.get("session_id", "session_0123456789ab"))


def test_total_is_the_sum_of_its_lines_to_the_cent(history: list[Event]) -> None:
    orders = [json.loads(event.value, parse_float=Decimal) for event in history if event.table == "transactions"]
    assert any(len(order["products"]) > 1 for order in orders)
    for order in orders:
        assert order["total_amount"] == sum(line["quantity"] * line["price"] for line in order["products"])
        assert all(line["quantity"] >= 1 and line["price"] > 0 for line in order["products"])
        assert all(line["price"] == round(line["price"], 2) for line in order["products"])
        assert len({line["product_id"] for line in order["products"]}) == len(order["products"])


@pytest.mark.parametrize("scenario", [LIVE, HISTORY], ids=["live", "history"])
def test_purchase_follows_a_checkout_and_holds_what_was_in_the_cart(scenario: Scenario) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    carts: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    checked_out: dict[str, list[dict[str, tuple[int, float]]]] = defaultdict(list)
    for event in simulate(scenario):
        body = json.loads(event.value)
        if event.table == "transactions":
            lines = {line["product_id"]: (line["quantity"], line["price"]) for line in body["products"]}
            checked_out[body["user_id"]].remove(lines)
            continue
        session, product = body["session_id"], body["product_id"]
        match body["event_type"]:
            case "view":
                seen[session].add(product)
            case "add":
                assert product in seen[session]
                assert product not in carts[session]
                carts[session][product] = (body["quantity"], body["price"])
            case "update":
                assert carts[session][product] != (body["quantity"], body["price"])
                carts[session][product] = (body["quantity"], body["price"])
            case "remove":
                assert carts[session].pop(product) == (body["quantity"], body["price"])
            case "checkout":
                assert carts[session][product] == (body["quantity"], body["price"])
                checked_out[body["user_id"]].append(carts[session])


def test_session_belongs_to_one_user_and_a_user_to_one_country(history: list[Event]) -> None:
    users, countries = defaultdict(set), defaultdict(set)
    for event in history:
        body = json.loads(event.value)
        countries[body["user_id"]].add(body["country"])
        if "session_id" in body:
            users[body["session_id"]].add(body["user_id"])
    assert {len(names) for names in users.values()} == {1}
    assert {len(names) for names in countries.values()} == {1}
    assert len(set.union(*countries.values())) >= 8


def test_history_is_in_order_and_in_its_range(history: list[Event]) -> None:
    times = [event.time_ms for event in history]
    assert len(times) == HISTORY.events
    assert times == sorted(times)
    assert times[0] >= START.timestamp() * 1000
    assert times[-1] < HISTORY.live_start.timestamp() * 1000


def test_live_event_i_comes_i_intervals_after_the_start(live: list[Event]) -> None:
    first = round(START.timestamp() * 1000)
    assert [event.time_ms for event in live] == [first + 20 * i for i in range(len(live))]


def test_live_events_go_on_where_the_history_ends() -> None:
    scenario = Scenario(start=START, history=timedelta(days=2), duration=timedelta(seconds=30))
    events = list(simulate(scenario))
    assert scenario.past_events == 3200
    assert len(events) == scenario.total == 4700
    end = round(scenario.live_start.timestamp() * 1000)
    assert events[3199].time_ms < end == events[3200].time_ms
    sessions = [json.loads(event.value).get("session_id") for event in events]
    assert set(sessions[3100:3200]) & set(sessions[3200:3400]) - {None}


def test_people_shop_in_the_evening_and_at_the_weekend_and_more_every_month(history: list[Event]) -> None:
    times = [datetime.fromtimestamp(event.time_ms / 1000, UTC) for event in history]
    hours, weekdays = Counter(time.hour for time in times), Counter(time.weekday() for time in times)
    assert hours[20] > 4 * hours[4]
    assert weekdays[5] > 1.1 * weekdays[1]
    half = START + timedelta(days=100)
    assert sum(time >= half for time in times) > 1.08 * sum(time < half for time in times)


def test_some_customers_return_often_some_once_and_every_segment_shows_up(
    transactions: list[dict[str, Any]],
) -> None:
    orders = Counter(order["user_id"] for order in transactions)
    spent: Counter[str] = Counter()
    for order in transactions:
        spent[order["user_id"]] += order["total_amount"]
    assert sum(number == 1 for number in orders.values()) > 0.03 * len(orders)
    assert sum(number >= 10 for number in orders.values()) > 0.1 * len(orders)
    regulars = {user for user, number in orders.items() if number > 1}
    low = sum(spent[user] < 300 for user in regulars)
    high = sum(spent[user] >= 1000 for user in regulars)
    for number in (low, high, len(regulars) - low - high):
        assert number > 0.1 * len(regulars)
    assert 20 < sum(spent.values()) / len(transactions) < 150


def test_new_customers_keep_coming_and_others_stay_away(transactions: list[dict[str, Any]]) -> None:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for order in transactions:
        day = (datetime.fromisoformat(order["transaction_timestamp"]) - START).days
        first.setdefault(order["user_id"], day)
        last[order["user_id"]] = day
    assert sum(day > 60 for day in first.values()) > 0.1 * len(first)
    assert sum(day < 140 for day in last.values()) > 0.1 * len(last)


def test_few_products_are_popular(history: list[Event]) -> None:
    views = [
        number for _, number in Counter(v["product_id"] for v in bodies(history, "product_view_events")).most_common()
    ]
    assert len(views) == HISTORY.products
    assert sum(views[:20]) > 0.3 * sum(views)
    assert views[0] > 20 * views[-1]


def test_a_few_products_change_their_category_at_midnight_in_all_events_alike(history: list[Event]) -> None:
    days: dict[str, dict[str, str]] = defaultdict(dict)
    for event in history:
        body = json.loads(event.value)
        day = (body.get("timestamp") or body["transaction_timestamp"])[:10]
        for line in body.get("products", [body]):
            assert days[line["product_id"]].setdefault(day, line["category"]) == line["category"]
    changed = [product for product, categories in days.items() if len(set(categories.values())) > 1]
    assert 0.03 * HISTORY.products < len(changed) < 0.15 * HISTORY.products
    for product in changed:
        names = [days[product][day] for day in sorted(days[product])]
        assert sum(a != b for a, b in pairwise(names)) <= 5


def test_prices_drift_but_hold_for_a_day(history: list[Event]) -> None:
    prices: dict[str, dict[str, float]] = defaultdict(dict)
    for event in bodies(history, "cart_events"):
        if event["event_type"] == "add":
            day = event["timestamp"][:10]
            assert prices[event["product_id"]].setdefault(day, event["price"]) == event["price"]
    popular = [set(by_day.values()) for by_day in prices.values() if len(by_day) > 50]
    assert popular
    assert all(len(values) > 5 and max(values) < 1.3 * min(values) for values in popular)


def test_two_runs_on_one_day_know_the_same_customers_and_shelves() -> None:
    def known(start: datetime) -> tuple[dict[str, str], dict[str, str]]:
        found = [json.loads(e.value) for e in simulate(Scenario(start=start, events=8000)) if "cart" not in e.table]
        countries = {body["user_id"]: body["country"] for body in found}
        lines = [line for body in found for line in body.get("products", [body])]
        return countries, {line["product_id"]: line["category"] for line in lines}

    morning, evening = known(START), known(START + timedelta(hours=12))
    for one, other in zip(morning, evening, strict=True):
        both = one.keys() & other.keys()
        assert len(both) > 100
        assert all(one[key] == other[key] for key in both)


@pytest.mark.parametrize(
    ("arguments", "past", "alive"),
    [
        ({}, 0, None),
        ({"events": 7}, 0, 7),
        ({"duration": timedelta(seconds=60)}, 0, 3000),
        ({"duration": timedelta(seconds=60), "events": 100}, 0, 100),
        ({"history": timedelta(days=200)}, 320_000, 0),
        ({"history": timedelta(days=200), "events": 5}, 5, 0),
        ({"history": timedelta(hours=1), "duration": timedelta(seconds=2), "rate": 10.0}, 67, 20),
    ],
)
def test_number_of_events_follows_from_the_arguments(arguments: dict[str, Any], past: int, alive: int | None) -> None:
    scenario = Scenario(start=START, **arguments)
    assert (scenario.past_events, scenario.live_events) == (past, alive)
    assert scenario.total == (None if alive is None else past + alive)


def test_lengths_of_time_and_instants_are_read() -> None:
    assert [length(text) for text in ("60s", "1.5m", "2h", "200d", "1w")] == [
        timedelta(seconds=60),
        timedelta(seconds=90),
        timedelta(hours=2),
        timedelta(days=200),
        timedelta(days=7),
    ]
    assert instant("2026-11-22T08:00:00Z") == instant("2026-11-22T08:00:00") == instant("2026-11-22T09:00:00+01:00")


@pytest.mark.parametrize("text", ["", "60", "0s", "-5s", "5x", "99999999999999d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        length(text)


@pytest.mark.parametrize(
    "arguments",
    [["clicks"], ["--duration", "soon"], ["--rate", "0"], ["--users", "0"], ["--start", "now"], ["--events", "-1"]],
)
def test_wrong_arguments_end_with_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_missing_broker_is_one_line_that_says_where_and_what_to_do() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GM_")}
    with socket.socket() as unheard:
        unheard.bind(("localhost", 0))
        port = unheard.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "generators", "--events", "1"],
            env=env | {"GM_KAFKA_PORT": str(port), "GM_ENV_FILE": os.devnull},
            capture_output=True,
            text=True,
        )
    line = f"generators: no Kafka broker answers at localhost:{port}: start the stack with `make up`\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
