"use strict";
{
  const charts = [];
  for (const source of document.querySelectorAll("script.figure")) {
    const place = source.previousElementSibling;
    if (!window.Plotly) {
      place.textContent = "This chart needs the folder “assets” that came with the report. To pass the report on as one file, print it to PDF.";
      place.className = "chart missing";
      continue;
    }
    Plotly.newPlot(place, Object.assign(JSON.parse(source.textContent), {
      config: { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]] },
    }));
    charts.push(place);
  }
  // A chart that was drawn while its section was folded doesn't know its width yet.
  for (const fold of document.querySelectorAll("details"))
    fold.addEventListener("toggle", () => fold.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.Plots.resize(chart)));
  // The width of A4 between its margins; a page on paper isn't resized by itself.
  addEventListener("beforeprint", () => charts.forEach((chart) => Plotly.relayout(chart, { width: 680, autosize: false })));
  addEventListener("afterprint", () => charts.forEach((chart) => Plotly.relayout(chart, { width: null, autosize: true })));
}
