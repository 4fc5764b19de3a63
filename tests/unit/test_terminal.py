"""What the commands print: texts of notebooks, messages and people stand there as what they are."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_notebooks
import typer
from typer.testing import CliRunner

import schedule
from lib.cli import dead_letters as letter_commands
from lib.cli import history, hold, jobs, status, terminal
from lib.cli.progress import Board
from lib.cycles.backfill import Grid
from lib.cycles.compare import Comparison
from lib.jobs.discovery import Job, JobError
from lib.runs.run import Run
from lib.settings import ROOT

ODD = "[red]a[/] [/] [bold :smile: \\[x]"
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
JOB = Job(ODD, Path("x.ipynb"), "manual", title=ODD, grain=ODD)


def a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "discover", lambda: [JOB])
    monkeypatch.setattr(jobs, "last_runs", dict)
    jobs.list_jobs(markdown=False)


def a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"status": "failed", "run_date": NOW.date(), "started_at": NOW, "finished_at": NOW, "error": ODD}
    counts = dict.fromkeys(("rows_last_minute", "batches_after_cut", "held"), 0)
    head = dict.fromkeys(("committed_at", "last_event_at")) | counts
    for table in status.tables({"jobs": {"x": row}, "broken": {ODD: ODD}, "ingestion": {"t": head}, "cut": None}):
        terminal.output.print(table)


def a_backfill(monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = SimpleNamespace(name="x", short_name=ODD, snapshots="day")
    terminal.output.print(history.grid_table(Grid((job,), (NOW.date(),), NOW.date(), frozenset())))


def a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.cycles.rebuild import Plan

    found = [Comparison("t", 1, 1, 1, [ODD])]
    history.print_comparison(Plan((), (), ("x",)), found)


def dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.ingest import dead_letters as letters

    @contextmanager
    def nowhere() -> Iterator[None]:
        yield

    row = {"source_table": "t", "reason": "r", "messages": 1, "waiting": 1, "oldest": NOW, "newest": NOW}
    monkeypatch.setattr(letter_commands, "realtime", nowhere)
    monkeypatch.setattr(letters, "summary", lambda *_, **__: [row | {"example_id": 1, "example": ODD}])
    letter_commands.list_letters(reason=None, table=None, as_json=False)


def held_events(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.cycles import holding

    monkeypatch.setattr(holding, "listing", lambda: [holding.Held("transactions", ODD, ODD, NOW, {ODD: 1})])
    hold.held(as_json=False)


def a_run_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(replace(JOB, name="x"), date(2026, 11, 22))
    run.finish("failed", ODD)
    Board(terminal.output).notify(run)


def a_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(replace(JOB, name="x"), date(2026, 11, 22), numbers={"headline": [["label", ODD]]})
    run.finish("done")
    Board(terminal.output).notify(run)


def a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Board(terminal.output).say(ODD)


def a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.complain(ODD)


def a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(typer.Exit):
        terminal.refuse(ODD)


def a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(schedule.app, ["run", "dim_date", "-p", f"{ODD}=1"])
    assert done.exit_code == terminal.WRONG_USE
    print(done.output)


def a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(schedule.app, ["run", ODD])
    assert done.exit_code == terminal.WRONG_USE
    print(done.output)


def a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(schedule.app, ["run", f"--run-date={ODD}"])
    assert done.exit_code == terminal.WRONG_USE
    print(done.output)


@pytest.mark.parametrize(
    "show",
    [
        a_list,
        a_status,
        a_backfill,
        a_comparison,
        dead_letters,
        held_events,
        a_run_that_failed,
        a_headline,
        a_line,
        a_complaint,
        a_refusal,
        a_parameter,
        a_name,
        a_date,
    ],
)
def test_square_brackets_in_a_text_are_shown_as_they_are(
    show: Callable[[pytest.MonkeyPatch], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(monkeypatch)
    shown = "".join(capsys.readouterr())
    for part in ("[red]a[/]", "[/]", "[bold", ":smile:", "\\[x]"):
        assert part in shown


def test_a_broken_notebook_is_in_nobody_s_way_who_does_not_mean_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal.settings(), "notebooks_dir", tmp_path)
    tiny_notebooks.write(tmp_path / "etl" / "sales.ipynb")
    for name in ("explore/sales", "etl/bad"):
        (tmp_path / f"{name}.ipynb").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.ipynb").write_text("{")
    for meant in ("sales", "etl/sales", "etl", "batch"):
        assert [job.name for job in terminal.choose([meant])] == ["etl/sales"]
        assert capsys.readouterr().err.count("broken, so left out") == 2
    for meant in ("bad", "etl/bad", "explore/sales"):
        with pytest.raises(JobError, match="can't be read: not JSON"):
            terminal.choose([meant])


def test_there_is_one_place_that_makes_consoles() -> None:
    files = [*(ROOT / "lib").rglob("*.py"), ROOT / "schedule.py"]
    named = [file.name for file in files if re.search(r"\bConsole\(|rich import print|\brprint\b", file.read_text())]
    assert named == []
