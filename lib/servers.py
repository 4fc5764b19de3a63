"""Addresses with passwords in them: checking them and connecting to them, without an error that shows the password."""

import contextlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from lib import brokers

SHORTEST = 4
"""A shorter password isn't looked for in errors, since it would be found in almost any text."""

SPARK_PORT = 15002
"""Where Spark Connect listens, unless an address says otherwise."""

DATABASE_HINT = "write postgresql://user:password@host:5432/database, with %40 for @, %2F for / … in the password"
REDIS_PORT = 6379
REDIS_HINT = "write redis://user:password@host:6379/0, with %40 for @, %2F for / … in the password; rediss:// for TLS"
SPARK_HINT = "write sc://host:15002/;token=…"


def check_database(address: SecretStr) -> SecretStr:
    """Refuse what isn't PostgreSQL's URL or connection string with host, user and database, as libpq's errors would quote it.

    Raises
    ------
    ValueError
        Saying what is wrong, and nothing of the address.
    """
    text = address.get_secret_value()
    if not text:
        return address
    try:
        place = parse_dsn(text)
    except (psycopg2.Error, ValueError):  # with a NUL, or with what isn't a character
        place = {}
    if not place:
        raise ValueError(f"isn't an address of a PostgreSQL database: {DATABASE_HINT}")
    if any("@" in place.get(name, "") for name in ("host", "port", "dbname")):
        raise ValueError(f"has a second @ or a / in its password: {DATABASE_HINT}")
    if missing := [name for name in ("host", "user", "dbname") if not place.get(name)]:
        raise ValueError(f"names no {missing[0].replace('dbname', 'database')}: {DATABASE_HINT}")
    if not all(map(_is_port, place.get("port", "5432").split(","))):
        raise ValueError(f"has a port that is no number up to 65535: {DATABASE_HINT}")
    return address


def check_spark(address: SecretStr) -> SecretStr:
    """Refuse what isn't a URL of Spark Connect, as its client's errors would quote it.

    Raises
    ------
    ValueError
        Saying what to write, and nothing of the address.
    """
    return _checked(address, _is_spark, f"a Spark Connect server: {SPARK_HINT}")


def check_redis(address: SecretStr) -> SecretStr:
    """Refuse what isn't a URL of a server of the Redis protocol, as its client's errors would quote it.

    Raises
    ------
    ValueError
        Saying what to write, and nothing of the address.
    """
    return _checked(address, _is_redis, f"a Redis server: {REDIS_HINT}")


def _checked(address: SecretStr, is_right: Callable[[str], bool], what: str) -> SecretStr:
    """The address, if it is empty or right."""
    text = address.get_secret_value()
    if text and not is_right(text):
        raise ValueError(f"isn't an address of {what}")
    return address


def _is_redis(text: str) -> bool:
    try:
        place = urlsplit(text)
        port = str(place.port or REDIS_PORT)
    except ValueError:
        return False
    is_whole = text.isascii() and text.isprintable() and not place.query and not place.fragment
    is_server = place.scheme in ("redis", "rediss") and bool(place.hostname) and _is_port(port)
    return is_whole and is_server and bool(re.fullmatch("(/[0-9]{0,3})?", place.path))


def _is_spark(text: str) -> bool:
    try:
        place = urlsplit(text)
        port = str(place.port or SPARK_PORT)
    except ValueError:
        return False
    path, _, parameters = place.path.partition(";")
    pairs = [pair.split("=") for pair in parameters.split(";") if pair]
    is_whole = text.isascii() and text.isprintable() and not place.query and not place.fragment and path in ("", "/")
    is_server = text.startswith("sc://") and bool(place.hostname) and "@" not in place.netloc and _is_port(port)
    return is_whole and is_server and all(len(pair) == 2 for pair in pairs)


def check_brokers(text: str) -> str:
    """The list of Kafka's brokers as every client reads it; an error doesn't repeat it, as it may hold a password by mistake.

    Raises
    ------
    ValueError
        Saying what to write.
    """
    with contextlib.suppress(ValueError):
        return brokers.normalised(text) if text else text
    raise ValueError("has to be host:port of each broker: write broker:9092, broker1:9092,broker2:9092 or [::1]:9092")


def _is_port(text: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,5}", text)) and 0 < int(text) < 1 << 16


def place(address: SecretStr) -> str:
    """Where a database is, without user and password."""
    found = parse_dsn(address.get_secret_value())
    return f"{found.get('host')}:{found.get('port', 5432)}/{found.get('dbname')}"


def connect(address: SecretStr, *, timeout: int = 10, **options: Any) -> Connection:
    """A connection to a database, in UTC; its errors don't show the password.

    Raises
    ------
    psycopg2.OperationalError
        When it doesn't answer, or refuses the login.
    """
    wanted: dict[str, Any] = {"connect_timeout": timeout, "options": "-c timezone=UTC"} | options
    try:
        connection: Connection = psycopg2.connect(address.get_secret_value(), **wanted)
        return connection
    except psycopg2.Error as error:
        kind, text = type(error), without_password(str(error), address)
    # raised outside of the handler, since the first error's traceback holds the address
    raise kind(text)


def without_password(text: str, address: SecretStr) -> str:
    """A text of libpq about an address, without its password."""
    clear = address.get_secret_value()
    try:
        password = parse_dsn(clear).get("password", "")
    except (psycopg2.Error, ValueError):
        return "the address of the database can't be read"
    for secret in (clear, password, quote(password, safe="")):
        text = text.replace(secret, "***") if len(secret) >= SHORTEST else text
    return text
