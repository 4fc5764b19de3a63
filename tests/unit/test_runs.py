"""Runs: a real papermill, a real kernel and a process for each tiny notebook."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_notebooks

from lib import causes
from lib.cli import progress
from lib.jobs.discovery import discover
from lib.runs import run as runs
from lib.runs.run import Run
from lib.settings import settings

SAVER = """
from pathlib import Path
import threading
try:
    Path({fifo!r}).write_text("at work")
    threading.Event().wait()
except KeyboardInterrupt:
    print("stopping")
"""
STUBBORN = """
import os
from pathlib import Path
import time
Path({fifo!r}).write_text(str(os.getpid()))
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings(), "runs_dir", tmp_path / "runs")
    monkeypatch.setattr(settings(), "notebooks_dir", tmp_path / "notebooks")
    return tmp_path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def a_run(code: str, *, timeout: int = 600, schedule: str = "batch", at: str = "Write", **parameters: object) -> Run:
    folder = settings().notebooks_dir
    front = f"schedule: {schedule}\nwrites: warehouse.x\ngrain: one"
    tiny_notebooks.write(folder / "etl" / "x.ipynb", front, code=code, at=at)
    [job] = discover(folder)
    return Run(replace(job, timeout=timedelta(seconds=timeout)), date(2026, 11, 23), parameters=parameters)


def execute(run: Run, stop: threading.Event | None = None) -> Run:
    runs.execute(run, stop=stop or threading.Event())
    return run


def execute_until_at_work(run: Run, fifo: Path) -> None:
    """Execute a run, and stop it as soon as its notebook says through the pipe that it is at work."""
    stop = threading.Event()
    waiting = threading.Thread(target=lambda: (fifo.read_text(), stop.set()))
    waiting.start()
    execute(run, stop)
    waiting.join()


def process_of(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            found += [process] if process.environ().get("GM_RUN_ID") == run_id else []
        except psutil.Error:
            continue
    return found


def test_a_good_run_leaves_its_notebook_its_report_the_latest_one_and_its_numbers(folders: Path) -> None:
    code = (
        'import os\nfrom lib import report\nreport.glue(rows_written=cut, run=os.environ["GM_RUN_ID"], cwd=os.getcwd())'
    )
    seen: list[tuple[int, int]] = []
    run = a_run(code, cut=3, publish=True)
    runs.execute(run, stop=threading.Event(), notify=lambda each: seen.append((each.cell, each.cells)))
    assert (run.status, run.error) == ("done", None)
    assert run.numbers["rows_written"] == 3
    assert run.numbers["run"] == run.run_id
    assert (Path(run.numbers["cwd"]) / "schedule.py").exists()
    assert run.notebook == folders / "runs" / "etl" / "x" / "2026-11-23" / f"{run.run_id}.ipynb"
    assert run.report.exists()
    assert (folders / "runs" / "latest" / "etl" / "x.html").exists()
    assert seen[-1] == (13, 13)
    assert psutil.wait_procs(process_of(run.run_id), timeout=60)[1] == []
    assert not list(run.notebook.parent.glob("*.log"))
    assert not list(run.notebook.parent.glob("*.part"))


def test_a_kernel_begins_with_its_packages_loaded_and_our_own_code_as_it_stands_in_the_files() -> None:
    code = (
        'import os, sys\nloaded = [name for name in sys.modules if name.partition(".")[0] == "lib"]\n'
        'ready = "plotly.express" in sys.modules and "pyspark.sql.connect.session" in sys.modules\n'
        "from lib import report\nreport.glue(loaded=loaded, ready=ready, pid=os.getpid(), parent=os.getppid())"
    )
    numbers = execute(a_run(code)).numbers
    assert (numbers["loaded"], numbers["ready"]) == ([], True)
    assert len({numbers["pid"], numbers["parent"], os.getpid()}) == 3


def test_a_failed_run_names_the_cell_and_leaves_the_latest_report_alone(folders: Path) -> None:
    latest = folders / "runs" / "latest" / "etl" / "x.html"
    latest.parent.mkdir(parents=True)
    latest.write_text("good")
    run = execute(a_run('raise ValueError("first\\nsecond")', cut=1))
    assert (run.status, run.error) == ("failed", "cell 9 (Write): ValueError: first")
    assert run.report.exists()
    assert latest.read_text() == "good"


def test_the_cell_is_that_of_the_source_without_parameters_too() -> None:
    assert execute(a_run("1 / 0")).error == "cell 9 (Write): ZeroDivisionError: division by zero"


def test_a_run_that_takes_too_long_is_killed_and_says_so() -> None:
    run = execute(a_run("import time; time.sleep(600)", timeout=5))
    assert run.status == "killed"
    assert run.error is not None
    assert run.error.startswith("timeout after 5s in ")


def test_a_cell_may_use_processes_of_its_own() -> None:
    code = "import multiprocessing\nwith multiprocessing.Pool(2) as pool:\n    print(pool.map(abs, [-1, -2]))"
    run = execute(a_run(code))
    assert (run.status, run.error) == ("done", None)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "import sys\nsys.stdout.close()\nsys.stderr.close()\nraise ValueError('told all the same')",
            "told all the same",
        ),
        ("raise ExceptionGroup('several', [ValueError('one'), TypeError('two')])", "several"),
    ],
)
def test_an_error_is_told_when_the_cell_can_show_nothing(code: str, error: str) -> None:
    run = execute(a_run(code))
    assert run.status == "failed"
    assert run.error is not None
    assert error in run.error
    assert "CellExecutionError" not in run.error


