"""What the line is told, in seven steps: simulated shoppers from 2025-12-05 to 2026-01-13, and the rules' own cases by hand.

The calendar is fixed, so that a difference comes back; it crosses a month, a quarter, a year and an ISO year. The steps
are cut at 2025-12-30 (after 1 and 2), 2026-01-12 (after 3), 2026-01-12 again (5; 6 stays out) and today (7).
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from generators.events import Event
from generators.model import Scenario, simulate

SALES, VIEWS, CARTS = "transactions", "product_view_events", "cart_events"

SCENARIO = Scenario(
    start=datetime(2025, 12, 5, tzinfo=UTC), history=timedelta(days=40), events=9000, users=120, products=40, seed=5
)
SIMULATED_UNTIL = {1: "12-28T00:00", 2: "12-31T00:00", 3: "01-12T12:00", 5: "01-13T00:00", 6: "01-14T00:00"}
CUTS = {2: "2025-12-30", 3: "2026-01-12", 6: "2026-01-12", 7: ""}
"""The run date of the cut after a step; empty for today's."""
PACE = {5: ["-p", "catch_up_offsets=30"]}
"""Of a step that is read in several micro-batches; the others are in one."""
ETL_ONLY = (3,)
"""Steps whose cut is loaded without analytics: the next one has the same run date."""


def moment(text: str) -> str:
    """'12-31T08:00' is in 2025 and '01-02T08:00' in 2026; noon without a time; what begins with a year stands as it is."""
    if text.startswith("20"):
        return text
    day, _, time = text.partition("T")
    return f"{2025 if day.startswith('12') else 2026}-{day}T{time or '12:00'}:00Z"


def message(table: str, event: dict[str, Any]) -> Event:
    return Event(table, 0, json.dumps(event, ensure_ascii=False).encode())


def line(product: str, price: float, quantity: int = 1, **more: Any) -> dict[str, Any]:
    return {"product_id": product, "quantity": quantity, "price": price} | more


def sale(key: str, at: str, *lines: dict[str, Any], user: str = "buyer", **more: Any) -> Event:
    event = {"transaction_id": key, "user_id": user, "transaction_timestamp": moment(at), "total_amount": 1.5}
    return message(SALES, event | {"products": list(lines)} | more)


def buy(key: str, at: str, amount: float, user: str, **more: Any) -> Event:
    return sale(key, at, line("gift", amount), user=user, **more)


def view(key: str, at: str, product: str, user: str = "looker", **more: Any) -> Event:
    event = {"event_id": key, "event_type": "view", "user_id": user, "product_id": product, "timestamp": moment(at)}
    return message(VIEWS, event | more)


def cart(key: str, at: str, product: str, **more: Any) -> Event:
    event = {"event_id": key, "event_type": "add", "user_id": "buyer", "product_id": product, "timestamp": moment(at)}
    return message(CARTS, event | more)


def bare(source: str, **fields: Any) -> dict[str, Any]:
    """A good event's object with the given fields instead; None takes one away."""
    good = {SALES: sale("dead", "12-20", line("gift", 1)), VIEWS: view("dead", "12-20", "gift")}
    good[CARTS] = cart("dead", "12-20", "gift")
    return {name: value for name, value in (json.loads(good[source].value) | fields).items() if value is not None}


def odd(event: Event, value: str) -> Event:
    """The event, whose text `<odd>` is this JSON value instead."""
    return Event(event.table, event.time_ms, event.value.replace(b'"<odd>"', value.encode()))


DEAD = {
    event.value: (event.table, reason)
    for table, time in ((SALES, "transaction_timestamp"), (VIEWS, "timestamp"), (CARTS, "timestamp"))
    for reason, event in {
        "not_json": Event(table, 0, b"{" + table.encode()),
        "not_an_object": Event(table, 0, json.dumps([table]).encode()),
        "invalid_utf8": Event(table, 0, table.encode() + b"\xff"),
        "nul_character": message(table, bare(table, country="a\0b")),
        "missing_field": message(table, bare(table, user_id=None)),
        "wrong_type": message(table, bare(table, user_id=42)),
        "too_old": message(table, bare(table, **{time: "1999-12-31T23:59:59Z"})),
        "in_the_future": message(table, bare(table, **{time: "2999-01-01T00:00:00Z"})),
        "text_too_long": message(table, bare(table, user_id="x" * 101)),
    }.items()
}
"""Messages that can't be stored: payload to table and reason; each payload occurs once."""

