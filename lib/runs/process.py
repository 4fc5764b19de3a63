"""The process of a run: forked from a server that has papermill loaded."""

import multiprocessing
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from tenacity import retry, retry_if_exception_type, stop_after_attempt

from lib.runs.assignment import Assignment

_exits = threading.Lock()
"""An exit code is read from a pipe once, and starting a process reads those of all others: one thread at a time."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lib.runs.executor"])


@retry(retry=retry_if_exception_type((EOFError, ConnectionError)), stop=stop_after_attempt(3), reraise=True)
def start(assignment: Assignment) -> tuple[ForkServerProcess, Connection]:
    """Start the run's process; returns it and the end of the pipe that it reports to.

    A fork server that dies meanwhile is started anew.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(assignment, sender), name=assignment.run_id, daemon=True)
    with _exits:
        process.start()
    sender.close()
    return process, receiver


def exit_code(process: ForkServerProcess) -> int | None:
    """What the process ended with, negative for a signal; None while it is at work."""
    with _exits:
        return process.exitcode


def _work(assignment: Assignment, pipe: Connection) -> None:
    # Only the fork server and its children pay for what this imports.
    from lib.runs import executor

    executor.work(assignment, pipe)
