"""Batch cycles under SIGKILL: each is resumed on its cut, and the warehouse is that of cycles that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import stored
from arrivals import DAYS, LATEST, apart, batches, commit, day_start
from line import Schedule
from world import eventually

from lib.settings import ROOT, Settings
from lib.stack import lifecycle as parts_of_stack

KINDS = ("kernel", "run", "scheduler", "warehouse", "spark-batch")
LOADS = (15, DAYS + LATEST.days + 1)
"""Days after the first event at which a cycle loads what has arrived."""
LATE = 0.05
SEED = 20261123
ATTEMPT_SECONDS = 300


class Disturbed:
    """Cycles, each begun and resumed until it is done, while parts of them are killed; `kinds` is what is still to be killed."""

    def __init__(self, config: Settings, chance: random.Random, kinds: list[str]) -> None:
        self.config, self.chance, self.kinds = config, chance, kinds

    def run(self, run_date: str, leave: int = 0) -> None:
        """Begin a cycle, and resume it after each time that it ended for a kill; so many kills are left for later."""
        known = set(self._cycles())
        arguments = [f"--run-date={run_date}"]
        while True:
            left = len(self.kinds)
            with self._schedule(arguments) as cycle:
                self._disturb(cycle, leave)
                output, _ = cycle.communicate(timeout=ATTEMPT_SECONDS)
            if cycle.returncode == 0:
                return
            assert len(self.kinds) < left, f"exit {cycle.returncode} without a kill:\n{output}"
            if begun := [cycle_id for cycle_id in self._cycles() if cycle_id not in known]:
                arguments = [f"--resume={begun[0]}"]

    def _schedule(self, arguments: list[str]) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "schedule.py"), "run", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _disturb(self, cycle: "subprocess.Popen[str]", leave: int) -> None:
        """Kill what is next in line at a random moment of the cycle, as long as it is at work."""
        while len(self.kinds) > leave:
            eventually(lambda: cycle.poll() is not None or list(self._runs()), seconds=ATTEMPT_SECONDS)
            with suppress(subprocess.TimeoutExpired):
                cycle.wait(self.chance.uniform(0, 4))
            runs = list(self._runs())
            if cycle.poll() is not None:
                return
            if runs and self._kill(self.kinds[-1], cycle, runs):
                self.kinds.pop()

    def _kill(self, kind: str, cycle: "subprocess.Popen[str]", runs: list[psutil.Process]) -> bool:
        if kind == "scheduler":
            cycle.kill()
            return True
        if kind in ("run", "kernel"):
            # a kernel is the leader of a group, but not of its run's session
            of_kind = [process for process in runs if _is_kernel(process) == (kind == "kernel")]
            if of_kind:
                self.chance.choice(of_kind).kill()
            return bool(of_kind)
        os.kill(parts_of_stack.status(self.config)[kind]["pid"], signal.SIGKILL)
        return True

    def _runs(self) -> Iterator[psutil.Process]:
        """The processes that write to the log of a run of this cycle."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.readlink(f"/proc/{process.pid}/fd/1").startswith(str(self.config.runs_dir)):
                    yield process

    def _cycles(self) -> list[str]:
        """Cycles that have a cut, the last one first."""
        query = "select cycle_id from ops.job_runs where cut_id is not null group by 1 order by min(started_at) desc"

        def read() -> list[list[str]]:
            with stored.connected(self.config, "warehouse") as connection:
                return [[row["cycle_id"] for row in stored.rows(connection, query)]]

        found: list[str] = eventually(read)[0]
        return found


def _is_kernel(process: psutil.Process) -> bool:
    return os.getpgid(process.pid) != os.getsid(process.pid)


def test_a_warehouse_whose_cycles_were_killed_and_resumed_equals_one_that_nobody_disturbed(
    stack: Settings, schedule: Schedule, tmp_path: Path, soak: bool
) -> None:
    chance = random.Random(SEED)
    kinds = [*KINDS] * 4 if soak else ["kernel", "scheduler", "warehouse"]
    chance.shuffle(kinds)
    start = day_start(60)
    waiting = batches(start, chance, LATE)
    kills = len(kinds)
    with apart(stack, tmp_path) as config:
        disturbed = Disturbed(config, chance, kinds)
        for number, days in enumerate(LOADS, start=1):
            moment = start + timedelta(days=days)
            arrived = [batch for batch in waiting if batch.committed <= moment]
            waiting = waiting[len(arrived) :]
            with stored.connected(config, "realtime") as realtime:
                for table in {batch.table for batch in arrived}:
                    commit(realtime, table, [batch for batch in arrived if batch.table == table])
            run_date = str(moment.date())
            disturbed.run(run_date, leave=kills * (len(LOADS) - number) // len(LOADS))
        while disturbed.kinds:
            disturbed.run(run_date)
        assert not waiting
        with stored.connected(config, "warehouse") as warehouse:
            ends = stored.rows(
                warehouse, "select job, array_agg(status order by started_at) as ends from ops.job_runs group by job"
            )
        assert all(row["ends"].count("done") >= len(LOADS) for row in ends)
        assert sum(row["ends"].count("killed") + row["ends"].count("failed") for row in ends)
        schedule("rebuild", "--compare")
