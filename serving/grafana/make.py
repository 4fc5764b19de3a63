"""The dashboards from the YAML files beside this one: `python -m serving.grafana.make` writes `dashboards/` anew.

A YAML file says what each panel asks and what it means; what all panels of a kind have in common is added here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

FOLDER = Path(__file__).parent
NAMES = ("business", "pipeline", "scheduler")

REPORTS = "http://localhost:8000/reports"
"""Where the reports are: the API serves them."""
RUNBOOKS = "http://localhost:8888/lab/tree/docs"
"""Where the folder `docs` can be read: here in JupyterLab, which `make lab` starts."""

WAREHOUSE = {"type": "postgres", "uid": "globalmart-warehouse"}
PROMETHEUS = {"type": "prometheus", "uid": "globalmart-prometheus"}
ALL = "''"
"""What the choice of all stands for in SQL: no category, country or job is an empty text."""

WIDTH = 24
"""Columns of Grafana's grid."""

_ONE = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_EACH_ROW = {"calcs": ["lastNotNull"], "fields": "", "values": True}
_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
OPTIONS: dict[str, Json] = {
    "stat": {"colorMode": "value", "graphMode": "none", "reduceOptions": _ONE, "textMode": "auto"},
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "bargauge": {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": _EACH_ROW,
        "showUnfilled": True,
        "valueMode": "color",
    },
    "piechart": {
        "pieType": "donut",
        "displayLabels": ["percent"],
        "reduceOptions": _EACH_ROW,
        "legend": {**_LEGEND, "placement": "right", "values": ["value"]},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}
"""What a panel of a type looks like, unless its file says otherwise."""

STYLES: dict[str, Json] = {
    "lines": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "auto", "spanNulls": False},
    "bars": {"drawStyle": "bars", "lineWidth": 1, "fillOpacity": 70},
    "stack": {"drawStyle": "bars", "lineWidth": 1, "fillOpacity": 70, "stacking": {"group": "A", "mode": "normal"}},
    "points": {"drawStyle": "points", "pointSize": 5, "showPoints": "always"},
}
"""How a time series is drawn."""