FIRST = [
    # long ago, so that months and quarters have one before them to grow against
    buy("first of all", "2025-09-30T10:00:00Z", 12.5, "old"),
    # amounts: half a cent up, more than four decimals, nothing, a lot; a product twice in one order
    sale("round", "12-06", line("gift", 0.335, 3), line("gift", 10.00005), line("free", 0, 2, category="")),
    sale("large", "12-07", line("dear", 123456789.1234, 7), user="big", country=""),
    buy("as long as may be ".ljust(100, "x"), "12-07", 3, "big"),
    cart("no price", "12-07", "gift", quantity=2),
    cart("no quantity", "12-07", "gift", price=2),
    cart("none of it", "12-07", "gift", quantity=0, price=1.005, session_id=""),
    cart("half", "12-07", "gift", quantity=1, price=1.005, country="Côte d'Ivoire"),
    # times: another offset, which is another day; none at all, which is UTC
    view("offset", "2025-12-09T01:30:00.5+02:00", "gift", session_id="s", color="red", nested={"a": [1]}),
    view("plain", "2025-12-09T23:59:59.999999", "礼物", user="ユーザー", view_duration=0),
    # segments: both thresholds exactly, just below, and one large purchase only
    *(buy(f"medium {n}", f"12-{n}", amount, "medium") for n, amount in ((10, 100), (11, 200))),
    *(buy(f"high {n}", f"12-{n}", 500, "high") for n in (10, 11)),
    *(buy(f"almost {n}", f"12-{n}", amount, "almost") for n, amount in ((10, 999.99), (12, 0))),
    *(buy(f"low {n}", f"12-{n}", 149.99, "low", country="Peru") for n in (10, 12)),
    buy("single", "12-10", 5000, "single"),
    # categories: there and back on three days, within one day, twice the same, too late for the first version, `All`
    *(view(f"aba {n}", f"12-{n}", "aba", category=name) for n, name in ((10, "A"), (11, "B"), (12, "A"), (13, "A"))),
    *(view(f"day {n}", f"12-14T0{n}:00", "aba", category=name) for n, name in ((7, "A"), (8, "B"), (9, "A"))),
    view("nameless", "12-15T08:00", "later"),
    view("named", "12-15T09:00", "later", category="Books"),
    view("unnamed", "12-15", "slow"),
    view("renamed", "12-17", "slow", category="Toys"),
    view("total", "12-15", "total", category="All"),
    sale("lines", "12-16", line("two", 1, category="First"), line("two", 2, category="Second"), country="Chad"),
]
NAMES_OF_OURS = (
    "happened_at",
    "place",
    "day",
    "booked",
    "line",
    "value",
    "number",
    "events",
    "loaded",
    "t",
    "first_date",
)
LIMITS = [
    # within the contract, and what sums, readers and queries must be able to take: each of them stopped the line once
    *(sale(f"limit {n}", "12-22", line("dear", 90_000_000_000_000, 100), user="limit") for n in (1, 2)),
    cart("limit", "12-22", "dear", quantity=2**31 - 1, price=99_999_999_999_999),
    odd(sale("decimals", "12-22", line("gift", 1, weight="<odd>"), line("free", 0)), "0." + "1" * 1001),
    sale("long name", "12-22", line("gift", 2, **{"n" * 50_001: 1}), user="limit"),
    odd(sale("deep", "12-22", line("gift", 3, deep="<odd>")), "[" * 90 + "]" * 90),
    view("names", "12-22", "gift", **dict.fromkeys(NAMES_OF_OURS, "of ours")),
    cart("names", "12-22", "gift", **dict.fromkeys(NAMES_OF_OURS, "of ours")),
    sale(
        "names", "12-22", line("gift", 4, **dict.fromkeys(NAMES_OF_OURS, "of ours")), **dict.fromkeys(NAMES_OF_OURS, 1)
    ),
]
"""Sent in the second step."""

