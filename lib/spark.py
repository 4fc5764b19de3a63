"""Spark sessions: thin clients of the two long-lived Spark Connect servers."""

import atexit
import os
from typing import Any

from pydantic import SecretStr
from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy
from pyspark.sql.connect.session import SparkSession as ConnectSession

from lib.settings import settings

# `pyspark.sql.functions` makes its columns for Connect when this is set, which `SparkSession.builder.remote` would do
os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"

CONNECTING = {"max_retries": 30, "initial_backoff": 100, "backoff_multiplier": 2.0, "max_backoff": 1000}
"""A server that is being started again is waited for, about half a minute (milliseconds here)."""
AT_WORK = {"max_retries": 6, "initial_backoff": 100, "backoff_multiplier": 3.0, "max_backoff": 1500}
"""A server that is gone is noticed within about six seconds; Spark's default takes minutes."""
STREAMING = {"max_retries": 3, "initial_backoff": 100, "backoff_multiplier": 3.0, "max_backoff": 900}
"""Nothing is stored while a saver waits for its server: it gives up within about a second, and is started again."""


def speed() -> SparkSession:
    """A session on the server of the speed layer, for streaming."""
    return connect(settings().spark_speed, STREAMING)


def batch() -> SparkSession:
    """A session on the server of the batch layer, for ETL and analytics."""
    return connect(settings().spark_batch)


def connect(
    address: SecretStr, retries: dict[str, Any] = AT_WORK, connecting: dict[str, Any] = CONNECTING
) -> SparkSession:
    """A new session on the Spark Connect server at `address`; it is closed when this process ends in order."""
    session = ConnectSession(connection=address.get_secret_value())
    session.client.set_retry_policies([DefaultPolicy(**connecting)])
    assert session.version
    session.client.set_retry_policies([DefaultPolicy(**retries)])
    atexit.register(close, session)
    return session


def attach(address: SecretStr, session_id: str) -> SparkSession:
    """The session `session_id` of another client of the server at `address`."""
    parameters = "/;" if ";" not in address.get_secret_value() else ";"
    of_session = SecretStr(f"{address.get_secret_value().rstrip('/;')}{parameters}session_id={session_id}")
    return connect(of_session, STREAMING, STREAMING)


def close(session: SparkSession) -> None:
    """End a session on its server, with all that still runs in it; harmless when it is closed."""
    if not session.is_stopped:
        session.stop()