def dashboard(name: str) -> Json:
    """The dashboard of a YAML file, as Grafana reads it."""
    source = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    start, end = source["time"]
    return {
        "uid": f"globalmart-{name}",
        "title": source["title"],
        "description": source["description"],
        "tags": ["globalmart"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "timezone": "utc",
        "weekStart": "monday",
        "graphTooltip": 1,
        "time": {"from": start, "to": end},
        "refresh": source["refresh"],
        "annotations": {"list": []},
        "templating": {"list": [*map(_choice, source.get("choices", [])), *_places()]},
        "links": _links(source["links"]),
        "panels": list(_panels(source["rows"])),
    }


def _choice(source: Json) -> Json:
    """A variable of which one, several or all values can be chosen."""
    return {
        "type": "query",
        "name": source["name"],
        "label": source["label"],
        "description": source["description"],
        "datasource": WAREHOUSE,
        "query": source["sql"],
        # asked anew with each change of the time range, if that matters, and else when the dashboard is opened
        "refresh": 2 if "$__time" in source["sql"] else 1,
        "sort": 1,
        "regex": "",
        "multi": True,
        "includeAll": True,
        "allValue": ALL,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


def _places() -> Iterator[Json]:
    """The addresses that links begin with."""
    for name, address in (("reports", REPORTS), ("runbooks", RUNBOOKS)):
        chosen = {"selected": True, "text": address, "value": address}
        yield {
            "type": "constant",
            "name": name,
            "query": address,
            "current": chosen,
            "options": [chosen],
            "hide": 2,
            "skipUrlSync": True,
        }


def _links(source: list[Json]) -> list[Json]:
    """What stands at the top: the other dashboards, and the pages that belong to this one."""
    common = {"asDropdown": False, "includeVars": False, "tooltip": ""}
    others = {"type": "dashboards", "title": "GlobalMart", "icon": "external link", "tags": ["globalmart"], "url": ""}
    pages = [
        {"type": "link", "title": link["title"], "icon": "doc", "tags": [], "url": link["url"], "targetBlank": True}
        for link in source
    ]
    return [
        others | common | {"keepTime": True, "targetBlank": False},
        *(page | common | {"keepTime": False} for page in pages),
    ]


def _panels(rows: list[Json]) -> Iterator[Json]:
    """The rows with their panels, from left to right and from top to bottom."""
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        yield {"type": "row", "id": number, "title": row["title"], "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        left, height = 0, 0
        for source in row["panels"]:
            number += 1
            if left + source["width"] > WIDTH:
                left, top, height = 0, top + height, 0
            place = {"h": source["height"], "w": source["width"], "x": left, "y": top}
            yield {"id": number, "gridPos": place} | _panel(source)
            left, height = left + source["width"], max(height, source["height"])
        top += height


def _panel(source: Json) -> Json:
    kind = source["type"]
    targets = [_target(source, query, "ABCDEF"[place]) for place, query in enumerate(source["queries"])]
    defaults: Json = {
        "unit": source["unit"],
        "color": {
            "mode": source.get("color", "palette-classic" if kind in ("timeseries", "piechart") else "thresholds")
        },
        "thresholds": _thresholds(source.get("thresholds", [])),
        "mappings": _mappings(source.get("values", {})),
    }
    defaults |= {name: source[name] for name in ("decimals", "min", "max", "noValue") if name in source}
    if kind == "timeseries":
        limits = "dashed" if source.get("thresholds") else "off"
        defaults["custom"] = STYLES[source.get("style", "lines")] | {"thresholdsStyle": {"mode": limits}}
    panel = {
        "type": kind,
        "title": source["title"],
        "description": source["description"],
        "datasource": targets[0]["datasource"],
        "targets": targets,
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [_override(name, field) for name, field in source.get("fields", {}).items()],
        },
        "options": OPTIONS[kind] | source.get("options", {}),
        "links": [link | {"targetBlank": True} for link in source.get("links", [])],
    }
    # for the last hour whatever the dashboard shows; and the shortest time that a point stands for
    return panel | {name: source[name] for name in ("timeFrom", "interval") if name in source}


def _target(panel: Json, query: Json, letter: str) -> Json:
    """A query, which has `sql` or an `expr` with the `legend` of its series."""
    if "sql" in query:
        kind = "time_series" if panel["type"] == "timeseries" else "table"
        common = {"refId": letter, "datasource": WAREHOUSE, "editorMode": "code"}
        return common | {"format": kind, "rawQuery": True, "rawSql": query["sql"]}
    is_now = panel["type"] != "timeseries"
    return {
        "refId": letter,
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": query["expr"],
        "legendFormat": query["legend"],
        "instant": is_now,
        "range": not is_now,
    }


def _thresholds(steps: list[list[Any]]) -> Json:
    """Colours by value; what is below the first step is green."""
    made = [{"color": "green", "value": None}, *({"color": color, "value": value} for value, color in steps)]
    return {"mode": "absolute", "steps": made}


def _mappings(values: dict[str, list[str]]) -> list[Json]:
    """Texts and colours that stand for single values."""
    if not values:
        return []
    options = {
        value: {"index": place, "text": text, "color": color}
        for place, (value, (text, color)) in enumerate(values.items())
    }
    return [{"type": "value", "options": options}]


def _override(name: str, field: Json) -> Json:
    """What is special of one column."""
    found: Json = {"displayName": field.get("title")}
    found |= {key: field.get(key) for key in ("unit", "decimals", "max")}
    found["custom.width"] = field.get("width")
    if "thresholds" in field:
        found |= {"thresholds": _thresholds(field["thresholds"]), "color": {"mode": "thresholds"}}
    if "values" in field:
        found["mappings"] = _mappings(field["values"])
    if field.get("is_colored"):
        found["custom.cellOptions"] = {"type": "color-text"}
    if "url" in field:
        found["links"] = [{"title": field["link"], "url": field["url"], "targetBlank": True}]
    properties = [{"id": key, "value": value} for key, value in found.items() if value is not None]
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def text(name: str) -> str:
    """The dashboard as its file holds it."""
    return json.dumps(dashboard(name), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all dashboards."""
    for name in NAMES:
        (FOLDER / "dashboards" / f"{name}.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
