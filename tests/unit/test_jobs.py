"""Jobs: discovery, front matter, order, selection, parameters, and what `validate` names."""

from datetime import timedelta
from pathlib import Path

import nbformat
import papermill
import pytest
import tiny_notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell

from lib.jobs import cells, conventions, discovery
from lib.jobs.discovery import Job, JobError


def job(name: str, reads: tuple[str, ...] = (), writes: str | None = None, schedule: str = "batch") -> Job:
    return Job(name, Path(f"{name}.ipynb"), schedule, reads, writes)


LINE = [
    job("etl/fact_sales", ("realtime.transactions", "warehouse.dim_date"), "warehouse.fact_sales"),
    job("analytics/trends", ("warehouse.fact_sales",), "warehouse.trends", "daily"),
    job("etl/dim_date", (), "warehouse.dim_date"),
    job("ingest/transactions", ("kafka.transactions-topic",), "realtime.transactions", "stream"),
    job("etl/repair", (), None, "manual"),
]


def test_a_notebook_with_a_job_cell_is_a_job(tmp_path: Path) -> None:
    front = (
        "schedule: batch\nreads: [realtime.transactions, kafka.a-topic]\nwrites: warehouse.fact_sales\n"
        "grain: one row per order line\nsnapshots: analysis_date\ntimeout: 45s\nretries: 2"
    )
    path = tiny_notebooks.write(tmp_path / "etl" / "fact_sales.ipynb", front)
    [found] = discovery.discover(tmp_path)
    assert found.name == "etl/fact_sales"
    assert (found.path, found.folder, found.short_name) == (path, "etl", "fact_sales")
    assert found.reads == ("realtime.transactions", "kafka.a-topic")
    assert (found.writes, found.grain) == ("warehouse.fact_sales", "one row per order line")
    assert found.snapshots == "analysis_date"
    assert (found.timeout, found.retries) == (timedelta(seconds=45), 2)
    assert (found.title, found.description) == ("A title", "What and why.")
    assert list(found.parameters) == ["run_date", "cut", "publish"]


def test_explorations_templates_and_checkpoints_are_no_jobs(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "explore" / "tour.ipynb", None)
    tiny_notebooks.write(tmp_path / "_template.ipynb")
    tiny_notebooks.write(tmp_path / "etl" / ".ipynb_checkpoints" / "x-checkpoint.ipynb")
    assert discovery.discover(tmp_path) == []


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("schedule: hourly", "`schedule: hourly`: has to be one of stream, batch, daily, manual, or a cron line"),
        ("schedule: '61 * * * *'", "minute `61`: has to be 0 to 59"),
        ("schedule: '0 9 30 2 *'", "`schedule: 0 9 30 2 *`: never comes true"),
        ("schedule: '@reboot'", "nothing else begins with @"),
        ("schedule: */5 * * * *", "a cron line needs quotes"),
        ("retries: 1", "`schedule` is missing"),
        ("schedule: batch\nowner: me", "unknown key `owner`"),
        ("schedule: batch\nretries: two", "`retries: two`: has to be a whole number"),
        ("schedule: batch\nretries: true", "has to be a whole number"),
        ("schedule: batch\ntimeout: 10", "as 45s, 10m, 2h"),
        ("schedule: batch\nreads: warehouse.a", "has to be a list"),
        ("schedule: batch\nreads: [dim_date]", "`warehouse.<table>`"),
        ("schedule: batch\nwrites: [warehouse.a, warehouse.b]", "has to be one table"),
        ("schedule: batch\nwrites: kafka.a", "has to be one table"),
        ("schedule: batch\ngrain: 3", "has to be a text"),
        ("schedule: batch\nsnapshots: true", "has to be the table's column that holds the run date"),
        ("- schedule", "`key: value` lines"),
    ],
)
def test_front_matter_is_read_strictly_and_the_cell_named(tmp_path: Path, front: str, message: str) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "x.ipynb", front)
    found, [problem] = discovery.scan(tmp_path)
    assert found == []
    assert str(problem).startswith("etl/x: cell 1: ")
    assert message in str(problem)
    with pytest.raises(JobError, match="etl/x: cell 1"):
        discovery.discover(tmp_path)


def test_a_file_that_is_no_notebook_is_named_and_stops_nobody_else(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "good.ipynb")
    (tmp_path / "etl" / "half.ipynb").write_text('{"cells": [')
    found, [problem] = discovery.scan(tmp_path)
    assert [each.name for each in found] == ["etl/good"]
    assert str(problem).startswith("etl/half: can't be read")


def test_a_job_cell_that_is_not_the_first_is_refused(tmp_path: Path) -> None:
    path = tiny_notebooks.write(tmp_path / "etl" / "x.ipynb")
    notebook = nbformat.read(path, as_version=4)
    tiny_notebooks.save(path, [new_markdown_cell("# T"), *notebook.cells])
    assert "etl/x: cell 2: the cell tagged `job` has to be the first one" in str(discovery.scan(tmp_path)[1][0])


