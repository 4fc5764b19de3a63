"""The Power BI project is whole: its files follow Microsoft's schemas, and what they name exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft7Validator
from pbi_parsers import dax, pq
from pbix_mcp.formats import tmdl_reader
from referencing import Registry
from referencing.jsonschema import DRAFT7

from lib.settings import READER, ROOT
from tests.powerbi.model import DEFINITION, PROJECT, Model, ends, model
from tests.powerbi.tmdl import read

SCHEMAS = ROOT / "tests" / "powerbi" / "schemas"
REPORT = PROJECT / "GlobalMart.Report"
PAGES = REPORT / "definition" / "pages"
OF_MICROSOFT = "https://developer.microsoft.com/json-schemas/"
KPIS = {
    "sales_trends": ("salesTrends", ["Last month revenue", "Monthly growth", "Revenue so far"]),
    "product_performance": ("productPerformance", ["Revenue", "Conversion", "Products"]),
    "customer_segments": ("customerSegments", ["Customers", "High Value customers", "High Value share of revenue"]),
    "rfm_analysis": ("rfm", ["RFM customers", "RFM Champions", "RFM At Risk"]),
}
"""Each report's page in Power BI, and the measures of what stands at its head, in the same order."""


@pytest.fixture(scope="module")
def shop() -> Model:
    return model()


@pytest.fixture(scope="module")
def schemas() -> Registry[Any]:
    """Microsoft's schemas, by the address that the files name."""
    paths = SCHEMAS.rglob("schema*.json")
    found = {
        OF_MICROSOFT + path.relative_to(SCHEMAS).as_posix(): json.loads(path.read_text("utf-8-sig")) for path in paths
    }
    return Registry().with_resources([(url, DRAFT7.create_resource(schema)) for url, schema in found.items()])


def json_files() -> list[Path]:
    """Every JSON file of the project that has a schema."""
    return [
        path for path in files() if path.suffix in (".json", ".pbip", ".pbir", ".pbism") or path.name == ".platform"
    ]


def files() -> list[Path]:
    return sorted(path for path in PROJECT.rglob("*") if path.is_file())


def visuals(page: str = "*") -> dict[str, dict[str, Any]]:
    """The visuals of a page, or of all, by page and name."""
    paths = sorted(PAGES.glob(f"{page}/visuals/*/visual.json"))
    return {f"{path.parts[-4]}/{path.parts[-2]}": json.loads(path.read_text("utf-8")) for path in paths}


def fields(node: Any) -> Iterator[tuple[str, str, str]]:
    """Kind, table and name of each field that a part of a visual names."""
    if isinstance(node, dict):
        sources = {source["Name"]: source["Entity"] for source in node.get("From", []) if "Entity" in source}
        for kind in ("Column", "Measure"):
            if kind in node:
                source = node[kind]["Expression"]["SourceRef"]
                yield kind, source.get("Entity") or source["Source"], node[kind]["Property"]
        for child in node.values():
            for found, table, name in fields(child):
                yield found, sources.get(table, table), name
    elif isinstance(node, list):
        for child in node:
            yield from fields(child)


def validation(schemas: Registry[Any], document: dict[str, Any]) -> list[str]:
    schema = schemas.contents(document["$schema"])
    return [error.message for error in Draft7Validator(schema, registry=schemas).iter_errors(document)]


