"""Spark sessions: thin clients of the two long-lived Spark Connect servers."""

import atexit
import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

from psycopg2.extensions import parse_dsn
from pydantic import SecretStr
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy
from pyspark.sql.connect.session import SparkSession as ConnectSession

from lib import servers
from lib.settings import settings

# an error of a query says where in it already; this would print it once more, as a line of JSON
for _printer in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
    PySparkLogger.getLogger(_printer).disabled = True

# makes `pyspark.sql.functions` return columns for Connect; `SparkSession.builder.remote` would set it as well
os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"

CONNECTING = {"max_retries": 30, "initial_backoff": 100, "backoff_multiplier": 2.0, "max_backoff": 1000}
"""Waits about half a minute for a server that is being restarted; times are in milliseconds."""
AT_WORK = {"max_retries": 6, "initial_backoff": 100, "backoff_multiplier": 3.0, "max_backoff": 1500}
"""A server that is gone is noticed within about six seconds; Spark's default takes minutes."""
STREAMING = {"max_retries": 3, "initial_backoff": 100, "backoff_multiplier": 3.0, "max_backoff": 900}
"""Nothing is stored while a saver waits for its server: it gives up within about a second, and is started again."""

FETCH_SIZE = 10_000
"""Rows that PostgreSQL sends at a time."""

PUSHED = ("Aggregate", "Limit", "Offset", "TableSample", "Join")
"""What PostgreSQL computes of a query on a catalog, beside filters and the choice of columns."""

INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}
"""For few rows: Spark interprets plans as they are. To compile them, and to plan again at each shuffle, takes longer."""

READS_ONLY = "options=-c%20default_transaction_read_only=on"
"""The property of a JDBC connection that can't write."""


def speed() -> SparkSession:
    """A session on the server of the speed layer, for streaming."""
    return connect(settings().spark_speed, STREAMING)


def batch(*, few_rows: bool = False) -> SparkSession:
    """A session on the server of the batch layer, for ETL and analytics.

    It knows the databases' tables by name, as `warehouse.public.fact_sales` and `realtime.public.transactions`, and reads
    what is committed of them; it can't write there. With `few_rows` its queries are interpreted, which for less than about
    50,000 rows is faster than compiling them.
    """
    session = connect(settings().spark_batch)
    session.conf._set_all(catalogs() | (INTERPRETED if few_rows else {}), silent=False)  # in one request
    return session


def jdbc(database: str, *properties: str) -> dict[str, str]:
    """Options of Spark's JDBC source and sink for `realtime` or `warehouse`.

    Texts are sent untyped, so that PostgreSQL casts them. The password isn't among the options, since whoever sees a query
    in Spark sees those: the server's PostgreSQL driver finds it in the file that `PGPASSFILE` names.
    """
    dsn = parse_dsn(settings().dsn(database))
    named = ("reWriteBatchedInserts=true", "stringtype=unspecified", "ApplicationName=globalmart", *properties)
    return {
        "url": f"jdbc:postgresql://{dsn['host']}:{dsn.get('port', '5432')}/{dsn['dbname']}?{'&'.join(named)}",
        "user": dsn["user"],
        "driver": "org.postgresql.Driver",
        "fetchsize": str(FETCH_SIZE),
    }


def catalogs() -> dict[str, str]:
    """Settings that make both databases catalogs of a session; per session, since a rebuild has a warehouse of its own."""
    found = {"spark.sql.optimizer.datasourceV2JoinPushdown": "true"}
    for database in ("realtime", "warehouse"):
        name = f"spark.sql.catalog.{database}"
        found[name] = "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog"
        options = jdbc(database, READS_ONLY) | {f"pushDown{what}": "true" for what in PUSHED}
        found |= {f"{name}.{option}": value for option, value in options.items()}
    return found


def connect(
    address: SecretStr, retries: dict[str, Any] = AT_WORK, connecting: dict[str, Any] = CONNECTING
) -> SparkSession:
    """A new session on the Spark Connect server at `address`; it is closed when this process ends normally."""
    _say_if_away(address)
    session = ConnectSession(connection=address.get_secret_value())
    session.client.set_retry_policies([DefaultPolicy(**connecting)])
    assert session.version
    session.client.set_retry_policies([DefaultPolicy(**retries)])
    atexit.register(close, session)
    return session


def _say_if_away(address: SecretStr) -> None:
    """Say that nothing answers at the address of a server: to connect then waits for it, in silence, for a minute or more."""
    place = urlsplit(address.get_secret_value())
    host, port = place.hostname or "", place.port or servers.SPARK_PORT
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        print(
            f"Spark doesn't answer at {host}:{port}; waiting, as it may be starting."
            " (`make status` says what runs, `make up` starts the stack.)",
            file=sys.stderr,
        )


def attach(address: SecretStr, session_id: str) -> SparkSession:
    """The session `session_id` of another client of the server at `address`."""
    parameters = "/;" if ";" not in address.get_secret_value() else ";"
    of_session = SecretStr(f"{address.get_secret_value().rstrip('/;')}{parameters}session_id={session_id}")
    return connect(of_session, STREAMING, STREAMING)


def close(session: SparkSession) -> None:
    """End a session on its server, with all that still runs in it; harmless when it is closed."""
    if not session.is_stopped:
        session.stop()