def test_two_notebooks_that_write_one_table_are_both_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny_notebooks.write(tmp_path / "etl" / f"{name}.ipynb", "schedule: batch\nwrites: warehouse.t\ngrain: one")
    found, problems = discovery.scan(tmp_path)
    assert found == []
    assert [problem.notebook for problem in problems] == ["etl/a", "etl/b"]


def test_a_copy_does_not_stop_the_notebook_that_has_the_name_of_the_table(tmp_path: Path) -> None:
    for name in ("t", "t-Copy1"):
        tiny_notebooks.write(tmp_path / "etl" / f"{name}.ipynb", "schedule: batch\nwrites: warehouse.t\ngrain: one")
    found, [problem] = discovery.scan(tmp_path)
    assert [each.name for each in found] == ["etl/t"]
    assert str(problem) == "etl/t-Copy1: cell 1: writes warehouse.t, as etl/t does: one notebook, one table"


def test_jobs_come_after_those_that_write_what_they_read() -> None:
    names = [each.name for each in discovery.order(LINE)]
    assert names.index("ingest/transactions") < names.index("etl/fact_sales") < names.index("analytics/trends")
    assert names.index("etl/dim_date") < names.index("etl/fact_sales")
    assert discovery.dependencies(LINE)["etl/fact_sales"] == {"ingest/transactions", "etl/dim_date"}


def test_what_a_job_needs_is_everything_before_it() -> None:
    [trends] = discovery.select(LINE, ["trends"])
    assert [one.name for one in discovery.upstream(discovery.order(LINE), [trends])] == [
        "etl/dim_date",
        "ingest/transactions",
        "etl/fact_sales",
    ]


def test_a_job_may_read_its_own_table() -> None:
    own = job("etl/a", ("warehouse.a",), "warehouse.a")
    assert discovery.order([own]) == [own]


def test_a_circle_is_named_and_stops_nobody_else(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a"), ("c", "a")):
        front = f"schedule: batch\nreads: [warehouse.{other}]\nwrites: warehouse.{name}\ngrain: one"
        tiny_notebooks.write(tmp_path / "etl" / f"{name}.ipynb", front)
    found, problems = discovery.scan(tmp_path)
    assert [each.name for each in found] == ["etl/c"]
    assert "etl/a and etl/b" in str(problems[0])
    with pytest.raises(JobError, match="circle"):
        discovery.order([job("a", ("warehouse.b",), "warehouse.a"), job("b", ("warehouse.a",), "warehouse.b")])


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["batch"], ["etl/fact_sales", "etl/dim_date"]),
        (["daily"], ["analytics/trends"]),
        (["etl"], ["etl/fact_sales", "etl/dim_date", "etl/repair"]),
        (["fact_sales"], ["etl/fact_sales"]),
        (["analytics/trends", "ingest"], ["analytics/trends", "ingest/transactions"]),
        (["all"], ["etl/fact_sales", "analytics/trends", "etl/dim_date", "ingest/transactions"]),
    ],
)
def test_jobs_are_selected_by_name_folder_schedule_or_all(names: list[str], meant: list[str]) -> None:
    assert [each.name for each in discovery.select(LINE, names)] == meant


def test_a_name_that_means_nothing_or_two_things_is_refused() -> None:
    with pytest.raises(JobError, match="no job or group is called fact_sale; do you mean fact_sales"):
        discovery.select(LINE, ["fact_sale"])
    with pytest.raises(JobError, match="sales may be etl/sales or analytics/sales"):
        discovery.select([job("etl/sales"), job("analytics/sales")], ["sales"])


def test_the_job_table_has_a_row_per_job_between_markers() -> None:
    lines = discovery.job_table(LINE[:1]).splitlines()
    assert (lines[0], lines[-1]) == discovery.MARKERS
    assert lines[1] == "| job | schedule | reads | writes | grain |"
    row = "| `etl/fact_sales` | batch | realtime.transactions, warehouse.dim_date | warehouse.fact_sales |  |"
    assert lines[3] == row


def test_parameters_are_those_that_papermill_sees(tmp_path: Path) -> None:
    text = 'name: str = "a"  # one\nsizes: list[int] = [1, 2]  # two\nrate: float = -0.5  # three'
    path = tiny_notebooks.write(tmp_path / "x.ipynb", parameters=text)
    [found] = discovery.discover(tmp_path)
    seen = {name: entry["inferred_type_name"] for name, entry in papermill.inspect_notebook(path).items()}
    assert {name: parameter.type for name, parameter in found.parameters.items()} == seen
    assert [parameter.default for parameter in found.parameters.values()] == ["a", [1, 2], -0.5]


