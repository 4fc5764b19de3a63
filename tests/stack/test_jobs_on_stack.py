"""Cycles on the real stack: running again, a notebook that becomes a job, jobs that fail, and wrong use."""

import shutil
from pathlib import Path

import nbformat
import pytest
import stored
from bs4 import BeautifulSoup
from line import Line, Schedule
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from lib.settings import ROOT, Settings

NEW = "analytics/revenue_by_country"


@pytest.fixture(scope="module")
def again(
    line: Line, stack: Settings, schedule: Schedule, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], dict[str, str]]:
    """Checksums of the warehouse before and after one more cycle with no new events, with a copy of the template."""
    notebooks = tmp_path_factory.mktemp("copy") / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks)
    shutil.copy(notebooks / "_template.ipynb", notebooks / f"{NEW}.ipynb")
    with stored.connected(stack, "warehouse") as connection:
        before = stored.checksums(connection)
        schedule("run", f"--run-date={line.states[7].cuts[-1]['run_date']}", GM_NOTEBOOKS_DIR=str(notebooks))
        return before, stored.checksums(connection)


def test_a_cycle_without_new_events_rewrites_nothing(
    again: tuple[dict[str, str], dict[str, str]], warehouse: stored.Connection
) -> None:
    before, after = again
    tables = [name for name in before if name.startswith("public.")]
    assert len(tables) == len(stored.WAREHOUSE)
    unchanged = [*tables, "ops.product_votes", "ops.fact_days", "ops.sales_days"]
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert after["ops.cuts"] != before["ops.cuts"]
    runs = stored.rows(
        warehouse,
        "select job, numbers from ops.job_runs where cut_id = (select max(cut_id) from ops.cuts) and status = 'done'",
    )
    assert len(runs) == len(stored.WAREHOUSE) + 1
    assert {run["job"]: run["numbers"]["rows_written"] for run in runs} == {run["job"]: 0 for run in runs}


def test_nothing_is_left_in_the_staging_schema(again: tuple[dict[str, str], dict[str, str]]) -> None:
    assert [name for name in again[1] if name.startswith("staging.")] == []


@pytest.mark.usefixtures("again")
def test_a_copy_of_the_template_is_a_job_of_the_next_cycle_with_its_report(
    stack: Settings, warehouse: stored.Connection
) -> None:
    query = "select * from ops.job_runs where job = %s"
    (run,) = stored.rows(warehouse, query, NEW)
    assert (run["status"], run["attempt"]) == ("done", 1)
    page = BeautifulSoup((stack.runs_dir / "latest" / f"{NEW}.html").read_text(), "html.parser")
    assert page.h1 is not None
    assert page.h1.text == "Revenue by country"
    revenue = stored.scalar(warehouse, "select sum(total_amount) from fact_sales")
    assert run["numbers"]["revenue"] == pytest.approx(float(revenue))
    gallery = BeautifulSoup((stack.runs_dir / "index.html").read_text(), "html.parser")
    assert gallery.select_one(f'.business a[href="latest/{NEW}.html"]')


PUBLISH = "publish: bool = False  # commit"


def job(folder: Path, name: str, *, reads: str = "", code: str = "pass", parameters: str = PUBLISH) -> None:
    """A small job that writes the table of its name and does nothing but `code`."""
    front = f"schedule: batch\nreads: [{reads}]\nwrites: warehouse.{name}\ngrain: none\ntimeout: 5m\nretries: 0"
    cells = [
        new_raw_cell(front, metadata={"tags": ["job"]}),
        new_markdown_cell(f"# {name.capitalize()}"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "etl").mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "etl" / f"{name}.ipynb")


def test_a_failed_job_stops_what_depends_on_it_and_nothing_else(
    line: Line, stack: Settings, schedule: Schedule, warehouse: stored.Connection, tmp_path: Path
) -> None:
    job(tmp_path, "broken", code="assert 1 > 2, 'planted'")
    job(tmp_path, "behind", reads="warehouse.broken")
    job(tmp_path, "further", reads="warehouse.behind")
    job(tmp_path, "beside")
    run_date = line.states[7].cuts[-1]["run_date"]
    done = schedule("run", f"--run-date={run_date}", expect=1, GM_NOTEBOOKS_DIR=str(tmp_path))
    query = "select job, status, error, report from ops.job_runs where cut_id = (select max(cut_id) from ops.cuts)"
    runs = {row["job"].removeprefix("etl/"): row for row in stored.rows(warehouse, query)}
    assert {name: row["status"] for name, row in runs.items()} == {
        "broken": "failed",
        "behind": "skipped",
        "further": "skipped",
        "beside": "done",
    }
    assert runs["broken"]["error"] == "cell 4: AssertionError: planted"
    assert "etl/broken" in runs["behind"]["error"]
    assert "planted" in done.stdout
    page = BeautifulSoup((stack.runs_dir / runs["broken"]["report"]).read_text(), "html.parser")
    assert [badge.text for badge in page.select(".badge")] == ["failed"]
    assert "planted" in page.text
    assert not (stack.runs_dir / "latest/etl/broken.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dim_date", "-p", "nonsense=1"], "has no parameter nonsense"),
        (["dim_date", "-p", "publish=3"], "publish takes bool"),
        (["dim_date", "-p", "cut=1"], "-p cut"),
        (["dim_dates"], "do you mean dim_date"),
        (["dim_date", "--run-date=2020-01-01"], "cuts never go back"),
        (["dim_date", "--run-date=2999-01-01"], "lies in the future"),
        (["--resume=nothing"], "no cycle"),
    ],
)
def test_wrong_use_ends_with_exit_code_2_before_anything_runs(
    line: Line, schedule: Schedule, warehouse: stored.Connection, arguments: list[str], message: str
) -> None:
    before = stored.checksums(warehouse)
    done = schedule("run", *arguments, expect=2)
    assert message in done.stderr
    assert stored.checksums(warehouse) == before
