"""A small shop in the shape of the views that Power BI imports, and each measure computed a second way, in plain Python.

Forty customers change their segments and twelve products their categories; some orders have several lines of one product,
some views name no session, some events no country. The run date lies in the middle of a week, a month and a quarter.
"""

import random
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

Row = dict[str, Any]
Context = Mapping[str, list[Any]]

FIRST, RUN_DATE = date(2026, 3, 5), date(2026, 11, 18)
SEGMENTS = ("New", "Low Value", "Medium Value", "High Value")
CATEGORIES = ("Books", "Toys", "Garden")
COUNTRIES = {-1: "Unknown", 1: "Germany", 2: "France", 3: "Spain"}
RFM = ("Champions", "Loyal", "At Risk", "Lost")
DIMENSION = {
    "dim_date": "date_id",
    "dim_customers": "customer_id",
    "dim_products": "product_id_pk",
    "dim_geography": "geography_id",
}


def _day(day: date) -> Row:
    year, week, weekday = day.isocalendar()
    quarter = (day.month + 2) // 3
    return {
        "date_id": int(f"{day:%Y%m%d}"),
        "date": day,
        **{"year": day.year, "quarter": quarter, "month": day.month, "day": day.day},
        **{"day_of_week": weekday, "week_of_year": week, "is_weekend": weekday > 5},
        **{"month_name": f"{day:%B}", "day_name": f"{day:%A}"},
        **{
            "quarter_label": f"{day.year}-Q{quarter}",
            "month_label": f"{day:%Y-%m}",
            "week_label": f"{year}-W{week:02}",
        },
        "quarter_start": date(day.year, 3 * quarter - 2, 1),
        "month_start": day.replace(day=1),
        "week_start": day - timedelta(weekday - 1),
    }


def _versions(key: str, attribute: str, values: tuple[str, ...], members: int, dice: random.Random) -> list[Row]:
    """One to three versions of each member, by day, and the unknown one."""
    found: list[Row] = []
    for member in range(1, members + 1):
        starts = [FIRST, *sorted(dice.sample([FIRST + timedelta(n) for n in range(20, 240)], dice.randrange(3)))]
        of = [
            {
                key: 1 + len(found) + n,
                attribute: dice.choice(values),
                "member": member,
                "effective_date": start,
                "end_date": end,
                "is_current": end is None,
            }
            for n, (start, end) in enumerate(zip(starts, [*starts[1:], None], strict=True))
        ]
        found += [row | {f"current_{attribute}": of[-1][attribute], "number": of[0][key]} for row in of]
    unknown = {key: -1, attribute: "Unknown", f"current_{attribute}": "Unknown", "member": 0, "number": -1}
    return [*found, unknown | {"effective_date": None, "end_date": None, "is_current": True}]


def _on(versions: list[Row], member: int, day: date) -> Row:
    """The version of a member that is valid on a day."""
    valid = [row for row in versions if row["member"] == member and row["effective_date"] <= day]
    return max(valid, key=lambda row: row["effective_date"])


