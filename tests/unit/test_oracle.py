"""The oracle against cases worked by hand from the rules of the data model, in the order of its modules."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from tests.oracle import COLUMNS, KEYS, expected, first_of_each

Row = dict[str, Any]


def day(text: str) -> date:
    """'03-01' is in 2026, '2025-12-31' stands as it is."""
    return date.fromisoformat(text if len(text) > 5 else f"2026-{text}")


def moment(text: str) -> str:
    """'03-01' is noon of that day; '03-01T08:00' has its own time."""
    own_day, _, time = text.partition("T")
    return f"{day(own_day)}T{time or '12:00'}:00Z"


def item(product: str = "p", price: Any = 10, quantity: int = 1, **more: Any) -> Row:
    return {"product_id": product, "quantity": quantity, "price": price} | more


def sale(key: str, at: str, *items: Row, user: str = "u", batch: int = 1, **more: Any) -> Row:
    event = {"transaction_id": key, "user_id": user, "transaction_timestamp": moment(at), "total_amount": 1}
    return {"event": event | {"products": list(items)} | more, "batch": batch}


def buy(key: str, at: str, amount: Any, user: str = "u", batch: int = 1) -> Row:
    return sale(key, at, item(price=amount), user=user, batch=batch)


def view(key: str, at: str, product: str = "p", user: str = "u", batch: int = 1, **more: Any) -> Row:
    event = {"event_id": key, "event_type": "view", "user_id": user, "product_id": product, "timestamp": moment(at)}
    return {"event": event | more, "batch": batch}


def cart(key: str, at: str, product: str = "p", user: str = "u", batch: int = 1, **more: Any) -> Row:
    event = {"event_id": key, "event_type": "add", "user_id": user, "product_id": product, "timestamp": moment(at)}
    return {"event": event | more, "batch": batch}


def cut(run_date: str, *, sales: int = 1, views: int = 1, carts: int = 1, cut_id: int = 1) -> Row:
    return {
        "cut_id": cut_id,
        "run_date": day(run_date),
        "transactions": sales,
        "product_view_events": views,
        "cart_events": carts,
    }


def tables(
    cuts: list[Row], sales: list[Row] | None = None, views: list[Row] | None = None, carts: list[Row] | None = None
) -> dict[str, pd.DataFrame]:
    return expected({"transactions": sales or [], "product_view_events": views or [], "cart_events": carts or []}, cuts)


def cells(frame: pd.DataFrame, *columns: str, **where: Any) -> list[tuple[Any, ...]]:
    """The columns' values, of the rows whose other columns have the given values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    rows = frame[list(columns)].astype(object).itertuples(index=False, name=None)
    return [tuple(None if pd.isna(value) is True else value for value in row) for row in rows]


def customers(found: dict[str, pd.DataFrame], user: str = "u") -> list[tuple[Any, ...]]:
    return cells(found["dim_customers"], "customer_segment", "effective_date", "end_date", user_id=user)


def products(found: dict[str, pd.DataFrame], product: str = "p") -> list[tuple[Any, ...]]:
    return cells(found["dim_products"], "category", "effective_date", "end_date", product_id=product)


def test_every_table_has_its_columns_and_types_even_without_events() -> None:
    found = tables([cut("03-01")])
    assert list(found) == list(COLUMNS)
    assert len(found) == 14
    for table, frame in found.items():
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS[table]
        assert set(KEYS[table]) <= set(frame.columns)


def test_the_first_event_of_each_id_stays() -> None:
    kept = first_of_each({"product_view_events": [view("a", "03-01"), view("b", "03-01"), view("a", "03-02")]})
    assert kept == {"product_view_events": [view("a", "03-01"), view("b", "03-01")]}


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="ids repeat in product_view_events"):
        tables([cut("03-02")], views=[view("a", "03-01"), view("a", "03-02")])


def test_a_cut_that_covers_a_day_after_its_run_date_is_refused() -> None:
    with pytest.raises(ValueError, match="cut 1 covers product_view_events a"):
        tables([cut("03-01")], views=[view("a", "03-02")])


