"""A long time under load: what each process of the speed layer holds early and late, which should be the same."""

import subprocess
import sys
from contextlib import suppress

import pandas as pd

from benchmarks import figures, processes, throwaway
from lib.settings import ROOT
from lib.stack import demo, lifecycle

PROGRAMS = ["kafka", "realtime", "spark-speed", "savers"]
TOLERANCE = 1.1
"""What all processes together hold late may be so many times what they held early."""
COUNTED = ["own MB", "descriptors", "listening"]
"""What must not grow; resident memory does until each session has touched all of PostgreSQL's shared buffers."""


def measure(minutes: float, first: float, rate: int) -> pd.DataFrame:
    """One row per process: memory, file descriptors and listening sockets after the `first` and after all `minutes`.

    Raises
    ------
    RuntimeError
        When the generators end early; `demo.DemoError` when the savers don't keep up.
    """
    command = [sys.executable, "-m", "generators", "all", "--rate", str(rate)]
    with throwaway.running("soak") as config:
        lifecycle.up(config, ["savers"])
        throwaway.say(f"{rate:,} events/s for {minutes:g} minutes …")
        command += ["--duration", f"{60 * minutes + 30:g}s"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as generators:
            _wait(generators, 60 * first)
            early = processes.holdings(config, PROGRAMS)
            _wait(generators, 60 * (minutes - first))
            late = processes.holdings(config, PROGRAMS)
        demo.await_drained()
    names = (f"{first:g} min", f"{minutes:g} min")
    return (
        pd.concat([early, late], axis=1, keys=names).swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False)
    )


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Let the time pass while the process runs."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise RuntimeError(f"the generators ended too early, with exit code {process.returncode}")


def show(held: pd.DataFrame) -> None:
    """Print the table, with the sums."""
    together = pd.DataFrame([held.sum()], index=pd.MultiIndex.from_tuples([("all", "")], names=held.index.names))
    table = pd.concat([held, together])
    table.columns = [f"{what}, {when}" for what, when in table.columns]
    figures.show("what each process holds", table.reset_index())


def grown(held: pd.DataFrame) -> list[str]:
    """What all processes together hold more of late than early, beyond the tolerance."""
    sums = held.sum()
    return [
        f"{what}: {early:,.0f} early, {late:,.0f} late"
        for what in COUNTED
        for early, late in [sums[what]]
        if late > early * TOLERANCE
    ]