def test_a_run_has_ended_as_it_has_when_its_report_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "REPORT_SECONDS", 1)
    endless = "from IPython.display import Markdown, display\ndisplay(Markdown('a' + ' ' * 200_000 + 'b'))"
    run = execute(a_run(endless))
    assert (run.status, run.error, run.report.exists()) == ("done", None, False)
    assert "its report couldn't be drawn" in caplog.text
    run = execute(a_run(f"{endless}\n1 / 0"))
    assert (run.status, run.error) == ("failed", "cell 9 (Write): ZeroDivisionError: division by zero")


def test_a_kernel_that_does_not_let_itself_be_interrupted_is_killed_with_its_process(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "STOP_SECONDS", 3)
    run = a_run(STUBBORN.format(fifo=str(fifo)))
    stop = threading.Event()
    kernels: list[psutil.Process] = []
    reader = threading.Thread(target=lambda: (kernels.append(psutil.Process(int(fifo.read_text()))), stop.set()))
    reader.start()
    execute(run, stop)
    reader.join()
    assert (run.status, run.error) == ("killed", "stopped")
    kernels[0].wait(timeout=60)


def test_a_saver_that_is_stopped_goes_on_to_its_receipt(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "STOP_SECONDS", 300)
    run = a_run(SAVER.format(fifo=str(fifo)))
    execute_until_at_work(run, fifo)
    assert (run.status, run.error) == ("done", None)
    outputs = [cell["outputs"] for cell in json.loads(run.notebook.read_text())["cells"] if cell.get("outputs")]
    assert outputs[0][0]["text"] == ["stopping\n"]


@pytest.mark.parametrize("section", ["Check", "Result"])
def test_a_saver_that_has_written_is_not_interrupted_on_its_way_to_the_receipt(
    section: str, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "STOP_SECONDS", 300)
    code = f"from pathlib import Path\nimport time\nPath({str(fifo)!r}).write_text('')\ntime.sleep(3)"
    run = a_run(code, schedule="stream", at=section)
    execute_until_at_work(run, fifo)
    assert (run.status, run.error) == ("done", None)


def test_a_saver_that_is_stopped_before_it_reads_is_killed(fifo: Path) -> None:
    run = a_run(
        SAVER.format(fifo=str(fifo)).replace("except KeyboardInterrupt", "finally"), schedule="stream", at="Read"
    )
    execute_until_at_work(run, fifo)
    assert (run.status, run.error) == ("killed", "stopped")


def test_a_job_that_is_stopped_is_killed_not_done() -> None:
    run = a_run("import time; time.sleep(600)")
    stop = threading.Event()
    runs.execute(run, stop=stop, notify=lambda each: stop.set() if each.cell == 9 else None)
    assert (run.status, run.error) == ("killed", "stopped")


def test_a_kernel_that_dies_is_killed_whatever_the_notebook_says() -> None:
    run = execute(a_run("import os; os.kill(os.getpid(), 9)"))
    assert run.status == "killed"
    assert run.error == "the kernel died in cell 9 (Write) (killed, or out of memory)"


def test_a_process_that_is_killed_is_killed_and_its_kernel_with_it() -> None:
    run = execute(a_run("import os; os.kill(os.getppid(), 9); import time; time.sleep(600)"))
    assert run.status == "killed"
    assert run.error is not None
    assert "SIGKILL" in run.error
    assert psutil.wait_procs(process_of(run.run_id), timeout=60)[1] == []


def test_a_kernel_does_not_outlive_its_scheduler(fifo: Path, folders: Path) -> None:
    a_run(STUBBORN.format(fifo=str(fifo)))
    code = (
        "import threading\nfrom datetime import date\nfrom lib.jobs import discovery\nfrom lib.runs import run\n"
        "from lib.settings import settings\n"
        "[job] = discovery.discover(settings().notebooks_dir)\n"
        "run.execute(run.Run(job, date(2026, 11, 23)), stop=threading.Event())"
    )
    places = {"GM_RUNS_DIR": str(folders / "runs"), "GM_NOTEBOOKS_DIR": str(folders / "notebooks")}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | places) as scheduler:
        kernel = psutil.Process(int(fifo.read_text()))
        scheduler.kill()
    kernel.wait(timeout=60)


def test_run_ids_sort_by_time_and_name_the_job() -> None:
    run = a_run("pass")
    stamp, name, tail = run.run_id.split("-")
    assert (len(stamp), name, len(tail)) == (15, "x", 4)
    assert run.run_id[:15] == f"{run.started_at:%Y%m%dT%H%M%S}"


def test_the_minutes_that_a_saver_runs_come_on_top_of_its_timeout() -> None:
    assert a_run("pass", timeout=60, run_minutes=2.0).timeout == timedelta(minutes=3)


