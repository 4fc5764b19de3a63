"""What the processes of a stack use: CPU, memory, file descriptors, listening sockets."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pandas as pd
import psutil

from lib.settings import Settings
from lib.stack import lifecycle


@dataclass
class Use:
    """What was used while a block ran: by the stack and what we started beside it, and by others on the machine."""

    seconds: float = 0
    cpu: float = 0
    others: float = 0

    @property
    def cores(self) -> float:
        """Cores that the stack kept busy."""
        return self.cpu / self.seconds


@contextmanager
def metered(config: Settings) -> Iterator[Use]:
    """Measure the block; the result is there when it is over."""
    use = Use()
    began, before, all_of_us = time.monotonic(), _spent(config), _busy()
    yield use
    use.seconds, use.cpu = time.monotonic() - began, used(before, _spent(config))
    use.others = max(_busy() - all_of_us - use.cpu, 0) / use.seconds


Process = tuple[int, float]
"""Number and start of a process; numbers are given again."""


@dataclass(frozen=True)
class Spent:
    """What a process has used of the CPU so far, its children that have ended included, and its parent."""

    seconds: float
    parent: int | None = None


def used(before: Mapping[Process, Spent], after: Mapping[Process, Spent]) -> float:
    """CPU seconds that were used between two looks at the same family of processes.

    A process that has ended in between is in its parent's sum, with what it had used before: that is taken off there. Where no
    ancestor is left that could have it in its sum, what it used in between isn't known, and isn't counted.
    """
    living = {process[0]: process for process in after if process in before}
    parents = {process[0]: spent.parent for process, spent in before.items()}
    earlier = dict.fromkeys(after, 0.0)
    for process, spent in before.items():
        if process in after:
            earlier[process] += spent.seconds
            continue
        heir = spent.parent
        while heir is not None and heir not in living:
            heir = parents.get(heir)
        if heir is not None:
            earlier[living[heir]] += spent.seconds
    return sum(max(spent.seconds - earlier[process], 0) for process, spent in after.items())


def _spent(config: Settings) -> dict[Process, Spent]:
    found = {(os.getpid(), psutil.Process().create_time()): Spent(sum(os.times()[:4]))}
    for process in marked(config):
        if process.pid != os.getpid():
            with suppress(psutil.Error):
                spent = Spent(sum(process.cpu_times()[:4]), _parent(process))
                found[process.pid, process.create_time()] = spent
    return found


def _busy() -> float:
    """CPU seconds of the whole machine."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


def marked(config: Settings) -> list[psutil.Process]:
    """The processes that carry the stack's mark, and their descendants: PostgreSQL's overwrite their environment."""
    everyone = {process.pid: process for process in psutil.process_iter()}
    parents = {pid: parent for pid, process in everyone.items() if (parent := _parent(process)) is not None}
    mine = {pid for pid, process in everyone.items() if _has_mark(process, str(config.data_dir))}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return [everyone[pid] for pid in sorted(mine)]


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("GM_STACK") == mark
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def holdings(config: Settings, programs: list[str]) -> pd.DataFrame:
    """One row per process of these programs: memory (resident, and of that what isn't shared), file descriptors, listening
    sockets.

    PostgreSQL's sessions share its buffers, which each has resident as far as it has touched them. The index
    is `(program, process)`; like processes of a program are numbered by age.
    """
    started = {row["pid"]: name for name, row in lifecycle.status(config).items() if name in programs}
    rows = []
    for process in sorted(marked(config), key=lambda one: one.create_time()):
        with suppress(psutil.NoSuchProcess):
            ancestors = [process.pid, *(parent.pid for parent in process.parents())]
            program = next((started[pid] for pid in ancestors if pid in started), "")
            if program:
                sockets = process.net_connections("inet")
                listening = sum(socket.status == psutil.CONN_LISTEN for socket in sockets)
                memory = process.memory_info()
                sizes = [memory.rss / 2**20, (memory.rss - memory.shared) / 2**20]
                rows.append([program, _kind(process), *sizes, process.num_fds(), listening])
    frame = pd.DataFrame(rows, columns=["program", "process", "MB", "own MB", "descriptors", "listening"])
    number = frame.groupby(["program", "process"]).cumcount() + 1
    frame["process"] += " " + number.astype(str)
    frame = frame.sort_values("program", key=lambda names: names.map(programs.index), kind="stable")
    return frame.set_index(["program", "process"]).round({"MB": 0, "own MB": 0})


KINDS = {
    "pyspark.daemon": "Python daemon",
    "pyspark": "Python worker",
    "ipykernel": "kernel",
    "forkserver": "fork server, run or kernel",
    "resource_tracker": "resource tracker",
    "schedule.py": "scheduler",
}
"""What people call a Python process, by a part of its command line; the first that fits."""


def _kind(process: psutil.Process) -> str:
    if process.name() == "postgres":
        title = process.cmdline()[0]
        name = title.removeprefix("postgres: ").split("(")[0] if title.startswith("postgres: ") else "postmaster"
        return f"session of {name.split()[0]}" if "127.0.0.1" in title or "::1" in title else name.strip()
    if process.name() == "java":
        return "JVM"
    line = " ".join(process.cmdline())
    return next((kind for part, kind in KINDS.items() if part in line), process.name())