@pytest.mark.parametrize("path", json_files(), ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_a_file_follows_microsofts_schema(path: Path, schemas: Registry[Any]) -> None:
    assert validation(schemas, json.loads(path.read_text("utf-8"))) == []


def test_the_schemas_find_what_is_wrong(schemas: Registry[Any]) -> None:
    visual = visuals()["salesTrends/tableMonths"]
    visual["visual"]["query"]["queryState"]["Values"]["projections"][0]["field"] = {"Column": {"Property": 1}}
    assert validation(schemas, visual)
    page = json.loads((PAGES / "rfm" / "page.json").read_text("utf-8"))
    assert validation(schemas, page | {"displayOption": "FitToMoon"})


def test_the_parts_of_the_project_find_each_other() -> None:
    project = json.loads((PROJECT / "GlobalMart.pbip").read_text("utf-8"))
    (artifact,) = project["artifacts"]
    assert PROJECT / artifact["report"]["path"] == REPORT
    definition = json.loads((REPORT / "definition.pbir").read_text("utf-8"))
    assert (REPORT / definition["datasetReference"]["byPath"]["path"] / "definition.pbism").is_file()


def test_the_connection_file_names_the_warehouse_as_the_model_does() -> None:
    (connection,) = json.loads((PROJECT / "GlobalMart.pbids").read_text("utf-8"))["connections"]
    parameters = {
        thing.name: re.match('"(.+?)" meta', thing.expression)[1]
        for thing in model().others
        if thing.kind == "expression"
    }
    assert connection["details"]["protocol"] == "postgresql"
    assert connection["details"]["address"] == {name.lower(): value for name, value in parameters.items()}


def test_nothing_of_the_project_holds_a_password_or_a_place_of_this_machine() -> None:
    for path in files():
        text = path.read_text("utf-8")
        if path.suffix != ".md":
            assert not re.search(r"passw|pwd|secret|token|" + READER, text, re.IGNORECASE), path
        assert not re.search(r"[\"' (]/(?:home|work|tmp|root|Users)/|[A-Z]:\\", text), path
        urls = [urlsplit(url) for url in re.findall(r"https?://[^\s\"<>)]+", text)]
        assert {url.hostname for url in urls} <= {"developer.microsoft.com", "localhost", "learn.microsoft.com"}, path


def test_the_readme_names_tables_and_views_that_are_there(shop: Model) -> None:
    sql = "\n".join(path.read_text("utf-8") for path in (ROOT / "sql" / "warehouse").glob("*.sql"))
    views = set(re.findall(r"create (?:materialized )?view serving\.(\w+)", sql))
    text = (PROJECT / "README.md").read_text("utf-8")
    model_part, live_part = text.split("## Live")
    assert set(re.findall(r"`serving\.(\w+)`", model_part)) < views
    firsts = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in model_part.splitlines() if line.startswith("| `")]
    assert {name for names in firsts for name in names} | {"loaded", "customer_countries", "country_access"} == set(
        shop.tables
    )
    named = [
        name
        for line in live_part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert len(named) > 5 and set(named) < views


def test_each_report_has_its_page_with_its_numbers_at_the_head() -> None:
    order = json.loads((PAGES / "pages.json").read_text("utf-8"))["pageOrder"]
    assert sorted(order) == sorted(path.parent.name for path in PAGES.glob("*/page.json"))
    assert order == [page for page, _ in KPIS.values()]
    notebooks = ROOT / "notebooks" / "analytics"
    assert KPIS.keys() == {path.stem for path in notebooks.glob("*.ipynb")}
    for name, (page, measures) in KPIS.items():
        cells = json.loads((notebooks / f"{name}.ipynb").read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        title = next(text for text in texts if text.startswith("# ")).splitlines()[0][2:]
        shown = json.loads((PAGES / page / "page.json").read_text("utf-8"))
        assert shown["name"] == page and title.startswith(shown["displayName"])
        (headline,) = (text for text in texts if "report.headline(" in text)
        assert len(re.findall(r'^ {8}f?".+?": ', headline, re.MULTILINE)) == len(measures)
        of_page = visuals(page).values()
        cards = [visual for visual in of_page if visual["visual"]["visualType"] == "card"]
        cards.sort(key=lambda card: card["position"]["x"])
        assert [found[2] for card in cards for found in fields(card)][: len(measures)] == measures
        kinds = {visual["visual"]["visualType"] for visual in of_page}
        assert {"card", "slicer", "tableEx"} < kinds


def test_each_field_of_a_visual_is_in_the_model_and_isnt_hidden(shop: Model) -> None:
    for name, visual in visuals().items():
        found = list(fields(visual))
        assert found, name
        for kind, table, field in found:
            if kind == "Measure":
                assert shop.homes.get(field) == table, (name, table, field)
            else:
                assert "isHidden" not in shop.columns(table)[field].properties, (name, table, field)
        for role in visual["visual"]["query"]["queryState"].values():
            for projection in role["projections"]:
                ((_, table, field),) = fields(projection["field"])
                assert projection["queryRef"] == f"{table}.{field}" and projection["nativeQueryRef"] == field


def test_visuals_have_titles_stand_on_their_page_and_dont_overlap() -> None:
    for page in (page for page, _ in KPIS.values()):
        sheet = json.loads((PAGES / page / "page.json").read_text("utf-8"))
        places = []
        for name, visual in visuals(page).items():
            assert visual["name"] == name.split("/")[1]
            objects = visual["visual"]["visualContainerObjects"]
            assert objects["title"] and objects["general"][0]["properties"]["altText"], name
            at = visual["position"]
            left, top, right, bottom = at["x"], at["y"], at["x"] + at["width"], at["y"] + at["height"]
            assert left >= 0 and top >= 0 and right <= sheet["width"] and bottom <= sheet["height"], name
            for other, (x0, y0, x1, y1) in places:
                assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, f"{name} lies over {other}"
            places.append((name, (left, top, right, bottom)))


def test_each_table_column_measure_and_hierarchy_is_described(shop: Model) -> None:
    for table in shop.tables.values():
        for thing in (table, *table.all("column"), *table.all("measure"), *table.all("hierarchy")):
            assert thing.description.endswith("."), f"{table.name} {thing.name}"
    assert all(thing.description for thing in shop.others if thing.kind in ("model", "expression"))
    assert all(role.description for role in shop.roles)


def test_a_column_says_what_the_database_says_of_it(shop: Model) -> None:
    sql = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "sql" / "warehouse").glob("*.sql")))
    comment = re.compile(r"comment on column serving\.(\w+)\.(\w+) is\s+((?:'(?:[^']|'')*'\s*)+);")
    said = {
        (view, name): "".join(re.findall(r"'((?:[^']|'')*)'", text)).replace("''", "'")
        for view, name, text in comment.findall(sql)
    }
    for table in shop.tables:
        if view := shop.source(table):
            for name, column in shop.columns(table).items():
                assert column.properties["sourceColumn"] == name
                assert column.description.startswith(said[view, name]), f"{table}.{name}"


