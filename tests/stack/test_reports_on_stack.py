"""What people see after a cycle: a report of each job, the gallery, and numbers that agree with the tables."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import scrapbook
import stored
from bs4 import BeautifulSoup
from line import Line, State

from lib.settings import TOPICS, Settings
from tests.chromium import CHROMIUM, dump_dom
from tests.oracle import COLUMNS

JOBS = {
    **{table: f"ingest/{table}" for table in stored.REALTIME},
    **{table: f"analytics/{table}" for table in stored.ANALYTICS},
    **{table: f"etl/{table}" for table in COLUMNS if table.startswith(("dim_", "fact_"))},
}


@pytest.fixture(scope="module")
def last(line: Line) -> State:
    """The state after the last cycle."""
    return line.states[7]


def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_each_job_has_its_executed_notebook_its_report_and_its_latest_report(stack: Settings, last: State) -> None:
    assert last.runs.keys() == set(JOBS.values())
    for job, run in last.runs.items():
        assert (job, run["status"], run["attempt"]) == (job, "done", 1)
        own, latest = stack.runs_dir / run["report"], stack.runs_dir / "latest" / f"{job}.html"
        assert own.name == f"{run['run_id']}.html"
        assert parse(own).select(".chart"), job
        assert [h1.text for h1 in parse(latest).select("h1")] == [h1.text for h1 in parse(own).select("h1")]


def test_the_gallery_links_the_reports_of_all_14_jobs_business_first(stack: Settings, last: State) -> None:
    page = parse(stack.runs_dir / "index.html")
    links = [str(link["href"]) for link in page.select("a.title")]
    assert {f"latest/{job}.html" for job in JOBS.values()} <= set(links)
    assert all((stack.runs_dir / link).is_file() for link in links)
    business = [link for link in links if link.startswith("latest/analytics/")]
    assert links[: len(business)] == business
    cards = {card.a["href"]: len(card.select("dl div")) for card in page.select(".business article") if card.a}
    assert all(cards[f"latest/analytics/{table}.html"] >= 3 for table in stored.ANALYTICS)


def test_numbers_glued_by_the_notebooks_agree_with_the_tables(stack: Settings, line: Line) -> None:
    before, last = line.states[6], line.states[7]
    tables = last.tables
    sent = Counter(message.table for message in line.messages[before.arrived : last.arrived])
    customers = tables["dim_customers"].query("is_current and user_id != ''")
    rfm = tables["rfm_analysis"].query("analysis_date == @run_date", local_dict={"run_date": last.cuts[-1]["run_date"]})
    revenue = tables["fact_sales"]["total_amount"].sum()
    agreed = {
        **{table: {"rows_in": sent[table], "rows_written": sent[table], "dead_letters": 0} for table in TOPICS},
        **{
            table: {"total": len(tables[table]), "rows_written": len(tables[table]) - len(before.tables[table])}
            for table in stored.FACTS
        },
        "dim_date": {"days": len(tables["dim_date"])},
        "dim_geography": {"countries": len(tables["dim_geography"]) - 1},
        "dim_products": {"products": tables["dim_products"].query("product_id != ''")["product_id"].nunique()},
        "dim_customers": {
            "customers": len(customers),
            "versions": len(tables["dim_customers"]) - len(before.tables["dim_customers"]),
        },
        "product_performance": {"revenue": revenue, "products": tables["product_performance"]["product_id"].nunique()},
        "customer_segments": {"revenue": customers["total_spent"].sum(), "customers": len(customers)},
        "rfm_analysis": {"customers": len(rfm), "champions": int((rfm["rfm_segment"] == "Champions").sum())},
        "sales_trends": {"revenue": revenue},
    }
    assert agreed.keys() == JOBS.keys()
    for table, numbers in agreed.items():
        run = last.runs[JOBS[table]]
        scraps = scrapbook.read_notebook(str(stack.runs_dir / run["notebook"])).scraps
        glued = {name: scrap.data for name, scrap in scraps.items()}
        assert {name: glued[name] for name in numbers} == pytest.approx(
            {name: float(number) for name, number in numbers.items()}
        ), table
        assert run["numbers"] == json.loads(json.dumps(glued)), table


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_all_reports_open_from_disk_without_a_network_and_draw_their_charts(
    stack: Settings, last: State, tmp_path: Path
) -> None:
    latest = {job: stack.runs_dir / "latest" / f"{job}.html" for job in last.runs}
    with ThreadPoolExecutor(2) as pool:
        opened = pool.map(lambda item: (item[0], dump_dom(item[1], tmp_path / item[0])), latest.items())
    for job, page in opened:
        charts = page.select(".chart")
        # a saver's run that read nothing has a row that says so
        assert charts or (job.startswith("ingest/") and page.find("td", string="none")), job
        assert all(chart.select(".main-svg .trace, .main-svg .hm, .main-svg .point") for chart in charts), job
