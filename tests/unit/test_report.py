"""The report layer: what notebooks glue and show, the report that is made of it, and the gallery of all reports."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pandas as pd
import papermill
import plotly
import plotly.express as px
import pytest
import scrapbook
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from lib.report import display as report
from lib.report import render, theme
from lib.report.gallery import Entry, gallery
from lib.report.page import duration, write_whole
from lib.report.sanitize import clean
from lib.settings import ROOT
from tests.chromium import CHROMIUM, dump_dom

PLANTED = "<script>document.title='owned'</script>"

FRONT_MATTER = """---
schedule: batch
reads: [warehouse.fact_sales]
writes: warehouse.rfm_analysis
grain: one row per customer and analysis date
---"""

GOOD = [
    new_raw_cell(FRONT_MATTER, metadata={"tags": ["job"]}),
    new_markdown_cell("# Who buys & why\n\nHow often each customer buys."),
    new_code_cell('run_date: str = ""\ncut: int = 0', metadata={"tags": ["parameters"]}),
    new_code_cell(
        "import sys\nfrom datetime import UTC, date, datetime\nfrom decimal import Decimal\n"
        "import numpy as np\nimport pandas as pd\nimport plotly.express as px\nfrom lib import report"
    ),
    new_markdown_cell(f"## Read\n\nAll sales. {PLANTED}<img src=x onerror=\"document.title='owned'\">"),
    new_code_cell("print('noise on stderr', file=sys.stderr); print('seen on stdout')"),
    new_markdown_cell('## Result\n\nA [link](https://example.com/a) and <img src="https://example.com/b.png">.'),
    new_code_cell(
        "frame = pd.DataFrame({'name': ['Ann', \"<script>document.title='owned'</script>\"],"
        " 'orders': [1234, 5], 'spent': [Decimal('1234.50'), None], 'share': [0.996, np.nan]})\n"
        "report.table(frame, caption='Customers', formats={'share': '.1%'}, limit=1)"
    ),
    new_code_cell("frame"),
    new_code_cell("report.show(px.bar(frame, x='name', y='orders', title='</script>' + frame['name'][1]))"),
    new_code_cell("report.show(px.line(x=[1, 2, 3, 1, 2, 3], y=[2, 4, 3, 1, 2, 2], color=list('aaabbb')))"),
    new_code_cell("report.headline({'Revenue': '€ 1,234', 'Customers': '<b>2</b>', 'At risk': '1'})"),
    new_code_cell(
        "report.glue(rows=np.int64(7), rate=np.float64(0.5), whole=Decimal('12'), money=Decimal('12.25'),"
        " day=date(2026, 11, 22), at=datetime(2026, 11, 22, 1, tzinfo=UTC), nan=float('nan'), none=None,"
        " nat=pd.NaT, na=pd.NA, flag=np.bool_(True), text='007', day64=np.datetime64('2026-11-22'),"
        " nested={'a': [np.float32(0.5), None, Decimal('Infinity')]})"
    ),
]
BAD = [
    new_markdown_cell("# Broken"),
    new_code_cell("import sys\nprint('a hint on stderr', file=sys.stderr)"),
    new_markdown_cell("## Check"),
    new_code_cell("assert 1 > 2, 'one is <not> more than two'"),
    new_markdown_cell("## Result\n\nNever reached."),
]


def execute(runs: Path, job: str, cells: list[nbformat.NotebookNode]) -> Path:
    source, notebook = runs / "source.ipynb", runs / job / "2026-11-22" / "r1.ipynb"
    notebook.parent.mkdir(parents=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), source)
    papermill.execute_notebook(
        str(source), str(notebook), parameters={"run_date": "2026-11-22", "cut": 17}, progress_bar=False
    )
    return notebook


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one good and one failed run, rendered; its path has what paths may have."""
    runs = tmp_path_factory.mktemp("my runs & co")
    good = execute(runs, "analytics/rfm_analysis", GOOD)
    with pytest.raises(papermill.PapermillExecutionError):
        execute(runs, "etl/broken", BAD)
    for notebook in (good, runs / "etl/broken/2026-11-22/r1.ipynb"):
        render.render(notebook, notebook.with_suffix(".html"), assets=runs / "assets")
    render.publish_latest(
        good.with_suffix(".html"), runs / "latest/analytics/rfm_analysis.html", assets=runs / "assets"
    )
    return runs


