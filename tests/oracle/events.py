"""Raw events, the rows of the realtime tables, and the day on which an event is booked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Any

Cut = Mapping[str, Any]

TRANSACTIONS, VIEWS, CARTS = "transactions", "product_view_events", "cart_events"
SOURCES = (TRANSACTIONS, VIEWS, CARTS)
ID = {TRANSACTIONS: "transaction_id", VIEWS: "event_id", CARTS: "event_id"}
TIME = {TRANSACTIONS: "transaction_timestamp", VIEWS: "timestamp", CARTS: "timestamp"}
CENT, PRICE_STEP = Decimal("0.01"), Decimal("0.0001")


@dataclass(frozen=True)
class Line:
    """One product within an event: an order line, or the product of a view or a cart event (line 0)."""

    number: int
    product_id: str
    category: str | None
    quantity: int | None
    unit_price: Decimal | None

    @property
    def total(self) -> Decimal | None:
        """Quantity × unit price in cents, half away from zero; None without a price or a quantity."""
        if self.quantity is None or self.unit_price is None:
            return None
        return (self.quantity * self.unit_price).quantize(CENT, ROUND_HALF_UP)


@dataclass(frozen=True)
class Event:
    """One event up to the last cut."""

    source: str
    id: str
    at: datetime
    day: date
    booked: date
    batch: int
    user_id: str
    country: str  # empty for an absent one
    session_id: str | None
    event_type: str | None
    view_duration: int | None
    lines: tuple[Line, ...]

    @property
    def spend(self) -> Decimal:
        """Sum of the line totals of a transaction."""
        return sum((line.total for line in self.lines if line.total is not None), Decimal("0.00"))


def first_of_each(events: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """Drop every row whose id came earlier in its list: of duplicates the first one stays."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for source, rows in events.items():
        first: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            first.setdefault(row["event"][ID[source]], row)
        kept[source] = list(first.values())
    return kept


def instant(text: str) -> datetime:
    """Parse ISO 8601; without an offset it is UTC."""
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def money(value: Any, step: Decimal = CENT) -> Decimal | None:
    """Round a JSON number to the step, half away from zero; a float counts as the shortest text that gives it."""
    return None if value is None else Decimal(str(value)).quantize(step, ROUND_HALF_UP)


def booked_day(own: date, source: str, batch: int, cuts: Sequence[Cut]) -> date | None:
    """Give the greater of the own day and the run date of the cut before the first that covers the batch.

    Under the first cut it is the own day; None if no cut covers the batch.
    """
    for number, cut in enumerate(cuts):
        if batch <= cut[source]:
            return max(own, cuts[number - 1]["run_date"]) if number else own
    return None


def read(events: Mapping[str, Sequence[Mapping[str, Any]]], cuts: Sequence[Cut]) -> list[Event]:
    """Read the events up to the last cut; ValueError if an id repeats within a table."""
    loaded = []
    for source, rows in events.items():
        if len({row["event"][ID[source]] for row in rows}) < len(rows):
            raise ValueError(f"ids repeat in {source}; take first_of_each")
        for row in rows:
            at = instant(row["event"][TIME[source]])
            booked = booked_day(at.date(), source, row["batch"], cuts)
            if booked is not None:
                loaded.append(_event(source, row["event"], at, booked, row["batch"]))
    return loaded


def _event(source: str, event: Mapping[str, Any], at: datetime, booked: date, batch: int) -> Event:
    """Take an event's fields; the lines of a transaction count from 1."""
    lines = enumerate(event["products"], 1) if source == TRANSACTIONS else [(0, event)]
    return Event(
        source=source,
        id=event[ID[source]],
        at=at,
        day=at.date(),
        booked=booked,
        batch=batch,
        user_id=event["user_id"],
        country=event.get("country") or "",
        session_id=event.get("session_id") or None,
        event_type=event.get("event_type"),
        view_duration=event.get("view_duration"),
        lines=tuple(
            Line(
                number=number,
                product_id=line["product_id"],
                category=line.get("category") or None,
                quantity=line.get("quantity"),
                unit_price=money(line.get("price"), PRICE_STEP),
            )
            for number, line in lines
        ),
    )


def check_cuts(loaded: Sequence[Event], cuts: Sequence[Cut]) -> None:
    """Raise ValueError where the cuts break their own rules: they never go back and cover no day after their own."""
    for before, cut in pairwise(cuts):
        if any(cut[name] < before[name] for name in ("run_date", *SOURCES)):
            raise ValueError(f"cut {cut['cut_id']} goes back behind cut {before['cut_id']}")
    for event in loaded:
        cover = next(cut for cut in cuts if event.batch <= cut[event.source])
        if event.day > cover["run_date"]:
            raise ValueError(f"cut {cover['cut_id']} covers {event.source} {event.id} of a day after its run date")


def realtime_rows(source: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the declared columns of a realtime table, one row per event, cuts or not."""
    return [_realtime_row(source, row["event"]) for row in rows]


def _realtime_row(source: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Give one row; only an empty id is absent, an empty text of another field stays."""
    if source == TRANSACTIONS:
        return {
            "transaction_id": event["transaction_id"],
            "user_id": event["user_id"],
            "transaction_timestamp": instant(event["transaction_timestamp"]),
            "total_amount": money(event["total_amount"]),
            "country": event.get("country"),
            "products": event["products"],
        }
    names = ("event_id", "event_type", "user_id", "product_id", "country", "category", "quantity", "view_duration")
    return {name: event.get(name) for name in names} | {
        "event_timestamp": instant(event["timestamp"]),
        "session_id": event.get("session_id") or None,
        "price": money(event.get("price"), PRICE_STEP),
    }
