"""Errors as problem details (RFC 9457): one shape for whatever went wrong, and never a traceback."""

import json
import logging
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "The request can't be read",
    401: "A key is needed",
    403: "The key doesn't open this",
    404: "There is no such thing",
    405: "This can only be read",
    422: "The request asks for something that can't be",
    429: "Too many requests",
    500: "The server is at fault",
    503: "The data can't be reached now",
}
RETRY_SECONDS = 2


class Fault(BaseModel):
    """What is wrong with one parameter."""

    parameter: str = Field(examples=["limit"])
    message: str = Field(examples=["Input should be less than or equal to 500"])


class Problem(BaseModel):
    """Why there is no answer."""

    title: str = Field(examples=[TITLES[422]])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["limit: Input should be less than or equal to 500"])
    errors: list[Fault] = Field(default=[], description="Of 422: each parameter that is wrong.")


class Unavailable(Exception):
    """The data can't be reached now; asking again may help."""


def body(status: int, detail: str, errors: list[dict[str, str]] | None = None) -> bytes:
    """A problem as JSON."""
    told: dict[str, Any] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    return json.dumps(told | ({"errors": errors} if errors else {}), ensure_ascii=False).encode("utf-8", "replace")


def response(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[dict[str, str]] | None = None
) -> Response:
    """A problem as an answer."""
    retry = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return Response(body(status, detail, errors), status, retry | (headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the app with a problem."""

    @app.exception_handler(StarletteHTTPException)
    async def _http(request: Request, error: StarletteHTTPException) -> Response:
        detail = error.detail if isinstance(error, HTTPException) else f"{request.url.path}: {error.detail}"
        return response(error.status_code, str(detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [
            {"parameter": ".".join(map(str, each["loc"][1:])) or str(each["loc"][0]), "message": each["msg"]}
            for each in error.errors()
        ]
        return response(422, "; ".join(f"{each['parameter']}: {each['message']}" for each in faults), errors=faults)

    @app.exception_handler(Unavailable)
    async def _unavailable(request: Request, error: Unavailable) -> Response:
        return response(503, str(error))

    @app.exception_handler(PoolTimeout)
    @app.exception_handler(psycopg.Error)
    async def _database(request: Request, error: psycopg.Error) -> Response:
        if isinstance(error, psycopg.DataError):
            return response(422, "A value is out of the range that the data can have")
        if isinstance(error, psycopg.errors.QueryCanceled):
            return response(503, "The answer takes too long: ask for fewer days, or try again later")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout):
            logger.warning("%s: the database is away: %s", request.url.path, " ".join(str(error).split()))
            return response(503, "The database is away or busy; asking again may help")
        logger.exception("%s", request.url.path)
        return response(500, "A query failed; the server's log says which")

    @app.exception_handler(Exception)
    async def _any(request: Request, error: Exception) -> Response:
        logger.exception("%s", request.url.path)
        return response(500, "The server's log says what happened")