# --- runs that end otherwise than by their last cell


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import sys; sys.exit()",
        "exit()",
        "quit()",
        "exit(0)",
        "raise SystemExit",
        "exit",
        "import sys; sys.exit(3)",
    ],
)
def test_a_run_that_a_cell_ends_is_failed_by_registry_report_and_latest_report_alike(folders: Path, code: str) -> None:
    run = execute(a_run(code, cut=1))
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.startswith(f"cell 9 (Write): {causes.ENDED_EARLY}")
    page = run.report.read_text()
    assert 'class="badge failed"' in page
    assert "The run ended early" in page
    assert not (folders / "runs" / "latest" / "etl" / "x.html").exists()


def test_the_cell_that_failed_is_named_though_later_ones_were_executed() -> None:
    run = a_run("1 / 0")
    document = json.loads(run.job.path.read_text())
    document["cells"][8]["metadata"]["tags"] = ["raises-exception"]
    run.job.path.write_text(json.dumps(document))
    assert execute(run).error == "cell 9 (Write): ZeroDivisionError: division by zero"


def test_a_kernel_that_ends_itself_is_killed_by_registry_and_report_alike(folders: Path) -> None:
    run = execute(a_run("import os; os._exit(0)"))
    assert (run.status, run.error) == ("killed", "the kernel died in cell 9 (Write) (killed, or out of memory)")
    assert 'class="badge failed"' in run.report.read_text()
    assert not (folders / "runs" / "latest" / "etl" / "x.html").exists()


def test_a_cell_that_interrupts_itself_is_failed() -> None:
    run = execute(a_run("raise KeyboardInterrupt"))
    assert (run.status, run.error) == ("failed", "cell 9 (Write): KeyboardInterrupt")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"bad " + chr(0)', "bad \\x00"),
        ('"bad \\ud800"', "bad \\ud800"),
        ('"[red]bad[/]"', "[red]bad[/]"),
        ('"bad \\x1b[31m"', "bad \\x1b[31m"),
        ('""', ""),
    ],
)
def test_the_text_of_an_error_is_told_whatever_it_is(text: str, told: str) -> None:
    run = execute(a_run(f"raise ValueError({text})"))
    assert (run.status, run.error) == ("failed", f"cell 9 (Write): ValueError{f': {told}' if told else ''}")
    assert run.report.exists()


def test_odd_texts_that_a_cell_prints_are_in_the_report() -> None:
    run = execute(a_run('print("nul " + chr(0), "half \\ud800", "[red]", "<b>")'))
    assert (run.status, run.error) == ("done", None)
    assert run.report.exists()


SCRAP = "application/scrapbook.scrap.json+json"


@pytest.mark.parametrize("scrap", [5, None, [1], {"name": 1}, {"name": ["x"], "data": 1}, {"data": {}}])
def test_a_scrap_that_is_none_costs_the_others_nothing(scrap: Any) -> None:
    shown = f"from IPython.display import display; display({{{SCRAP!r}: {scrap!r}}}, raw=True)"
    run = execute(a_run(f"from lib import report\nreport.glue(rows_written=3)\n{shown}"))
    assert (run.status, run.numbers["rows_written"]) == ("done", 3)
    assert 'class="badge' in run.report.read_text()


@pytest.mark.parametrize("data", ["{'text/plain': 5}", "{'application/x-own': object}"])
def test_an_output_that_is_none_fails_its_run_with_a_sentence_and_a_report(data: str) -> None:
    run = execute(a_run(f"from IPython.display import display\ndisplay({data}, raw=True)"))
    assert run.status in ("done", "failed")
    assert run.status == "done" or (run.error or "").startswith("cell 9 (Write): ")
    assert 'class="badge' in run.report.read_text()


def test_a_frame_and_other_scraps_are_numbers_that_can_be_stored() -> None:
    code = (
        "import pandas as pd, scrapbook\n"
        'scrapbook.glue("frame", pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]}), "pandas")\n'
        'scrapbook.glue("nan", [float("nan"), float("inf")], "json")\n'
        'scrapbook.glue("nul", "a" + chr(0))\nscrapbook.glue("headline", 7)\nscrapbook.glue("many", 10**400, "json")'
    )
    run = execute(a_run(code))
    assert (run.status, run.error) == ("done", None)
    assert run.numbers == {
        "frame": "DataFrame of 3 × 2",
        "nan": ["nan", "inf"],
        "nul": "a\\x00",
        "headline": 7,
        "many": 10**400,
    }
    assert progress.end_line(run).plain.startswith("done")


def test_a_report_that_can_not_be_rendered_takes_nothing_from_the_run(folders: Path) -> None:
    code = (
        "from IPython.display import display\n"
        'display({"application/vnd.plotly.v1+json": 7, "text/plain": "a"}, raw=True)\n'
        "from lib import report\nreport.glue(rows_written=3)"
    )
    run = execute(a_run(code))
    assert (run.status, run.error, run.numbers) == ("done", None, {"rows_written": 3})
    assert not run.report.exists()
    assert "Traceback" in run.notebook.with_suffix(".log").read_text()
