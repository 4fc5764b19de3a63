"""Savers that follow one another: each run ends with its report, and its successor has taken over before."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ledger
import pytest
import stored
from bs4 import BeautifulSoup
from load import KEYS, Sent, is_level, load
from world import eventually

from lib.settings import ROOT, Settings

RUN_MINUTES = 0.5
RATE = 50
COUNTS = ("rows_in", "rows_written", "duplicates", "dead_letters")
Rows = dict[str, list[dict[str, Any]]]

RUNS_OF_LEDGER = f"""
select query_id, min(ingest_batch_id) as first, max(ingest_batch_id) as last, min(epoch) as epoch,
    min(committed_at) as began, max(committed_at) as ended, {", ".join(f"sum({name})::int as {name}" for name in COUNTS)}
from ops.ingest_batches where source_table = %s and ingest_batch_id > %s group by query_id order by first
"""


@dataclass(frozen=True)
class HandedOver:
    """What was sent, each saver's runs in the registry, and what each run has in the ledger, by table."""

    sent: Sent
    runs: Rows
    written: Rows


@pytest.fixture(scope="module")
def handed_over(stack: Settings, drained: dict[str, int]) -> Iterator[HandedOver]:
    """Savers that hand over to successors of theirs under load, and are stopped when all of it is stored."""
    log = stack.data_dir / "logs" / "handover.log"
    with (
        stored.connected(stack, "realtime") as realtime,
        stored.connected(stack, "warehouse") as warehouse,
        log.open("w") as file,
    ):
        began = stored.scalar(warehouse, "select clock_timestamp()")

        def written() -> Rows:
            return {table: stored.rows(realtime, RUNS_OF_LEDGER, table, drained[table]) for table in KEYS}

        savers = subprocess.Popen(
            [sys.executable, str(ROOT / "schedule.py"), "start", "--no-cron"],
            cwd=ROOT,
            env=os.environ | {"GM_STREAM_RUN_MINUTES": str(RUN_MINUTES)},
            stdout=file,
            stderr=file,
        )
        try:
            with load(stack, rate=RATE, name="handover") as sent:
                eventually(lambda: all(len(runs) > 1 for runs in written().values()), seconds=180)
            eventually(lambda: all(map(is_level, KEYS)))
        finally:
            savers.terminate()
            savers.wait(timeout=180)
        assert savers.returncode == 0, log.read_text()
        query = "select * from ops.job_runs where job = %s and started_at > %s order by started_at"
        runs = {table: stored.rows(warehouse, query, f"ingest/{table}", began) for table in KEYS}
        yield HandedOver(sent, runs, written())


def test_each_run_ends_done_with_a_report_that_agrees_with_the_ledger(stack: Settings, handed_over: HandedOver) -> None:
    for table, runs in handed_over.runs.items():
        done = [run for run in runs if run["status"] == "done"]
        # one that was stopped before it had begun to read
        assert {(run["status"], run["error"]) for run in runs if run not in done} <= {("killed", "stopped")}
        told = [{name: run["numbers"][name] for name in COUNTS} for run in done if run["numbers"]["rows_in"]]
        assert told == [{name: run[name] for name in COUNTS} for run in handed_over.written[table]]
        for run in done:
            page = BeautifulSoup((stack.runs_dir / run["report"]).read_text(), "html.parser")
            assert f"{run['numbers']['rows_in']:,}" in page.get_text()


def test_a_successor_goes_on_where_its_predecessor_ends(
    handed_over: HandedOver, realtime: stored.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    for table, runs in handed_over.written.items():
        ledger.assert_whole(realtime, table)
        for one, other in pairwise(runs):
            assert other["first"] == one["last"] + 1
            assert other["epoch"] > one["epoch"]
            gap = (other["began"] - one["ended"]).total_seconds()
            with capsys.disabled():
                print(f"\n{table}: {1000 * gap:.0f} ms from the last batch of a run to the first of its successor")


def test_each_event_sent_meanwhile_has_one_row_and_repeated_ones_are_counted(
    handed_over: HandedOver, realtime: stored.Connection
) -> None:
    sent = handed_over.sent
    for table, key in KEYS.items():
        found = stored.rows(realtime, f"select {key} as id from {table} where {key} like %s", "handover-%")
        assert sorted(row["id"] for row in found) == sorted(sent.good[table])
        sums = {name: sum(run[name] for run in handed_over.written[table]) for name in COUNTS[1:]}
        assert sums == {
            "rows_written": len(sent.good[table]),
            "duplicates": sent.again[table],
            "dead_letters": len(sent.dead[table]),
        }