def test_each_measure_has_a_format_and_a_folder_and_a_name_of_its_own(shop: Model) -> None:
    names = [name.lower() for name in shop.measures]
    assert len(names) == len(set(names)) == sum(len(table.all("measure")) for table in shop.tables.values())
    for table in shop.tables.values():
        of = [thing.name.lower() for kind in ("column", "measure", "hierarchy") for thing in table.all(kind)]
        assert len(of) == len(set(of)), table.name
    for measure in shop.measures.values():
        assert measure.properties.keys() == {"formatString", "displayFolder", "lineageTag"}, measure.name


def test_no_lineage_tag_occurs_twice(shop: Model) -> None:
    text = "\n".join(path.read_text("utf-8") for path in files() if path.suffix == ".tmdl")
    tags = re.findall(r"lineageTag: (\S+)", text)
    assert len(tags) == len(set(tags)) > 100


def test_dax_parses_and_names_only_what_exists(shop: Model) -> None:
    permissions = [permission for role in shop.roles for permission in role.all("tablePermission")]
    for thing in (*shop.measures.values(), *permissions):
        assert dax.to_ast(thing.expression) is not None, thing.name
        code = re.sub(r'"[^"]*"', '""', thing.expression)
        for table, name in re.findall(r"(\w*)\[([^\]]+)\]", code):
            assert name in (shop.columns(table) if table else shop.measures), f"{thing.name}: {table}[{name}]"
    assert {permission.name for permission in permissions} < shop.tables.keys()


def test_each_query_selects_the_columns_of_its_table_and_is_one_of_three_that_parse(shop: Model) -> None:
    shapes = set()
    for name, table in shop.tables.items():
        (partition,) = table.all("partition")
        (query,) = partition.all("source")
        assert partition.expression == "m" and partition.properties == {"mode": "import"}
        types = {column.name: column.properties["dataType"] for column in table.all("column")}
        if view := shop.source(name):
            (selected,) = re.findall(r"Table\.SelectColumns\(\s*View,\s*\{(.+?)\}\s*\)", query.expression, re.DOTALL)
            assert re.findall(r'"(\w+)"', selected) == list(types), name
            typed = re.findall(r'\{"(\w+)", type number\}', query.expression)
            assert typed == [column for column, kind in types.items() if kind == "double"]
            shape = query.expression.replace(selected, '"column"').replace(f'"{view}"', '"view"')
            shapes.add(re.sub(r'"\w+", type', '"column", type', shape))
        else:
            assert all(f"{column} = " in query.expression for column in types)
            shapes.add(query.expression)
    assert len(shapes) == 3
    assert all(pq.to_ast(shape) is not None for shape in shapes)
    assert sum("PostgreSQL.Database(Server, Database)" in shape for shape in shapes) == 2


