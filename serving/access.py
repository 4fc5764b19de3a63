"""Keys of the API: made, listed and revoked by people, read by the server. Only their hashes are kept."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extras import RealDictCursor

from lib.runs import registry

SCOPES = ("products", "customers", "sales", "pipeline", "reports")
"""The areas of the API; a key opens some of them."""

PER_MINUTE = 600
LOCAL = "local"
"""The client that `GM_API_KEY` belongs to: whoever can read `.env`."""


class AccessError(Exception):
    """A key can't be made or revoked; the message says why."""


@dataclass(frozen=True)
class Key:
    """A row of `ops.api_keys`."""

    key_id: str
    client: str
    sha256: bytes
    scopes: tuple[str, ...]
    per_minute: int
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def digest(token: str) -> bytes:
    """What is kept of a key. It is random and long, so that one round of SHA-256 is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def create(
    client: str, scopes: Sequence[str] = SCOPES, *, days: float | None = None, per_minute: int = PER_MINUTE
) -> tuple[str, Key]:
    """Make a key, and return it with its row; it can't be shown again.

    Raises
    ------
    AccessError
        When a scope is none, or a number makes no sense.
    """
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise AccessError(f"{', '.join(unknown)}: a scope is one of {', '.join(SCOPES)}")
    if not client.strip() or not client.isprintable():
        raise AccessError("a client has a name, such as that of the team or the program that asks")
    if per_minute < 1 or (days is not None and not 0 < days < 36_500):
        raise AccessError(
            "a key allows at least one request a minute, and ends between now and a hundred years from now"
        )
    key_id = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(8))
    token = f"gm_{key_id}_{secrets.token_urlsafe(24)}"
    ends = datetime.now(UTC) + timedelta(days=days) if days else None
    return token, _insert(key_id, client.strip(), token, scopes, per_minute, ends)


def ensure_local(token: str) -> None:
    """Let the key of `.env` open everything; one that it had before is revoked."""
    with registry.warehouse() as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtext('ops.api_keys'))")
        cursor.execute(
            "update ops.api_keys set revoked_at = clock_timestamp()"
            " where client = %s and sha256 <> %s and revoked_at is null",
            [LOCAL, digest(token)],
        )
        cursor.execute(
            "insert into ops.api_keys (key_id, client, sha256, scopes, per_minute) values (%s, %s, %s, %s, %s)"
            " on conflict (sha256) do nothing",
            [digest(token).hex()[:8], LOCAL, digest(token), list(SCOPES), 100 * PER_MINUTE],
        )


def listing() -> list[Key]:
    """All keys, those of today first."""
    with registry.warehouse() as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("select * from serving.api_keys order by created_at desc, key_id")
        return [from_row(row) for row in cursor.fetchall()]


def revoke(key_id: str) -> bool:
    """Revoke a key; False when it was revoked already.

    Raises
    ------
    AccessError
        When there is no such key.
    """
    with registry.warehouse() as connection, connection.cursor() as cursor:
        cursor.execute(
            "update ops.api_keys set revoked_at = clock_timestamp() where key_id = %s and revoked_at is null", [key_id]
        )
        if cursor.rowcount:
            return True
        cursor.execute("select from ops.api_keys where key_id = %s", [key_id])
        if not cursor.rowcount:
            raise AccessError(f"there is no key {key_id}: `schedule.py api-key list` shows them")
        return False


def _insert(
    key_id: str, client: str, token: str, scopes: Sequence[str], per_minute: int, expires_at: datetime | None
) -> Key:
    with registry.warehouse() as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(
            "insert into ops.api_keys (key_id, client, sha256, scopes, per_minute, expires_at)"
            " values (%s, %s, %s, %s, %s, %s) returning *",
            [key_id, client, digest(token), list(scopes), per_minute, expires_at],
        )
        row = cursor.fetchone()
        assert row is not None
        return from_row(row)


def from_row(row: Any) -> Key:
    """A row of `serving.api_keys`, by name of column."""
    values = dict(row)
    return Key(**values | {"sha256": bytes(values["sha256"]), "scopes": tuple(values["scopes"])})
