"""The dashboards, as far as they can be checked without Grafana: what they are made of, and what their queries name."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units as known_units
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.metrics import MetricWrapperBase
from sqlfluff.core import Linter

from lib.ledger import metrics
from lib.settings import ROOT
from serving.api import answers, cache, live
from serving.grafana import make
from serving.grafana import queries as grafana
from serving.grafana.queries import Json

BOARDS = grafana.dashboards()
PANELS = {f"{name}: {panel['title']}": panel for name, board in BOARDS.items() for panel in grafana.panels(board)}
QUERIES = {place: (board, target["rawSql"]) for place, board, _, target in grafana.queries()}
QUERIES |= {place: (board, variable["query"]) for place, board, variable in grafana.choices()}
EXPRESSIONS = [target["expr"] for panel in PANELS.values() for target in panel["targets"] if "expr" in target]

END = datetime(2026, 1, 14, tzinfo=UTC)
MONTH = grafana.Request(END - timedelta(days=30), END)

PANEL_KEYS = {
    "title",
    "description",
    "type",
    "style",
    "width",
    "height",
    "unit",
    "decimals",
    "min",
    "max",
    "noValue",
} | {*("color", "thresholds", "values", "interval", "timeFrom", "queries", "fields", "links", "options")}
FIELD_KEYS = {"title", "unit", "decimals", "max", "width", "thresholds", "values", "is_colored", "link", "url"}


def test_committed_dashboards_are_what_their_sources_make() -> None:
    assert set(BOARDS) == set(make.NAMES)
    for name in make.NAMES:
        committed = (grafana.FOLDER / "dashboards" / f"{name}.json").read_text()
        assert committed == make.text(name), "run: python -m serving.grafana.make"


def test_sources_have_no_word_that_is_not_read() -> None:
    for name in make.NAMES:
        source = yaml.safe_load((grafana.FOLDER / f"{name}.yaml").read_text())
        assert set(source) <= {"title", "description", "time", "refresh", "choices", "links", "rows"}
        links = list(source["links"])
        for row in source["rows"]:
            assert set(row) == {"title", "panels"}
            for panel in row["panels"]:
                assert set(panel) <= PANEL_KEYS, panel["title"]
                links += panel.get("links", [])
                for query in panel["queries"]:
                    assert set(query) in ({"sql"}, {"expr", "legend"}), panel["title"]
                for field in panel.get("fields", {}).values():
                    assert set(field) <= FIELD_KEYS, panel["title"]
        assert all(set(link) == {"title", "url"} for link in links)


def test_uids_and_ids_are_unique_and_panels_do_not_overlap() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS) == 3
    for board in BOARDS.values():
        assert board["schemaVersion"] == 39
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        places = [panel["gridPos"] for panel in board["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        for one, other in combinations(places, 2):
            apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert apart or below


def test_titles_are_unique() -> None:
    assert len(PANELS) == sum(len(grafana.panels(board)) for board in BOARDS.values())


def declared() -> dict[str, str]:
    """Type of each data source that provisioning declares, by its uid."""
    text = (grafana.FOLDER / "provisioning" / "datasources" / "globalmart.yaml").read_text()
    return {source["uid"]: source["type"] for source in yaml.safe_load(text)["datasources"]}


@pytest.mark.parametrize("place", PANELS)
def test_panel_says_what_it_shows_and_asks_a_source_that_is_declared(place: str) -> None:
    panel = PANELS[place]
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert panel["targets"]
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert declared()[source["uid"]] == source["type"]
    letters = [target["refId"] for target in panel["targets"]]
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("place", PANELS)
def test_units_are_those_of_grafana(place: str) -> None:
    config = PANELS[place]["fieldConfig"]
    units = {config["defaults"]["unit"]}
    units |= {one["value"] for field in config["overrides"] for one in field["properties"] if one["id"] == "unit"}
    assert units <= {value for value in vars(known_units).values() if isinstance(value, str)}


def test_choices_ask_a_source_that_is_declared() -> None:
    names = {name: {variable["name"] for variable in board["templating"]["list"]} for name, board in BOARDS.items()}
    assert {"category", "country"} <= names["business"] and "job" in names["scheduler"]
    for _, _, variable in grafana.choices():
        assert declared()[variable["datasource"]["uid"]] == variable["datasource"]["type"]
        assert variable["includeAll"] and variable["multi"] and variable["allValue"] == "''"


def test_no_password_stands_in_provisioning() -> None:
    readme = (grafana.FOLDER / "README.md").read_text()
    for file in (grafana.FOLDER / "provisioning").rglob("*.yaml"):
        text = file.read_text()
        assert all(re.fullmatch(r"\$\{GM_READER_PASSWORD\}", found) for found in re.findall(r"password: (.*)", text))
        # what Grafana fills in is explained
        assert all(f"`{name}`" in readme for name in re.findall(r"\$\{(\w+)\}", text))


# --- links


def links(node: Any) -> Iterator[str]:
    """Every address in a dashboard."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "url" and value)
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from links(part)