def test_a_cut_that_goes_back_is_refused() -> None:
    with pytest.raises(ValueError, match="cut 2 goes back behind cut 1"):
        tables([cut("03-02"), cut("03-01", cut_id=2)])


def test_times_are_utc_with_an_offset_or_without_one() -> None:
    views = [view("offset", "03-01"), view("plain", "03-01")]
    views[0]["event"]["timestamp"] = "2026-03-01T01:30:00.25+02:00"
    views[1]["event"]["timestamp"] = "2026-03-01T01:30:00"
    found = tables([cut("03-02")], views=views)
    times = [pd.Timestamp(2026, 2, 28, 23, 30, 0, 250000, tz="UTC"), pd.Timestamp(2026, 3, 1, 1, 30, tz="UTC")]
    assert cells(found["fact_product_views"], "event_id", "date_id", "event_timestamp") == [
        ("offset", 20260228, times[0]),
        ("plain", 20260301, times[1]),
    ]
    assert cells(found["product_view_events"], "event_timestamp") == [(times[0],), (times[1],)]


def test_events_beyond_the_last_cut_are_in_the_realtime_table_only() -> None:
    views = [view("in", "03-01", batch=4), view("out", "03-01", product="q", user="v", batch=5, country="Chad")]
    found = tables([cut("03-02", views=4)], views=views)
    assert cells(found["product_view_events"], "event_id") == [("in",), ("out",)]
    assert cells(found["fact_product_views"], "event_id", "ingest_batch_id") == [("in", 4)]
    assert cells(found["dim_customers"], "user_id") == [("",), ("u",)]
    assert cells(found["dim_products"], "product_id") == [("",), ("p",)]
    assert cells(found["dim_geography"], "country") == [("",)]


def test_realtime_rows_are_typed_and_an_empty_session_is_absent() -> None:
    found = tables(
        [cut("03-01")],
        sales=[sale("t", "03-01", item(), total_amount=59.985, country="USA")],
        views=[view("v", "03-01", session_id="", view_duration=7)],
        carts=[cart("c", "03-01", session_id="s", price=2.5, quantity=3)],
    )
    assert cells(found["transactions"], "transaction_timestamp", "total_amount", "country", "products") == [
        (pd.Timestamp(2026, 3, 1, 12, tz="UTC"), Decimal("59.99"), "USA", [item()])
    ]
    assert cells(found["product_view_events"], "session_id", "country", "view_duration") == [(None, None, 7)]
    assert cells(found["cart_events"], "session_id", "quantity", "price") == [("s", 3, Decimal("2.5000"))]


def test_dim_date_reaches_from_2000_to_the_end_of_next_year() -> None:
    dates = tables([cut("11-23")])["dim_date"]
    assert len(dates) == 28 * 365 + 7  # leap years 2000, 04, 08, 12, 16, 20, 24
    assert (dates["date"].iloc[0], dates["date"].iloc[-1]) == (date(2000, 1, 1), date(2027, 12, 31))
    columns = ["date_id", "quarter", "month", "day", "day_of_week", "week_of_year", "is_weekend"]
    assert cells(dates, *columns, date=date(2026, 11, 22)) == [(20261122, 4, 11, 22, 7, 47, True)]
    assert cells(dates, *columns, date=date(2027, 1, 1)) == [(20270101, 1, 1, 1, 5, 53, False)]


def test_countries_start_on_the_day_of_their_first_event() -> None:
    found = tables(
        [cut("03-02"), cut("03-05", cut_id=2, sales=2)],
        sales=[sale("late", "02-27", item(), batch=2, country="Chad")],
        views=[view("a", "03-01", country="Chad"), view("b", "03-02", country=""), view("c", "03-02")],
    )
    assert cells(found["dim_geography"], "country", "effective_date", "end_date", "is_current") == [
        ("", date(1, 1, 1), None, True),
        ("Chad", day("02-27"), None, True),
    ]
    assert cells(found["fact_product_views"], "event_id", "country") == [("a", "Chad"), ("b", ""), ("c", "")]