def test_relationships_join_columns_of_one_type_and_leave_one_way_between_two_tables(shop: Model) -> None:
    ways: dict[str, list[str]] = {name: [] for name in shop.tables}
    for relationship in shop.relationships:
        many, one = ends(relationship)
        types = {shop.columns(table)[column].properties["dataType"] for table, column in (many, one)}
        assert len(types) == 1, relationship.name
        ways[one[0]].append(many[0])

    def reached(table: str) -> Iterator[str]:
        for other in ways[table]:
            yield other
            yield from reached(other)

    for table in shop.tables:
        assert sorted(reached(table)) == sorted(set(reached(table))), f"two ways from {table}"
    facts = {name for name in shop.tables if name.startswith("fact_")}
    for dimension in ("dim_date", "dim_customers", "dim_products", "dim_geography"):
        assert facts <= set(reached(dimension))


def test_keys_are_hidden_and_the_calendars_are_date_tables(shop: Model) -> None:
    for table in shop.tables:
        for name, column in shop.columns(table).items():
            is_key = re.search(r"_(?:id|pk|key|number)$", name) and name not in ("user_id", "product_id")
            assert not is_key or "isHidden" in column.properties, f"{table}.{name}"
            assert column.properties["summarizeBy"] == "none"
    for role in ("dim_date", "dim_first_order_date", "dim_last_order_date"):
        assert shop.tables[role].properties["dataCategory"] == "Time"
        assert [name for name, column in shop.columns(role).items() if "isKey" in column.properties] == ["date"]


def test_hierarchies_and_orders_name_columns_of_their_table(shop: Model) -> None:
    levels = {}
    for name, table in shop.tables.items():
        columns = shop.columns(name)
        assert all(column.properties.get("sortByColumn", column.name) in columns for column in columns.values())
        for hierarchy in table.all("hierarchy"):
            of = [level.properties["column"] for level in hierarchy.all("level")]
            assert set(of) <= columns.keys()
            levels[hierarchy.name] = of
    assert levels["Calendar"] == ["year", "quarter_label", "month_label", "date"]
    assert levels["Products"] == ["category", "product_id"]


def test_the_model_lists_its_tables_roles_and_cultures(shop: Model) -> None:
    listed = {tuple(thing.name.split(" ", 1)) for thing in shop.others if thing.kind == "ref"}
    there = {("table", name) for name in shop.tables} | {("role", role.name) for role in shop.roles}
    assert listed == there | {("cultureInfo", "en-US")}
    (whole,) = (thing for thing in shop.others if thing.kind == "model")
    assert whole.properties["culture"] == "en-US"


@pytest.mark.parametrize("wrong", ["SUM(fact_sales[total_amount]", "1 +", "VAR a = 1", "IF(1, 2))"])
def test_what_isnt_dax_doesnt_parse(wrong: str) -> None:
    with pytest.raises((ValueError, AssertionError)):
        dax.to_ast(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("table t\n\tcolumn c\n\t\tdatatype: int64\n", "line 3: datatype isn't expected in column"),
        ("table t\n\t\tcolumn c\n", "line 2: is indented too deep"),
        ("table t\n    column c\n", "line 2: isn't understood"),
        ("table t\n\tlevel l\n", "line 2: level isn't expected in table"),
        ("table t\n\tmeasure m =\n\t\tformatString: 0\n", "line 2: has no expression"),
        ("/// lost\n\ntable t\n", "line 2: a description has to stand directly above its object"),
    ],
)
def test_the_reader_refuses_what_isnt_tmdl(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.tmdl").write_text(text)
    with pytest.raises(ValueError, match=f"^t.tmdl, {re.escape(said)}"):
        read(tmp_path / "t.tmdl")


def test_a_reader_of_others_finds_the_same_model(shop: Model) -> None:
    found = tmdl_reader.parse_tmdl_folder(str(DEFINITION))
    tables = {table["name"]: table for table in found["tables"]}
    assert tables.keys() == shop.tables.keys()
    for name, table in tables.items():
        columns = {column["name"]: column["tmdl_data_type"] for column in table["columns"]}
        assert columns == {column.name: column.properties["dataType"] for column in shop.tables[name].all("column")}
        measures = {measure["name"]: measure["expression"] for measure in table["measures"]}
        assert measures == {
            measure.name: measure.expression.strip("\n") for measure in shop.tables[name].all("measure")
        }
    assert len(found["relationships"]) == len(shop.relationships)
    assert [role["name"] for role in found["roles"]] == ["Country"]
