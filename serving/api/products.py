"""Products: what each sold and how often it was looked at."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from fastapi import Query as QueryParameters
from psycopg import sql
from pydantic import Field

from serving.api.database import Database, where
from serving.api.models import Product, ProductOverTime, Products, Ranking
from serving.api.parameters import Page, Period, Text, decode, encode, page

SUMS = sql.SQL("""
select
    product_id,
    (array_agg(category order by day desc))[1] as category,
    sum(orders)::bigint as orders,
    sum(quantity)::numeric(38) as quantity,
    sum(revenue)::numeric(38, 2) as revenue,
    sum(views)::bigint as views,
    sum(orders)::double precision / nullif(sum(views), 0) as conversion_rate
from serving.product_days
{where}
group by product_id
""")
LIST = sql.SQL("select * from ({sums}) as product {where} order by {order} limit %(limit)s")


class Sort(StrEnum):
    """What products are ordered by, the highest first."""

    REVENUE = "revenue"
    ORDERS = "orders"
    VIEWS = "views"
    QUANTITY = "quantity"


class ProductQuery(Period, Page):
    """Which products, over which days."""

    category: Text | None = Field(default=None, description="Only days on which the product was in this category.")
    sort: Sort = Field(default=Sort.REVENUE, description="The highest first.")


class RankingQuery(Page):
    """Which products."""

    category: Text | None = Field(default=None, description="Only products that are in this category.")


def routes(database: Database) -> APIRouter:
    """The routes below `/v1/products`."""
    router = APIRouter(prefix="/v1/products", tags=["products"])

    @router.get("", summary="Products over a period")
    async def products(query: Annotated[ProductQuery, QueryParameters()]) -> Products:
        """What each product sold and how often it was looked at, to the last event that is stored."""
        first, last = query.days
        after = decode(query.cursor, Decimal, str)
        sums = SUMS.format(
            where=where(
                (first, sql.SQL("day >= %(first)s")), (last, sql.SQL("day <= %(last)s")), _category(query.category)
            )
        )
        values: dict[str, Any] = {"first": first, "last": last, "category": query.category, "limit": query.limit + 1}
        values |= {"value": after[0], "id": after[1]} if after else {}
        by = sql.Identifier(query.sort.value)
        following = (
            sql.SQL("where {by} < %(value)s or ({by} = %(value)s and product_id > %(id)s)").format(by=by)
            if after
            else sql.SQL("")
        )
        order = sql.SQL("{} desc, product_id").format(by)
        found = await database.rows(LIST.format(sums=sums, where=following, order=order), values)
        rows, has_more = page(found, query.limit)
        cursor = encode([rows[-1][query.sort.value], rows[-1]["product_id"]]) if has_more else None
        return Products(first_day=first, last_day=last, products=[Product(**row) for row in rows], next=cursor)

    @router.get("/ranking", summary="Products by rank")
    async def ranking(query: Annotated[RankingQuery, QueryParameters()]) -> Ranking:
        """The last 30 days with data, ranked by revenue, as of the last cycle."""
        after = decode(query.cursor, int, str)
        values: dict[str, Any] = {"category": query.category, "limit": query.limit + 1}
        values |= {"rank": after[0], "id": after[1]} if after else {}
        conditions = where(
            _category(query.category), (after, sql.SQL("(revenue_rank, product_id) > (%(rank)s::bigint, %(id)s)"))
        )
        statement = sql.SQL(
            "select * from serving.product_ranking {} order by revenue_rank, product_id limit %(limit)s"
        ).format(conditions)
        rows, has_more = page(await database.rows(statement, values), query.limit)
        cursor = encode([rows[-1]["revenue_rank"], rows[-1]["product_id"]]) if has_more else None
        return Ranking.model_validate({"as_of": rows[0]["as_of"] if rows else None, "products": rows, "next": cursor})

    @router.get("/{product_id:path}", summary="One product over time", responses={404: {}})
    async def product(
        product_id: Annotated[Text, Path(examples=["prod_456"])], query: Annotated[Period, QueryParameters()]
    ) -> ProductOverTime:
        """One product, day by day, to the last event that is stored."""
        first, last = query.days
        rows = await database.rows(
            "select * from serving.product_days"
            " where product_id = %(id)s and day >= %(first)s and day <= %(last)s order by day",
            {"id": product_id, "first": first, "last": last},
        )
        if not rows and not await _is_known(database, product_id):
            raise HTTPException(404, f"No event has named a product {product_id}")
        return ProductOverTime.model_validate(
            {
                "product_id": product_id,
                "first_day": first,
                "last_day": last,
                "total": _total(product_id, rows),
                "days": rows,
            }
        )

    return router


def _category(category: str | None) -> tuple[str | None, sql.SQL]:
    return category, sql.SQL("category = %(category)s")


async def _is_known(database: Database, product_id: str) -> bool:
    query = "select exists (select from serving.product_days where product_id = %(id)s) as known"
    return bool((await database.rows(query, {"id": product_id}))[0]["known"])


def _total(product_id: str, days: list[dict[str, Any]]) -> Product | None:
    if not days:
        return None
    orders, views = (sum(day[name] for day in days) for name in ("orders", "views"))
    return Product(
        product_id=product_id,
        category=days[-1]["category"],
        orders=orders,
        quantity=sum((day["quantity"] for day in days), Decimal(0)),
        revenue=sum((day["revenue"] for day in days), Decimal(0)),
        views=views,
        conversion_rate=orders / views if views else None,
    )
