"""What a run's process does: it executes one notebook, and its exit code says how the run has ended.

The fork server imports this module once, so that no run has to load papermill and nbconvert.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import scrapbook  # noqa: F401  # loaded here once: lib.report imports it at its first use, which is in each run
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from traitlets.config import Config

from lib import causes, plain
from lib.report import display, render
from lib.runs import kernel
from lib.runs.assignment import FAILED, KERNEL_DIED, RUN_VARIABLE, Assignment, kill
from lib.settings import ROOT

SETTLE_SECONDS = 1.0
OUTPUT_SECONDS = 60
"""How long to wait for the next piece of output of a cell that is over; a hundred megabytes come slowly."""
WRITES = "Write"
"""The section of a saver's notebook that reads its topic, until the run is over or stopped."""

Send = Callable[[tuple[Any, ...]], None]


class Stopped(Exception):
    """The run was asked to stop while no cell was at work."""


class AtomicHandler(LocalHandler):  # type: ignore[misc]  # papermill has no types
    """Writes a notebook whole or not at all; papermill's own handler leaves half of one on a full disk."""

    def write(self, buf: str, path: str) -> None:
        """Write aside, then rename."""
        aside = Path(f"{path}.part")
        # half of a surrogate pair, which no file can hold, becomes its JSON escape
        aside.write_text(buf, encoding="utf-8", errors="backslashreplace")
        aside.replace(path)


papermill_io.register("/", AtomicHandler())


def _render_once() -> None:
    """Render a first report: it compiles templates, schemas and patterns, which would cost each run a quarter of a second."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder, "etl", "x", "2000-01-01", "x.ipynb")
        notebook.parent.mkdir(parents=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# x")]), notebook)
        render.render(notebook, notebook.with_suffix(".html"), assets=Path(folder, "assets"))


_render_once()


def work(assignment: Assignment, pipe: Connection) -> None:
    """Execute the notebook, render its report and send its numbers; exit with 0, or with `FAILED` or `KERNEL_DIED`.

    Sends `("cell", number, of, where)` as cells begin, `("error", sentence)` when the run fails, `("over", exit code)` after
    the last cell, and `("numbers", …)` of a run that is done.
    """
    gc.freeze()  # what is loaded by now stays: there is no garbage to look for in it
    os.setsid()
    os.environ.clear()
    os.environ.update(assignment.environment, **{RUN_VARIABLE: assignment.run_id})
    _redirect_output(assignment.log)
    kernel.stand_by()
    threading.Thread(target=_end_with_scheduler, args=(assignment.run_id,), daemon=True).start()
    error, code = _execute(assignment, pipe.send)
    pipe.send(("over", code))
    for tell in (_render, _count):
        try:
            tell(assignment, pipe.send, error)
        except Exception:
            # A notebook's outputs can make anything fail here. That changes nothing about how the run has ended, since its
            # rows are in the warehouse, so it goes to the run's log.
            traceback.print_exc()
    sys.stderr.flush()
    if assignment.log.stat().st_size == 0:
        assignment.log.unlink()
    sys.exit(code)


def _render(assignment: Assignment, send: Send, error: str | None) -> None:
    own, latest = assignment.reports
    render.render(assignment.notebook, own, assets=assignment.assets, error=error)
    if error is None:
        render.publish_latest(own, latest, assets=assignment.assets)


def _count(assignment: Assignment, send: Send, error: str | None) -> None:
    if error is None:
        send(("numbers", plain.numbers(display.numbers(assignment.notebook))))


def _execute(assignment: Assignment, send: Send) -> tuple[str | None, int]:
    """What went wrong, and the exit code that says so."""
    watch = _Watch(assignment, send)
    try:
        executed = _run_cells(assignment, watch)
    except PapermillExecutionError as error:
        # papermill takes the error from the cell's outputs, where it is missing for a group of exceptions, say
        name, text = watch.raised or (error.ename, error.evalue)
        message, code = f"{watch.place(error.cell_index)}: {causes.brief(name, text)}", FAILED
    except DeadKernelError:
        message, code = f"the kernel died in {watch.where} (killed, or out of memory)", KERNEL_DIED
    except Stopped:
        message, code = "stopped between two cells", FAILED
    except Exception as error:
        # a cell's output can make papermill and nbclient raise anything
        traceback.print_exc()
        message, code = f"{watch.where}: {causes.brief(type(error).__name__, str(error))}", FAILED
    else:
        if (early := _early_end(executed.cells)) is None:
            return None, 0
        message, code = f"{watch.place(early)}: {causes.ENDED_EARLY}", FAILED
    send(("error", message))
    return message, code


def _run_cells(assignment: Assignment, watch: "_Watch") -> NotebookNode:
    """Let papermill execute the notebook's cells, and return the executed notebook."""
    # A Unix socket's path holds about 100 bytes, so the connection file has a short one of its own.
    manager = {"transport": "ipc", "connection_file": str(assignment.runtime / "kernel.json")}
    return papermill.execute_notebook(
        str(assignment.source),
        str(assignment.notebook),
        parameters=dict(assignment.parameters),
        kernel_name="python3",
        language="python",
        cwd=str(ROOT),
        log_output=False,
        progress_bar=False,
        config=Config(
            NotebookClient={"kernel_manager_class": kernel.Manager, "iopub_timeout": OUTPUT_SECONDS},
            KernelManager=manager,
        ),
        on_cell_start=watch.cell_start,
        on_cell_executed=watch.cell_end,
        on_cell_error=watch.cell_error,
    )