def anchors(file: str) -> set[str]:
    """What the headings of a page can be reached by."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / file).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", BOARDS)
def test_links_lead_to_pages_that_there_are(name: str) -> None:
    found = set(links(BOARDS[name]))
    assert any(url.startswith("${reports:raw}") for url in found)
    for url in found:
        place, _, page = url.partition("/")
        if place == "${runbooks:raw}":
            file, _, anchor = page.partition("#")
            assert anchor in anchors(file), url
        else:
            assert place == "${reports:raw}", url
            job = re.fullmatch(r"latest/([a-z_/]+)\.html", page)
            is_job = bool(job) and (ROOT / "notebooks" / f"{job[1]}.ipynb").is_file()
            assert is_job or page in ("", "latest/${__data.fields.job:raw}.html", "${__data.fields.report:raw}"), url


# --- Grafana's own model


def lost(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """What of our document isn't in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key, value in ours.items()
            for line in (lost(value, theirs[key], f"{place}.{key}") if key in theirs else [f"{place}.{key}"])
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            line
            for number, (value, their) in enumerate(zip(ours, theirs, strict=True))
            for line in lost(value, their, f"{place}[{number}]")
        ]
    return [] if ours == theirs else [f"{place}: {ours!r} became {theirs!r}"]


def read_by_grafana(board: Json) -> Json:
    """The dashboard as Grafana 10.4 knows it: what its model has no place for is gone."""
    register_default_plugins()
    read: Json = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    return read


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_model_has_a_place_for_everything(name: str) -> None:
    assert lost(BOARDS[name], read_by_grafana(BOARDS[name])) == []


def test_grafanas_model_finds_what_it_has_no_place_for() -> None:
    board = json.loads(json.dumps(BOARDS["business"]))
    panel = grafana.panels(board)[0]
    panel["fieldConfig"]["defaults"]["decimal"] = 2
    panel["descripton"] = "misspelled"
    found = lost(board, read_by_grafana(board))
    assert {line.rpartition(".")[2] for line in found} == {"descripton", "decimal"}


# --- queries


@pytest.fixture(scope="module")
def parser() -> Linter:
    """A parser of PostgreSQL's dialect."""
    return Linter(dialect="postgres")


@pytest.mark.parametrize("place", QUERIES)
def test_query_is_sql_whatever_is_chosen(place: str, parser: Linter) -> None:
    board, text = QUERIES[place]
    names = [variable["name"] for variable in board["templating"]["list"]]
    for chosen in ({}, {name: ["Garden", "Women's shoes"] for name in names}):
        statement = grafana.expanded(text, board, replace(MONTH, chosen=chosen))
    # the last one, which has the most in it: parsing takes a while
    assert parser.parse_string(statement).violations == []