@pytest.fixture
def page(runs: Path) -> BeautifulSoup:
    return parse(runs / "analytics/rfm_analysis/2026-11-22/r1.html")


@pytest.fixture
def failed(runs: Path) -> BeautifulSoup:
    return parse(runs / "etl/broken/2026-11-22/r1.html")


def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_numbers_come_back_as_plain_json(runs: Path) -> None:
    numbers = report.numbers(runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb")

    assert numbers == {
        "headline": [["Revenue", "€ 1,234"], ["Customers", "<b>2</b>"], ["At risk", "1"]],
        "rows": 7,
        "rate": 0.5,
        "whole": 12,
        "money": 12.25,
        "day": "2026-11-22",
        "at": "2026-11-22T01:00:00+00:00",
        "nan": None,
        "none": None,
        "nat": None,
        "na": None,
        "flag": True,
        "text": "007",
        "day64": "2026-11-22T00:00:00",
        "nested": {"a": [0.5, None, None]},
    }
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_scrapbook_itself_reads_the_same_numbers(runs: Path) -> None:
    notebook = runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb"

    scraps = scrapbook.read_notebook(str(notebook)).scraps

    assert {name: scrap.data for name, scrap in scraps.items()} == report.numbers(notebook)


def test_what_is_no_plain_data_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="frame: set can't be glued"):
        report.glue(frame={1, 2})


def test_page_has_title_day_and_headline_in_their_order(page: BeautifulSoup) -> None:
    assert page.title is not None
    assert page.title.text == "Who buys & why · GlobalMart"
    assert page.html is not None
    assert page.html["lang"] == "en"
    assert [h1.text for h1 in page.select("h1")] == ["Who buys & why"]
    assert "2026-11-22" in page.select_one(".meta").text
    cards = [(card.dt.text, card.dd.text) for card in page.select(".cards div")]
    assert cards == [("Revenue", "€ 1,234"), ("Customers", "<b>2</b>"), ("At risk", "1")]


def test_about_this_run_comes_from_front_matter_path_and_parameters(page: BeautifulSoup) -> None:
    labels = [dt.text for dt in page.select(".facts dt")]
    facts = dict(zip(labels, (dd.text for dd in page.select(".facts dd")), strict=True))

    assert facts["Job"] == "analytics/rfm_analysis"
    assert facts["Run"] == "r1"
    assert facts["Writes"] == "warehouse.rfm_analysis"
    assert facts["Grain"] == "one row per customer and analysis date"
    assert facts["cut"] == "17"


def test_no_code_no_prompt_no_scrap_no_stderr_is_shown(page: BeautifulSoup) -> None:
    text = page.main.text.replace(render.SCRIPT, "")

    assert "import pandas" not in text
    assert "schedule: batch" not in text
    assert "scrapbook" not in text
    assert "noise on stderr" not in text
    assert not re.search(r"(In|Out)\s*\[", text)
    assert "seen on stdout" in text


def test_headings_and_tables_are_elements_and_not_visible_tags(page: BeautifulSoup) -> None:
    visible = page.main.text

    assert [h2.text for h2 in page.select("h2")] == ["Result", "Read"]
    assert page.select("table thead th")
    assert not re.search(r"</?(h\d|p|table|thead|td|div)\b", visible)


def test_result_comes_first_and_the_rest_is_folded(page: BeautifulSoup) -> None:
    assert page.select_one("details.method").find("h2").text == "Read"
    assert page.find("h2").text == "Result"