def test_one_customer_crosses_every_threshold_in_four_days() -> None:
    sales = [buy("1", "03-01", 100), buy("2", "03-02", 150), buy("3", "03-03", 50), buy("4", "03-04", 700)]
    found = tables([cut("03-06")], sales=sales)
    assert customers(found) == [
        ("New", day("03-01"), day("03-03")),
        ("Low Value", day("03-03"), day("03-04")),
        ("Medium Value", day("03-04"), day("03-05")),
        ("High Value", day("03-05"), None),
    ]
    totals = "first_transaction_date", "last_transaction_date", "total_transactions", "total_spent", "avg_order_value"
    assert cells(found["dim_customers"], *totals, user_id="u") == [
        (day("03-01"), day("03-02"), 2, Decimal("250.00"), 125.0),
        (day("03-01"), day("03-03"), 3, Decimal("300.00"), 100.0),
        (day("03-01"), day("03-04"), 4, Decimal("1000.00"), 250.0),
        (day("03-01"), day("03-04"), 4, Decimal("1000.00"), 250.0),
    ]
    assert cells(found["fact_sales"], "event_id", "customer_segment", "customer_effective_date") == [
        ("1:1", "New", day("03-01")),
        ("2:1", "New", day("03-01")),
        ("3:1", "Low Value", day("03-03")),
        ("4:1", "Medium Value", day("03-04")),
    ]


def test_one_transaction_is_new_however_large() -> None:
    assert customers(tables([cut("03-05")], sales=[buy("1", "03-01", 5000)])) == [("New", day("03-01"), None)]


def test_the_run_date_itself_decides_no_segment_yet() -> None:
    sales = [buy("1", "03-01", 600), buy("2", "03-02", 600)]
    found = tables([cut("03-02")], sales=sales)
    assert customers(found) == [("New", day("03-01"), None)]
    assert cells(found["dim_customers"], "total_transactions", "total_spent", user_id="u") == [(2, Decimal("1200.00"))]
    assert customers(tables([cut("03-03")], sales=sales))[1:] == [("High Value", day("03-03"), None)]


def test_looking_without_buying_makes_a_new_customer_without_totals() -> None:
    found = tables([cut("03-04")], views=[view("a", "03-02")], carts=[cart("b", "03-01", user="v")])
    assert customers(found) == [("New", day("03-02"), None)]
    assert cells(found["dim_customers"], "user_id", "first_transaction_date", "total_spent", "avg_order_value") == [
        ("", None, Decimal("0.00"), 0.0),
        ("u", None, Decimal("0.00"), 0.0),
        ("v", None, Decimal("0.00"), 0.0),
    ]


def test_the_unknown_members_are_open_from_the_year_one() -> None:
    found = tables([cut("03-01")])
    validity = date(1, 1, 1), None, True
    columns = "effective_date", "end_date", "is_current"
    assert cells(found["dim_customers"], "user_id", "customer_segment", *columns) == [("", "Unknown", *validity)]
    assert cells(found["dim_products"], "product_id", "category", *columns) == [("", "Unknown", *validity)]
    assert cells(found["dim_geography"], "country", *columns) == [("", *validity)]


def test_a_late_purchase_counts_from_the_day_that_was_open_when_it_came() -> None:
    sales = [buy("1", "03-02", 40), buy("late", "03-01", 20, batch=2)]
    found = tables([cut("03-03"), cut("03-05", cut_id=2, sales=2)], sales=sales)
    assert customers(found) == [("New", day("03-01"), day("03-04")), ("Low Value", day("03-04"), None)]
    columns = "first_transaction_date", "last_transaction_date", "total_transactions", "total_spent"
    assert cells(found["dim_customers"], *columns, user_id="u") == [
        (day("03-01"), day("03-02"), 2, Decimal("60.00")),
        (day("03-01"), day("03-02"), 2, Decimal("60.00")),
    ]
    assert cells(found["fact_sales"], "event_id", "customer_effective_date", "customer_segment") == [
        ("1:1", day("03-01"), "New"),
        ("late:1", day("03-01"), "New"),
    ]


