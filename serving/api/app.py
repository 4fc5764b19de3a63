"""The app: its parts put together, its document, and its page."""

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, LiteralString

import fastapi_swagger
import psycopg
from fastapi import APIRouter, FastAPI, Response
from fastapi import Query as QueryParameters
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import PoolTimeout
from starlette.types import Receive, Scope, Send

from lib.settings import Settings, required
from serving.api import customers, pipeline, problems, products, reports, sales
from serving.api.answers import Answers, Keys
from serving.api.cache import Cache
from serving.api.database import Database
from serving.api.live import Live
from serving.api.models import Health, Part
from serving.api.parameters import Query
from serving.api.versions import Versions

ABOUT = """
What customers look at, put into their carts and buy, to the last event that is stored: facts up to their last load, and
beside them the events that no load has read yet, each counted once.

Send a key as `X-API-Key`; `schedule.py api-key create NAME` makes one. Amounts of money are decimals as text. Days and times
are UTC. Lists come in pages: send `next` as `cursor` for the following one. Answers have a strong `ETag`: send it as
`If-None-Match`, and what hasn't changed isn't sent again. `GlobalMart-Data-Version` names the data that an answer was made of
or is newer than. Errors are problem details (RFC 9457).
"""
PAGE_ASSETS = Path(str(files(fastapi_swagger) / "resources"))


def create_app() -> "App":
    """The app, by the settings."""
    return App(required())


class App:
    """The API as an ASGI application; `api` is FastAPI's part of it."""

    def __init__(self, config: Settings) -> None:
        self.database = Database(config)
        self.cache = Cache(config.redis_url)
        self.live = Live(lambda: sales.read_today(self.database))
        self.versions = Versions(self.database, self.live.changed)
        self.keys = Keys(self.database, config.api_workers)
        self.api = FastAPI(
            title="GlobalMart",
            version="1",
            description=ABOUT,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url="/openapi.json",
        )
        problems.install(self.api)
        for router in (
            products.routes(self.database),
            customers.routes(self.database),
            sales.routes(self.database, self.live),
            pipeline.routes(self.database),
            reports.routes(self.database, config.runs_dir),
            self._health(),
        ):
            self.api.include_router(router)
        self._page()
        config.runs_dir.mkdir(parents=True, exist_ok=True)
        self.api.mount("/reports", reports.Gallery(directory=config.runs_dir, html=True), name="reports")
        self.api.openapi = self._document  # type: ignore[method-assign]
        self.answers = Answers(self.api, keys=self.keys, cache=self.cache, versions=self.versions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self.answers(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # the pool goes on trying when the warehouse is away
        await self.database.pool.open(wait=False)
        watching = [asyncio.create_task(self.versions.watch()), asyncio.create_task(self.keys.watch())]
        yield
        for task in watching:
            task.cancel()
        for task in watching:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.database.pool.close()
        await self.cache.close()

    def _health(self) -> APIRouter:
        router = APIRouter(tags=["health"])

        @router.get("/health/live", summary="Whether the process answers")
        async def is_live(query: Annotated[Query, QueryParameters()]) -> Part:
            """Always, as long as it does."""
            return Part(name="api", is_ready=True, detail="answers")

        @router.get("/health/ready", summary="Whether requests can be answered", responses={503: {"model": Health}})
        async def is_ready(query: Annotated[Query, QueryParameters()], response: Response) -> Health:
            """Whether the data can be reached. The cache is looked at, too, but isn't needed."""
            asked = (
                self._part("warehouse", "select version from serving.loaded_version"),
                self._part("realtime", "select version from serving.live_version"),
            )
            parts = list(await asyncio.gather(*asked))
            is_ready = all(part.is_ready for part in parts)
            answers = await self.cache.ask(self.cache.redis.ping) is not None
            parts.append(
                Part(name="cache", is_ready=answers, detail="answers" if answers else "away: slower, not wrong")
            )
            response.status_code = 200 if is_ready else 503
            return Health(is_ready=is_ready, parts=parts)

        @router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
        async def metrics(query: Annotated[Query, QueryParameters()]) -> Response:
            """Requests, seconds, cache and followers of this process."""
            # so that the figure of a cache that is back is right, though nobody has asked for anything
            await self.cache.ask(self.cache.redis.ping)
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return router

    async def _part(self, name: str, query: LiteralString) -> Part:
        try:
            await self.database.rows(query)
        except (psycopg.Error, PoolTimeout) as error:
            return Part(name=name, is_ready=False, detail=f"is away: {type(error).__name__}")
        return Part(name=name, is_ready=True, detail="answers")

    def _page(self) -> None:
        """The page of the API: its script and style are served here, so that it works with the network off."""
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="GlobalMart API",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon-32x32.png",
        )
        (script,) = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
        known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        page.headers["content-security-policy"] = (
            f"default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline';"
            f" script-src 'self' 'sha256-{known}'; frame-ancestors 'none'"
        )

        @self.api.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return page

        self.api.mount("/docs/assets", StaticFiles(directory=PAGE_ASSETS), name="assets")

    def _document(self) -> dict[str, Any]:
        """The OpenAPI document: with the key, and with every error as a problem."""
        if self.api.openapi_schema is None:
            made = get_openapi(
                title=self.api.title, version=self.api.version, description=ABOUT, routes=self.api.routes
            )
            made["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
            schemas = made["components"]["schemas"]
            problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs") | {"Problem": problem}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for path, methods in made["paths"].items():
                for operation in methods.values():
                    _add_problems(path, operation)
            self.api.openapi_schema = made
        return self.api.openapi_schema


def _add_problems(path: str, operation: dict[str, Any]) -> None:
    """Document what may go wrong with an operation."""
    answers = operation["responses"]
    takes_key = path.startswith("/v1/")
    possible = {422, 500}
    if takes_key:
        possible |= {401, 403, 429, 503}
    if "404" in answers:
        possible.add(404)
    for status in sorted(possible):
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        answers[str(status)] = {"description": problems.TITLES[status], "content": content}
    if takes_key:
        operation["security"] = [{"key": []}]