def test_numbers_of_a_table_are_aligned_and_separated(page: BeautifulSoup) -> None:
    table = page.select_one("table")

    assert table.caption.text == "Customers"
    assert [th["style"] for th in table.select("th")] == ["text-align:left", *["text-align:right"] * 3]
    assert [td.text for td in table.select("td")] == ["Ann", "1,234", "1,234.50", "99.6%"]
    assert table.find_next("small").text == "1 of 2 rows"


def test_a_table_of_something_else_than_a_pandas_frame_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"not builtins.list; of a Spark frame take `frame.limit\(20\).toPandas\(\)`"):
        report.table([1])  # type: ignore[arg-type]


def test_an_empty_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: shown.append(bundle))
    report.table(pd.DataFrame(columns=["reason", "messages"]))
    assert [cell.text for cell in BeautifulSoup(clean(shown[0]["text/html"]), "html.parser").find_all("td")] == ["none"]


@pytest.mark.parametrize("first", ["import plotly.express as px", "from lib import report"])
def test_charts_have_our_colours_whatever_is_imported_first(first: str) -> None:
    code = (
        f"{first}\nimport plotly.express as px\nfrom lib import report\n"
        "print(px.line(x=[1], y=[2], color=['a']).data[0].line.color)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == theme.PALETTE[0]


@pytest.mark.parametrize("colour", [None, "became"])
def test_a_chart_without_a_point_says_so_instead_of_showing_axes(
    monkeypatch: pytest.MonkeyPatch, colour: str | None
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: shown.append(bundle))
    frame = pd.DataFrame(columns=["time", "events", "became"])
    report.show(px.bar(frame, x="time", y="events", color=colour, title="What became of 0 messages"))
    (bundle,) = shown
    assert BeautifulSoup(clean(bundle["text/html"]), "html.parser").get_text("|") == "What became of 0 messages|none"


def test_a_chart_of_zeros_keeps_its_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: shown.append(bundle))
    report.show(px.bar(pd.DataFrame({"day": [1], "events": [0]}), x="day", y="events"))
    assert shown[0]["application/vnd.plotly.v1+json"]["data"]


def test_page_knows_no_outside_address(page: BeautifulSoup, runs: Path) -> None:
    text = (runs / "analytics/rfm_analysis/2026-11-22/r1.html").read_text()

    assert not re.search(r"https?://|=\s*[\"']//", text)
    assert [script["src"] for script in page.select("script[src]")] == [f"../../../assets/{render.PLOTLY_JS}"]
    assert len(text) < 300_000


@pytest.mark.parametrize("path", ["analytics/rfm_analysis/2026-11-22/r1.html", "latest/analytics/rfm_analysis.html"])
def test_links_lead_to_what_is_there(runs: Path, path: str) -> None:
    page = parse(runs / path)

    (script,) = page.select("script[src]")
    assert (runs / path).parent.joinpath(script["src"]).samefile(runs / "assets" / render.PLOTLY_JS)
    assert ((runs / path).parent / page.nav.a["href"]).resolve() == (runs / "index.html").resolve()


