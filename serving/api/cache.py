"""Answers that are kept: in this process first, then in Redis, and computed once for a crowd that asks at the same time.

The key holds the version of the data, so an old answer can't be taken for a new one. Redis may be slow, away, full,
restarted, or answer rubbish: then answers are computed, and it is left alone for a while.
"""

import asyncio
import gzip
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from cachetools import LRUCache
from prometheus_client import Counter, Gauge
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

PREFIX = "gm:"
KEPT_SECONDS = 300
"""How long Redis keeps an answer, a fifth more or less: what was computed together mustn't end together."""
OWN_BYTES = 32 << 20
"""Room for answers in this process."""
LARGEST = 4 << 20
"""A larger answer isn't kept."""
WORTH_GZIP = 1000
"""Bytes from which on compressing pays."""

TIMEOUT = 0.1
"""Seconds that Redis may take; an answer is computed faster than that."""
FAILURES = 3
OPEN_SECONDS = 2.0
"""After so many failures in a row, Redis isn't asked for so long; then one request tries."""

LOCK_MS = 5_000
LOCK_LOOK_SECONDS = 0.02
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

ASKED = Counter("globalmart_api_cache_total", "Answers by where they came from.", ["source"])
AT_HAND = ASKED.labels("process")
TROUBLE = Counter("globalmart_api_cache_errors_total", "What went wrong with Redis.", ["kind"])
UP = Gauge("globalmart_api_cache_up", "Whether Redis is asked: 0 while it is left alone because it has failed.")
UP.set(1)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer: its body, the same compressed (empty where that isn't worth it), its media type, and a digest of the body."""

    body: bytes
    zipped: bytes
    media_type: str
    digest: str

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + len(self.zipped) + 200


def entry(body: bytes, media_type: str) -> Entry:
    """An answer, with what follows from its body."""
    zipped = gzip.compress(body, 5, mtime=0) if len(body) >= WORTH_GZIP else b""
    return Entry(body, zipped, media_type, _digest(body))


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


@dataclass
class Breaker:
    """Says whether Redis is to be asked."""

    failures: int = 0
    until: float = 0.0

    def is_open(self) -> bool:
        """Whether it is to be left alone now; when the time is up, one caller is let through."""
        if self.failures < FAILURES:
            return False
        if time.monotonic() < self.until:
            return True
        self.until = time.monotonic() + OPEN_SECONDS
        return False

    def failed(self) -> None:
        """It has failed once more."""
        self.failures += 1
        if self.failures == FAILURES:
            logger.warning("the cache is left alone: it has failed %s times in a row; answers are computed", FAILURES)
        if self.failures >= FAILURES:
            UP.set(0)
            self.until = time.monotonic() + OPEN_SECONDS

    def worked(self) -> None:
        """It has answered."""
        if self.failures >= FAILURES:
            logger.warning("the cache is back")
            UP.set(1)
        self.failures = 0


class Cache:
    """Answers by key, in this process and in Redis."""

    def __init__(self, address: SecretStr) -> None:
        self.own: LRUCache[str, Entry] = LRUCache(OWN_BYTES, getsizeof=lambda kept: kept.size)
        # without an address there is only this process's own room
        self.has_redis = bool(address.get_secret_value())
        self.redis = Redis.from_url(
            address.get_secret_value() or "redis://localhost",
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            max_connections=50,
            client_name="globalmart-api",
        )
        self.breaker = Breaker()
        self.computing: dict[str, asyncio.Task[Entry | None]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    def at_hand(self, key: str) -> Entry | None:
        """The answer, if this process has it."""
        found = self.own.get(key)
        if found is not None:
            AT_HAND.inc()
        return found

    async def get(self, key: str, compute: Callable[[], Awaitable[Entry | None]]) -> Entry | None:
        """The answer, from Redis or computed; those who ask for it meanwhile wait for the same.

        `compute` returns None when there is no answer to keep, and everybody who has waited gets None: each of them asks
        for itself then.
        """
        task = self.computing.get(key)
        if task is None:
            task = asyncio.create_task(self._find(key, compute))
            self.computing[key] = task
            task.add_done_callback(lambda _: self.computing.pop(key, None))
        else:
            ASKED.labels("waited").inc()
        # whoever goes away doesn't take the answer from the others
        return await asyncio.shield(task)

    async def _find(self, key: str, compute: Callable[[], Awaitable[Entry | None]]) -> Entry | None:
        if (found := await self._read(key)) is None:
            async with _Lock(self, key) as lock:
                # whoever had the lock before has left the answer there
                found = await self._read(key) if lock.has_waited else None
                if found is None:
                    found = await compute()
                    ASKED.labels("computed").inc()
                    if found is not None:
                        await self._write(key, found)
        else:
            ASKED.labels("redis").inc()
        if found is not None and found.size <= LARGEST:
            self.own[key] = found
        return found

    async def _read(self, key: str) -> Entry | None:
        kept = await self.ask(lambda: self.redis.get(f"{PREFIX}{key}"))
        if kept is None:
            return None
        try:
            found = _decode(kept)
        except (msgspec.MsgspecError, TypeError):
            found = None
        if found is None or _digest(found.body) != found.digest:
            TROUBLE.labels("rubbish").inc()
            logger.warning("the cache had something else than an answer; it is computed anew")
            return None
        return found

    async def _write(self, key: str, kept: Entry) -> None:
        if kept.size <= LARGEST:
            seconds = round(KEPT_SECONDS * random.uniform(0.8, 1.2))
            await self.ask(lambda: self.redis.set(f"{PREFIX}{key}", _encode(kept), ex=seconds))

    async def ask(self, question: Callable[[], Awaitable[object]]) -> bytes | None:
        """What Redis answers; None when it is away, slow, or left alone."""
        if not self.has_redis or self.breaker.is_open():
            return None
        try:
            answer = await question()
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            TROUBLE.labels(type(error).__name__).inc()
            self.breaker.failed()
            return None
        self.breaker.worked()
        return answer if isinstance(answer, bytes) else b"" if answer else None


class _Lock:
    """Only one process computes an answer; the others wait for it, but no longer than it is allowed to take."""

    def __init__(self, cache: Cache, key: str) -> None:
        self.cache, self.name, self.token = cache, f"{PREFIX}lock:{key}", secrets.token_hex(8)
        self.has_waited = False

    async def __aenter__(self) -> "_Lock":
        ends = time.monotonic() + LOCK_MS / 1000
        while not await self._take() and time.monotonic() < ends:
            self.has_waited = True
            await asyncio.sleep(LOCK_LOOK_SECONDS)
        return self

    async def _take(self) -> bool:
        taken = await self.cache.ask(lambda: self.cache.redis.set(self.name, self.token, nx=True, px=LOCK_MS))
        # without Redis nobody else can be waited for
        return taken is not None or not self.cache.has_redis or self.cache.breaker.failures > 0

    async def __aexit__(self, *_: object) -> None:
        await self.cache.ask(lambda: self.cache.redis.eval(RELEASE, 1, self.name, self.token))
