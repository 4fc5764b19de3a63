"""Today's sales for all who follow them: read once per change, however many they are."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
from prometheus_client import Gauge
from psycopg_pool import PoolTimeout
from pydantic import BaseModel

from serving.api.problems import Unavailable

logger = logging.getLogger(__name__)

MOST = 500
"""More than so many aren't let in."""
BEAT_SECONDS = 15
"""After so long without a change a comment is sent, so that nobody on the way closes the connection."""

FOLLOWERS = Gauge("globalmart_api_followers", "Who follows the stream of sales.")


class Live:
    """The last figure, and those who wait for the next one. Who is slow misses figures, and gets the latest."""

    def __init__(self, read: Callable[[], Awaitable[BaseModel]]) -> None:
        self.read = read
        self.last: bytes | None = None
        self.number = 0
        self.followers = 0
        self.news = asyncio.Condition()

    async def changed(self) -> None:
        """Read the figure anew, if anybody follows, and tell all of them."""
        if not self.followers:
            self.last = None
            return
        try:
            figure = await self.read()
        except (psycopg.Error, PoolTimeout) as error:
            logger.warning("today's sales couldn't be read: %s", " ".join(str(error).split()))
            return
        async with self.news:
            self.number += 1
            self.last = f"id: {self.number}\nevent: today\ndata: {figure.model_dump_json()}\n\n".encode()
            self.news.notify_all()

    def follow(self) -> AsyncIterator[bytes]:
        """Figures as server-sent events: the last one at once, then each new one.

        Raises
        ------
        Unavailable
            When too many follow already.
        """
        if self.followers >= MOST:
            raise Unavailable(f"{MOST} follow already")
        return self._figures()

    async def _figures(self) -> AsyncIterator[bytes]:
        self.followers += 1
        FOLLOWERS.set(self.followers)
        try:
            if self.last is None:
                await self.changed()
            seen = 0
            while True:
                if self.last is not None and self.number != seen:
                    seen = self.number
                    yield self.last
                    continue
                try:
                    async with asyncio.timeout(BEAT_SECONDS), self.news:
                        await self.news.wait_for(lambda seen=seen: self.number != seen)  # type: ignore[misc]
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self.followers -= 1
            FOLLOWERS.set(self.followers)