def _early_end(cells: list[NotebookNode]) -> int | None:
    """The index of the cell that has ended the run by SystemExit; to papermill, `sys.exit(0)` is no error."""
    return next((at for at, cell in enumerate(cells) if any(map(render.ends_early, cell.get("outputs", [])))), None)


class _Watch:
    """Tells the scheduler which cell is at work, and interrupts the kernel when the run is to stop."""

    def __init__(self, assignment: Assignment, send: Send) -> None:
        source = papermill.iorw.load_notebook_node(str(assignment.source))
        self.send = send
        self.sections = _sections(source.cells)
        tags = [cell.metadata.get("tags", []) for cell in source.cells]
        # papermill adds a cell after the parameters; people count the cells of the source.
        injects = bool(assignment.parameters) and not any("injected-parameters" in cell for cell in tags)
        self.injected = next((at + 1 for at, cell in enumerate(tags) if "parameters" in cell), 0) if injects else None
        self.where = "the start of the kernel"
        self.written_by = WRITES if assignment.streams else None
        self.has_written = False
        self.raised: tuple[str, str] | None = None
        self.in_cell = False
        self.started = 0.0
        self.asked_to_stop = False
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGALRM, self.interrupt)

    def cell_start(self, *, cell: NotebookNode, cell_index: int) -> None:
        if self.asked_to_stop and not self.has_written:
            raise Stopped
        self.where = self.place(cell_index)
        self.in_cell, self.started = cell.cell_type == "code" and bool(cell.source.strip()), time.monotonic()
        self.send(("cell", self._index(cell_index) + 1, len(self.sections), self.where))

    def place(self, cell_index: int) -> str:
        """The number of an executed notebook's cell as people count it, with its section."""
        index = self._index(cell_index)
        return f"cell {index + 1}" + (f" ({self.sections[index]})" if self.sections[index] else "")

    def _index(self, cell_index: int) -> int:
        return cell_index - (self.injected is not None and cell_index >= self.injected)

    def cell_end(self, *, cell_index: int, **_: Any) -> None:
        if self.in_cell and self.sections[self._index(cell_index)] == self.written_by:
            self.has_written = True
        self.in_cell = False

    def cell_error(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        """Keep what the cell has raised, in the kernel's words."""
        self.raised = execute_reply["content"].get("ename", ""), execute_reply["content"].get("evalue", "")

    def stop(self, *_: Any) -> None:
        """Begin no further cell, and interrupt the one at work, once the kernel has had the time to begin with it.

        A saver that has written goes on: only its receipt is left, which takes a second.
        """
        self.asked_to_stop = True
        signal.setitimer(signal.ITIMER_REAL, max(self.started + SETTLE_SECONDS - time.monotonic(), 0.001))

    def interrupt(self, *_: Any) -> None:
        """Interrupt the cell at work; a saver takes the interrupt as the end of its reading, and goes on to its receipt."""
        if self.in_cell and not self.has_written:
            self.asked_to_stop = False
            for child in psutil.Process().children():
                os.killpg(child.pid, signal.SIGINT)


def _sections(cells: list[NotebookNode]) -> list[str]:
    """For each cell the heading of its section."""
    sections = []
    section = ""
    for cell in cells:
        section = render.heading(cell) or section
        sections.append(section)
    return sections


def _redirect_output(log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_scheduler(run_id: str) -> None:
    """Wait for the end of the scheduler, then kill this run, since nobody would record its end.

    What it hasn't committed is rolled back; the next cycle does it again.
    """
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
    kill(run_id, os.getpid())