def shop(seed: int = 7) -> dict[str, list[Row]]:
    """The rows of each table."""
    dice = random.Random(seed)
    days = [_day(date(2026, 1, 1) + timedelta(n)) for n in range(365)]
    customers = _versions("customer_id", "segment", SEGMENTS, 40, dice)
    products = _versions("product_id_pk", "category", CATEGORIES, 12, dice)
    span = (RUN_DATE - FIRST).days + 1
    sales: list[Row] = []
    views: list[Row] = []
    carts: list[Row] = []

    def event(customer: int) -> Row:
        day = FIRST + timedelta(min(dice.randrange(span), dice.randrange(2 * span)))
        return {
            "date_id": int(f"{day:%Y%m%d}"),
            "customer_id": _on(customers, customer, day)["customer_id"],
            "product_id_pk": _on(products, dice.randrange(1, 13), day)["product_id_pk"],
            "geography_id": dice.choice([-1, 1, 1, 1, 2, 2, 3]),
            "hour": dice.randrange(24),
        }

    for order in range(150):
        head = event(dice.randrange(1, 30))
        for _ in range(dice.choice([1, 1, 2, 3])):
            at = next(row["date"] for row in days if row["date_id"] == head["date_id"])
            product = _on(products, dice.randrange(1, 6), at)["product_id_pk"]
            quantity, price = dice.randrange(1, 5), Decimal(dice.randrange(100, 99999)).scaleb(-2)
            line = {"order_key": (order - 75) * 2**56, "product_id_pk": product, "quantity": quantity}
            sales.append(head | line | {"total_cents": int(quantity * price * 100)})
    for _ in range(400):
        session = dice.choice([None, dice.randrange(60)])
        seconds = dice.choice([None, dice.randrange(300)])
        views.append(event(dice.randrange(1, 37)) | {"session_key": session, "view_duration": seconds})
    for _ in range(200):
        session, quantity = dice.choice([None, dice.randrange(60)]), dice.choice([None, dice.randrange(1, 5)])
        kind = dice.choice(["add", "add", "remove", "update", "checkout"])
        amount = None if quantity is None else Decimal(quantity * 1999).scaleb(-2)
        also = {"event_type": kind, "session_key": session, "quantity": quantity, "total_amount": amount}
        carts.append(event(dice.randrange(1, 41)) | also)

    date_of = {row["date_id"]: row["date"] for row in days}
    number_of = {row["customer_id"]: row["number"] for row in customers}
    bought: dict[int, list[date]] = {}
    for row in sales:
        bought.setdefault(number_of[row["customer_id"]], []).append(date_of[row["date_id"]])
    dates = {number: (min(found), max(found)) for number, found in bought.items()}
    current = {row["number"]: row["customer_id"] for row in customers if row["is_current"]}
    scores = count()
    rfm = [
        {
            "customer_id": current[number],
            "analysis_date": RUN_DATE,
            "recency_days": (RUN_DATE - last).days,
            "frequency_count": len(bought[number]),
            "monetary_value": Decimal(number * 1001).scaleb(-2),
            **{name: 1 + next(scores) % 5 for name in ("recency_score", "frequency_score", "monetary_score")},
            "rfm_segment": dice.choice(RFM),
        }
        for number, (_, last) in dates.items()
        if last < RUN_DATE
    ]
    seen = {(number_of[row["customer_id"]], COUNTRIES[row["geography_id"]]) for row in [*sales, *views, *carts]}
    roles = [{name: row[name] for name in ("date", "year", "quarter_label", "month_label")} for row in days]
    return {
        "dim_date": days,
        "dim_first_order_date": roles,
        "dim_last_order_date": roles,
        "dim_customers": [
            row
            | {
                "user_id": f"u{row['member']}" if row["member"] else "",
                "customer_number": row["number"],
                "customer_segment": row["segment"],
                "first_transaction_date": dates.get(row["number"], (None, None))[0],
                "last_transaction_date": dates.get(row["number"], (None, None))[1],
            }
            for row in customers
        ],
        "dim_products": [
            row | {"product_id": f"p{row['member']}" if row["member"] else "", "product_number": row["number"]}
            for row in products
        ],
        "dim_geography": [{"geography_id": key, "country": name} for key, name in COUNTRIES.items()],
        "fact_sales": sales,
        "fact_product_views": views,
        "fact_cart_events": carts,
        "rfm_snapshot": rfm,
        "loaded": [
            {"job": "analytics/sales_trends", "run_date": RUN_DATE},
            {"job": "etl/fact_sales", "run_date": RUN_DATE + timedelta(1)},
        ],
        "customer_countries": [{"customer_number": number, "country": country} for number, country in sorted(seen)],
        "country_access": [],
    }


def expected(tables: Mapping[str, list[Row]], context: Context) -> dict[str, Any]:
    """Every measure under a selection of values by `table.column`; None or 0 where there is nothing."""
    return _Expected(tables, context).all()