def test_a_closed_version_ignores_what_was_booked_after_its_last_day() -> None:
    sales = [buy("1", "03-01", 5), buy("2", "03-01T13:00", 5), buy("late", "03-01T14:00", 90, batch=2)]
    found = tables([cut("03-02"), cut("03-02", cut_id=2, sales=2)], sales=sales)
    assert customers(found) == [("New", day("03-01"), day("03-02")), ("Low Value", day("03-02"), None)]
    assert cells(found["dim_customers"], "total_transactions", "total_spent", user_id="u") == [
        (2, Decimal("10.00")),
        (3, Decimal("100.00")),
    ]


def test_a_second_cut_of_the_same_run_date_still_finds_the_day_open() -> None:
    sales = [buy("1", "03-02", 200), buy("2", "03-03", 100, batch=2), buy("3", "03-03", 700, batch=3)]
    cuts = [cut("03-03"), cut("03-03", cut_id=2, sales=2), cut("03-04", cut_id=3, sales=3)]
    assert customers(tables(cuts[:2], sales=sales)) == [("New", day("03-02"), None)]
    # all three are booked by 03-03: the third is own day 03-03 under run date 03-04, the cut before had 03-03
    assert customers(tables(cuts, sales=sales)) == [
        ("New", day("03-02"), day("03-04")),
        ("High Value", day("03-04"), None),
    ]


def test_the_cut_of_each_table_is_its_own() -> None:
    sales = [buy("1", "03-01", 5, batch=7), buy("2", "03-01", 5, batch=8)]
    views = [view("a", "03-01", batch=1), view("b", "03-01", batch=2)]
    found = tables([cut("03-02", sales=7, views=2)], sales=sales, views=views)
    assert cells(found["fact_sales"], "event_id") == [("1:1",)]
    assert cells(found["fact_product_views"], "event_id") == [("a",), ("b",)]


def test_a_category_that_goes_and_comes_back_makes_three_versions() -> None:
    views = [view(f"{number}", f"03-0{number}", category=name) for number, name in enumerate("ABBA", 1)]
    found = tables([cut("03-06")], views=views)
    assert products(found) == [
        ("A", day("03-01"), day("03-03")),
        ("B", day("03-03"), day("03-05")),
        ("A", day("03-05"), None),
    ]
    assert cells(found["fact_product_views"], "event_id", "category", "product_effective_date") == [
        ("1", "A", day("03-01")),
        ("2", "A", day("03-01")),
        ("3", "B", day("03-03")),
        ("4", "B", day("03-03")),
    ]


def test_a_category_that_goes_and_comes_back_within_a_day_makes_none() -> None:
    views = [view("1", "03-01T08:00", category="A"), view("2", "03-01T09:00", category="B")]
    carts = [cart("3", "03-01T10:00", category="A")]
    assert products(tables([cut("03-06")], views=views, carts=carts)) == [("A", day("03-01"), None)]


def test_the_first_day_gives_its_earliest_category_and_the_next_day_its_last() -> None:
    views = [view("2", "03-01T09:00", category="B"), view("1", "03-01T08:00", category="A")]
    assert products(tables([cut("03-01")], views=views)) == [("A", day("03-01"), None)]
    assert products(tables([cut("03-02")], views=views)) == [
        ("A", day("03-01"), day("03-02")),
        ("B", day("03-02"), None),
    ]


def test_the_first_category_may_change_while_its_day_is_open() -> None:
    views = [view("1", "03-01T09:00", category="B"), view("2", "03-01T08:00", category="A", batch=2)]
    found = tables([cut("03-01"), cut("03-01", cut_id=2, views=2)], views=views)
    assert products(found) == [("A", day("03-01"), None)]


