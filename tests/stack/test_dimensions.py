"""What events say about dimensions, on real Spark: segments, categories, countries, days, and the booked day."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib import spark
from lib.etl import customers, products
from lib.ledger import cuts as incremental
from lib.ledger.cuts import Cut, Window
from lib.schemas import CONTRACTS
from lib.settings import Settings
from lib.warehouse import read


def day(number: int) -> date:
    """The day with this number; 1 is 2026-03-01."""
    return date(2026, 3, number)


@pytest.fixture(scope="module")
def session(stack: Settings) -> Iterator[SparkSession]:
    """A session on the batch server."""
    begun = spark.batch()
    yield begun
    spark.close(begun)


# --- customers

Order = tuple[int, int, str]
"""Own day, booked day, amount."""
Segment = tuple[int, int | None, str, int, str]
"""First day, day of the end, segment, orders, total."""

DAYS = (
    "user_id string, booked date, first_date date, transactions bigint, spent decimal(38,2), first_order date,"
    " last_order date, known_effective_date date, known_customer_segment string, known_first_transaction_date date,"
    " known_last_transaction_date date, known_total_transactions bigint, known_total_spent decimal(38,2)"
)
SEGMENT = (
    "case when total_transactions <= 1 then 'New' when total_spent >= 1000 then 'High Value'"
    " when total_spent >= 300 then 'Medium Value' else 'Low Value' end"
)
Current = tuple[int, str, int, int, int, str]
"""First day, segment, first and last day of an order, orders, total of a current version."""


def versions(days: DataFrame, run_date: int) -> DataFrame:
    """As the notebook makes them; the segment is what stands there."""
    ends = customers.day_ends(days)
    return customers.customer_versions(ends.withColumn("segment", F.expr(SEGMENT)), day(run_date))


def segments(
    session: SparkSession,
    *,
    run_date: int,
    orders: Sequence[Order] = (),
    looks: Sequence[int] = (),
    current: Current | None = None,
) -> list[Segment]:
    """The versions that a load makes of one customer; `looks` are days with other events."""
    known: tuple[Any, ...] = (None,) * 6
    if current:
        start, name, first, last, count, total = current
        known = (day(start), name, day(first), day(last), count, Decimal(total))
    rows = []
    for booked in sorted({order[1] for order in orders} | set(looks)):
        ours = [(own, Decimal(amount)) for own, of, amount in orders if of == booked]
        own_days = [own for own, _ in ours] + [look for look in looks if look == booked]
        first_last = (day(min(own for own, _ in ours)), day(max(own for own, _ in ours))) if ours else (None, None)
        spent = sum((amount for _, amount in ours), Decimal(0))
        rows.append(("u", day(booked), day(min(own_days)), len(ours), spent, *first_last, *known))
    random.Random(1).shuffle(rows)
    made = versions(session.createDataFrame(rows, DAYS), run_date)
    return [
        (
            row.effective_date.day,
            row.end_date.day if row.end_date else None,
            row.customer_segment,
            row.total_transactions,
            str(row.total_spent),
        )
        for row in sorted(made.collect(), key=lambda row: row.effective_date)
    ]


def test_a_purchase_does_not_decide_its_own_segment(session: SparkSession) -> None:
    assert segments(session, orders=[(1, 1, "700"), (1, 1, "300")], run_date=2) == [
        (1, 2, "New", 2, "1000.00"),
        (2, None, "High Value", 2, "1000.00"),
    ]


def test_the_open_day_is_not_evaluated_but_counts_in_the_totals(session: SparkSession) -> None:
    assert segments(session, orders=[(1, 1, "700"), (1, 1, "300")], run_date=1) == [(1, None, "New", 2, "1000.00")]


def test_one_transaction_is_new_however_large_and_the_thresholds_are_inclusive(session: SparkSession) -> None:
    assert segments(session, orders=[(1, 1, "5000")], run_date=9) == [(1, None, "New", 1, "5000.00")]
    orders = [(1, 1, "100"), (2, 2, "199.99"), (3, 3, "0.01"), (4, 4, "699.99"), (5, 5, "0.01")]
    assert segments(session, orders=orders, run_date=9) == [
        (1, 3, "New", 2, "299.99"),
        (3, 4, "Low Value", 3, "300.00"),
        (4, 6, "Medium Value", 5, "1000.00"),
        (6, None, "High Value", 5, "1000.00"),
    ]


def test_a_customer_who_only_looks_is_new_from_the_first_look(session: SparkSession) -> None:
    assert segments(session, looks=[4, 2], run_date=9) == [(2, None, "New", 0, "0.00")]


def test_a_customer_begins_with_the_first_event_of_any_kind(session: SparkSession) -> None:
    assert segments(session, looks=[1], orders=[(3, 3, "1"), (3, 3, "1")], run_date=9) == [
        (1, 4, "New", 2, "2.00"),
        (4, None, "Low Value", 2, "2.00"),
    ]


def test_a_closed_version_keeps_the_totals_at_the_end_of_its_last_day(session: SparkSession) -> None:
    orders = [(1, 1, "10"), (2, 2, "20"), (5, 5, "400"), (5, 5, "50"), (6, 6, "1000")]
    assert segments(session, orders=orders, run_date=6) == [
        (1, 3, "New", 2, "30.00"),
        (3, 6, "Low Value", 4, "480.00"),
        (6, None, "Medium Value", 5, "1480.00"),
    ]


def test_a_load_goes_on_from_the_totals_of_the_current_version(session: SparkSession) -> None:
    found = segments(session, orders=[(5, 5, "50")], current=(1, "New", 1, 1, 1, "250"), run_date=6)
    assert found == [(1, 6, "New", 2, "300.00"), (6, None, "Medium Value", 2, "300.00")]


def test_orders_that_are_in_the_totals_already_count_when_their_day_ends(session: SparkSession) -> None:
    # both were loaded while day 5 was open; at its end nothing else is new of the customer
    found = segments(session, looks=[5], current=(1, "New", 1, 5, 3, "300"), run_date=6)
    assert found == [(1, 6, "New", 3, "300.00"), (6, None, "Medium Value", 3, "300.00")]
    assert segments(session, looks=[5], current=(1, "New", 1, 5, 3, "300"), run_date=5) == [
        (1, None, "New", 3, "300.00")
    ]


def test_a_late_order_counts_on_the_day_it_is_booked_and_reopens_no_version(session: SparkSession) -> None:
    found = segments(session, orders=[(2, 6, "100")], current=(4, "Low Value", 3, 3, 2, "200"), run_date=7)
    assert found == [(4, 7, "Low Value", 3, "300.00"), (7, None, "Medium Value", 3, "300.00")]


def test_a_late_first_event_starts_the_customer_on_its_own_day(session: SparkSession) -> None:
    assert segments(session, orders=[(1, 6, "1"), (2, 6, "1")], run_date=7) == [
        (1, 7, "New", 2, "2.00"),
        (7, None, "Low Value", 2, "2.00"),
    ]


def test_first_and_last_transaction_follow_the_events_own_days(session: SparkSession) -> None:
    known = (day(1), "Low Value", day(3), day(3), 2, Decimal(5))
    late, today = (day(4), day(1), 1, Decimal(5), day(1), day(1)), (day(5), day(5), 1, Decimal(5), day(5), day(5))
    rows = [("u", *row, *known) for row in (today, late)]
    [row] = versions(session.createDataFrame(rows, DAYS), 5).collect()
    assert (row.first_transaction_date, row.last_transaction_date) == (day(1), day(5))
    assert (row.total_transactions, row.total_spent, row.avg_order_value) == (4, Decimal(15), 3.75)


# --- products

Mention = tuple[int, int, str | None, str]
"""Own day, booked day, category, time of the own day with the id, as `10:00 b`."""


def categories(
    session: SparkSession,
    mentions: Sequence[Mention],
    *,
    run_date: int,
    settled_before: int | None = None,
    current: tuple[int, str, int] | None = None,
) -> list[tuple[int, int | None, str]]:
    """First day, day of the end and category of the versions that a load makes of one product.

    `current` is first day, category and first booked day of the version that is current.
    """
    rows = []
    for line, (own, booked, category, place) in enumerate(mentions):
        time, _, name = place.partition(" ")
        moment = datetime.combine(day(own), datetime.strptime(time, "%H:%M").time(), UTC)
        known = (day(current[0]), current[1], day(current[2])) if current else (None, None, None)
        rows.append(("p", category, moment, name, line, day(own), day(booked), *known))
    random.Random(1).shuffle(rows)
    made = products.product_versions(
        session.createDataFrame(
            rows,
            "product_id string, category string, time timestamp, id string, line int, first_date date, booked date,"
            " known_effective_date date, known_category string, known_first_booked_date date",
        ),
        day(settled_before) if settled_before else date.min,
        day(run_date),
    )
    return [
        (row.effective_date.day, row.end_date.day if row.end_date else None, row.category)
        for row in sorted(made.collect(), key=lambda row: row.effective_date)
    ]


def test_the_last_category_of_a_day_takes_effect_on_the_following_day(session: SparkSession) -> None:
    mentions = [
        (1, 1, "Books", "08:00 a"),
        (3, 3, "Toys", "10:00 a"),
        (3, 3, "Games", "11:00 a"),
        (3, 3, None, "12:00 a"),
    ]
    assert categories(session, mentions, run_date=9) == [(1, 4, "Books"), (4, None, "Games")]


def test_the_first_version_takes_the_earliest_category_of_its_first_day(session: SparkSession) -> None:
    mentions = [(1, 1, None, "08:00 a"), (1, 1, "Books", "09:00 a"), (1, 1, "Toys", "10:00 a")]
    assert categories(session, mentions, run_date=9) == [(1, 2, "Books"), (2, None, "Toys")]
    assert categories(session, mentions, run_date=1) == [(1, None, "Books")]


def test_at_the_same_time_id_and_line_decide(session: SparkSession) -> None:
    mentions = [(1, 1, "C", "08:00 b"), (1, 1, "A", "08:00 a"), (1, 1, "D", "08:00 b"), (1, 1, "B", "08:00 a")]
    assert categories(session, mentions, run_date=9) == [(1, 2, "A"), (2, None, "D")]


def test_without_a_category_on_its_first_booked_day_a_product_is_unknown(session: SparkSession) -> None:
    mentions = [(1, 1, None, "08:00 a"), (1, 1, "", "09:00 a"), (3, 3, "Toys", "10:00 a")]
    assert categories(session, mentions, run_date=9) == [(1, 4, "Unknown"), (4, None, "Toys")]


def test_the_name_of_the_total_is_stored_as_unknown(session: SparkSession) -> None:
    mentions = [(1, 1, "Books", "08:00 a"), (2, 2, "All", "09:00 a")]
    assert categories(session, mentions, run_date=9) == [(1, 3, "Books"), (3, None, "Unknown")]


def test_late_events_do_not_vote(session: SparkSession) -> None:
    mentions = [
        (1, 5, "Late", "08:00 a"),
        (5, 5, "Books", "09:00 a"),
        (4, 5, "Late", "23:00 a"),
        (6, 7, "Late", "09:00 a"),
    ]
    assert categories(session, mentions, run_date=9) == [(1, None, "Books")]
    assert categories(session, mentions[:1], run_date=9) == [(1, None, "Unknown")]


def test_the_first_version_changes_in_place_only_while_its_day_is_open(session: SparkSession) -> None:
    earlier = [(5, 5, "Books", "08:00 a"), (5, 5, "Toys", "09:00 a")]
    open_day = {"current": (5, "Toys", 5), "settled_before": 5}
    assert categories(session, earlier, run_date=5, **open_day) == [(5, None, "Books")]
    assert categories(session, earlier, run_date=6, **open_day) == [(5, 6, "Books"), (6, None, "Toys")]
    later = [(7, 7, "Games", "08:00 a")]
    assert categories(session, later, run_date=7, current=(5, "Toys", 5), settled_before=7) == [(5, None, "Toys")]
    assert categories(session, later, run_date=8, current=(5, "Toys", 5), settled_before=7) == [
        (5, 8, "Toys"),
        (8, None, "Games"),
    ]


def test_an_older_late_event_leaves_versions_as_they_are(session: SparkSession) -> None:
    mentions = [(2, 7, "Games", "08:00 a")]
    found = categories(session, mentions, run_date=8, current=(5, "Toys", 5), settled_before=7)
    assert found == [(5, None, "Toys")]


def test_there_and_back_on_three_days_makes_three_versions_and_within_a_day_none(session: SparkSession) -> None:
    mentions = [(1, 1, "A", "08:00 a"), (2, 2, "B", "08:00 a"), (3, 3, "A", "08:00 a"), (4, 4, "B", "08:00 a")]
    mentions += [(4, 4, "A", "09:00 a")]
    assert categories(session, mentions, run_date=9) == [(1, 3, "A"), (3, 4, "B"), (4, None, "A")]


# --- the booked day

TABLE = "cart_events"
examples = settings(max_examples=60, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def booked_by_rule(cuts: Sequence[Cut], batch: int, own: date) -> date:
    """The greater of the own day and the run date of the cut before the one that first covers the batch."""
    covering = next(number for number, cut in enumerate(cuts) if batch <= cut.batches[TABLE])
    return max(own, cuts[covering - 1].run_date) if covering else own


def stored_cuts(cursor: Cursor) -> list[Cut]:
    """Every cut, in order."""
    cursor.execute(f"select cut_id, run_date, {', '.join(CONTRACTS)} from ops.cuts order by cut_id")
    return [Cut(number, run_date, dict(zip(CONTRACTS, batches, strict=True))) for number, run_date, *batches in cursor]


@examples
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=6))
def test_every_window_books_each_event_by_the_rule_and_reads_every_open_one(
    warehouse: Connection, steps: list[tuple[int, int]]
) -> None:
    """Cuts that go on by some days and batches; a job that has loaded up to any of them reads up to any later one."""
    warehouse.rollback()
    with warehouse.cursor() as cursor:
        before = incremental.latest_cut(cursor)
        run_date, batch = (before.run_date, before.batches[TABLE]) if before else (day(1), 0)
        first_day = run_date
        for days, batches in steps:
            run_date, batch = run_date + timedelta(days=days), batch + batches
            incremental.store_cut(cursor, Cut(0, run_date, dict.fromkeys(CONTRACTS, batch)))
        cuts = stored_cuts(cursor)
        new = cuts[-len(steps) :]
        windows: list[Window] = [incremental.window(cursor, "test/job", cut) for cut in new]
        for position, since in enumerate(new):
            incremental.advance(cursor, "test/job", since)
            windows += [incremental.window(cursor, "test/job", cut) for cut in new[position:]]
            assert incremental.window(cursor, "test/job", new[0]).cut == since
    warehouse.rollback()

    own_days = [first_day + timedelta(days=number) for number in range(-1, (run_date - first_day).days + 2)]
    events = [(number, own) for number in range(max(batch - 12, 1), batch + 1) for own in own_days]
    for window in windows:
        after, upto = window.open(TABLE)
        opened = window.opened(TABLE) if window.since else 0
        bookings = window.bookings(TABLE)
        for batch, own in events:
            if batch > upto:
                continue
            by_rule = booked_by_rule(cuts, batch, own)
            if batch > after:
                not_before = next((day for last, day in bookings if batch <= last), bookings[-1][1])
                assert max(own, not_before) == by_rule
                assert (batch > opened or own >= window.settled_before) == (by_rule >= window.settled_before)
            else:
                # an event ahead of its cut's run date has no place before this window: cuts stop before such batches
                covering = next(cut for cut in cuts if batch <= cut.batches[TABLE])
                assert by_rule < window.settled_before or own > covering.run_date


def test_a_load_computes_the_booked_day_by_the_same_rule(session: SparkSession) -> None:
    """Six cuts over three run dates; a load to the last one from each of the others, and from nowhere."""
    steps = [(1, 2), (1, 3), (2, 3), (2, 5), (4, 6), (4, 9)]
    cuts = tuple(
        Cut(number, day(own), dict.fromkeys(CONTRACTS, upto)) for number, (own, upto) in enumerate(steps, start=1)
    )
    windows = [Window(None, cuts[-1], cuts)]
    for since in cuts[:-1]:
        first = next(number for number, cut in enumerate(cuts) if cut.run_date >= since.run_date)
        windows.append(Window(since, cuts[-1], cuts[max(first - 1, 0) :]))
    events = session.createDataFrame(
        [(batch, day(own)) for batch in range(1, 10) for own in range(1, 6)], "batch long, own date"
    )
    booked = [read.booked_day(window, TABLE, F.col("batch"), F.col("own")) for window in windows]
    made = events.select("*", *(column.alias(f"booked_{number}") for number, column in enumerate(booked))).collect()
    compared = 0
    for batch, own, *found in made:
        for window, booked_day in zip(windows, found, strict=True):
            if batch > window.open(TABLE)[0]:
                compared += 1
                assert booked_day == booked_by_rule(cuts, batch, own)
    assert compared > len(made)
