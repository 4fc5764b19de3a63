"""What a notebook shows: numbers for programs; cards, charts and tables for people.

Every kernel imports this, so pandas, scrapbook and IPython are imported where they are first used.
"""

import html
import json
import math
import traceback
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lib.report.theme import TEMPLATE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Progress(Protocol):
    """How a saver run is doing: events/s, messages not stored yet, latency (p95, ms), messages read, cap of a micro-batch."""

    rate: float
    lag: int
    p95: float | None
    rows_in: int
    cap: int


def glue(**numbers: Any) -> None:
    """Record numbers of this run through scrapbook, one scrap per name.

    They become plain JSON: numpy's numbers become Python's, a Decimal an int if it is whole, else a float, dates texts in
    ISO 8601; NaN, infinity, NaT, NA and None become null. Lists and mappings may hold any of these.

    Raises
    ------
    TypeError
        Naming the number that isn't plain data.
    """
    import scrapbook

    for name, value in numbers.items():
        try:
            plain = _plain(value)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error
        if plain is None:
            # scrapbook's schema has no null, but its JSON encoder takes JSON text, and reads this one back as None.
            scrapbook.glue(name, '"null"', encoder="json")
        else:
            scrapbook.glue(name, plain)


def headline(figures: Mapping[str, str]) -> None:
    """Show the few figures that matter as a row of cards, and glue them as the scrap `headline`.

    The scrap is a list of pairs (label, text): a notebook file and jsonb both forget the order of an object's keys.
    Report and gallery draw the scrap at their top; the cards displayed here are for the notebook.

    Parameters
    ----------
    figures
        Label to display text, in the order to show: `{"Revenue": "€ 1,234,567"}`.
    """
    glue(headline=list(figures.items()))
    _display({"text/html": _cards(figures)}, metadata={"globalmart": "headline"})


