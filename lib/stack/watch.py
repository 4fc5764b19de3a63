"""Watches the embedded Spark servers: one that no longer computes is started anew, though its process still runs.

A server whose Spark context has stopped goes on to accept sessions, and fails every query of them. The process manager only
sees whether a process runs.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess

from pydantic import SecretStr

from lib.settings import Settings, required
from lib.spark import CONNECTING, close, connect
from lib.stack import lifecycle
from lib.stack.lifecycle import START_SECONDS

EVERY = 15
"""Seconds between two looks."""

PATIENCE = 60
"""Seconds that a query of three rows may take; on a machine that is busy with other things it takes some."""

ALLOWED = 3
"""Looks in a row without an answer after which a server is started anew."""

FORK = multiprocessing.get_context("fork")
"""A check is a process of its own, which can be given up; forked, it needs no second import of pyspark."""


@dataclass
class Server:
    """One server, as it was seen last: its process, since when, whether it has ever answered, and looks without answer."""

    pid: int = 0
    since: float = 0
    has_answered: bool = False
    missed: int = 0


@dataclass
class Watch:
    """Looks at the servers, and remembers what it saw."""

    config: Settings
    patience: float = PATIENCE
    allowed: int = ALLOWED
    servers: dict[str, Server] = field(default_factory=dict)

    def look(self) -> list[str]:
        """Ask each server that runs for a result; return those that were started anew."""
        programs, again = lifecycle.status(self.config), []
        for name, address in (("spark-speed", self.config.spark_speed), ("spark-batch", self.config.spark_batch)):
            row = programs.get(name, {})
            if row.get("state") != "RUNNING":
                continue
            server = self.servers.setdefault(name, Server())
            if server.pid != row["pid"]:
                server = self.servers[name] = Server(row["pid"], time.monotonic())
            if not self._is_dead(server, address):
                continue
            print(f"{name} has not computed anything at {server.missed} looks in a row: it is started anew", flush=True)
            # the process manager starts it again; a hanging one wouldn't follow a friendlier signal
            os.kill(server.pid, signal.SIGKILL)
            again.append(name)
        return again

    def _is_dead(self, server: Server, address: SecretStr) -> bool:
        """Whether a server that has answered before, or had the time to start, is without an answer too often."""
        if _within(self.patience, partial(_compute, address)):
            server.has_answered, server.missed = True, 0
        elif server.has_answered or time.monotonic() - server.since > START_SECONDS:
            server.missed += 1
        return server.missed >= self.allowed


def _compute(address: SecretStr) -> None:
    """One query that takes a job; it ends with an error where that isn't done."""
    session = connect(address, connecting=CONNECTING | {"max_retries": 1})
    try:
        assert session.range(3).count() == 3
    finally:
        close(session)


def _within(seconds: float, check: Callable[[], None]) -> bool:
    """Whether a check ends well within so long, in a process of its own."""
    process: BaseProcess = FORK.Process(target=check)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode == 0


def main() -> None:
    """Watch until the process is ended."""
    watch = Watch(required())
    while True:
        time.sleep(EVERY)
        watch.look()


if __name__ == "__main__":
    main()