def test_order_lines_vote_by_time_then_event_then_line() -> None:
    last_line = [sale("t", "03-01", item(category="A"), item(category="B"), item())]
    assert [value for value, *_ in products(tables([cut("03-02")], sales=last_line))] == ["A", "B"]
    line_1_of_a = [sale("a", "03-01", item(category="A"))]
    view_b = [view("b", "03-01", category="B")]
    assert [value for value, *_ in products(tables([cut("03-02")], sales=line_1_of_a, views=view_b))] == ["A", "B"]
    later_time = [view("a", "03-01T13:00", category="A"), view("b", "03-01T12:00", category="B")]
    assert [value for value, *_ in products(tables([cut("03-02")], views=later_time))] == ["B", "A"]


def test_events_without_a_category_leave_it_as_it_is() -> None:
    views = [view("1", "03-01"), view("2", "03-02", category="A"), view("3", "03-03", category="")]
    assert products(tables([cut("03-05")], views=views)) == [
        ("Unknown", day("03-01"), day("03-03")),
        ("A", day("03-03"), None),
    ]


def test_all_is_stored_as_unknown_and_votes() -> None:
    views = [view("1", "03-01", category="A"), view("2", "03-02", category="All")]
    assert products(tables([cut("03-05")], views=views)) == [
        ("A", day("03-01"), day("03-03")),
        ("Unknown", day("03-03"), None),
    ]


def test_a_late_event_moves_the_start_back_and_has_no_vote() -> None:
    views = [view("1", "03-03", category="A"), view("late", "03-01", category="B", batch=2)]
    found = tables([cut("03-04"), cut("03-08", cut_id=2, views=2)], views=views)
    assert products(found) == [("A", day("03-01"), None)]
    assert customers(found) == [("New", day("03-01"), None)]
    assert cells(found["fact_product_views"], "event_id", "date_id", "category", "product_effective_date") == [
        ("1", 20260303, "A", day("03-01")),
        ("late", 20260301, "A", day("03-01")),
    ]


def test_a_product_first_seen_late_is_unknown_until_an_event_on_time() -> None:
    views = [view("other", "03-04", product="q"), view("late", "03-01", category="B", batch=2)]
    views.append(view("on time", "03-06", category="C", batch=2))
    found = tables([cut("03-04"), cut("03-08", cut_id=2, views=2)], views=views)
    assert products(found) == [("Unknown", day("03-01"), day("03-07")), ("C", day("03-07"), None)]


def test_a_late_fact_belongs_to_the_versions_of_its_own_day() -> None:
    sales = [
        sale("1", "03-01", item(category="A")),
        sale("2", "03-02", item(category="B")),
        sale("late", "03-02", item(), batch=2),
        sale("late too", "03-03", item(), batch=2),
    ]
    found = tables([cut("03-05"), cut("03-06", cut_id=2, sales=2)], sales=sales)
    columns = "event_id", "category", "product_effective_date", "customer_segment", "customer_effective_date"
    assert cells(found["fact_sales"], *columns)[2:] == [
        ("late too:1", "B", day("03-03"), "Low Value", day("03-03")),
        ("late:1", "A", day("03-01"), "New", day("03-01")),
    ]


def test_order_lines_are_rounded_half_away_from_zero() -> None:
    lines = item(price=0.00125, quantity=3), item(product="q", price=0.005), item(price=19.99, quantity=3)
    found = tables([cut("03-01")], sales=[sale("t", "03-01", *lines, country="Mali")])
    columns = "event_id", "transaction_id", "product_id", "quantity", "unit_price", "total_amount", "country"
    assert cells(found["fact_sales"], *columns) == [
        ("t:1", "t", "p", 3, Decimal("0.0013"), Decimal("0.00"), "Mali"),  # 3 × 0.0013 = 0.0039
        ("t:2", "t", "q", 1, Decimal("0.0050"), Decimal("0.01"), "Mali"),
        ("t:3", "t", "p", 3, Decimal("19.9900"), Decimal("59.97"), "Mali"),
    ]
    assert cells(found["dim_customers"], "total_spent", user_id="u") == [(Decimal("59.98"),)]


