"""What a run's process has to do, what it ends with, and how all that belongs to it is ended."""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

RUN_VARIABLE = "GM_RUN_ID"
"""Carries the id of the run into its kernel, and into every process that the kernel starts."""

FAILED = 1
KERNEL_DIED = 3
LOST = 255
"""What multiprocessing reports when the fork server died: the process itself may still be there."""


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
