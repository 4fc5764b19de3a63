"""Dimensions after the last cut, as functions of all events up to it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from .events import TRANSACTIONS, Event, Line

DAY = timedelta(days=1)
UNKNOWN = {"effective_date": date.min, "end_date": None, "is_current": True}  # the member -1, natural key ''
NOTHING = Decimal("0.00")


@dataclass(frozen=True)
class Version:
    """One value of a type 2 attribute, valid on the days from start up to, not including, end."""

    value: str
    start: date
    end: date | None

    @property
    def validity(self) -> dict[str, Any]:
        """The three columns of a version."""
        return {"effective_date": self.start, "end_date": self.end, "is_current": self.end is None}


def date_id(day: date) -> int:
    """Give the key of a day, 20260301 for 2026-03-01."""
    return day.year * 10000 + day.month * 100 + day.day


def history(start: date, first: str, value_of_day: Mapping[date, str], run_date: date) -> list[Version]:
    """Chain the versions of one key: each day before the run date may bring a value, valid from the next day."""
    values = [(start, first)]
    for day in sorted(day for day in value_of_day if day < run_date):
        if value_of_day[day] != values[-1][1]:
            values.append((day + DAY, value_of_day[day]))
    ends = [begin for begin, _ in values[1:]] + [None]
    return [Version(value, begin, end) for (begin, value), end in zip(values, ends, strict=True)]


def on(versions: Iterable[Version], day: date) -> Version:
    """Give the version valid on a day; ValueError unless there is exactly one."""
    (found,) = (one for one in versions if one.start <= day and (one.end is None or day < one.end))
    return found


def segment(transactions: int, spent: Decimal) -> str:
    """Give the segment of a customer from all that was bought."""
    if transactions <= 1:
        return "New"
    return "High Value" if spent >= 1000 else "Medium Value" if spent >= 300 else "Low Value"


def customer_versions(seen: Sequence[Event], run_date: date) -> list[Version]:
    """Chain the segments of one customer, from all of its events."""
    bought = [event for event in seen if event.source == TRANSACTIONS]
    segments = {}
    for day in {event.booked for event in bought}:
        so_far = [event.spend for event in bought if event.booked <= day]
        segments[day] = segment(len(so_far), sum(so_far, NOTHING))
    return history(min(event.day for event in seen), "New", segments, run_date)


def product_versions(seen: Sequence[tuple[Event, Line]], run_date: date) -> list[Version]:
    """Chain the categories of one product, from all events and order lines that name it."""
    votes: dict[date, list[str]] = defaultdict(list)
    for event, line in sorted(seen, key=lambda one: (one[0].at, one[0].id, one[1].number)):
        if line.category and event.booked == event.day:
            votes[event.booked].append("Unknown" if line.category == "All" else line.category)
    first_booked = min(event.booked for event, _ in seen)
    first = votes[first_booked][0] if first_booked in votes else "Unknown"
    last_votes = {day: categories[-1] for day, categories in votes.items()}
    return history(min(event.day for event, _ in seen), first, last_votes, run_date)


def totals(bought: Sequence[Event]) -> dict[str, Any]:
    """Give the type 1 attributes of a customer who made these transactions."""
    spent = sum((event.spend for event in bought), NOTHING)
    return {
        "first_transaction_date": min((event.day for event in bought), default=None),
        "last_transaction_date": max((event.day for event in bought), default=None),
        "total_transactions": len(bought),
        "total_spent": spent,
        "avg_order_value": float(spent / len(bought)) if bought else 0.0,
    }


class Dimensions:
    """Versions of every key, and the dimension tables' rows.

    Parameters
    ----------
    loaded
        The events up to the last cut.
    run_date
        The last cut's: the day that is still open.
    """

    def __init__(self, loaded: Sequence[Event], run_date: date) -> None:
        self.run_date = run_date
        self.seen_of_user: dict[str, list[Event]] = defaultdict(list)
        seen_of_product: dict[str, list[tuple[Event, Line]]] = defaultdict(list)
        self.countries: dict[str, date] = {}
        for event in loaded:
            self.seen_of_user[event.user_id].append(event)
            for line in event.lines:
                seen_of_product[line.product_id].append((event, line))
            if event.country:
                self.countries[event.country] = min(event.day, self.countries.get(event.country, event.day))
        self.customers = {key: customer_versions(seen, run_date) for key, seen in self.seen_of_user.items()}
        self.products = {key: product_versions(seen, run_date) for key, seen in seen_of_product.items()}

    def customer_rows(self) -> list[dict[str, Any]]:
        """One row per version: a closed one keeps the totals at the end of its last day, by booked day."""
        rows = [{"user_id": "", "customer_segment": "Unknown"} | totals([]) | UNKNOWN]
        for user_id, versions in self.customers.items():
            bought = [event for event in self.seen_of_user[user_id] if event.source == TRANSACTIONS]
            for one in versions:
                counted = [event for event in bought if one.end is None or event.booked < one.end]
                rows.append({"user_id": user_id, "customer_segment": one.value} | totals(counted) | one.validity)
        return rows

    def product_rows(self) -> list[dict[str, Any]]:
        """One row per version."""
        return [{"product_id": "", "category": "Unknown"} | UNKNOWN] + [
            {"product_id": product_id, "category": one.value} | one.validity
            for product_id, versions in self.products.items()
            for one in versions
        ]

    def geography_rows(self) -> list[dict[str, Any]]:
        """One row per country, from the day of its first event on."""
        return [{"country": ""} | UNKNOWN] + [
            {"country": country} | Version(country, start, None).validity for country, start in self.countries.items()
        ]

    def date_rows(self) -> list[dict[str, Any]]:
        """One row per day from 2000-01-01 to the end of the year after the run date's."""
        first, last = date(2000, 1, 1), date(self.run_date.year + 1, 12, 31)
        days = (first + number * DAY for number in range((last - first).days + 1))
        return [
            {
                "date_id": date_id(day),
                "date": day,
                "year": day.year,
                "quarter": (day.month + 2) // 3,
                "month": day.month,
                "day": day.day,
                "day_of_week": day.isoweekday(),
                "week_of_year": day.isocalendar().week,
                "is_weekend": day.isoweekday() >= 6,
            }
            for day in days
        ]