def test_cart_totals_are_null_without_a_price_or_a_quantity() -> None:
    carts = [
        cart("both", "03-01", price=1.5, quantity=2),
        cart("no price", "03-01", quantity=2),
        cart("no quantity", "03-01", price=1.5),
    ]
    found = tables([cut("03-01")], carts=carts)
    assert cells(found["fact_cart_events"], "event_id", "event_type", "quantity", "total_amount") == [
        ("both", "add", 2, Decimal("3.00")),
        ("no price", "add", 2, None),
        ("no quantity", "add", None, None),
    ]


def test_product_performance_per_day_with_a_sale_or_a_view() -> None:
    sales = [
        sale("1", "03-01", item(price=10, quantity=2), item(price=4), item(product="q", price=3)),
        sale("2", "03-02", item(price=8)),
    ]
    views = [view(f"v{number}", "03-01", category="A") for number in range(4)] + [view("v9", "03-03")]
    found = tables([cut("03-05")], sales=sales, views=views, carts=[cart("c", "03-04")])
    columns = ["product_id", "analysis_date", "category", "total_sales", "total_revenue", "total_quantity"]
    columns += ["total_views", "conversion_rate", "avg_price"]
    assert cells(found["product_performance"], *columns) == [
        ("p", day("03-01"), "A", 1, Decimal("24.00"), 3, 4, 0.25, 8.0),
        ("p", day("03-02"), "A", 1, Decimal("8.00"), 1, 0, None, 8.0),
        ("p", day("03-03"), "A", 0, Decimal("0.00"), 0, 1, 0.0, None),
        ("q", day("03-01"), "Unknown", 1, Decimal("3.00"), 1, 0, None, 3.0),
    ]


def test_customer_segments_always_have_four_rows() -> None:
    sales = [
        *(buy("a1", "03-01", 600, user="a"), buy("a2", "03-01", 600, user="a")),
        *(buy("b1", "03-01", 10, user="b"), buy("b2", "03-01", 20, user="b"), buy("b3", "03-01", 30, user="b")),
        *(buy("c1", "03-01", 5, user="c"), buy("c2", "03-01", 5, user="c")),
        buy("d1", "03-01", 70, user="d"),
    ]
    found = tables([cut("03-02")], sales=sales, views=[view("e", "03-01", user="e")])
    columns = "segment_name", "customer_count", "total_revenue", "avg_order_value", "analysis_date"
    assert cells(found["customer_segments"], *columns) == [
        ("High Value", 1, Decimal("1200.00"), 600.0, day("03-02")),
        ("Low Value", 2, Decimal("70.00"), 14.0, day("03-02")),
        ("Medium Value", 0, Decimal("0.00"), 0.0, day("03-02")),
        ("New", 2, Decimal("70.00"), 70.0, day("03-02")),
    ]


def test_rfm_scores_equal_values_equally_by_their_middle_rank() -> None:
    sales = [
        *(buy("a1", "03-09", 50, user="a"), buy("a2", "03-09", 50, user="a"), buy("a3", "03-08", 50, user="a")),
        buy("b1", "03-09", 50, user="b"),
        buy("c1", "03-05", 50, user="c"),
        buy("d1", "03-01", 900, user="d"),
        buy("today", "03-10", 1, user="d"),
        buy("only today", "03-10", 1, user="e"),
    ]
    found = tables([cut("03-10")], sales=sales)
    # recency, worst first: d 9, c 5, then a and b 1: ranks 1, 2, 3 and 3 of 4: (5·1+7)/8, (5·3+7)/8, (5·(4+2)+7)/8
    # frequency: b, c, d 1 (three of rank 1), a 3: (5·3+7)/8, (5·(6+1)+7)/8
    # monetary: b, c 50 (two of rank 1), a 150, d 900: (5·2+7)/8, (5·(4+1)+7)/8, (5·(6+1)+7)/8
    columns = ["user_id", "analysis_date", "recency_days", "frequency_count", "monetary_value"]
    columns += ["recency_score", "frequency_score", "monetary_score", "rfm_segment"]
    assert cells(found["rfm_analysis"], *columns) == [
        ("a", day("03-10"), 1, 3, Decimal("150.00"), 4, 5, 4, "Champions"),
        ("b", day("03-10"), 1, 1, Decimal("50.00"), 4, 2, 2, "Potential Loyalists"),
        ("c", day("03-10"), 5, 1, Decimal("50.00"), 2, 2, 2, "Hibernating"),
        ("d", day("03-10"), 9, 1, Decimal("900.00"), 1, 2, 5, "Can't Lose Them"),
    ]


