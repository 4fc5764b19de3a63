"""Customers: segments, scores, and one of them."""

import asyncio
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from fastapi import Query as QueryParameters
from psycopg import sql
from pydantic import Field

from serving.api.database import Database, where
from serving.api.models import Customer, Scores, Segments
from serving.api.parameters import Day, Page, Query, Text, decode, encode, page

SCORE = sql.SQL("""
    user_id, analysis_date, recency_days, frequency_count as frequency, monetary_value as monetary,
    recency_score, frequency_score, monetary_score, rfm_segment as segment
""")

ORDERS = """
select
    transaction_id,
    min(sold_at) as sold_at,
    count(*) as lines,
    sum(revenue)::numeric(38, 2) as revenue,
    bool_or(is_live) as is_live
from serving.sales
where user_id = %(id)s
group by transaction_id
order by sold_at desc, transaction_id
limit 20
"""


class ScoreQuery(Page):
    """Which customers of which snapshot."""

    segment: Text | None = Field(default=None, description="Only this segment.", examples=["Champions"])
    analysis_date: Day | None = Field(default=None, description="The day of the snapshot; by default the latest.")


def routes(database: Database) -> APIRouter:
    """The routes below `/v1/customers`."""
    router = APIRouter(prefix="/v1/customers", tags=["customers"])

    @router.get("/segments", summary="Customer segments")
    async def segments(query: Annotated[Query, QueryParameters()]) -> Segments:
        """How many customers each segment has and what they have spent, as of the last cycle."""
        rows = await database.rows(
            "select segment_name as segment, customer_count as customers, total_revenue as revenue, avg_order_value,"
            " analysis_date from serving.customer_segments order by total_revenue desc, segment_name"
        )
        return Segments.model_validate({"segments": rows})

    @router.get("/rfm", summary="Recency, frequency, money")
    async def rfm(query: Annotated[ScoreQuery, QueryParameters()]) -> Scores:
        """Customers of a snapshot with their scores, the most money first."""
        after = decode(query.cursor, Decimal, str)
        day = query.analysis_date
        if day is None:
            day = (await database.rows("select max(analysis_date) as day from serving.rfm"))[0]["day"]
        values: dict[str, Any] = {"day": day, "segment": query.segment, "limit": query.limit + 1}
        values |= {"value": after[0], "id": after[1]} if after else {}
        conditions = where(
            (True, sql.SQL("analysis_date = %(day)s")),
            (query.segment, sql.SQL("rfm_segment = %(segment)s")),
            (after, sql.SQL("(monetary_value < %(value)s or (monetary_value = %(value)s and user_id > %(id)s))")),
        )
        statement = sql.SQL(
            "select {} from serving.rfm {} order by monetary_value desc, user_id limit %(limit)s"
        ).format(SCORE, conditions)
        rows, has_more = page(await database.rows(statement, values), query.limit)
        cursor = encode([rows[-1]["monetary"], rows[-1]["user_id"]]) if has_more else None
        return Scores.model_validate({"analysis_date": day, "customers": rows, "next": cursor})

    @router.get("/{user_id:path}", summary="One customer", responses={404: {}})
    async def customer(
        user_id: Annotated[Text, Path(examples=["user_123"])], query: Annotated[Query, QueryParameters()]
    ) -> Customer:
        """One customer: the totals of the last load, the segments so far, the score, and the latest orders."""
        of = {"id": user_id}
        latest = sql.SQL("select {} from serving.rfm where user_id = %(id)s order by analysis_date desc limit 1")
        current, history, scores, orders = await asyncio.gather(
            database.rows("select * from serving.customers where user_id = %(id)s", of),
            database.rows(
                "select customer_segment as segment, effective_date, end_date from serving.customer_history"
                " where user_id = %(id)s order by effective_date",
                of,
            ),
            database.rows(latest.format(SCORE), of),
            database.rows(ORDERS, of),
        )
        if not current and not orders:
            raise HTTPException(404, f"No load knows a customer {user_id}, and no unread order names one")
        known = current[0] if current else {}
        return Customer.model_validate(
            {
                "user_id": user_id,
                "segment": known.get("customer_segment"),
                "first_transaction_date": known.get("first_transaction_date"),
                "last_transaction_date": known.get("last_transaction_date"),
                "total_transactions": known.get("total_transactions", 0),
                "total_spent": known.get("total_spent", Decimal(0)),
                "history": history,
                "score": scores[0] if scores else None,
                "latest_orders": orders,
            }
        )

    return router
