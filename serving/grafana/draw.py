"""`python -m serving.grafana.draw FOLDER`: each dashboard as a page, drawn from its own JSON over the warehouse, for the docs.

Grafana draws better; this shows what the panels ask for, and that there is an answer. Panels over Prometheus show their
expression. With Chromium installed, each page is made a picture, too.
"""

import html
import json
import shutil
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.io

from lib import database, servers
from lib.report.theme import TEMPLATE
from lib.settings import settings
from serving.grafana import queries
from serving.grafana.queries import Json, Request

DAYS = 90
ROW_PIXELS, WIDTH = 32, 1400
STYLE = """
body { font: 14px system-ui, sans-serif; margin: 16px; background: #f4f5f7; color: #1b1f24 }
main { display: grid; grid-template-columns: repeat(24, 1fr); gap: 8px }
section { background: #fff; border: 1px solid #dde1e6; border-radius: 4px; padding: 8px; overflow: hidden }
h1 { font-size: 22px } h2 { grid-column: 1 / -1; font-size: 15px; margin: 8px 0 0 } h3 { font-size: 13px; margin: 0 0 6px }
table { border-collapse: collapse; width: 100%; font-size: 12px }
td, th { text-align: right; padding: 2px 6px; border-bottom: 1px solid #eee }
dl { display: flex; gap: 24px; margin: 8px } dt { font-size: 12px; color: #667 }
dd { font-size: 22px; margin: 0 } code { font-size: 11px; color: #556 }
"""


def main() -> None:
    """Draw all dashboards into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, board in queries.dashboards().items():
        page = folder / f"grafana-{name}.html"
        page.write_text(_page(board), encoding="utf-8")
        _photograph(page, max(_bottom(panel) for panel in board["panels"]))
        print(page)


def _page(board: Json) -> str:
    now = datetime.now(UTC)
    request = Request(now - timedelta(days=DAYS), now, interval="1d")
    parts = []
    with closing(servers.connect(settings().address("warehouse", reader=True))) as connection:
        for panel in board["panels"]:
            title = html.escape(panel["title"])
            if panel["type"] == "row":
                parts.append(f"<h2>{title}</h2>")
                continue
            place = panel["gridPos"]
            style = f"grid-column: span {place['w']}; height: {place['h'] * ROW_PIXELS}px"
            shown = "".join(_target(panel, target, board, request, connection) for target in panel["targets"])
            parts.append(f'<section style="{style}"><h3>{title}</h3>{shown}</section>')
    script = plotly.offline.get_plotlyjs()
    body = f"<h1>{html.escape(board['title'])}</h1><main>{''.join(parts)}</main>"
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><script>{script}</script>{body}"


def _target(panel: Json, target: Json, board: Json, request: Request, connection: Any) -> str:
    if "rawSql" not in target:
        return f"<p><code>{html.escape(target['expr'])}</code></p>"
    with connection:
        frame = database.frame(connection, queries.expanded(target["rawSql"], board, request))
    if panel["type"] == "timeseries":
        return _chart(frame, panel)
    if panel["type"] == "stat" and len(frame) == 1:
        pairs = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{_text(frame[name].iloc[0])}</dd></div>" for name in frame
        )
        return f"<dl>{pairs}</dl>"
    rows = frame.head(12).map(_text)
    return str(rows.to_html(index=False, border=0, escape=False))


def _chart(frame: pd.DataFrame, panel: Json) -> str:
    """Series as Grafana takes them: the time, perhaps a text that names the series, and numbers."""
    frame["time"] = [
        pd.Timestamp(at, unit="s") if isinstance(at, int | float) else pd.Timestamp(at)
        for at in map(_plain, frame["time"])
    ]
    names = [name for name in frame if name != "time" and frame[name].map(lambda value: isinstance(value, str)).any()]
    numbers = [name for name in frame if name not in ("time", *names)]
    long = frame.melt(id_vars=["time", *names], value_vars=numbers)
    long["value"] = pd.to_numeric(long["value"].map(_plain))
    figure = px.line(long, x="time", y="value", color=names[0] if names else "variable")
    figure.update_layout(
        template=TEMPLATE, height=panel["gridPos"]["h"] * ROW_PIXELS - 44, margin=dict(l=8, r=8, t=8, b=8)
    )
    figure.update_layout(xaxis_title="", yaxis_title="", legend_title_text="")
    return str(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, config={"displayModeBar": False}))


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "as_tuple") else value


def _text(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.2f}".removesuffix(".00")
    return html.escape(json.dumps(value) if isinstance(value, dict | list) else str(value))


def _bottom(panel: Json) -> int:
    return int(panel["gridPos"]["y"] + panel["gridPos"]["h"])


def _photograph(page: Path, rows: int) -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program:
        size = f"--window-size={WIDTH},{rows * (ROW_PIXELS + 4) + 160}"
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=8000",
            size,
        ]
        picture = f"--screenshot={page.with_suffix('.png').resolve()}"
        subprocess.run(
            [program, *options, picture, page.resolve().as_uri()], check=True, capture_output=True, timeout=180
        )


if __name__ == "__main__":
    main()
