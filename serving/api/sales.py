"""Sales: trends, days, today so far, the last hour, and a stream of what happens."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as QueryParameters
from fastapi.responses import StreamingResponse
from psycopg import sql
from pydantic import Field

from serving.api.database import Database, where
from serving.api.live import Live
from serving.api.models import LastHour, SalesDays, Today, Trends
from serving.api.parameters import Page, Period, Query, Text, decode, encode, page


class PeriodType(StrEnum):
    """How long the periods are."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


class TrendQuery(Page):
    """Which periods of what."""

    period: PeriodType = Field(default=PeriodType.WEEKLY, description="How long the periods are.")
    category: Text = Field(default="All", description="All for the total; a category's orders are counted in it alone.")


class DaysQuery(Period):
    """Which days of what."""

    category: Text = Field(default="All", description="All for the total.")


def routes(database: Database, live: Live) -> APIRouter:
    """The routes below `/v1/sales`."""
    router = APIRouter(prefix="/v1/sales", tags=["sales"])

    @router.get("/trends", summary="Sales by week, month or quarter")
    async def trends(query: Annotated[TrendQuery, QueryParameters()]) -> Trends:
        """Periods, the latest first, with their growth, as of the last cycle."""
        after = decode(query.cursor, str)
        values: dict[str, Any] = {"type": query.period.value, "category": query.category, "limit": query.limit + 1}
        values |= {"period": after[0]} if after else {}
        conditions = where(
            (True, sql.SQL("period_type = %(type)s")),
            (True, sql.SQL("category = %(category)s")),
            (after, sql.SQL("period_value < %(period)s")),
        )
        statement = sql.SQL(
            "select period_value as period, category, total_sales as orders, total_quantity as quantity,"
            " total_revenue as revenue, avg_order_value, growth_rate, is_running, analysis_date"
            " from serving.sales_trends {} order by period_value desc limit %(limit)s"
        ).format(conditions)
        rows, has_more = page(await database.rows(statement, values), query.limit)
        cursor = encode([rows[-1]["period"]]) if has_more else None
        return Trends.model_validate({"period_type": query.period.value, "trends": rows, "next": cursor})

    @router.get("/days", summary="Sales by day")
    async def days(query: Annotated[DaysQuery, QueryParameters()]) -> SalesDays:
        """Sales by day, to the last event that is stored."""
        first, last = query.days
        rows = await database.rows(
            "select day, orders, quantity, revenue from serving.sales_days"
            " where category = %(category)s and day >= %(first)s and day <= %(last)s order by day",
            {"category": query.category, "first": first, "last": last},
        )
        told = {"category": query.category, "first_day": first, "last_day": last, "days": rows}
        return SalesDays.model_validate(told)

    @router.get("/today", summary="Today so far")
    async def today(query: Annotated[Query, QueryParameters()]) -> Today:
        """The current UTC day, to the last event that is stored."""
        return await read_today(database)

    @router.get("/last-hour", summary="The last hour by minute")
    async def last_hour(query: Annotated[Query, QueryParameters()]) -> LastHour:
        """The last 60 minutes, to the last event that is stored."""
        rows = await database.rows("select * from serving.last_hour order by minute")
        return LastHour.model_validate({"minutes": rows})

    @router.get(
        "/stream",
        summary="Today so far, again and again",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Server-sent events: `event: today` with `Today` as data, at once and after each change.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            }
        },
    )
    async def stream(request: Request, query: Annotated[Query, QueryParameters()]) -> StreamingResponse:
        """Today so far, at once and whenever it changes, at most four times a second, until you go away."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(live.follow(), media_type="text/event-stream", headers=headers)

    return router


async def read_today(database: Database) -> Today:
    """Today so far."""
    rows = await database.rows("select * from serving.sales_today order by revenue desc, category")
    total = next((row for row in rows if row["category"] == "All"), {"orders": 0, "quantity": 0, "revenue": 0})
    categories = [row for row in rows if row["category"] != "All"]
    return Today.model_validate({"day": datetime.now(UTC).date(), **total, "categories": categories})
