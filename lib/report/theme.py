"""The look of charts: one plotly template, calm on screen and legible in print."""

import plotly.io as pio

TEMPLATE = "globalmart"
PALETTE = ["#2f6690", "#e09f3e", "#5b8e7d", "#bc4b51", "#8e7dbe", "#81a4cd", "#a08d6b", "#4a5759"]
SCALE = ["#e8f0f5", "#bcd4e2", "#8ab3cc", "#5891b4", "#2f6690", "#1d4464"]
FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'
INK, MUTED, LINE, GRID = "#27323a", "#5b6770", "#c5ccd3", "#e6eaee"


def use_template() -> None:
    """Register the template, and make it the default of new figures.

    `lib.report` calls it when it is imported, since plotly.express writes the default's colours into a figure while it
    builds it: to set the template when the figure is shown would be too late.
    """
    pio.templates[TEMPLATE] = {"layout": _layout(), "data": _traces()}
    pio.templates.default = TEMPLATE


AXIS = {
    "gridcolor": GRID,
    "linecolor": LINE,
    "zerolinecolor": LINE,
    "zerolinewidth": 1,
    "ticks": "",
    "automargin": True,
    "title": {"font": {"size": 13, "color": MUTED}, "standoff": 12},
}
TITLE = {
    "font": {"size": 16, "color": INK, "weight": 600},
    "x": 0,
    "xref": "container",
    "xanchor": "left",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "pad": {"t": 14, "l": 4},
}


def _layout() -> dict[str, object]:
    scale = [[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)]
    return {
        "colorway": PALETTE,
        "colorscale": {"sequential": scale, "sequentialminus": scale[::-1]},
        "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 12, "ticks": ""}},
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": TITLE,
        "height": 400,
        "margin": {"l": 56, "r": 16, "t": 64, "b": 40},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "bargap": 0.3,
        "separators": ".,",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": LINE, "font": {"family": FONT, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": AXIS | {"showgrid": False, "showline": True},
        "yaxis": AXIS,
    }


def _traces() -> dict[str, list[dict[str, object]]]:
    return {
        "bar": [{"marker": {"line": {"width": 0}}}],
        "scatter": [{"line": {"width": 2.5}, "marker": {"size": 7}}],
        "pie": [{"marker": {"line": {"color": "#ffffff", "width": 2}}}],
        "heatmap": [{"colorbar": {"outlinewidth": 0, "thickness": 12}}],
    }
