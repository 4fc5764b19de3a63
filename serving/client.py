"""A typed client of the API, for notebooks and programs: `Client().today().revenue`."""

import json
from collections.abc import Iterator
from datetime import date
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from lib.settings import settings
from serving.api import models

Answer = TypeVar("Answer", bound=BaseModel)
TIMEOUT_SECONDS = 30


class ApiError(Exception):
    """The API has no answer: the status, and what it says about it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class Client:
    """A connection to the API; by default to that of the settings, with the key of `.env`.

    Lists are iterators over all pages. Money is `Decimal`, days are `date`, instants `datetime` in UTC.
    """

    def __init__(self, url: str = "", key: str = "") -> None:
        config = settings()
        self.http = httpx.Client(
            base_url=url or config.api_url,
            headers={"X-API-Key": key or config.api_key.get_secret_value()},
            timeout=TIMEOUT_SECONDS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    def products(
        self, *, start: date | None = None, end: date | None = None, category: str | None = None, sort: str = "revenue"
    ) -> Iterator[models.Product]:
        """Products over a period, by default the last 30 days, the highest `sort` first."""
        asked = {"from": start, "to": end, "category": category, "sort": sort}
        for page in self._pages("/v1/products", models.Products, asked):
            yield from page.products

    def ranking(self, *, category: str | None = None) -> Iterator[models.Ranked]:
        """Products by rank, as of the last cycle."""
        for page in self._pages("/v1/products/ranking", models.Ranking, {"category": category}):
            yield from page.products

    def product(self, product_id: str, *, start: date | None = None, end: date | None = None) -> models.ProductOverTime:
        """One product, day by day."""
        return self._get(f"/v1/products/{_quoted(product_id)}", models.ProductOverTime, {"from": start, "to": end})

    def segments(self) -> list[models.Segment]:
        """The customer segments."""
        return self._get("/v1/customers/segments", models.Segments).segments

    def rfm(self, *, segment: str | None = None, analysis_date: date | None = None) -> Iterator[models.Score]:
        """Customers of a snapshot with their scores, by default the latest."""
        asked = {"segment": segment, "analysis_date": analysis_date}
        for page in self._pages("/v1/customers/rfm", models.Scores, asked):
            yield from page.customers

    def customer(self, user_id: str) -> models.Customer:
        """One customer."""
        return self._get(f"/v1/customers/{_quoted(user_id)}", models.Customer)

    def trends(self, *, period: str = "weekly", category: str = "All") -> Iterator[models.Trend]:
        """Sales by period, the latest first."""
        for page in self._pages("/v1/sales/trends", models.Trends, {"period": period, "category": category}):
            yield from page.trends

    def days(
        self, *, start: date | None = None, end: date | None = None, category: str = "All"
    ) -> list[models.SalesDay]:
        """Sales by day."""
        return self._get("/v1/sales/days", models.SalesDays, {"from": start, "to": end, "category": category}).days

    def today(self) -> models.Today:
        """Today so far."""
        return self._get("/v1/sales/today", models.Today)

    def last_hour(self) -> list[models.Minute]:
        """The last 60 minutes."""
        return self._get("/v1/sales/last-hour", models.LastHour).minutes

    def follow(self) -> Iterator[models.Today]:
        """Today so far, at once and after each change, until you stop."""
        with self.http.stream("GET", "/v1/sales/stream", timeout=httpx.Timeout(TIMEOUT_SECONDS, read=None)) as answer:
            if answer.is_error:
                answer.read()
                raise _error(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield models.Today.model_validate_json(line.removeprefix("data: "))

    def freshness(self) -> list[models.Freshness]:
        """How far ingestion and the facts are."""
        return self._get("/v1/pipeline/freshness", models.PipelineFreshness).tables

    def lag(self) -> list[models.Lag]:
        """What waits in Kafka."""
        return self._get("/v1/pipeline/lag", models.PipelineLag).topics

    def runs(self, *, job: str | None = None, status: str | None = None) -> Iterator[models.Run]:
        """What has run, the latest first."""
        for page in self._pages("/v1/pipeline/runs", models.Runs, {"job": job, "status": status}):
            yield from page.runs

    def quality(self) -> list[models.Finding]:
        """What the rules of data quality found in each job's last run."""
        return self._get("/v1/pipeline/quality", models.Quality).findings

    def reports(self) -> list[models.Report]:
        """The latest good report of each job."""
        return self._get("/v1/reports", models.Reports).reports

    def _get(self, path: str, kind: type[Answer], asked: dict[str, Any] | None = None) -> Answer:
        given = {name: str(value) for name, value in (asked or {}).items() if value is not None}
        answer = self.http.get(path, params=given)
        if answer.is_error:
            raise _error(answer)
        return kind.model_validate_json(answer.content)

    def _pages(self, path: str, kind: type[Answer], asked: dict[str, Any]) -> Iterator[Answer]:
        cursor = None
        while True:
            found = self._get(path, kind, {**asked, "limit": 500, "cursor": cursor})
            yield found
            cursor = getattr(found, "next", None)
            if cursor is None:
                return


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _error(answer: httpx.Response) -> ApiError:
    try:
        detail = str(answer.json()["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        detail = answer.text[:200]
    return ApiError(answer.status_code, detail)
