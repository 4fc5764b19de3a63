"""Snapshots of past days, and the warehouse made again: it equals the living one, takes its place, and goes on from there."""

import re
from contextlib import closing
from datetime import date
from threading import Event
from typing import Any

import pandas as pd
import psycopg2
import pytest
import stored
import story
from line import Line, Schedule

from lib.cycles import rebuild, swap
from lib.cycles.rebuild import Work
from lib.jobs import discovery
from lib.ledger import compaction
from lib.settings import ROOT, TOPICS, Settings
from lib.warehouse import load as load
from tests.oracle import analytics, expected, frame

RFM = "analytics/rfm_analysis"
PAST = (date(2026, 1, 9), date(2026, 1, 10))
DAYS = [f"--from={PAST[0]}", f"--to={PAST[1]}"]
AT_ONCE = 1e-9
"""Days after which the ledger is merged."""


@pytest.fixture(scope="module")
def work() -> Work:
    """All jobs that write the warehouse, for the functions behind the commands."""
    found = [job for job in discovery.discover(ROOT / "notebooks") if (job.writes or "").startswith("warehouse.")]
    return Work(found, Event(), lambda run: None, lambda text: None)


@pytest.fixture(scope="module")
def backfilled(line: Line, schedule: Schedule) -> str:
    """Two days of the past that no cycle had as its run date; what the command said."""
    return schedule("backfill", *DAYS).stdout


@pytest.fixture(scope="module")
def merged(stack: Settings, backfilled: str, work: Work) -> None:
    """The ledger of all that is loaded, merged."""
    compaction.merge(work.jobs, days=AT_ONCE, stop=work.stop)
    with stored.connected(stack, "realtime") as connection:
        assert stored.scalar(connection, "select max(batches) from ops.ingest_batches") > 1


def cuts(connection: stored.Connection) -> list[dict[str, Any]]:
    """The cuts that count."""
    return stored.rows(connection, "select * from ops.cuts where superseded_by is null order by cut_id")


def read(config: Settings) -> dict[str, Any]:
    """The tables of the warehouse in the columns of the oracle."""
    with stored.connected(config, "warehouse") as connection:
        return {table: stored.read(connection, table) for table in stored.WAREHOUSE}


def snapshots(facts: list[dict[str, Any]], *of: tuple[date, dict[str, Any]]) -> Any:
    """The rows of `rfm_analysis` for run dates, each as of a cut, by the oracle."""
    rows = [row for day, cut in of for row in analytics.rfm_analysis(facts, [cut | {"run_date": day}])]
    return frame("rfm_analysis", rows)


# --- backfill


def test_a_dry_run_shows_the_grid_and_runs_nothing(
    line: Line, schedule: Schedule, warehouse: stored.Connection
) -> None:
    before = stored.checksums(warehouse)
    shown = schedule("backfill", "--from=2026-01-11", "--to=2026-01-12", "--dry-run").stdout
    cells = {words[0]: sorted(words[1:]) for words in (row.split() for row in shown.splitlines()) if words}
    assert "rfm_analysis" in cells["run"]
    assert cells["2026-01-11"] == ["run", "–", "–", "–"]
    assert cells["2026-01-12"] == ["done", "–", "–", "–"]
    assert stored.checksums(warehouse) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=2026-01-12", "--to=2026-01-11"], "lies after --to"),
        (["--from=2026-01-12", "--to=2999-01-01"], "lies after"),
        (["etl", "--from=2026-01-10", "--to=2026-01-11"], "none keeps snapshots"),
    ],
)
def test_a_backfill_that_makes_no_sense_is_wrong_use(
    line: Line, schedule: Schedule, arguments: list[str], message: str
) -> None:
    assert message in schedule("backfill", *arguments, expect=2).stderr


@pytest.mark.usefixtures("backfilled")
def test_a_backfill_makes_the_snapshots_of_past_days_and_leaves_newer_rows(
    line: Line, stack: Settings, warehouse: stored.Connection
) -> None:
    last = cuts(warehouse)[-1]
    found = read(stack)
    sales = found["fact_sales"].astype(object).to_dict("records")
    wanted = snapshots(sales, *((day, last) for day in PAST))
    of_past = found["rfm_analysis"][found["rfm_analysis"]["analysis_date"].isin(PAST)]
    assert not (differences := stored.differences("rfm_analysis", wanted, of_past)), differences
    for step, day in ((2, date(2025, 12, 30)), (6, date(2026, 1, 12))):
        before, after = (
            frame[frame["analysis_date"] == day]
            for frame in (line.states[step].tables["rfm_analysis"], found["rfm_analysis"])
        )
        assert not (differences := stored.differences("rfm_analysis", before, after)), differences
    assert set(found["customer_segments"]["analysis_date"]) == {last["run_date"]}
    loaded = stored.rows(warehouse, "select cut_id from ops.watermarks where job = %s", RFM)
    assert loaded == [{"cut_id": last["cut_id"]}]


@pytest.mark.usefixtures("backfilled")
def test_days_that_are_there_are_not_run_again(schedule: Schedule, warehouse: stored.Connection) -> None:
    before = stored.checksums(warehouse)
    assert "all of it is there" in schedule("backfill", *DAYS).stdout
    assert stored.checksums(warehouse) == before


def test_a_job_without_snapshots_refuses_a_past_day(line: Line) -> None:
    cut = line.states[7].cuts[-1]["cut_id"]
    with pytest.raises(ValueError, match="analytics/sales_trends keeps no snapshots"):
        load.begin("analytics/sales_trends", cut=cut, run_date=str(PAST[0]))


# --- rebuild

GRANTS = "select grantee, table_name, privilege_type from information_schema.role_table_grants order by 1, 2, 3"
SEGMENT = "update dim_customers set customer_segment = %s where user_id = 'medium' and effective_date = %s returning 1"


