"""The HTML report of an executed notebook: no code, no outside address, and no script but that of the charts."""

import base64
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import plotly
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from lib import causes
from lib.jobs import front_matter
from lib.plain import headline
from lib.report.page import TEMPLATES, duration, instant, write_whole
from lib.report.sanitize import clean

CHART = "application/vnd.plotly.v1+json"
SHOWN = [CHART, "text/html", "text/markdown", "image/png", "image/jpeg", "text/plain"]
PLOTLY_JS = f"plotly-{plotly.__version__}.min.js"
SCRIPT = (TEMPLATES / "report" / "charts.js").read_text(encoding="utf-8")


def render(notebook: Path, html: Path, *, assets: Path, error: str | None = None) -> None:
    """Write the report of an executed notebook, whole or not at all.

    Parameters
    ----------
    notebook
        `runs/<job>/<run_date>/<run_id>.ipynb`; the job, its day and its run id are read off that path.
    html
        The report; its links are relative to its folder.
    assets
        `runs/assets`; plotly.min.js is copied there once.
    error
        Why the run failed, when its notebook can't say so: the kernel died, or the time was up. A cell with an error makes
        the report a failed one without this.
    """
    node = nbformat.read(notebook, as_version=4)
    problem = _problem(node, error)
    report = (
        _facts(node, notebook.resolve().relative_to(assets.resolve().parent))
        | _cells(node, failed=problem is not None)
        | {"problem": problem}
    )
    report["root"] = _root(html, assets)
    report["plotly"] = PLOTLY_JS
    report["script"] = SCRIPT
    report["script_hash"] = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    _copy_plotly(assets)
    page, _ = _exporter().from_notebook_node(node, resources={"report": report})
    write_whole(html, page)


def publish_latest(html: Path, latest: Path, *, assets: Path) -> None:
    """Copy a report to `runs/latest/<folder>/<name>.html`, its links made relative to that place."""
    # All links are in the template's own part, which ends with </nav>; in texts before that, quotes are escaped.
    head, nav, body = html.read_text(encoding="utf-8").partition("</nav>")
    write_whole(latest, head.replace(f'="{_root(html, assets)}/', f'="{_root(latest, assets)}/') + nav + body)


def _problem(node: NotebookNode, error: str | None) -> dict[str, str] | None:
    section = ""
    for cell in node.cells:
        section = heading(cell) or section
        for output in cell.get("outputs", []):
            if ends_early(output):
                return {"name": "The run ended early", "text": error or causes.ENDED_EARLY}
            if output.output_type == "error":
                place = f" in {section}" if section else ""
                return {"name": f"{output.ename}{place}", "text": causes.without_java(output.evalue)}
    return {"name": "The run didn't finish", "text": error} if error else None


def heading(cell: NotebookNode) -> str:
    """The section that a cell begins, if it is a text cell with the heading of one."""
    lines = cell.source.splitlines() if cell.cell_type == "markdown" else []
    return next((line[3:].strip() for line in reversed(lines) if line.startswith("## ")), "")


def _root(html: Path, assets: Path) -> str:
    return Path(os.path.relpath(assets.parent, html.parent)).as_posix()


def _copy_plotly(assets: Path) -> None:
    # The name has the version in it, so a file that is there is right, and older reports keep theirs.
    target = assets / PLOTLY_JS
    if target.exists():
        return
    assets.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", aside)
    aside.replace(target)


def _facts(node: NotebookNode, place: Path) -> dict[str, Any]:
    """What the report says of the run itself; `place` is that of its notebook in the folder of runs."""
    *job, run_date, _ = place.parts
    run = node.metadata.get("papermill", {})
    front = next((cell.source for cell in node.cells if cell.cell_type == "raw" and "job" in _tags(cell)), "")
    return {
        "job": "/".join(job),
        "run_date": run_date,
        "run_id": place.stem,
        "front": front_matter.read(front)[0],
        "parameters": {key: value for key, value in run.get("parameters", {}).items() if value not in ("", None)},
        "started": instant(_when(run.get("start_time"))),
        "took": duration(run.get("duration")),
        "headline": next((found for output in _outputs(node) if (found := _headline(output))), []),
    }


def _when(text: str | None) -> datetime | None:
    when = datetime.fromisoformat(text) if text else None
    return when.replace(tzinfo=UTC) if when and when.tzinfo is None else when


def _headline(output: NotebookNode) -> list[tuple[str, str]]:
    scrap = output.get("data", {}).get("application/scrapbook.scrap.json+json")
    name = scrap.get("name") if isinstance(scrap, dict) else None
    return headline({name: scrap.get("data")}) if isinstance(name, str) else []


def _cells(node: NotebookNode, *, failed: bool) -> dict[str, Any]:
    """Reduce the notebook to what is shown; in the report of a good run, the section `## Result` comes first."""
    shown = []
    for cell in node.cells:
        if cell.cell_type == "raw" or "papermill-error-cell-tag" in _tags(cell):
            continue
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output, failed=failed)]
        shown.append(cell)
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            break
    title, lede = "", ""
    if shown and shown[0].cell_type == "markdown" and shown[0].source.startswith("# "):
        title, _, lede = shown.pop(0).source.partition("\n")
    result, method = _split(shown)
    folds = bool(result and method) and not failed
    if folds:
        shown = result + method
        method[0].metadata["globalmart"] = "method"
    node.cells = shown
    return {"title": title.lstrip("# "), "lede": lede, "folds": folds}


def _split(cells: list[NotebookNode]) -> tuple[list[NotebookNode], list[NotebookNode]]:
    """The cells of the section `## Result`, and all others."""
    result: list[NotebookNode] = []
    method: list[NotebookNode] = []
    inside = False
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            inside = cell.source.startswith("## Result")
        (result if inside else method).append(cell)
    return result, method


def _is_shown(output: NotebookNode, *, failed: bool) -> bool:
    if output.output_type == "stream":
        return failed or output.name == "stdout"
    if output.output_type == "error":
        return True
    return output.metadata.get("globalmart") != "headline" and any(mime in output.data for mime in SHOWN)


def ends_early(output: NotebookNode) -> bool:
    """Whether a cell has ended the run by `sys.exit`, `exit` or a SystemExit of its own."""
    return bool(output.output_type == "error" and output.ename == "SystemExit")


def _outputs(node: NotebookNode) -> Iterator[NotebookNode]:
    for cell in node.cells:
        yield from cell.get("outputs", [])


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


@functools.cache
def _exporter() -> HTMLExporter:
    return HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_anchor_links=True,
        filters={"clean": clean, "figure": _figure},
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}),
    )


def _figure(figure: dict[str, Any]) -> str:
    """A figure as JSON that is safe in a script element."""
    drawn = {part: figure[part] for part in ("data", "layout", "frames") if part in figure}
    return json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
