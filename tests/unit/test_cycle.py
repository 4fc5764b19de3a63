"""A cycle whose parts fail: one run is nothing to the others, and what couldn't be recorded is recorded later."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any

import psycopg2
import pytest

from lib.cycles import cycle
from lib.jobs.discovery import Job
from lib.runs import attempt, registry
from lib.runs.registry import Cycle
from lib.runs.run import Run

DAY = date(2026, 11, 22)
AT = Cycle("20261122T090000-batch-ffff", DAY, 1)


class Registry:
    """Rows by run; raises what is planned for a run, as long as it is."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str | None]] = {}
        self.planned: dict[tuple[str, str], Exception] = {}

    def record(self, connection: object, run: Run) -> None:
        if planned := self.planned.get((run.job.name, run.status)):
            raise planned
        self.rows[run.job.name] = run.status, run.error


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Registry:
    there = Registry()

    @contextmanager
    def nowhere() -> Iterator[None]:
        yield

    monkeypatch.setattr(registry, "warehouse", nowhere)
    monkeypatch.setattr(registry, "record", there.record)
    monkeypatch.setattr(registry, "last_runs", lambda *_, **__: {})
    monkeypatch.setattr(attempt, "refresh_gallery", lambda *_: None)
    monkeypatch.setattr(attempt, "execute", lambda run, **_: run.finish("done"))
    monkeypatch.setattr(attempt, "RECORD_SECONDS", 0)
    monkeypatch.setattr(attempt, "unrecorded", {})
    return there


def job(name: str, *reads: str) -> Job:
    return Job(
        name, Path(f"{name}.ipynb"), "batch", tuple(f"warehouse.{table}" for table in reads), f"warehouse.{name}"
    )


def run(*jobs: Job, **more: Any) -> dict[str, str]:
    notify = more.get("notify", lambda run: None)
    runs = cycle.run_in_order(
        jobs,
        lambda one: attempt.run_job(one, run_date=DAY, cycle_id=AT.cycle_id, cut_id=1, stop=Event(), notify=notify),
        2,
        Event(),
        notify,
        cycle=AT,
    )
    return {each.job.name: each.status for each in runs}


def test_a_run_that_can_not_be_recorded_is_failed_and_the_others_go_on(rows: Registry) -> None:
    rows.planned = {("a", "done"): psycopg2.DataError("no"), ("b", "running"): psycopg2.OperationalError("away")}
    assert run(job("a"), job("b"), job("c"), job("d", "a"), job("e", "c")) == {
        "a": "failed",
        "b": "failed",
        "c": "done",
        "d": "skipped",
        "e": "done",
    }
    assert rows.rows["a"] == ("failed", "done, but that couldn't be recorded: DataError: no")
    assert rows.rows["d"] == ("skipped", "a failed")


def test_an_end_that_could_not_be_recorded_is_recorded_with_one_of_the_next_runs(rows: Registry) -> None:
    away = psycopg2.OperationalError("away")
    rows.planned = {("a", status): away for status in ("done", "failed")}
    assert run(job("a")) == {"a": "failed"}
    assert rows.rows["a"] == ("running", None)
    rows.planned = {}
    run(job("b"))
    assert rows.rows["a"] == ("failed", "done, but that couldn't be recorded: OperationalError: away")
    assert attempt.unrecorded == {}


def test_a_run_that_can_not_be_followed_is_killed_and_the_others_go_on(
    rows: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(run: Run, **_: object) -> None:
        if run.job.name == "a":
            raise OSError("the disk is full")
        run.finish("done")

    monkeypatch.setattr(attempt, "execute", execute)
    assert run(job("a"), job("b")) == {"a": "killed", "b": "done"}
    assert rows.rows["a"] == ("killed", "its process couldn't be started or followed: OSError: the disk is full")


def test_a_gallery_that_can_not_be_drawn_takes_nothing_from_the_run(
    rows: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise IsADirectoryError("index.html")

    monkeypatch.setattr(attempt, "refresh_gallery", refuse)
    assert run(job("a"), job("b", "a")) == {"a": "done", "b": "done"}
    assert rows.rows == {"a": ("done", None), "b": ("done", None)}
    assert "the gallery wasn't drawn anew" in caplog.text


def test_what_a_job_raises_instead_of_a_run_is_one_that_failed(rows: Registry) -> None:
    def run_one(one: Job) -> Run:
        if one.name == "a":
            raise psycopg2.OperationalError("away")
        return attempt.run_job(one, run_date=DAY, stop=Event(), notify=lambda run: None)

    runs = cycle.run_in_order([job("a"), job("b"), job("c", "a")], run_one, 2, Event(), lambda run: None, cycle=AT)
    assert {each.job.name: each.status for each in runs} == {"a": "failed", "b": "done", "c": "skipped"}
    assert rows.rows["a"] == ("failed", "OperationalError: away")


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_jobs_that_hang_and_that_nobody_waits_for_keep_no_fact_from_being_loaded(rows: Registry, parallel: int) -> None:
    loaded, at_work = Event(), list[str]()

    def run_one(one: Job) -> Run:
        at_work.append(one.name)
        assert len(at_work) <= parallel
        if one.name.startswith("hangs"):
            assert loaded.wait(60)
        if one.name == "mart":
            loaded.set()
        at_work.remove(one.name)
        return attempt.run_job(one, run_date=DAY, stop=Event(), notify=lambda run: None)

    hanging = [job(f"hangs {number}") for number in range(4)]
    # `report` has something to wait for itself, so that the mart isn't the last that counts
    line = [job("dimension"), job("fact", "dimension"), job("mart", "fact"), job("report", "mart")]
    runs = cycle.run_in_order([*hanging, *line], run_one, parallel, Event(), lambda run: None, cycle=AT)
    assert {each.status for each in runs} == {"done"}
    assert len(runs) == 8


def test_what_is_ready_but_has_not_begun_is_skipped_by_a_stop(rows: Registry) -> None:
    stop, begun = Event(), list[str]()

    def run_one(one: Job) -> Run:
        begun.append(one.name)
        stop.set()
        return attempt.run_job(one, run_date=DAY, stop=Event(), notify=lambda run: None)

    runs = cycle.run_in_order([job(name) for name in "abcd"], run_one, 1, stop, lambda run: None, cycle=AT)
    assert begun == ["a"]
    ended = {each.job.name: (each.status, each.error) for each in runs}
    assert ended == {"a": ("done", None)} | dict.fromkeys("bcd", ("skipped", "stopped"))
