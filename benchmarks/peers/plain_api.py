"""What the API is measured against: FastAPI and psycopg as their tutorials show them, the same query, and nothing of ours.

No key, no limit, no cache, no version: `uvicorn benchmarks.peers.plain_api:app`, with the address in PLAIN_DSN.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

from fastapi import FastAPI
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

QUERY = """
select product_id, (array_agg(category order by day desc))[1] as category, sum(orders)::bigint as orders,
    sum(quantity) as quantity, sum(revenue) as revenue, sum(views)::bigint as views
from serving.product_days where day >= %(first)s and day <= %(last)s
group by product_id order by revenue desc, product_id limit %(limit)s
"""
pool = AsyncConnectionPool(
    os.environ["PLAIN_DSN"], kwargs={"autocommit": True, "row_factory": dict_row}, max_size=4, open=False
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep connections for as long as the app runs."""
    await pool.open()
    yield
    await pool.close()


app = FastAPI(lifespan=lifespan)


@app.get("/v1/products")
async def products(first: date, last: date, limit: int = 50) -> list[dict[str, Any]]:
    """Products over a period."""
    async with pool.connection() as connection:
        found = await connection.execute(QUERY, {"first": first, "last": last, "limit": limit})
        return await found.fetchall()