class _Expected:
    """Facts with the rows of their dimensions beside them, by `table.column`."""

    def __init__(self, tables: Mapping[str, list[Row]], context: Context) -> None:
        self.tables, self.context = tables, context
        index = {name: {row[key]: row for row in tables[name]} for name, key in DIMENSION.items()}
        self.facts = {
            fact: [
                {f"{fact}.{name}": value for name, value in row.items()}
                | {
                    f"{dimension}.{name}": value
                    for dimension, key in DIMENSION.items()
                    if key in row
                    for name, value in index[dimension][row[key]].items()
                }
                for row in tables[fact]
            ]
            for fact in ("fact_sales", "fact_product_views", "fact_cart_events", "rfm_snapshot")
        }

    def rows(self, fact: str, *, but: str = "") -> list[Row]:
        """The rows of a fact that are selected, whatever is selected of the table `but`."""
        chosen = {key: values for key, values in self.context.items() if not but or not key.startswith(but + ".")}
        columns = self.facts[fact][0].keys() if self.facts[fact] else ()
        return [
            row
            for row in self.facts[fact]
            if all(row[key] in values for key, values in chosen.items() if key in columns)
        ]

    def all(self) -> dict[str, Any]:
        sold, seen, carts = (self.rows(name) for name in ("fact_sales", "fact_product_views", "fact_cart_events"))
        high = [row for row in sold if row["dim_customers.current_segment"] == "High Value"]
        revenue, quantity = _amount(sold), sum(row["fact_sales.quantity"] for row in sold)
        orders = len({row["fact_sales.order_key"] for row in sold})
        product_orders = len({(row["dim_products.product_id"], row["fact_sales.order_key"]) for row in sold})
        durations = [row["fact_product_views.view_duration"] for row in seen]
        durations = [seconds for seconds in durations if seconds is not None]
        kinds = [row["fact_cart_events.event_type"] for row in carts]
        return {
            "Revenue": revenue,
            "Orders": orders,
            "Quantity sold": quantity,
            "Average order value": _ratio(revenue, orders),
            "Average price": _ratio(revenue, quantity),
            "Revenue so far": _amount(self.rows("fact_sales", but="dim_date")),
            "Last month revenue": self.last_month(),
            "Run date": RUN_DATE,
            "First sale": min(row["dim_date.date"] for row in self.facts["fact_sales"]),
            "Weekly growth": self.growth("week"),
            "Monthly growth": self.growth("month"),
            "Quarterly growth": self.growth("quarter"),
            "Product orders": product_orders,
            "Views": len(seen),
            "Conversion": _ratio(product_orders, len(seen)),
            "Products": len({row["dim_products.product_id"] for row in [*sold, *seen]}),
            "Sessions": len({row["fact_product_views.session_key"] for row in seen} - {None}),
            "Average view seconds": _ratio(sum(durations), len(durations)),
            "Buyers": len({row["dim_customers.user_id"] for row in sold}),
            "Active customers": len({row["dim_customers.user_id"] for row in [*sold, *seen, *carts]}),
            "High Value revenue": _amount(high),
            "High Value share of revenue": _ratio(_amount(high), revenue) or None,
            "Cart events": len(carts),
            "Added to cart": kinds.count("add"),
            "Removed from cart": kinds.count("remove"),
            "Checkouts": kinds.count("checkout"),
            "Value added to cart": sum(
                row["fact_cart_events.total_amount"] or 0
                for row in carts
                if row["fact_cart_events.event_type"] == "add"
            ),
            **self.customers(),
            **self.rfm(),
        }

    def customers(self) -> dict[str, int]:
        chosen = {key.split(".")[1]: values for key, values in self.context.items() if key.startswith("dim_customers.")}
        there = [
            row
            for row in self.tables["dim_customers"]
            if row["is_current"] and row["user_id"] and all(row[name] in values for name, values in chosen.items())
        ]
        chosen = {key.split(".")[1]: values for key, values in self.context.items() if key.startswith("dim_date.")}
        days = {
            row["date"]
            for row in self.tables["dim_date"]
            if all(row[name] in values for name, values in chosen.items())
        }
        return {
            "Customers": len(there),
            "High Value customers": sum(row["current_segment"] == "High Value" for row in there),
            "New buyers": sum(row["first_transaction_date"] in days for row in there),
            "Last seen buyers": sum(row["last_transaction_date"] in days for row in there),
        }

    def rfm(self) -> dict[str, Any]:
        rows = self.rows("rfm_snapshot")
        names = [row["rfm_snapshot.rfm_segment"] for row in rows]
        return {
            "RFM customers": len(rows),
            "RFM Champions": names.count("Champions"),
            "RFM At Risk": names.count("At Risk"),
            "RFM revenue": sum(row["rfm_snapshot.monetary_value"] for row in rows),
            "RFM orders": sum(row["rfm_snapshot.frequency_count"] for row in rows),
            "RFM days since last order": _ratio(sum(row["rfm_snapshot.recency_days"] for row in rows), len(rows)),
            "RFM snapshot": max((row["rfm_snapshot.analysis_date"] for row in rows), default=None),
        }

    def last_month(self) -> Decimal | None:
        sold = self.rows("fact_sales")
        if not sold:
            return None
        month = max(row["dim_date.month_label"] for row in sold)
        others = self.rows("fact_sales", but="dim_date")
        return _amount(row for row in others if row["dim_date.month_label"] == month)

    def growth(self, unit: str) -> float | None:
        """Day by day: the days of the period that are over, and as many of the one before as they can be compared with."""
        sold = self.rows("fact_sales")
        if not sold:
            return None
        start = {row["date"]: row[f"{unit}_start"] for row in self.tables["dim_date"]}
        last = max(row["dim_date.date"] for row in sold)
        now = [day for day in start if start[day] == start[last]]
        before = [day for day in start if start[day] == start.get(now[0] - timedelta(1))]
        first_sale = min(row["dim_date.date"] for row in self.facts["fact_sales"])
        if not before or before[0] < first_sale:
            return None
        if RUN_DATE in now:
            now = now[: now.index(RUN_DATE)]
            if not now:
                return None
            before = before[: len(now)]
        others = self.rows("fact_sales", but="dim_date")
        then = _amount(row for row in others if row["dim_date.date"] in before)
        return float(_amount(row for row in others if row["dim_date.date"] in now) / then - 1) if then else None


def _amount(rows: Iterable[Row]) -> Decimal:
    return Decimal(sum(row["fact_sales.total_cents"] for row in rows)) / 100


def _ratio(one: Any, other: Any) -> float | None:
    return float(one) / float(other) if other else None
