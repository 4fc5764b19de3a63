"""Every notebook run by hand, as `Run All` does it: it ends clean, and without `publish` changes nothing shared."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import stored
import story
from line import Line, Schedule
from nbformat.v4 import new_code_cell

from lib.jobs import cells, discovery
from lib.settings import ROOT, Settings


def nbval(*notebooks: Path) -> subprocess.CompletedProcess[str]:
    """Run notebooks under `pytest --nbval-lax` against the test stack."""
    options = ["--nbval-lax", "--nbval-cell-timeout=300", "--nbval-kernel-startup-timeout=120", "--nbval-current-env"]
    options += ["-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", f"--rootdir={ROOT}"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, notebooks)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def in_order() -> list[Path]:
    """Every notebook, the jobs in the order of the line, then the others and the template."""
    folder = ROOT / "notebooks"
    line = [job.path for job in discovery.discover(folder)]
    return [*line, *(path for path in cells.find_notebooks(folder) if path not in line), folder / "_template.ipynb"]


@pytest.fixture
def work_to_do(line: Line, schedule: Schedule) -> Iterator[None]:
    """Messages that are stored but not loaded, and others that aren't even stored."""
    line.send([story.view("by hand", "12-20", "by hand", user="by hand"), story.buy("by hand", "12-20", 5, "medium")])
    schedule("run", "stream")
    line.send([story.view("unread", "12-20", "by hand"), story.buy("unread", "12-20", 5, "medium")])


def state(config: Settings) -> dict[str, dict[str, str]]:
    """Checksums of all tables of both databases."""
    checksums = {}
    for database in ("realtime", "warehouse"):
        with stored.connected(config, database) as connection:
            checksums[database] = stored.checksums(connection)
    return checksums


@pytest.mark.usefixtures("work_to_do")
def test_every_notebook_runs_clean_by_hand_and_changes_nothing_shared(stack: Settings) -> None:
    reports = {path: path.stat().st_mtime_ns for path in stack.runs_dir.rglob("*")}
    before = state(stack)
    assert {"ops.watermarks", "ops.cuts", "public.dim_customers"} <= before["warehouse"].keys()
    assert {"ops.ingest_heads", "ops.ingest_batches", "public.transactions"} <= before["realtime"].keys()
    notebooks = in_order()
    assert len(notebooks) >= 15
    done = nbval(*notebooks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(stack) == before
    assert {path: path.stat().st_mtime_ns for path in stack.runs_dir.rglob("*")} == reports


@pytest.mark.usefixtures("line")
def test_an_assertion_that_fails_in_a_notebook_turns_it_red(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks/etl/dim_date.ipynb", as_version=4)
    (check,) = (at for at, cell in enumerate(notebook.cells) if cell.source.startswith("## Check"))
    notebook.cells.insert(check + 1, new_code_cell("assert len(calendar.columns) == 0, 'planted'"))
    nbformat.write(notebook, tmp_path / "dim_date.ipynb")
    done = nbval(tmp_path / "dim_date.ipynb")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "planted" in done.stdout