def test_rfm_keeps_one_snapshot_per_run_date_of_its_last_cut() -> None:
    sales = [
        buy("1", "03-01", 10),
        buy("rerun", "03-01", 20, batch=2),
        buy("late", "03-01", 40, batch=3),
        buy("next", "03-02", 80, batch=3),
    ]
    cuts = [cut("03-02"), cut("03-02", cut_id=2, sales=2), cut("03-03", cut_id=3, sales=3)]
    found = tables(cuts, sales=sales)
    columns = "analysis_date", "recency_days", "frequency_count", "monetary_value", "recency_score", "rfm_segment"
    assert cells(found["rfm_analysis"], *columns) == [
        (day("03-02"), 1, 2, Decimal("30.00"), 3, "Need Attention"),
        (day("03-03"), 1, 4, Decimal("150.00"), 3, "Need Attention"),
    ]


def trends(found: dict[str, pd.DataFrame], kind: str, *columns: str, category: str = "All") -> list[tuple[Any, ...]]:
    return cells(found["sales_trends"], "period_value", *columns, period_type=kind, category=category)


def test_trends_compare_each_period_with_the_one_before() -> None:
    # 2026-01-01 is a Thursday: its week and the week before the first fact have nothing to compare with
    sales = [buy("1", "2026-01-01", 100), buy("2", "01-06", 80), buy("3", "01-14", 100), buy("4", "02-10", 70)]
    found = tables([cut("04-20")], sales=sales)
    assert trends(found, "weekly", "total_revenue", "growth_rate", "analysis_date", "is_running") == [
        ("2026-W01", Decimal("100.00"), None, day("01-04"), False),
        ("2026-W02", Decimal("80.00"), None, day("01-11"), False),  # W01 begins on 2025-12-29, before the first fact
        ("2026-W03", Decimal("100.00"), 0.25, day("01-18"), False),
        ("2026-W07", Decimal("70.00"), None, day("02-15"), False),  # W06 is absent
    ]
    assert trends(found, "monthly", "total_sales", "total_revenue", "growth_rate", "analysis_date") == [
        ("2026-01", 3, Decimal("280.00"), None, day("01-31")),
        ("2026-02", 1, Decimal("70.00"), -0.75, day("02-28")),  # January begins on the first fact's day itself
    ]
    assert trends(found, "quarterly", "total_revenue", "growth_rate", "analysis_date", "is_running") == [
        ("2026-Q1", Decimal("350.00"), None, day("03-31"), False)
    ]


def test_a_period_after_one_without_revenue_has_no_growth() -> None:
    sales = [buy("0", "02-01", 1), buy("1", "03-05", 0), buy("2", "04-05", 80)]
    monthly = trends(tables([cut("05-05")], sales=sales), "monthly", "growth_rate")
    assert monthly == [("2026-02", None), ("2026-03", -1.0), ("2026-04", None)]


def test_a_running_period_compares_its_completed_days() -> None:
    # run date Thursday 2026-03-12: of week 11 Monday to Wednesday, of March eleven days
    sales = [
        *(buy("before", "01-20", 1), buy("1", "02-11", 40), buy("2", "02-12", 900), buy("3", "03-02", 20)),
        *(buy("4", "03-04", 20), buy("5", "03-05", 500), buy("6", "03-11", 60), buy("today", "03-12", 1000)),
    ]
    found = tables([cut("03-12")], sales=sales)
    columns = "total_revenue", "growth_rate", "analysis_date", "is_running"
    week_10, week_11 = trends(found, "weekly", *columns)[-2:]
    assert week_10 == ("2026-W10", Decimal("540.00"), None, day("03-08"), False)
    assert week_11 == ("2026-W11", Decimal("1060.00"), 0.5, day("03-12"), True)  # 60 against 20 + 20
    # 600 of 1 to 11 March against 40 of 1 to 11 February
    assert trends(found, "monthly", *columns)[-1] == ("2026-03", Decimal("1600.00"), 14.0, day("03-12"), True)


