"""`python deploy/check.py PROGRAM`: whether one of our programs does its work, for the health check of its container.

A Spark server whose context has stopped goes on to accept sessions, and fails every query of them; no container is
restarted for that. So a server that hasn't computed anything at `ALLOWED` looks in a row is ended, and its container starts
anew. `lib.stack.watch` does the same for the local stack.
"""

import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2

from lib import brokers, locks, servers
from lib.settings import Settings, required

ALLOWED = 3
"""Looks in a row without an answer after which a Spark server is ended."""

HEARTBEAT_SECONDS = 120
"""A saver that fails is started again within seconds; one that shows no sign of life for so long isn't at work."""

SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"


class NotWell(Exception):
    """The program doesn't do its work; the message says what is missing."""


def main() -> None:
    """Exit code 0 when the program of that name is well; else 1, and a line that says why."""
    try:
        CHECKS[sys.argv[1]](required())
    except (NotWell, OSError, RuntimeError, psycopg2.Error) as error:
        sys.exit(f"{sys.argv[1]}: {' '.join(str(error).split())}")


def _spark(config: Settings, layer: str) -> None:
    # imported here, since it takes a second, which the other checks shouldn't spend
    from lib.stack.lifecycle import START_SECONDS, spark_answers

    misses = Path(tempfile.gettempdir()) / "globalmart-misses"
    try:
        spark_answers(getattr(config, f"spark_{layer}"))
    except RuntimeError:
        _count(misses, START_SECONDS)
        raise
    misses.write_text("0")


def _count(misses: Path, patience: float) -> None:
    """Count a look without an answer, of a server that has answered before or had the time to; end one with too many."""
    server = _server()
    if server is None or (not misses.exists() and time.time() - server.create_time() < patience):
        return
    missed = int(misses.read_text() if misses.exists() else 0) + 1
    misses.write_text(str(missed))
    if missed >= ALLOWED:
        misses.unlink()
        # a hanging one wouldn't follow a friendlier signal
        server.kill()


def _server() -> psutil.Process | None:
    """The server's process, of which a container has one; never one of another user."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        if SERVER in (process.info["cmdline"] or []) and process.info["uids"].real == os.getuid():
            return process
    return None


def _savers(config: Settings) -> None:
    with closing(servers.connect(config.address("realtime"))) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select source_table from ops.ingest_heads where heartbeat_at is null"
            " or heartbeat_at < clock_timestamp() - make_interval(secs => %s) order by source_table",
            [HEARTBEAT_SECONDS],
        )
        if silent := [table for (table,) in cursor.fetchall()]:
            raise NotWell(f"no sign of life from the saver of {', '.join(silent)}")


def _scheduler(config: Settings) -> None:
    if not locks.is_held("cron"):
        raise NotWell("nobody holds the scheduler's lock")


def _generators(config: Settings) -> None:
    brokers.reach(config.kafka_bootstrap, seconds=3)


def _answers(config: Settings, port: int, path: str) -> None:
    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3).close()


CHECKS: dict[str, Callable[[Settings], None]] = {
    "spark-speed": lambda config: _spark(config, "speed"),
    "spark-batch": lambda config: _spark(config, "batch"),
    "savers": _savers,
    "scheduler": _scheduler,
    "generators": _generators,
    "metrics": lambda config: _answers(config, config.metrics_port, "/metrics?name[]=globalmart_up"),
    "api": lambda config: _answers(config, config.api_port, "/health/live"),
}


if __name__ == "__main__":
    main()
