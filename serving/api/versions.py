"""Versions of the data: looked up a few times a second, so that an answer that is kept is known to be the latest."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg_pool import PoolTimeout

from serving.api.database import Database

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
OLD_SECONDS = 2.0
"""A version that was looked up so long ago says nothing: the data may have changed since."""


@dataclass
class _Look:
    query: LiteralString
    version: str | None = None
    at: float = 0.0
    is_away: bool = False


@dataclass
class Versions:
    """What the answers depend on: `live` changes with each event that is stored, `loaded` with each load only."""

    database: Database
    changed: Callable[[], Awaitable[None]] | None = None
    """Called when there is a new live version."""
    _looks: dict[str, _Look] = field(
        default_factory=lambda: {
            "loaded": _Look("select version from serving.loaded_version"),
            "live": _Look("select version from serving.live_version"),
        }
    )

    def current(self, kind: str) -> str | None:
        """The version `live` or `loaded`; None while it can't be looked up."""
        look = self._looks[kind]
        return look.version if time.monotonic() - look.at < OLD_SECONDS else None

    async def watch(self) -> None:
        """Look again and again, until cancelled; a database that is away is told once, and looked for again."""
        while True:
            before = self._looks["live"].version
            for kind in self._looks:
                await self._look(kind)
            if self.changed and self._looks["live"].version != before:
                await self.changed()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, kind: str) -> None:
        look = self._looks[kind]
        began = time.monotonic()
        try:
            rows = await self.database.rows(look.query)
        except (psycopg.Error, PoolTimeout) as error:
            if not look.is_away:
                logger.warning("the %s version can't be looked up: %s", kind, " ".join(str(error).split()))
            look.is_away = True
            return
        # as of the beginning: what was committed since isn't in it for sure
        look.version, look.at, look.is_away = str(rows[0]["version"]), began, False