@pytest.mark.parametrize("place", QUERIES)
def test_query_reads_what_is_served_and_nothing_else(place: str) -> None:
    _, text = QUERIES[place]
    tables = set(re.findall(r"\b(?:from|join)\s+([a-z_.]+)\b(?!\s*\()", re.sub(r"epoch from|distinct from", "", text)))
    own = set(re.findall(r"(?:with|,)\s+(\w+) as \(", text))
    assert tables - own
    assert all(table.startswith("serving.") for table in tables - own), tables


def test_macro_that_grafana_does_not_have_is_refused() -> None:
    board = BOARDS["business"]
    with pytest.raises(ValueError, match="no macro"):
        grafana.expanded("select $__timeFiltr(sold_at)", board, MONTH)
    with pytest.raises(ValueError, match="no variable"):
        grafana.expanded("select ${categry:sqlstring}", board, MONTH)
    with pytest.raises(ValueError, match="leave this"):
        grafana.expanded("select '$category'", board, MONTH)


def test_macros_are_expanded_as_grafana_does() -> None:
    board = BOARDS["business"]
    text = grafana.expanded("$__timeGroupAlias(sold_at, $__interval), $__timeFilter(day)", board, MONTH)
    assert text == (
        'floor(extract(epoch from sold_at)/3600)*3600 AS "time", '
        "day BETWEEN '2025-12-15T00:00:00.000000123Z' AND '2026-01-14T00:00:00.000000123Z'"
    )
    chosen = replace(MONTH, chosen={"category": ["Toys", "Women's shoes"]})
    text = "'' in (${category:sqlstring}) or ${country:sqlstring}"
    assert grafana.expanded(text, board, chosen) == "'' in ('Toys','Women''s shoes') or ''"


@pytest.mark.parametrize("place", PANELS)
def test_columns_with_a_title_are_columns_of_the_query(place: str) -> None:
    panel = PANELS[place]
    text = " ".join(target.get("rawSql", "") for target in panel["targets"])
    for override in panel["fieldConfig"]["overrides"]:
        assert re.search(rf"\b{override['matcher']['options']}\b", text), override


# --- figures


def exported() -> dict[str, set[str]]:
    """The labels of every series that the exporter of the line and the API can have, by its name."""
    families = [*metrics.counters({}), *metrics.histograms({}), *metrics.gauges({}, {})]
    own = [(family.name, family.type, family._labelnames) for family in families]
    for module in (answers, cache, live):
        of_module = [value for value in vars(module).values() if isinstance(value, MetricWrapperBase)]
        assert of_module
        own += [(figure._name, figure._type, figure._labelnames) for figure in of_module]
    found = {"globalmart_up": {"part"}}
    assert '"globalmart_up"' in (ROOT / "lib" / "ledger" / "metrics.py").read_text()
    for name, kind, labels in own:
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[kind]
        found |= {f"{name}{ending}": {*labels, *(["le"] if ending == "_bucket" else [])} for ending in endings}
    return found


def test_every_figure_is_one_that_is_exported() -> None:
    known = exported()
    assert len(known) > 20
    for expression in EXPRESSIONS:
        names = set(re.findall(r"\bglobalmart_\w+", expression))
        assert names <= set(known), expression
        labels = {name.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for name in group.split(",")}
        labels |= set(re.findall(r"(\w+)=~?\"", expression))
        assert labels <= set.union(*map(known.__getitem__, names)), expression


def test_counters_are_shown_as_rates() -> None:
    for expression in EXPRESSIONS:
        for name in re.findall(r"\bglobalmart_\w+_(?:total|bucket)\b", expression):
            # how many columns there are is what matters, and not how fast they come
            if name != "globalmart_ingest_schema_changes_total":
                assert re.search(rf"(?:rate|increase)\({name}(?:{{[^}}]*}})?\[\$__rate_interval\]\)", expression)


@pytest.mark.parametrize("place", PANELS)
def test_legend_names_labels_that_the_series_have(place: str) -> None:
    for target in PANELS[place]["targets"]:
        for label in re.findall(r"{{(\w+)}}", target.get("legendFormat", "")):
            grouped = {name for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in group.split(", ")}
            assert label in grouped or target["expr"] == "globalmart_up"
