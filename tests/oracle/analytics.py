"""The four analytics tables, from the facts up to the cut."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from .dimensions import DAY, NOTHING
from .events import TRANSACTIONS, Cut

Row = Mapping[str, Any]

SEGMENTS = ("High Value", "Medium Value", "Low Value", "New")
LOYAL, POTENTIAL, RISK, LOST = "Loyal", "Potential Loyalists", "At Risk", "Can't Lose Them"
RFM_SEGMENTS = {  # recency score: segments for the mean of frequency and monetary scores, 1 to 5
    5: ("New Customers", POTENTIAL, POTENTIAL, "Champions", "Champions"),
    4: ("Promising", POTENTIAL, LOYAL, LOYAL, "Champions"),
    3: ("About To Sleep", "Need Attention", "Need Attention", LOYAL, LOYAL),
    2: ("Hibernating", "Hibernating", RISK, RISK, RISK),
    1: ("Lost", "Lost", RISK, LOST, LOST),
}


def ratio(over: Decimal | int, under: Decimal | int) -> float | None:
    """Divide; None by 0."""
    return float(Decimal(over) / Decimal(under)) if under else None


def revenue(sales: Iterable[Row]) -> Decimal:
    """Sum the line totals."""
    return sum((row["total_amount"] for row in sales), NOTHING)


def orders(sales: Iterable[Row]) -> int:
    """Count the transactions."""
    return len({row["transaction_id"] for row in sales})


def quantity(sales: Iterable[Row]) -> int:
    """Sum the pieces."""
    return sum(row["quantity"] for row in sales)


def product_performance(sales: Sequence[Row], views: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per product and own day with a sale or a view."""
    sold: dict[tuple[str, date], list[Row]] = defaultdict(list)
    viewed: Counter[tuple[str, date]] = Counter()
    category: dict[tuple[str, date], str] = {}
    for row in sales:
        key = row["product_id"], row["transaction_timestamp"].date()
        sold[key].append(row)
        category[key] = row["category"]
    for row in views:
        key = row["product_id"], row["event_timestamp"].date()
        viewed[key] += 1
        category[key] = row["category"]
    return [
        {
            "product_id": product_id,
            "category": category[product_id, day],
            "analysis_date": day,
            "total_sales": orders(sold[product_id, day]),
            "total_revenue": revenue(sold[product_id, day]),
            "total_quantity": quantity(sold[product_id, day]),
            "total_views": viewed[product_id, day],
            "conversion_rate": ratio(orders(sold[product_id, day]), viewed[product_id, day]),
            "avg_price": ratio(revenue(sold[product_id, day]), quantity(sold[product_id, day])),
        }
        for product_id, day in category
    ]


def customer_segments(customers: Sequence[Row], run_date: date) -> list[dict[str, Any]]:
    """One row per segment, always four, from the current rows of dim_customers but the member -1."""
    rows = []
    for name in SEGMENTS:
        members = [row for row in customers if row["is_current"] and row["user_id"] and row["customer_segment"] == name]
        spent = sum((row["total_spent"] for row in members), NOTHING)
        transactions = sum(row["total_transactions"] for row in members)
        rows.append(
            {
                "segment_name": name,
                "customer_count": len(members),
                "total_revenue": spent,
                "avg_order_value": ratio(spent, transactions) or 0.0,
                "analysis_date": run_date,
            }
        )
    return rows


def quintiles(values: Mapping[str, Any]) -> dict[str, int]:
    """Score each key 1 to 5 by the mid-rank of its value, the smallest value being the worst."""
    count, ties = len(values), Counter(values.values())
    score, worse = {}, 0
    for value in sorted(ties):
        score[value] = (5 * (2 * worse + ties[value]) + 2 * count - 1) // (2 * count)
        worse += ties[value]
    return {key: score[value] for key, value in values.items()}


