"""What people see of runs at work: on a terminal a live line per job, elsewhere a line at start and end."""

import contextlib
import threading
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lib.plain import headline, one_line
from lib.runs.run import Run

COLOURS = {"done": "green", "failed": "bold red", "killed": "bold red", "skipped": "yellow", "running": "cyan"}
NUMBERS_SHOWN = 3


class Board:
    """Shows runs at work; `notify` is called from the threads that follow them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._at_work: dict[str, tuple[Run, Spinner]] = {}
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def notify(self, run: Run) -> None:
        """Show that a run has begun, come to another cell, or ended."""
        with self._lock:
            is_new = run.run_id not in self._at_work
            if run.status == "running" and run.error is None:
                self._at_work.setdefault(run.run_id, (run, Spinner("dots")))
            else:
                self._at_work.pop(run.run_id, None)
        if run.status != "running" or run.error:
            self.say(end_line(run))
        elif is_new and not self.console.is_terminal:
            self.say(Text.assemble(("start   ", "cyan"), run.job.name, f" (attempt {run.attempt})" * (run.attempt > 1)))

    def say(self, line: Text | str) -> None:
        """Print a line above the jobs at work."""
        with contextlib.suppress(OSError):  # the terminal is gone, and the runs go on
            self.console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for run, spinner in self._at_work.values():
                where = f"cell {run.cell}/{run.cells}" if run.cells else "starting"
                table.add_row(spinner, run.job.name, where, f"{run.seconds:.0f} s")
        return table


def end_line(run: Run) -> Text:
    """How a run ended, as `done    etl/fact_sales            8.3 s  rows_written 30,123`."""
    seconds = f"{run.seconds:8.1f} s" if run.finished_at else " " * 10
    return Text.assemble(
        (f"{run.status:8}", COLOURS[run.status]),
        f"{run.job.name:30}",
        seconds,
        "  ",
        (f"{run.run_id} " if run.status == "running" else "") + one_line(run.error or summary(run.numbers)),
    )


def summary(numbers: dict[str, Any]) -> str:
    """As many numbers of a run as fit a line: those of its headline, or else the first ones that it glued."""
    if figures := headline(numbers):
        return one_line("  ".join(f"{label} {text}" for label, text in figures[:NUMBERS_SHOWN]))
    plain = [(name, value) for name, value in numbers.items() if isinstance(value, int | float)]
    return one_line("  ".join(f"{name} {value:,}" for name, value in plain[:NUMBERS_SHOWN]))
