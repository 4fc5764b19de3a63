"""Notebooks that are broken in every way, beside a scheduler at work and beside single runs: named, and in nobody's way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import stored
from bs4 import BeautifulSoup
from line import Schedule
from test_jobs_on_stack import job

from lib.cli import status
from lib.jobs.discovery import Job
from lib.ledger.cuts import open_cut
from lib.runs import registry
from lib.runs.run import Run
from lib.settings import ROOT, Settings
from tests.fuzz import notebooks

WAIT_SECONDS = 150
HEALTHY = ("one", "two", "three", "four")
LOAD = "from lib import warehouse\nload = warehouse.begin('etl/{name}', cut=cut, publish=publish)\nload.finish()"


def runs_of(warehouse: stored.Connection, *names: str) -> dict[str, dict[str, Any]]:
    query = (
        "select distinct on (job) job, status, error, numbers, report, run_id from ops.job_runs where job = any(%s)"
        " order by job, started_at desc"
    )
    return {
        row["job"].removeprefix("etl/"): row for row in stored.rows(warehouse, query, [f"etl/{name}" for name in names])
    }


def test_500_broken_notebooks_beside_a_running_scheduler_are_named_once_each_and_every_healthy_job_runs(
    stack: Settings, warehouse: stored.Connection, tmp_path: Path
) -> None:
    folder, log = tmp_path / "notebooks", tmp_path / "scheduler.log"
    folder.mkdir()
    for name in HEALTHY:
        job(folder, f"beside_{name}")
    broken = notebooks.write(folder, seed=11, count=500)
    places = {"GM_NOTEBOOKS_DIR": str(folder), "GM_CRON": "* * * * *"}
    command = [sys.executable, str(ROOT / "schedule.py"), "start", "--no-streams"]
    done: dict[str, Any] = {}
    with log.open("wb") as file, subprocess.Popen(command, cwd=ROOT, env=os.environ | places, stderr=file) as scheduler:
        limit = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < limit and len(done) < len(HEALTHY) and scheduler.poll() is None:
            time.sleep(1)
            found = runs_of(warehouse, *(f"beside_{name}" for name in HEALTHY))
            warehouse.rollback()
            done = {name: row for name, row in found.items() if row["status"] != "running"}
        scheduler.send_signal(signal.SIGTERM)
        scheduler.wait(60)
    said = Counter(re.findall(r"broken, so not run: (.*)", log.read_text()))
    assert {row["status"] for row in done.values()} == {"done"}, log.read_text()[-3000:]
    assert len(done) == len(HEALTHY)
    assert len(said) == len(broken)
    assert set(said.values()) == {1}
    assert "Traceback" not in log.read_text()


ODD = {
    "nul": "raise ValueError('bad ' + chr(0))",
    "half": "raise ValueError('bad \\ud800')",
    "ended": "import sys; sys.exit(0)",
    "died": "import os; os._exit(0)",
    "long": "raise ValueError('x' * 10**6)",
    "scraps": (
        "import pandas as pd, scrapbook\nscrapbook.glue('frame', pd.DataFrame({'a': [1]}), 'pandas')\n"
        "scrapbook.glue('nan', float('nan'))\nscrapbook.glue('nul', 'a' + chr(0))\nscrapbook.glue('headline', [7])"
    ),
}


def test_a_cell_that_raises_a_nul_character_ends_its_own_run_and_no_other(
    stack: Settings, schedule: Schedule, warehouse: stored.Connection, tmp_path: Path
) -> None:
    for name, code in ODD.items():
        job(tmp_path, name, code=code)
    job(tmp_path, "last", reads="warehouse.scraps", code="from lib import report\nreport.glue(rows_written=3)")
    done = schedule("run", expect=1, GM_NOTEBOOKS_DIR=str(tmp_path))
    assert "Traceback" not in done.stderr
    runs = runs_of(warehouse, *ODD, "last")
    assert {name: row["status"] for name, row in runs.items()} == {
        "nul": "failed",
        "half": "failed",
        "ended": "failed",
        "died": "killed",
        "long": "failed",
        "scraps": "done",
        "last": "done",
    }
    assert runs["nul"]["error"] == "cell 4: ValueError: bad \\x00"
    assert runs["half"]["error"] == "cell 4: ValueError: bad \\ud800"
    assert runs["ended"]["error"].startswith("cell 4: the run was ended early")
    numbers = runs["scraps"]["numbers"]
    assert (numbers["frame"], numbers["nul"], numbers["headline"]) == ("DataFrame of 1 × 1", "a\\x00", [7])
    for name in ("nul", "half", "ended", "died", "long"):
        page = BeautifulSoup((stack.runs_dir / runs[name]["report"]).read_text(), "html.parser")
        assert [badge.text for badge in page.select(".badge")] == ["failed"], name
    gallery = BeautifulSoup((stack.runs_dir / "index.html").read_text(), "html.parser")
    shown = {item.select_one(".title").text: item.select_one(".badge").text for item in gallery.select("li")}
    assert (shown["Ended"], shown["Nul"], shown["Last"]) == ("last run failed →", "last run failed →", "done")
    assert stored.rows(warehouse, "select job from ops.job_runs where status = 'running'") == []


@pytest.fixture
def register(warehouse: stored.Connection) -> Iterator[Callable[[Run], dict[str, Any]]]:
    """Record a run and return its row, which is gone after the test."""
    ids: list[str] = []

    def record(run: Run) -> dict[str, Any]:
        ids.append(run.run_id)
        return a_row(warehouse, run)

    yield record
    stored.rows(warehouse, "delete from ops.job_runs where run_id = any(%s) returning 1", ids)


def a_row(warehouse: stored.Connection, run: Run) -> dict[str, Any]:
    registry.record(warehouse, run)
    (row,) = stored.rows(warehouse, "select * from ops.job_runs where run_id = %s", run.run_id)
    return row


def test_the_registry_stores_every_text_and_number(register: Callable[[Run], dict[str, Any]]) -> None:
    loop: list[object] = []
    loop.append(loop)
    numbers: dict[Any, Any] = {
        "nul": "a\0", "half": "\ud800", "nan": float("nan"), "inf": float("-inf"), "large": 1e308, "whole": 10**5000,
        "money": Decimal("1.50"), "bytes": b"\0", "frame": pd.DataFrame({"a": [1]}), "loop": loop, 7: None, "n\0": 1,
        "long": "x" * 10**6, "many": list(range(10**5)), "day": date(2026, 11, 22), "type": object(),
    }  # fmt: skip
    run = Run(Job("etl/odd", Path("odd.ipynb"), "batch"), date(2026, 11, 22), numbers=numbers)
    run.finish("done", "nul \0, half \ud800, long " + "x" * 10**6)
    row = register(run)
    assert row["numbers"].keys() == {"7", "n\\x00", *(name for name in numbers if name not in (7, "n\0"))}
    assert (row["numbers"]["nan"], float(row["numbers"]["large"]), row["numbers"]["money"]) == (None, 1e308, 1.5)
    assert row["error"].startswith("nul \\x00, half \\ud800, long xxx")


def test_a_cycle_closes_the_book_on_runs_of_dead_cycles_and_leaves_those_of_savers(
    warehouse: stored.Connection, register: Callable[[Run], dict[str, Any]]
) -> None:
    cut = open_cut().cut_id
    rows = {}
    for name, cut_id in (("etl/x", cut), ("ingest/gone", None)):
        run = Run(Job(name, Path("x.ipynb"), "batch"), date(2026, 11, 22), cut_id=cut_id)
        assert register(run)["status"] == "running"
        rows[run.run_id] = name
    query = "select run_id, status from ops.job_runs where run_id = any(%s)"
    for saver, ends in (("", "running"), ("ingest/gone", "killed")):
        registry.sweep(warehouse, saver=saver)
        found = {rows[row["run_id"]]: row["status"] for row in stored.rows(warehouse, query, list(rows))}
        assert found == {"etl/x": "killed", "ingest/gone": ends}


@pytest.mark.parametrize("plant", ["a dangling link", "a folder", "tags that are null"])
def test_a_broken_exploration_is_named_and_keeps_no_job_from_running(
    schedule: Schedule, tmp_path: Path, plant: str
) -> None:
    job(tmp_path, "good")
    broken = tmp_path / "explore" / "old.ipynb"
    broken.parent.mkdir()
    match plant:
        case "a dangling link":
            broken.symlink_to("nowhere.ipynb")
        case "a folder":
            broken.mkdir()
        case _:
            broken.write_text(
                '{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "raw", "source": "", "metadata": {"tags": null}}]}'
            )
    for arguments, code in ((["run", "etl/good"], 0), (["list"], 0), (["run", "explore/old"], 2), (["validate"], 1)):
        done = schedule(*arguments, expect=code, GM_NOTEBOOKS_DIR=str(tmp_path))
        assert len(re.findall(r"explore/old: .*", done.stdout + done.stderr)) == 1, arguments
        assert "Traceback" not in done.stderr
    shown = schedule("status", GM_NOTEBOOKS_DIR=str(tmp_path)).stdout
    assert re.search(r"explore/old +broken .*not run: ", shown)
    assert "explore/old" in json.loads(schedule("status", "--json", GM_NOTEBOOKS_DIR=str(tmp_path)).stdout)["broken"]


def test_the_status_of_a_job_that_runs_again_has_the_error_of_the_run_before(
    register: Callable[[Run], dict[str, Any]],
) -> None:
    runs = [Run(Job("etl/again", Path("x.ipynb"), "batch"), date(2026, 11, 22)) for _ in range(2)]
    runs[0].finish("failed", "what went wrong")
    register(runs[0])
    register(runs[1])
    state = status.read(["etl/again"])["jobs"]["etl/again"]
    assert (state["status"], state["error"]) == ("running", "the run before failed: what went wrong")
    runs[1].finish("done")
    register(runs[1])
    assert status.read(["etl/again"])["jobs"]["etl/again"]["error"] is None


def test_a_job_whose_upstream_got_no_further_says_that_it_ends_over_an_older_cut(
    stack: Settings, schedule: Schedule, warehouse: stored.Connection, tmp_path: Path
) -> None:
    parameters = "cut: int = 0  # cut\npublish: bool = False  # commit"
    job(tmp_path, "source", code=LOAD.format(name="source"), parameters=parameters)
    job(tmp_path, "reader", reads="warehouse.source", code=LOAD.format(name="reader"), parameters=parameters)
    schedule("run", GM_NOTEBOOKS_DIR=str(tmp_path))
    (tmp_path / "etl" / "source.ipynb").write_text("{")
    schedule("run", GM_NOTEBOOKS_DIR=str(tmp_path))
    cuts = "select job, cut_id from ops.watermarks where job in ('etl/source', 'etl/reader')"
    marks = {row["job"]: row["cut_id"] for row in stored.rows(warehouse, cuts)}
    assert marks["etl/reader"] == marks["etl/source"]
    page = (stack.runs_dir / runs_of(warehouse, "reader")["reader"]["report"]).read_text()
    assert f"not to cut {marks['etl/source'] + 1}: etl/source got no further" in page