def rfm_analysis(sales: Sequence[Row], cuts: Sequence[Cut]) -> list[dict[str, Any]]:
    """One snapshot per run date, as of the last cut with it, over the sales of the days before."""
    last_cut = {cut["run_date"]: cut for cut in cuts}
    return [
        row
        for run_date, cut in last_cut.items()
        for row in _snapshot([row for row in sales if row["ingest_batch_id"] <= cut[TRANSACTIONS]], run_date)
    ]


def _snapshot(sales: Sequence[Row], run_date: date) -> list[dict[str, Any]]:
    """One row per customer with a sale on a day before the run date."""
    bought = defaultdict(list)
    for row in sales:
        if row["transaction_timestamp"].date() < run_date:
            bought[row["user_id"]].append(row)
    last_day = {user: max(row["transaction_timestamp"].date() for row in rows) for user, rows in bought.items()}
    frequency = {user: orders(rows) for user, rows in bought.items()}
    monetary = {user: revenue(rows) for user, rows in bought.items()}
    r, f, m = quintiles(last_day), quintiles(frequency), quintiles(monetary)
    return [
        {
            "user_id": user,
            "analysis_date": run_date,
            "recency_days": (run_date - last_day[user]).days,
            "frequency_count": frequency[user],
            "monetary_value": monetary[user],
            "recency_score": r[user],
            "frequency_score": f[user],
            "monetary_score": m[user],
            "rfm_segment": RFM_SEGMENTS[r[user]][(f[user] + m[user] + 1) // 2 - 1],
        }
        for user in bought
    ]


def period(kind: str, day: date) -> tuple[str, date, date]:
    """Give the name, first day and last day of the calendar period that holds a day."""
    if kind == "weekly":
        start = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        return f"{year}-W{week:02}", start, start + timedelta(days=6)
    months = 1 if kind == "monthly" else 3
    start = date(day.year, (day.month - 1) // months * months + 1, 1)
    after = start.month + months
    following = date(day.year + 1, 1, 1) if after > 12 else date(day.year, after, 1)
    name = f"{day.year}-{day.month:02}" if months == 1 else f"{day.year}-Q{start.month // 3 + 1}"
    return name, start, following - DAY


def sales_trends(sales: Sequence[Row], run_date: date) -> list[dict[str, Any]]:
    """One row per calendar period and category with a sale, and per period in total (`All`)."""
    sold: dict[tuple[str, date, str], list[Row]] = defaultdict(list)
    by_day: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(lambda: NOTHING))
    for row in sales:
        for category in (row["category"], "All"):
            by_day[category][row["transaction_timestamp"].date()] += row["total_amount"]
            for kind in ("weekly", "monthly", "quarterly"):
                sold[kind, period(kind, row["transaction_timestamp"].date())[1], category].append(row)
    first_day = min((row["transaction_timestamp"].date() for row in sales), default=run_date)
    rows = []
    for (kind, start, category), members in sold.items():
        name, _, end = period(kind, start)
        rows.append(
            {
                "period_type": kind,
                "period_value": name,
                "category": category,
                "total_sales": orders(members),
                "total_revenue": revenue(members),
                "avg_order_value": ratio(revenue(members), orders(members)),
                "total_quantity": quantity(members),
                "growth_rate": _growth(by_day[category], kind, start, run_date, first_day),
                "analysis_date": min(end, run_date),
                "is_running": start <= run_date <= end,
            }
        )
    return rows


def _growth(by_day: Mapping[date, Decimal], kind: str, start: date, run_date: date, first_day: date) -> float | None:
    """Compare a period's revenue with the period before it; of a running one the completed days with as many."""
    _, _, end = period(kind, start)
    _, start_before, end_before = period(kind, start - DAY)
    if start_before < first_day or run_date == start:
        return None
    if start <= run_date <= end:
        end = run_date - DAY
        end_before = min(end_before, start_before + (end - start))  # February has no 30th day to compare with

    def between(first: date, last: date) -> Decimal:
        days = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return sum((by_day[day] for day in days if day in by_day), NOTHING)

    before = between(start_before, end_before)
    return ratio(between(start, end) - before, before)
