"""What stands in front of the routes: keys, rate limits, answers that are kept, and the headers of all answers."""

import asyncio
import base64
import binascii
import functools
import logging
import math
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

import psycopg
from prometheus_client import Counter, Histogram
from psycopg_pool import PoolTimeout
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import SCOPES, Key, digest, from_row
from serving.api import problems
from serving.api.cache import Cache, Entry, entry
from serving.api.database import Database
from serving.api.versions import Versions

logger = logging.getLogger(__name__)

ROOT = "/v1/"
LOADED = ("/v1/customers/segments", "/v1/customers/rfm", "/v1/sales/trends", "/v1/products/ranking")
"""What only a load changes; all else that is kept may change with each event, such as a customer called `rfm_1`."""
BY_MINUTE = ("/v1/sales/last-hour",)
"""What changes with the clock, too; all else with the day."""
NOT_KEPT = ("/v1/pipeline", "/v1/reports", "/v1/sales/stream")
FILES = "/reports"

KEYS_SECONDS = 2.0
"""How long a key that was revoked may still work."""
UNKNOWN_SECONDS = 0.2
"""How often unknown keys may have the database asked for new ones."""

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
OWN_POLICY = ("/docs", "/reports")
"""What shows pages says itself what they may do."""
STRICT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

REQUESTS = Counter("globalmart_api_requests_total", "Requests by area and status.", ["area", "status"])
SECONDS = Histogram(
    "globalmart_api_seconds",
    "Seconds until the answer, by area.",
    ["area"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REFUSED = Counter("globalmart_api_refused_total", "Requests that were refused, by reason.", ["reason"])


class Refused(Exception):
    """A request that isn't let through."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


@dataclass
class Bucket:
    """A token bucket: so many requests a minute, and as many at once after a minute without any."""

    per_minute: float
    level: float = 0.0
    at: float = 0.0

    def take(self) -> float:
        """Take a token if there is one; else the seconds until there is."""
        now = time.monotonic()
        self.level = max(0.0, self.level - (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.level + 1 > self.per_minute:
            return (self.level + 1 - self.per_minute) * 60 / self.per_minute
        self.level += 1
        return 0.0


class Keys:
    """The keys that are valid, looked up again and again; and how often each may ask."""

    def __init__(self, database: Database, workers: int) -> None:
        self.database, self.workers = database, workers
        self.known: dict[bytes, Key] = {}
        self.at = 0.0
        self.lock = asyncio.Lock()
        self.buckets: dict[str, Bucket] = {}

    async def watch(self) -> None:
        """Look keys up every few seconds, until cancelled."""
        while True:
            await self._look(KEYS_SECONDS / 2)
            await asyncio.sleep(KEYS_SECONDS / 2)

    async def _look(self, unless_younger: float) -> None:
        async with self.lock:
            if time.monotonic() - self.at < unless_younger:
                return
            began = time.monotonic()
            try:
                rows = await self.database.rows("select * from serving.api_keys where revoked_at is null")
            except (psycopg.Error, PoolTimeout):
                return
            keys = [from_row(row) for row in rows]
            self.known = {key.sha256: key for key in keys}
            self.at = began

    async def admit(self, token: str, area: str) -> None:
        """Let a request in, if its key opens the area now; counts it.

        Raises
        ------
        Refused
            401 without a valid key, 403 for another area, 429 for too many requests, 503 when keys can't be looked up.
        """
        if not token:
            raise Refused(401, "Send a key as X-API-Key: `schedule.py api-key create` makes one", **_WHO)
        sha256 = digest(token)
        key = self.known.get(sha256)
        if key is None:
            await self._look(UNKNOWN_SECONDS)
            key = self.known.get(sha256)
        if not self.known and not self.at:
            raise Refused(503, "Keys can't be looked up: the database is away; asking again may help")
        if key is None or not key.is_valid(datetime.now(UTC)):
            raise Refused(401, "This key is unknown, has ended, or was revoked", **_WHO)
        if area in SCOPES and area not in key.scopes:
            raise Refused(403, f"This key opens {', '.join(key.scopes)}, and not {area}")
        bucket = self.buckets.get(key.key_id)
        if bucket is None:
            bucket = self.buckets[key.key_id] = Bucket(max(key.per_minute / self.workers, 1))
        if (wait := bucket.take()) > 0:
            told = {"Retry-After": str(math.ceil(wait))}
            raise Refused(429, f"This key may ask {key.per_minute} times a minute", **told)


_WHO = {"WWW-Authenticate": 'ApiKey realm="globalmart"'}


class Answers:
    """The outermost part of the app: what is under `/v1/` and `/reports` takes a key; what can be kept is kept."""

    def __init__(self, app: ASGIApp, *, keys: Keys, cache: Cache, versions: Versions) -> None:
        self.app, self.keys, self.cache, self.versions = app, keys, cache, versions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        path: str = scope["path"]
        area = _area(path)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = () if path.startswith(OWN_POLICY) else (STRICT,)
                message = {**message, "headers": [*message["headers"], *SECURITY, *policy]}
            await send(message)

        try:
            if area:
                await self._closed(scope, receive, answer, path, area)
            else:
                await self.app(scope, receive, answer)
        finally:
            requests, seconds = _counters(area or "open", status)
            requests.inc()
            seconds.observe(time.perf_counter() - began)

    async def _closed(self, scope: Scope, receive: Receive, send: Send, path: str, area: str) -> None:
        headers = dict(scope["headers"])
        try:
            await self.keys.admit(_token(headers), area)
        except Refused as refused:
            REFUSED.labels(str(refused.status)).inc()
            told = dict(refused.headers)
            if refused.status == 401 and path.startswith(FILES):
                told["WWW-Authenticate"] = 'Basic realm="GlobalMart: any name, and the key as the password"'
            await problems.response(refused.status, refused.detail, told)(scope, receive, send)
            return
        method = scope["method"]
        if method not in ("GET", "HEAD") or path.startswith((*NOT_KEPT, FILES)):
            await self.app(scope, receive, send)
            return
        await self._kept(scope, receive, send, path, headers)

    async def _kept(
        self, scope: Scope, receive: Receive, send: Send, path: str, headers: MutableMapping[bytes, bytes]
    ) -> None:
        version = self.versions.current("loaded" if path in LOADED else "live")
        if version is None:
            detail = "It can't be said how new the data is: a database is away; asking again may help"
            await problems.response(503, detail)(scope, receive, send)
            return
        key = _key(path, scope["query_string"], version)
        found = self.cache.at_hand(key)
        if found is None:
            # the one who computes it may go away before the others, so the route doesn't see their connection
            other: list[Message] = []
            found = await self.cache.get(key, lambda: self._compute(scope, other))
            if found is None and not other:
                # who has waited for somebody else's answer, which was none, asks again, and may get one
                found = await self._compute(scope, other)
            if found is None:
                for message in other:
                    await send(message)
                return
        await _send(found, version, headers, scope["method"] == "HEAD", send)

    async def _compute(self, scope: Scope, other: list[Message]) -> Entry | None:
        """Ask the route; what it says is kept if it is an answer, and else left in `other`."""
        said: list[Message] = []

        async def keep(message: Message) -> None:
            said.append(message)

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        try:
            await self.app({**scope, "method": "GET"}, nothing, keep)
        except Exception:
            # it has been answered, and logged: an error that no route has foreseen
            if not said:
                raise
        if said[0]["status"] != 200:
            other.extend(said)
            return None
        body = b"".join(message.get("body", b"") for message in said[1:])
        media_type = dict(said[0]["headers"]).get(b"content-type", b"application/json").decode()
        return entry(body, media_type)


@functools.cache
def _counters(area: str, status: int) -> tuple[Counter, Histogram]:
    """The figures of an area; looking them up by their labels takes longer than counting."""
    return REQUESTS.labels(area, status), SECONDS.labels(area)


def _area(path: str) -> str:
    """The area whose scope a path takes, "other" for one that there isn't; none for what is open."""
    if path.startswith(ROOT):
        area = path[len(ROOT) :].partition("/")[0]
        return area if area in SCOPES else "other"
    return "reports" if path == FILES or path.startswith(f"{FILES}/") else ""


def _token(headers: MutableMapping[bytes, bytes]) -> str:
    """The key that a request comes with: as X-API-Key, or as the password of a browser that was asked for one."""
    if given := headers.get(b"x-api-key"):
        return given.decode("latin-1")
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _key(path: str, query: bytes, version: str) -> str:
    """What an answer depends on: what was asked for, the data, and the clock."""
    pairs = sorted(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else []
    clock = f"{datetime.now(UTC):%Y-%m-%dT%H:%M}" if path in BY_MINUTE else f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{version}:{digest(f'{clock} {path}?{urlencode(pairs)}').hex()[:40]}"


async def _send(found: Entry, version: str, headers: MutableMapping[bytes, bytes], is_head: bool, send: Send) -> None:
    """Send an answer, compressed for who takes that; nothing but its headers to who has it already."""
    zips = bool(found.zipped) and b"gzip" in headers.get(b"accept-encoding", b"")
    body = found.zipped if zips else found.body
    etag = f'"{found.digest}{"-gzip" if zips else ""}"'.encode()
    told = [
        (b"etag", etag),
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Accept-Encoding"),
        (b"globalmart-data-version", version.encode()),
    ]
    if _matches(headers.get(b"if-none-match", b""), etag):
        await send({"type": "http.response.start", "status": 304, "headers": told})
        await send({"type": "http.response.body", "body": b""})
        return
    told += [(b"content-type", found.media_type.encode()), (b"content-length", str(len(body)).encode())]
    told += [(b"content-encoding", b"gzip")] if zips else []
    await send({"type": "http.response.start", "status": 200, "headers": told})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


def _matches(wanted: bytes, etag: bytes) -> bool:
    if not wanted:
        return False
    tags = [tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")]
    return b"*" in tags or etag in tags
