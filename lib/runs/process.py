"""The process of a run: a fork of a server process that has papermill loaded."""

import multiprocessing
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from tenacity import retry, retry_if_exception_type, stop_after_attempt

from lib.runs.assignment import Assignment

_exits = threading.Lock()
"""Held while exit codes are read. multiprocessing reads each one from a pipe, once, and starting a process reads those of
all others: two threads at it would lose one."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lib.runs.executor"])


def prepare() -> None:
    """Let the fork server begin to load what runs need, which takes seconds; without, it begins with the first run."""
    forkserver.ensure_running()


@retry(retry=retry_if_exception_type((EOFError, ConnectionError)), stop=stop_after_attempt(3), reraise=True)
def start(assignment: Assignment) -> tuple[ForkServerProcess, Connection]:
    """Start the run's process, and return it with the pipe that its reports arrive on.

    Tried again when the fork server dies meanwhile; multiprocessing starts a new one.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(assignment, sender), name=assignment.run_id, daemon=True)
    with _exits:
        process.start()
    sender.close()
    return process, receiver


def exit_code(process: ForkServerProcess) -> int | None:
    """The exit code of the process, negative for a signal; None while it is at work."""
    with _exits:
        return process.exitcode


def _work(assignment: Assignment, pipe: Connection) -> None:
    # imported here, so that only the fork server and its children load papermill
    from lib.runs import executor

    executor.work(assignment, pipe)