@pytest.mark.usefixtures("merged")
def test_a_rebuild_over_a_merged_ledger_equals_the_living_warehouse_but_for_a_planted_row(
    stack: Settings, schedule: Schedule, warehouse: stored.Connection, work: Work
) -> None:
    first = stored.rows(
        warehouse, "select effective_date, customer_segment from dim_customers where user_id = 'medium' order by 1"
    )[0]
    assert first["customer_segment"] == "New"
    assert stored.rows(warehouse, SEGMENT, "High Value", first["effective_date"])
    shown = schedule("rebuild", "--compare", expect=1).stdout
    rows = {name: tuple(map(int, counts.replace(",", "").split())) for name, counts in _table(shown)}
    assert set(rows) == set(stored.WAREHOUSE)
    assert {name: counts[2] for name, counts in rows.items()} == {name: int(name == "dim_customers") for name in rows}
    example = f"user_id medium, effective_date {first['effective_date']}"
    assert f"dim_customers: {example}: customer_segment High Value is rebuilt as New" in shown

    assert stored.rows(warehouse, SEGMENT, "New", first["effective_date"])
    found = list(rebuild.differences(work))
    assert {one.table: one.differing for one in found} == dict.fromkeys(stored.WAREHOUSE, 0)
    for one in found:
        assert one.living == one.rebuilt == stored.scalar(warehouse, f"select count(*) from {one.table}")


def _table(shown: str) -> list[tuple[str, str]]:
    return re.findall(r"^ *([a-z_]+) +([\d,]+ +[\d,]+ +[\d,]+) *$", shown, re.MULTILINE)


@pytest.mark.usefixtures("line")
def test_a_row_that_only_one_side_has_differs(warehouse: stored.Connection, work: Work) -> None:
    insert = (
        "insert into dim_geography (country, effective_date, is_current) values (%s, '2026-01-01', true) returning 1"
    )
    delete = "delete from dim_geography where country = %s returning 1"
    with rebuild.both() as (_, rebuilt):
        sides = ((warehouse, "Nowhere"), (rebuilt, "Elsewhere"))
        assert all(stored.rows(connection, insert, country) for connection, country in sides)
        found = {one.table: one.examples for one in rebuild.differences(work) if one.differing}
        assert all(stored.rows(connection, delete, country) for connection, country in sides)
    assert found == {"dim_geography": ["country Elsewhere: only rebuilt", "country Nowhere: only living"]}


def test_the_rebuilt_rows_take_the_place_of_the_living_ones_and_the_next_cycle_goes_on_from_there(
    line: Line,
    stack: Settings,
    schedule: Schedule,
    warehouse: stored.Connection,
    realtime: stored.Connection,
    work: Work,
) -> None:
    before, rights = read(stack), stored.rows(warehouse, GRANTS)
    filled = cuts(warehouse)[-1]
    assert stored.rows(warehouse, SEGMENT, "High Value", date(2025, 12, 10))
    swap.swap(rebuild.plan(work.jobs))
    after = read(stack)
    for table in stored.WAREHOUSE:
        assert not (differences := stored.differences(table, before[table], after[table])), differences
    assert stored.rows(warehouse, GRANTS) == rights
    with pytest.raises(psycopg2.OperationalError, match="does not exist"), closing(_connect_beside()):
        pass

    line.send([story.view("after", "12-20", "after", user="after"), story.buy("after", "12-20", 2000, "medium")])
    schedule("run", "stream", "batch", GM_LEDGER_DAYS=str(AT_ONCE))
    wanted, found = expected(line.events(), cuts(warehouse)), read(stack)
    sales = wanted["fact_sales"][wanted["fact_sales"]["ingest_batch_id"] <= filled["transactions"]]
    past = snapshots(sales.astype(object).to_dict("records"), *((day, filled) for day in PAST))
    wanted["rfm_analysis"] = pd.concat([wanted["rfm_analysis"], past])
    for table in stored.WAREHOUSE:
        assert not (differences := stored.differences(table, wanted[table], found[table])), differences
    last = cuts(warehouse)[-1]
    heads = stored.rows(realtime, "select source_table, last_batch from ops.merge_heads")
    assert {head["source_table"]: head["last_batch"] for head in heads} == {table: last[table] for table in TOPICS}


def test_a_fresh_rebuild_makes_what_one_load_of_everything_would_and_the_next_cycle_goes_on_from_there(
    line: Line, stack: Settings, schedule: Schedule, warehouse: stored.Connection, soak: bool
) -> None:
    if not soak:
        pytest.skip("long: --soak runs it")
    days = set(stored.read(warehouse, "rfm_analysis")["analysis_date"])
    assert "swapped in" in schedule("rebuild", "--fresh", "--swap").stdout
    (fresh,) = cuts(warehouse)
    found, wanted = read(stack), expected(line.events(), [fresh])
    sales = wanted["fact_sales"].astype(object).to_dict("records")
    wanted["rfm_analysis"] = snapshots(sales, *((day, fresh) for day in sorted(days)))
    for table in stored.WAREHOUSE:
        assert not (differences := stored.differences(table, wanted[table], found[table])), differences

    line.send([story.view("later", "12-20", "later", user="later"), story.buy("later", "12-20", 2000, "medium")])
    schedule("run", "stream", "batch")
    wanted, found = expected(line.events(), cuts(warehouse)), read(stack)
    assert len(cuts(warehouse)) == 2
    for table in set(stored.WAREHOUSE) - {"rfm_analysis"}:
        assert not (differences := stored.differences(table, wanted[table], found[table])), differences


def _connect_beside() -> stored.Connection:
    with rebuild.beside() as config:
        return psycopg2.connect(config.dsn("warehouse"))
