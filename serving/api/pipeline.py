"""The line itself: how fresh it is, how far behind, what has run, and what the rules found."""

import asyncio
import time
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as QueryParameters
from kafka.errors import KafkaError
from psycopg import sql
from psycopg2 import Error as DatabaseError
from pydantic import Field

from lib.ledger.offsets import backlog
from lib.schemas import CONTRACTS
from lib.settings import TOPICS
from serving.api.database import Database, where
from serving.api.models import Lag, PipelineFreshness, PipelineLag, Quality, Runs
from serving.api.parameters import Page, Query, Text, decode, encode, page
from serving.api.problems import Unavailable

LAG_SECONDS = 2.0
"""How old an answer about lag may be: each is a question to Kafka."""
PATIENCE_SECONDS = 5.0
"""How long Kafka may take."""


class Status(StrEnum):
    """How a run ended, or that it hasn't."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    KILLED = "killed"


class RunQuery(Page):
    """Which runs."""

    job: Text | None = Field(default=None, description="Only this job.", examples=["etl/fact_sales"])
    status: Status | None = Field(default=None, description="Only these.")


class _Lag:
    """How many messages wait in Kafka, asked for at most every two seconds."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.at = 0.0
        self.topics: list[Lag] = []

    async def read(self) -> list[Lag]:
        async with self.lock:
            if time.monotonic() - self.at > LAG_SECONDS:
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        self.topics = await asyncio.to_thread(self._ask)
                except (KafkaError, OSError, TimeoutError, DatabaseError) as error:
                    raise Unavailable(f"Kafka or the realtime database is away: {type(error).__name__}") from None
                self.at = time.monotonic()
            return self.topics

    def _ask(self) -> list[Lag]:
        found = {name: int(backlog(contract)["lag"].sum()) for name, contract in CONTRACTS.items()}
        return [Lag(table=name, topic=TOPICS[name], messages=lag) for name, lag in found.items()]


def routes(database: Database) -> APIRouter:
    """The routes below `/v1/pipeline`."""
    router = APIRouter(prefix="/v1/pipeline", tags=["pipeline"])
    waiting = _Lag()

    @router.get("/freshness", summary="How far ingestion and the facts are")
    async def freshness(query: Annotated[Query, QueryParameters()]) -> PipelineFreshness:
        """For each realtime table what is stored, what is in its fact, and what was put aside."""
        rows = await database.rows(
            'select source_table as "table", last_batch, loaded_batch, batches_behind, stored_at, last_event_at,'
            " loaded_at, run_date, held, dead_letters from serving.freshness order by source_table"
        )
        return PipelineFreshness.model_validate({"tables": rows})

    @router.get("/lag", summary="What waits in Kafka")
    async def lag(query: Annotated[Query, QueryParameters()]) -> PipelineLag:
        """For each topic the messages that aren't stored yet; at most two seconds old."""
        return PipelineLag(topics=await waiting.read())

    @router.get("/runs", summary="What has run")
    async def runs(query: Annotated[RunQuery, QueryParameters()]) -> Runs:
        """Runs, the latest first."""
        after = decode(query.cursor, datetime.fromisoformat, str)
        values: dict[str, Any] = {"job": query.job, "status": query.status, "limit": query.limit + 1}
        values |= {"at": after[0], "id": after[1]} if after else {}
        conditions = where(
            (query.job, sql.SQL("job = %(job)s")),
            (query.status, sql.SQL("status = %(status)s")),
            (after, sql.SQL("(started_at, run_id) < (%(at)s::timestamptz, %(id)s)")),
        )
        statement = sql.SQL(
            "select run_id, cycle_id, job, run_date, status, attempt, started_at, finished_at, seconds, error"
            " from serving.runs {} order by started_at desc, run_id desc limit %(limit)s"
        ).format(conditions)
        rows, has_more = page(await database.rows(statement, values), query.limit)
        cursor = encode([rows[-1]["started_at"].isoformat(), rows[-1]["run_id"]]) if has_more else None
        return Runs.model_validate({"runs": rows, "next": cursor})

    @router.get("/quality", summary="What the rules found")
    async def quality(query: Annotated[Query, QueryParameters()]) -> Quality:
        """The findings of each job's last run that checked something."""
        rows = await database.rows(
            "select result.job, result.rule, result.severity, result.failed_rows, result.checked_at, result.run_id"
            " from serving.quality as result join ("
            "   select distinct on (job) job, run_id from serving.quality order by job, checked_at desc"
            " ) as last on last.job = result.job and last.run_id = result.run_id"
            " order by result.failed_rows desc, result.job, result.rule"
        )
        return Quality.model_validate({"findings": rows})

    return router