def test_a_parameters_cell_with_code_in_it_is_refused(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "x.ipynb", parameters="import os\nhome: str = os.sep")
    with pytest.raises(JobError, match="x: cell 3: a parameters cell holds only lines as"):
        discovery.discover(tmp_path)


def test_a_notebook_as_it_should_be_has_no_problem(tmp_path: Path) -> None:
    front = "schedule: batch\nreads: [kafka.t]\nwrites: warehouse.x\ngrain: one row per x"
    tiny_notebooks.write(tmp_path / "etl" / "x.ipynb", front)
    tiny_notebooks.write(tmp_path / "_template.ipynb")
    tiny_notebooks.save(tmp_path / "explore" / "tour.ipynb", [new_markdown_cell("# Tour"), new_code_cell("1 + 1")])
    assert conventions.validate(tmp_path) == []


def test_an_exploration_is_free_but_for_addresses_with_passwords(tmp_path: Path) -> None:
    code = ["%matplotlib inline", "def f(): ...", "x = 1\n" * 21, "connect('postgresql://a:b@c/d')"]
    tiny_notebooks.save(tmp_path / "explore" / "tour.ipynb", [new_code_cell(each) for each in code])
    [problem] = conventions.validate(tmp_path)
    assert problem.cell == 4 and "a connection string" in problem.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (", "syntax error in line 1"),
        ("def f(): ...", "belongs into lib/"),
        ("%matplotlib inline", "a magic"),
        ("files = !ls", "a magic"),
        ("x = 1\n" * 21, "21 lines"),
        ('url = "postgresql://a:b@c/d"', "connection string"),
        ("import sys\nsys.path.append('.')", "sys.path"),
    ],
)
def test_validate_names_the_code_cell_that_breaks_a_rule(tmp_path: Path, code: str, message: str) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "x.ipynb", code=code)
    [problem] = conventions.validate(tmp_path)
    assert (problem.notebook, problem.cell) == ("etl/x", 9)
    assert message in problem.message


def broken(folder: Path, front: str, change: str) -> list[str]:
    path = tiny_notebooks.write(folder / "etl" / "x.ipynb", front)
    notebook = nbformat.read(path, as_version=4)
    match change:
        case "title":
            del notebook.cells[1]
        case "parameters":
            del notebook.cells[2].metadata["tags"]
        case "section":
            notebook.cells[9].source = "Checks"
        case "order":
            notebook.cells[3].source, notebook.cells[5].source = "## Transform", "## Read"
        case "outputs":
            notebook.cells[4].execution_count = 1
        case "publish":
            notebook.cells[2].source = 'run_date: str = ""  # day\ncut: int = 0  # cut'
        case "equals":
            notebook.cells[2].source += "\nn: int = 0  # n=0 takes all"
    nbformat.write(notebook, path)
    return [str(problem) for problem in conventions.validate(folder)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("title", "etl/x: cell 2: the title is missing"),
        ("parameters", "etl/x: no cell is tagged `parameters`"),
        ("section", "etl/x: the section `## Check` is missing"),
        ("order", "etl/x: cell 6: `## Read` stands after `## Transform`"),
        ("outputs", "etl/x: cell 5: outputs aren't stripped"),
        ("publish", "etl/x: the parameter `publish: bool` is missing"),
        ("equals", "etl/x: cell 3: `n: int = 0  # n=0 takes all` has a second `=`"),
    ],
)
def test_validate_names_what_is_missing(tmp_path: Path, change: str, problem: str) -> None:
    assert any(each.startswith(problem) for each in broken(tmp_path, "schedule: batch", change))


@pytest.mark.parametrize(
    ("front", "problem"),
    [
        ("schedule: batch\nreads: [warehouse.y]", "etl/x: cell 1: reads warehouse.y, which no notebook writes"),
        ("schedule: batch\nwrites: warehouse.x", "etl/x: cell 1: `grain` is missing"),
        (
            "schedule: batch\nwrites: warehouse.y\ngrain: a",
            "etl/x: cell 1: writes warehouse.y: a notebook has the name",
        ),
        ("schedule: stream", "etl/x: the parameter `run_minutes: float` is missing"),
    ],
)
def test_validate_compares_the_front_matter_with_the_line(tmp_path: Path, front: str, problem: str) -> None:
    assert any(each.startswith(problem) for each in broken(tmp_path, front, "nothing"))


def test_a_notebook_of_the_line_without_a_job_cell_is_named(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "analytics" / "x.ipynb", None)
    assert "has no cell tagged `job`" in str(conventions.validate(tmp_path)[0])


def test_cells_know_their_kind_tags_and_output(tmp_path: Path) -> None:
    first, *_ = cells.read_cells(tiny_notebooks.write(tmp_path / "x.ipynb"))
    assert (first.kind, first.source, first.tags, first.has_output) == ("raw", "schedule: batch", ("job",), False)
