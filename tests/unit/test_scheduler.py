"""What the scheduler says of broken notebooks, and how long it keeps a saver running."""

import logging
from pathlib import Path
from threading import Event

import pytest
import tiny_notebooks

from lib.cycles import scheduler
from lib.jobs import discovery
from lib.jobs.discovery import Problem


def test_a_broken_notebook_is_named_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    known: set[str] = set()

    def say(*problems: Problem) -> list[str]:
        nonlocal known
        caplog.clear()
        known = scheduler.say_changes(list(problems), known)
        return [record.getMessage().removeprefix("broken, so not run: ") for record in caplog.records]

    first, other = Problem("x", 1, "first"), Problem("y", 0, "other")
    assert say(first, other) == ["x: cell 1: first", "y: other"]
    assert say(first, other) == []
    assert say(Problem("x", 1, "second"), other) == ["x: cell 1: second"]
    assert say(other) == []
    assert say(first, other) == ["x: cell 1: first"]
    assert say(first, Problem("x", 2, "more"), other) == ["x: cell 1: first (and 1 more)"]


@pytest.mark.parametrize("becomes", ["broken", "gone"])
def test_a_saver_whose_notebook_is_none_any_more_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    path = tiny_notebooks.write(tmp_path / "ingest" / "t.ipynb", "schedule: stream")
    [saver] = discovery.discover(tmp_path)
    tries: list[str] = []

    def failing(*_: object) -> None:
        tries.append("try")
        if len(tries) == 2:
            path.write_text("{") if becomes == "broken" else path.unlink()
        raise scheduler.SaverFailed("planted")

    monkeypatch.setattr(scheduler, "run_in_succession", failing)
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 0)
    scheduler.keep_running(saver, Event(), lambda run: None)
    assert len(tries) == 2
