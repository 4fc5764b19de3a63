"""What a run's process has to do, its exit codes, and how to kill everything that belongs to a run."""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

RUN_VARIABLE = "GM_RUN_ID"
"""The environment variable that carries a run's id into its kernel, and into every process that the kernel starts."""

FAILED = 1
KERNEL_DIED = 3
LOST = 255
"""What multiprocessing reports as exit code when the fork server died; the run's process itself may still be there."""


@dataclass(frozen=True)
class Assignment:
    """What a run's process has to do; the folder `runtime` is removed when the run is over."""

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
    """Whether it is a saver run. Its rows are committed once it has written, so a stop then lets it go on to its receipt."""

    @property
    def log(self) -> Path:
        """What the process and its kernel print outside of the notebook; removed at the end when it is empty."""
        return self.notebook.with_suffix(".log")


def kill(run_id: str, pid: int, *, ended: bool = False) -> None:
    """Kill what belongs to a run: its process, the processes of its session (the kernel is one), and all that carry its id.

    `ended` says that the run's process is gone. If a process with its pid exists all the same, the system has reused the
    pid, which it does only when nothing is left of the session with that number. So whoever is in that session now doesn't
    belong to the run, and is left alone.
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