SECOND = [
    view("back-dated", "12-13T13:00", "aba", category="C"),
    view("young", "12-30T10:00", "young", category="Toys"),
    buy("young sold", "12-30T11:00", 20, "medium"),
    sale("round", "12-06", line("gift", 99), country="another payload"),
]
THIRD = [
    # late: a segment, a vote that doesn't count, earlier starts, keys that no one has seen
    buy("late medium", "12-20", 250, "medium"),
    buy("late almost", "12-20", 0.01, "almost"),
    view("late vote", "12-20", "aba", category="Z"),
    view("earlier", "12-01", "aba", country="Peru"),
    view("newborn", "12-02", "newborn", user="late comer", country="Oman", category="Z"),
    view("newborn named", "12-31", "newborn", category="Home"),
    buy("late comer", "12-03", 400, "late bird"),
    # on time still, since the first cut's day was open
    view("younger", "12-30T08:00", "young", category="Books"),
    view("open day", "12-30T23:50", "later", category="Garden"),
    buy("early", "2025-12-31T23:30:00-05:00", 300, "new year"),
    # the day that two cuts share
    view("fresh", "01-12T10:00", "fresh", category="Toys"),
    buy("twice 1", "01-12T09:00", 200, "twice"),
    sale("fresh sold", "01-12T10:30", line("fresh", 5, 2, category="Toys"), user="twice"),
    view("named", "01-05", "later", category="another payload"),
]
FIFTH = [
    view("fresher", "01-12T08:00", "fresh", category="Books"),
    view("late fresh", "01-03", "fresh", category="Late"),
    buy("twice 2", "01-12T13:00", 200, "twice"),
    buy("late new year", "01-11", 1, "new year"),
    buy("late bird", "12-15", 700, "late bird"),
    buy("later comer", "01-01", 50, "later comer"),
    view("newborn earlier", "12-01", "newborn", country="Oman"),
    view("day's last", "01-12T23:59", "aba", category="Q"),
    sale("fresh sold", "01-12T10:30", line("fresh", 6), user="another payload"),
]
SIXTH = [view("next day", "01-13T09:00", "fresh", category="Garden"), buy("next day", "01-13T09:00", 900, "twice")]


def live() -> list[Event]:
    """The last step: events of this moment, one of the last cut's open day, and a late one."""
    now = datetime.now(UTC).isoformat()
    return [
        buy("now", now, 10.5, "medium"),
        buy("now too", now, 7, "today's"),
        view("now", now, "brand new", user="today's", country="Fiji", category="New"),
        cart("now", now, "brand new", quantity=1, price=3.25),
        buy("not late", "01-12T23:00", 1, "single"),
        buy("late", "01-05", 1000, "low"),
        view("late", "01-05", "fresh", category="Late"),
    ]


def steps() -> Iterator[tuple[int, list[list[Event]]]]:
    """Each step and what it sends, batch by batch: message i of a batch goes to partition i mod 3 of its topic."""
    simulated = list(simulate(SCENARIO))
    again = simulated[:30]
    by_hand = {
        1: [FIRST, FIRST[::4], [Event(table, 0, value) for value, (table, _) in DEAD.items()]],
        2: [SECOND, LIMITS, again],
        3: [THIRD, again],
        5: [FIFTH],
        6: [SIXTH],
    }
    edges = [0, *(int(datetime.fromisoformat(moment(until)).timestamp() * 1000) for until in SIMULATED_UNTIL.values())]
    for step, (start, end) in zip(SIMULATED_UNTIL, pairwise(edges), strict=True):
        yield step, [[event for event in simulated if start <= event.time_ms < end], *by_hand[step]]
    yield 7, [live()]