def _cards(figures: Mapping[str, str]) -> str:
    cards = "".join(
        '<div style="flex:1 1 140px;padding:12px 16px;border:1px solid rgba(128,128,128,.35);border-radius:8px">'
        f'<div style="font-size:12px;opacity:.75">{html.escape(str(label))}</div>'
        f'<div style="font-size:22px;line-height:1.4;font-weight:600">{html.escape(str(text))}</div></div>'
        for label, text in figures.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;max-width:960px;margin:8px 0">{cards}</div>'


def live() -> Callable[[Progress], None]:
    """A function that shows a saver run's progress as a row of cards: it redraws them in place, and the last ones stay."""
    from IPython.display import display

    handle: list[Any] = []

    def watch(progress: Progress) -> None:
        p95 = "–" if progress.p95 is None else f"≤ {progress.p95:,.0f} ms"
        cards = _cards({"Events/s": f"{progress.rate:,.0f}", "Behind": f"{progress.lag:,}", "Latency p95": p95})
        if handle:
            handle[0].update({"text/html": cards}, raw=True)
        else:
            handle.append(display({"text/html": cards}, raw=True, display_id=True))  # type: ignore[no-untyped-call]

    return watch


def show(figure: "go.Figure") -> None:
    """Display a plotly figure in the project's look, in JupyterLab and in the report alike.

    Instead of the empty axes of a figure without a point, its title and the row "none" are shown, as for an empty table.
    """
    if not any(map(_points, figure.data)):
        title = html.escape(figure.layout.title.text or "")
        row = '<tr><td style="text-align:left">none</td></tr>'
        _display({"text/html": f"<table><caption>{title}</caption><tbody>{row}</tbody></table>"})
        return
    named = sum(getattr(trace, "showlegend", None) is not False and bool(trace.name) for trace in figure.data)
    has_legend = figure.layout.showlegend is not False and named > 1
    room = 20 + 36 * bool(figure.layout.title.text) + 28 * has_legend
    figure.update_layout(template=TEMPLATE, margin_t=room, legend_title_text="")
    _display({"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": "(a chart)"})


def _points(trace: Any) -> int:
    """How many points a trace has, whatever it calls them."""
    parts = [getattr(trace, name, None) for name in ("x", "y", "z", "values")]
    return max((len(part) for part in parts if part is not None), default=0)


def table(
    frame: "pd.DataFrame",
    *,
    caption: str | None = None,
    formats: Mapping[str, str | Callable[[Any], str]] | None = None,
    limit: int = 20,
) -> None:
    """Display the first rows of a frame for people: numbers to the right, with thousands separators; no index.

    For an empty frame there is one row, "none".

    Parameters
    ----------
    formats
        Column to format: a format specification (`",.2f"`, `".1%"`, `"d"` for a year) or a function to text.
    limit
        Most rows to show; a note says how many there are when some are left out.

    Raises
    ------
    TypeError
        When the frame isn't one of pandas.
    """
    if not hasattr(frame, "items"):
        kind = type(frame)
        raise TypeError(
            f"a table shows a frame of pandas, not {kind.__module__}.{kind.__name__};"
            " of a Spark frame take `frame.limit(20).toPandas()`"
        )
    formats = formats or {}
    head, columns = [], []
    for name, column in frame.head(limit).items():
        side = "right" if _is_numeric(column) else "left"
        head.append(f'<th style="text-align:{side}">{html.escape(str(name))}</th>')
        texts = (html.escape(_text(value, formats.get(str(name)))) for value in column)
        columns.append([f'<td style="text-align:{side}">{text}</td>' for text in texts])
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    rows = rows or f'<tr><td style="text-align:left" colspan="{len(head)}">none</td></tr>'
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    note = f"<p><small>{limit:,} of {len(frame):,} rows</small></p>" if limit < len(frame) else ""
    html_table = f"<table>{title}<thead><tr>{''.join(head)}</tr></thead><tbody>{rows}</tbody></table>"
    _display({"text/html": html_table + note})


def numbers(notebook: Path) -> dict[str, Any]:
    """The scraps of an executed notebook by name, `headline` included; of a name glued twice the last.

    Raises
    ------
    FileNotFoundError
        If there is no such notebook.
    """
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    from scrapbook.models import Notebook

    found: dict[str, Any] = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            if not any("scrapbook.scrap" in kind for kind in output.get("data", {})):
                continue
            try:
                scraps = Notebook(new_notebook(cells=[new_code_cell(outputs=[output])])).scraps
            except Exception:
                # a scrap that can't be read, whatever it is, is left out
                traceback.print_exc()
                continue
            found |= {name: scrap.data for name, scrap in scraps.items()}
    return found


def _display(bundle: dict[str, Any], *, metadata: dict[str, str] | None = None) -> None:
    from IPython.display import display

    display(bundle, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


def _plain(value: Any) -> Any:
    """`value` as JSON's types."""
    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            return int(value) if value.is_finite() and value == int(value) else _plain(float(value))
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return _plain_of_numpy(value)


def _plain_of_numpy(value: Any) -> Any:
    import numpy as np
    import pandas as pd

    if value is pd.NaT or value is pd.NA:
        return None
    match value:
        case date():
            return value.isoformat()
        case np.datetime64():
            return _plain(pd.Timestamp(value))
        case np.bool_():
            return bool(value)
        case np.integer() if not isinstance(value, np.timedelta64):
            return int(value)
        case np.floating():
            return _plain(float(value))
        case np.ndarray():
            return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} can't be glued: give a number, text, date, list or mapping")


def _is_numeric(column: "pd.Series[Any]") -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return (is_numeric_dtype(column) and not is_bool_dtype(column)) or any(isinstance(v, Decimal) for v in column)


def _text(value: Any, form: str | Callable[[Any], str] | None) -> str:
    import pandas as pd
    from pandas.api.types import is_bool, is_float, is_integer, is_scalar

    if is_scalar(value) and pd.isna(value):
        return "–"
    if callable(form):
        return form(value)
    if form is not None:
        return format(value, form)
    if is_bool(value):
        return "yes" if value else "no"
    if is_integer(value) or isinstance(value, Decimal):
        return f"{value:,}"
    if is_float(value):
        return f"{value:,.2f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)