@pytest.mark.parametrize("job", ["x", "foo/bar/baz", "etl/x"])
def test_a_job_in_any_folder_has_its_name_and_right_links_in_its_reports(runs: Path, tmp_path: Path, job: str) -> None:
    notebook = tmp_path / job / "2026-11-22" / "r1.ipynb"
    notebook.parent.mkdir(parents=True)
    shutil.copy(runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb", notebook)
    own, latest = notebook.with_suffix(".html"), tmp_path / "latest" / f"{job}.html"
    entry = Entry(
        job=job, title="T", status="failed", report=f"latest/{job}.html", failed_report=f"{job}/2026-11-22/r1.html"
    )

    render.render(notebook, own, assets=tmp_path / "assets")
    render.publish_latest(own, latest, assets=tmp_path / "assets")
    index = gallery(tmp_path, [entry])

    for place in (own, latest):
        page = parse(place)
        (script,) = page.select("script[src]")
        assert (place.parent / script["src"]).samefile(tmp_path / "assets" / render.PLOTLY_JS)
        assert (place.parent / page.nav.a["href"]).samefile(index)
        facts = dict(
            zip(
                [dt.text for dt in page.select("dl.facts dt")],
                [dd.text for dd in page.select("dl.facts dd")],
                strict=True,
            )
        )
        assert (facts["Job"], facts["Day"], facts["Run"]) == (job, "2026-11-22", "r1")
    links = [link["href"] for link in parse(index).select("a")]
    assert {(tmp_path / link).resolve() for link in links} == {own, latest}


def test_a_job_that_stands_in_no_folder_is_among_the_others(tmp_path: Path) -> None:
    page = parse(gallery(tmp_path, [Entry(job="x", title="X"), *ENTRIES]))
    assert [h2.text for h2 in page.select(".line h2")] == ["Savers", "Dimensions and facts", "Others", "Other"]


def test_plotly_is_copied_once_and_whole(runs: Path) -> None:
    (copy,) = (runs / "assets").iterdir()
    bundled = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    before = copy.stat().st_mtime_ns

    notebook = runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb"
    render.render(notebook, runs / "again.html", assets=runs / "assets")

    assert copy.stat().st_size == bundled.stat().st_size
    assert copy.stat().st_mtime_ns == before


def test_failed_run_says_so_at_its_top_and_shows_what_led_there(failed: BeautifulSoup) -> None:
    assert failed.select_one(".badge").text == "failed"
    assert failed.select_one("header .problem h2").text == "AssertionError in Check"
    assert failed.select_one("header .problem pre").text == "one is <not> more than two"
    assert "a hint on stderr" in failed.main.text
    assert "assert 1 > 2" in failed.select_one("pre.traceback").text
    assert "Never reached" not in failed.main.text


def test_an_error_of_spark_is_shown_at_the_top_without_the_stack_of_java(runs: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb", as_version=4)
    text = "[DIVIDE_BY_ZERO] Division by zero.\n\nJVM stacktrace:\norg.apache.spark.SparkArithmeticException\n\tat x.y"
    notebook.cells[-1].outputs = [nbformat.v4.new_output("error", ename="ArithmeticException", evalue=text)]
    executed = runs / "analytics/rfm_analysis/2026-11-22/java.ipynb"
    nbformat.write(notebook, executed)

    render.render(executed, tmp_path / "r.html", assets=runs / "assets")

    assert parse(tmp_path / "r.html").select_one("header .problem pre").text == "[DIVIDE_BY_ZERO] Division by zero."


def test_killed_run_is_failed_though_its_notebook_knows_nothing(runs: Path, tmp_path: Path) -> None:
    notebook = runs / "analytics/rfm_analysis/2026-11-22/r1.ipynb"

    render.render(notebook, tmp_path / "r.html", assets=runs / "assets", error="the kernel died in cell 3")

    page = parse(tmp_path / "r.html")
    assert page.select_one(".badge").text == "failed"
    assert page.select_one(".problem pre").text == "the kernel died in cell 3"


def test_a_page_that_fails_half_way_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "page.html"
    write_whole(target, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))

    with pytest.raises(OSError, match="full"):
        write_whole(target, "new")

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "planted",
    [
        PLANTED,
        "<img src=x onerror=alert(1)>",
        '<a href="javascript:alert(1)">x</a>',
        '<a href="//example.com">x</a>',
        '<svg onload="alert(1)"></svg>',
        '<iframe src="https://example.com"></iframe>',
        '<td style="background:url(https://example.com)">x</td>',
        '<img src="https://example.com/x.png">',
        "<style>@import 'https://example.com/x.css'</style>",
    ],
)
def test_nothing_that_runs_or_leads_outside_survives(planted: str) -> None:
    assert not re.search(r"script|alert|example|onload|style=\"b", clean(planted))


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (0.41, "0.4 s"), (12.2, "12 s"), (185, "3 min 05 s")])
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


