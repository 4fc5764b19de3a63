"""Power BI's measures and its security by row, evaluated over a small shop and computed a second way."""

import math
from datetime import date, datetime
from typing import Any

import pytest

from tests.powerbi.model import Model, evaluate, model
from tests.powerbi.world import RUN_DATE, Context, Row, expected, shop

CONTEXTS: list[Context] = [
    {},
    {"dim_date.month_label": ["2026-10"]},
    {"dim_date.month_label": ["2026-11"]},  # contains the run date
    {"dim_date.month_label": ["2026-01"]},  # before everything
    {"dim_date.week_label": ["2026-W46"]},
    {"dim_date.week_label": ["2026-W47"], "dim_products.category": ["Toys"]},
    {"dim_date.quarter_label": ["2026-Q2"]},  # the one before began before the first sale
    {"dim_date.quarter_label": ["2026-Q3"]},
    {"dim_date.quarter_label": ["2026-Q4"], "dim_products.category": ["Books"]},
    {"dim_geography.country": ["Germany", "Spain"]},
    {"dim_customers.current_segment": ["High Value"], "dim_date.month_label": ["2026-03"]},
    {"dim_customers.current_segment": ["New"], "dim_date.year": [2026]},
    {"dim_products.product_id": ["p3"]},
    {"rfm_snapshot.recency_score": [5]},
]


@pytest.fixture(scope="module")
def project() -> Model:
    return model()


@pytest.fixture(scope="module")
def tables() -> dict[str, list[Row]]:
    return shop()


def agree(one: Any, other: Any) -> bool:
    """Equal, where no row and the number 0 are the same."""
    one = one.date() if isinstance(one, datetime) else one
    if isinstance(one, date) or isinstance(other, date):
        return bool(one == other)
    return math.isclose(one or 0, other or 0, rel_tol=1e-9)


@pytest.mark.parametrize(
    "context", CONTEXTS, ids=lambda context: " ".join(str(*v) for v in context.values() if len(v) == 1)
)
def test_each_measure_says_what_the_rows_say(context: Context, project: Model, tables: dict[str, list[Row]]) -> None:
    wanted = expected(tables, context)
    found = evaluate(project, tables, project.measures, context)
    assert found.keys() == wanted.keys()
    assert {name: found[name] for name in found if not agree(found[name], wanted[name])} == {}, wanted


def test_each_measure_has_a_value_in_some_context(project: Model, tables: dict[str, list[Row]]) -> None:
    found = [evaluate(project, tables, project.measures, context) for context in CONTEXTS]
    assert [name for name in project.measures if all(values[name] is None for values in found)] == []


def test_what_isnt_dax_is_an_error_and_not_nothing(project: Model, tables: dict[str, list[Row]]) -> None:
    for wrong in ("SUM(fact_sales[nothing])", "NOFUNCTION(1)", "[No measure] + 1"):
        with pytest.raises(ValueError, match="can't be evaluated"):
            evaluate(project, tables, ["wrong"], extra={"wrong": wrong})


def test_the_role_of_a_date_selects_customers_by_their_first_order(
    project: Model, tables: dict[str, list[Row]]
) -> None:
    month = "2026-04"
    firsts = {
        row["customer_id"]: row["first_transaction_date"]
        for row in tables["dim_customers"]
        if row["first_transaction_date"]
    }
    amount = sum(row["total_cents"] for row in tables["fact_sales"] if f"{firsts[row['customer_id']]:%Y-%m}" == month)
    found = evaluate(project, tables, ["Revenue", "Customers"], {"dim_first_order_date.month_label": [month]})
    assert found["Revenue"] == pytest.approx(amount / 100) and amount
    assert (
        found["Customers"] == evaluate(project, tables, ["New buyers"], {"dim_date.month_label": [month]})["New buyers"]
    )


def test_growth_of_the_running_month_compares_its_completed_days_with_as_many(project: Model) -> None:
    sold = {date(2026, 9, 1): 5, date(2026, 10, 2): 100, date(2026, 10, 17): 50, date(2026, 10, 18): 7000}
    sold |= {date(2026, 11, 3): 200, RUN_DATE: 9000}
    head = {"customer_id": 1, "product_id_pk": 1, "geography_id": 1, "hour": 0, "quantity": 1}
    tables = shop() | {
        "fact_sales": [
            head | {"order_key": n, "date_id": int(f"{day:%Y%m%d}"), "total_cents": 100 * amount}
            for n, (day, amount) in enumerate(sold.items())
        ]
    }
    growth = evaluate(project, tables, ["Monthly growth", "Last month revenue", "Weekly growth", "Quarterly growth"])
    assert growth["Monthly growth"] == pytest.approx(200 / 150 - 1)
    assert growth["Last month revenue"] == 9200
    assert growth["Weekly growth"] is None  # nothing in the week before
    assert growth["Quarterly growth"] is None  # the quarter before began before the first sale
    october = evaluate(project, tables, ["Monthly growth"], {"dim_date.month_label": ["2026-10"]})
    assert october["Monthly growth"] == pytest.approx(7150 / 5 - 1)


def allowed(project: Model, tables: dict[str, list[Row]], table: str) -> set[str]:
    """What the role leaves of a table, for a person without a name, as the engine's is: countries or customers."""
    (role,) = project.roles
    permission = {one.name: one.expression for one in role.all("tablePermission")}[table]
    column = "customer_number" if table == "dim_customers" else "country"
    seen = {"seen": f'CONCATENATEX(FILTER({table}, {permission}), {table}[{column}], ",")'}
    return set(filter(None, (evaluate(project, tables, seen, extra=seen)["seen"] or "").split(",")))


def test_the_role_leaves_a_persons_countries_and_the_customers_seen_there(
    project: Model, tables: dict[str, list[Row]]
) -> None:
    access = [{"user_name": "", "country": "Spain"}, {"user_name": "ana@example.com", "country": "France"}]
    mine = tables | {"country_access": access}
    for table in ("dim_geography", "customer_countries", "country_access"):
        assert allowed(project, mine, table) == {"Spain"}
    seen = {str(row["customer_number"]) for row in tables["customer_countries"] if row["country"] == "Spain"}
    some = tables["dim_customers"][:24]
    wanted = {str(row["customer_number"]) for row in some} & seen
    assert allowed(project, mine | {"dim_customers": some}, "dim_customers") == wanted
    assert 0 < len(wanted) < len({row["customer_number"] for row in some})


def test_the_role_leaves_nothing_to_whom_no_country_is_given(project: Model, tables: dict[str, list[Row]]) -> None:
    access = [{"user_name": "ana@example.com", "country": "Spain"}]
    other = tables | {"country_access": access, "dim_customers": tables["dim_customers"][:24]}
    for table in ("dim_geography", "dim_customers", "customer_countries", "country_access"):
        assert allowed(project, other, table) == set()


def test_every_table_with_customers_or_countries_is_behind_the_role(project: Model) -> None:
    (role,) = project.roles
    guarded = {permission.name for permission in role.all("tablePermission")}
    joined = {
        (one.properties["fromColumn"].split(".")[0], one.properties["toColumn"].split(".")[0])
        for one in project.relationships
    }
    for table in project.tables:
        if {"customer_id", "customer_number", "geography_id", "country"} & project.columns(table).keys():
            assert table in guarded or any(many == table and one in guarded for many, one in joined), table
