"""Seconds of a batch cycle, per notebook, from the run registry."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pandas as pd

from benchmarks.latency import markdown
from lib import database
from lib.settings import ROOT


def schedule(*arguments: str) -> None:
    """Run `schedule.py`; its own lines are left out."""
    command = [sys.executable, str(ROOT / "schedule.py"), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def measure() -> "pd.Series[float]":
    """Run a cycle; seconds per notebook, and of the whole, reports included."""
    began = time.monotonic()
    schedule("run")
    return _seconds(time.monotonic() - began)


@contextmanager
def running() -> Iterator[Callable[[], "pd.Series[float]"]]:
    """Run a cycle beside what the caller does; afterwards the result gives its seconds."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "schedule.py"), "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        yield lambda: figures
        process.communicate()
        figures = _seconds(time.monotonic() - began)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "schedule.py run")


def _seconds(whole: float) -> "pd.Series[float]":
    query = (
        "select job, extract(epoch from finished_at - started_at)::float as seconds from ops.job_runs"
        " where cut_id = (select max(cut_id) from ops.cuts) and status = 'done' order by started_at"
    )
    with closing(database.connect("warehouse")) as connection:
        seconds = database.frame(connection, query).set_index("job")["seconds"]
    return pd.concat([seconds, pd.Series({"the whole cycle": whole})]).round(1)


def show(title: str, cycles: "dict[str, pd.Series[float]]") -> None:
    """Print the cycles side by side as a Markdown table."""
    frame = pd.DataFrame(cycles).reset_index(names="notebook")
    print(f"\n{title}\n\n{markdown(frame)}", flush=True)
