"""The process of a run: forked from a server that has papermill loaded, and ended together with its kernel."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
from tenacity import retry, retry_if_exception_type, stop_after_attempt

RUN_VARIABLE = "GM_RUN_ID"
"""Carries the id of the run into its kernel, and into every process that the kernel starts."""

FAILED = 1
KERNEL_DIED = 3
LOST = 255
"""What multiprocessing reports when the fork server died: the process itself may still be there."""

_exits = threading.Lock()
"""An exit code is read from a pipe once, and starting a process reads those of all others: one thread at a time."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lib.runs.executor"])


@dataclass(frozen=True)
class Assignment:
    """What a run's process has to do; `runtime` is a folder that is removed when the run is over."""

    run_id: str
    source: Path
    notebook: Path
    reports: tuple[Path, Path]
    """The run's own report, and the job's latest one, which only a good run replaces."""
    assets: Path
    runtime: Path
    parameters: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)
    streams: bool = False
    """Whether it is a saver: what it has written stays, so once that is done a stop lets it go on to its receipt."""

    @property
    def log(self) -> Path:
        """What the process and its kernel say outside of the notebook; gone when that was nothing."""
        return self.notebook.with_suffix(".log")


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


def kill(run_id: str, pid: int, *, ended: bool = False) -> None:
    """Kill what belongs to a run: its process, its session (the kernel is in it), and every process that carries its id.

    `ended` says that the process itself is gone. Its number belongs to another one by now if there is a process with it:
    the system doesn't hand out the number of a session that has members.
    """
    reused = ended and psutil.pid_exists(pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            in_session = not reused and os.getsid(process.pid) == pid
            if process.pid != pid and (in_session or process.environ().get(RUN_VARIABLE) == run_id):
                process.kill()
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