def test_a_period_that_begins_on_the_run_date_has_no_growth_yet() -> None:
    sales = [buy("0", "01-01", 1), buy("1", "02-01", 50), buy("2", "03-01", 70)]
    monthly = trends(tables([cut("03-01")], sales=sales), "monthly", "growth_rate", "is_running")
    assert monthly[-1] == ("2026-03", None, True)


def test_a_period_on_its_last_day_is_still_running() -> None:
    # 30 completed days of March against all 28 of February, and not into March
    sales = [buy("0", "01-01", 1), buy("1", "02-28", 50), buy("2", "03-01", 75), buy("3", "03-31", 500)]
    monthly = trends(tables([cut("03-31")], sales=sales), "monthly", "growth_rate", "analysis_date", "is_running")
    assert monthly[-1] == ("2026-03", 0.5, day("03-31"), True)


def test_orders_count_once_per_category_and_once_in_total() -> None:
    sales = [
        sale("1", "03-02", item("p", category="A"), item("q", 30, 2, category="A"), item("r", 5, category="B")),
        sale("2", "03-03", item("p", 15, category="A")),
    ]
    found = tables([cut("03-09")], sales=sales)
    columns = "total_sales", "total_revenue", "avg_order_value", "total_quantity"
    assert trends(found, "weekly", *columns, category="A") == [("2026-W10", 2, Decimal("85.00"), 42.5, 4)]
    assert trends(found, "weekly", *columns, category="B") == [("2026-W10", 1, Decimal("5.00"), 5.0, 1)]
    assert trends(found, "weekly", *columns) == [("2026-W10", 2, Decimal("90.00"), 45.0, 5)]


def test_trends_follow_the_category_of_the_day_of_sale() -> None:
    sales = [sale("1", "03-02", item(category="A")), sale("2", "03-02T13:00", item(price=7, category="B"))]
    sales.append(sale("3", "03-03", item(price=5)))
    found = tables([cut("03-09")], sales=sales)
    assert trends(found, "monthly", "total_revenue", category="A") == [("2026-03", Decimal("17.00"))]
    assert trends(found, "monthly", "total_revenue", category="B") == [("2026-03", Decimal("5.00"))]


def test_weeks_are_iso_weeks_across_the_turn_of_the_year() -> None:
    sales = [buy("1", "2025-12-31", 10), buy("2", "2026-01-01", 20), buy("3", "2027-01-01", 40)]
    found = tables([cut("2027-01-10")], sales=sales)
    assert trends(found, "weekly", "total_revenue") == [
        ("2026-W01", Decimal("30.00")),
        ("2026-W53", Decimal("40.00")),
    ]
    assert trends(found, "quarterly", "total_revenue", "is_running") == [
        ("2025-Q4", Decimal("10.00"), False),
        ("2026-Q1", Decimal("20.00"), False),
        ("2027-Q1", Decimal("40.00"), True),
    ]


def test_the_order_of_the_input_does_not_matter() -> None:
    sales = [buy("1", "03-01", 100), buy("2", "03-02", 150), buy("3", "03-03", 50, batch=2)]
    views = [view("a", "03-01T08:00", category="A"), view("b", "03-01T09:00", category="B", country="Chad")]
    cuts = [cut("03-03"), cut("03-05", cut_id=2, sales=2)]
    one, other = tables(cuts, sales, views), tables(cuts, sales[::-1], views[::-1])
    for table in COLUMNS:
        pd.testing.assert_frame_equal(one[table], other[table])


def test_instants_keep_their_microseconds() -> None:
    views = [view("a", "03-01")]
    views[0]["event"]["timestamp"] = "2026-03-01T12:00:00.123456Z"
    found = tables([cut("03-01")], views=views)
    assert found["fact_product_views"]["event_timestamp"].iloc[0] == datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