ENTRIES = [
    Entry(job="etl/dim_date", title="Dates", status="done", run_date="2026-11-22", report="latest/etl/dim_date.html"),
    Entry(
        job="etl/fact_sales",
        title="Sales",
        status="failed",
        report="latest/etl/fact_sales.html",
        failed_report="etl/fact_sales/2026-11-22/r2.html",
    ),
    Entry(job="other/new", title="New <b>job</b>"),
    Entry(
        job="analytics/rfm_analysis",
        title="RFM analysis",
        status="done",
        run_date="2026-11-22",
        finished_at=datetime(2026, 11, 23, 11, 24, tzinfo=UTC),
        seconds=185,
        report="latest/analytics/rfm_analysis.html",
        headline=[["Revenue", "€ 1,234"], ["At risk", "1"]],
    ),
    Entry(job="ingest/transactions", title="Transactions", status="running"),
]


def test_gallery_has_business_first_then_the_line_in_its_order(tmp_path: Path) -> None:
    page = parse(gallery(tmp_path, ENTRIES))

    assert page.title.text == "GlobalMart"
    titles = [title.text for title in page.select(".title")]
    assert titles == ["RFM analysis", "Transactions", "Dates", "Sales", "New <b>job</b>"]
    assert [h2.text for h2 in page.select(".line h2")] == ["Savers", "Dimensions and facts", "Other"]


def test_gallery_shows_figures_and_the_last_good_run(tmp_path: Path) -> None:
    card = parse(gallery(tmp_path, ENTRIES)).select_one(".business article")

    assert [(row.dt.text, row.dd.text) for row in card.select("dl div")] == [("Revenue", "€ 1,234"), ("At risk", "1")]
    assert [span.text for span in card.select(".meta span")] == [
        "done",
        "for 2026-11-22",
        "23 Nov 2026, 11:24 UTC",
        "3 min 05 s",
    ]


def test_gallery_links_reports_and_failed_runs(tmp_path: Path) -> None:
    page = parse(gallery(tmp_path, ENTRIES))

    assert [link["href"] for link in page.select("a.title")] == [
        "latest/analytics/rfm_analysis.html",
        "latest/etl/dim_date.html",
        "latest/etl/fact_sales.html",
    ]
    assert [link["href"] for link in page.select("a.badge.failed")] == ["etl/fact_sales/2026-11-22/r2.html"]
    assert page.find(string="never run")


def test_gallery_of_nothing_is_a_page(tmp_path: Path) -> None:
    assert parse(gallery(tmp_path, [])).h1.text == "GlobalMart"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
class TestInChromium:
    """What people really see, with the network off."""

    @pytest.mark.parametrize(
        "path", ["analytics/rfm_analysis/2026-11-22/r1.html", "latest/analytics/rfm_analysis.html"]
    )
    def test_every_chart_is_drawn_and_planted_scripts_do_nothing(self, runs: Path, path: str, tmp_path: Path) -> None:
        page = dump_dom(runs / path, tmp_path)

        charts = page.select(".chart")
        assert len(charts) == 2
        assert all(chart.select(".main-svg") for chart in charts)
        assert len(charts[0].select(".bars .point")) == 2
        assert page.title.text == "Who buys & why · GlobalMart"

    def test_charts_have_our_colours(self, runs: Path, tmp_path: Path) -> None:
        page = dump_dom(runs / "analytics/rfm_analysis/2026-11-22/r1.html", tmp_path)

        assert "rgb(47, 102, 144)" in page.select_one(".bars .point path")["style"]

    def test_a_report_apart_from_its_assets_says_what_is_missing(self, runs: Path, tmp_path: Path) -> None:
        alone = shutil.copy(runs / "analytics/rfm_analysis/2026-11-22/r1.html", tmp_path)

        page = dump_dom(Path(alone), tmp_path / "profile")

        assert [chart.text[:27] for chart in page.select(".chart.missing")] == ["This chart needs the folder"] * 2
