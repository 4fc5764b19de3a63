"""What notebooks have to look like; `schedule.py validate` names each notebook and cell that doesn't."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lib.jobs.cells import Cell, find_notebooks, read_cells
from lib.jobs.discovery import Job, Problem, name_of, parse, scan

SECTIONS = ("Read", "Transform", "Write", "Check", "Result")
JOB_FOLDERS = ("ingest", "etl", "analytics")
PARAMETERS = {
    "stream": {"run_date": "str", "publish": "bool", "run_minutes": "float"},
    "batch": {"run_date": "str", "cut": "int", "publish": "bool"},
}
"""The parameters that the scheduler sets; all schedules but `stream` have those of `batch`."""

MAX_LINES = 20
MAGIC = re.compile(r"^\s*[%!?]|^\s*\w+\s*=\s*[%!]")
CONNECTION = re.compile(r"\b(postgres(ql)?|jdbc|sc|redis)(:\w+)?://?\w")
CONNECTED = "a connection string or a change of sys.path: settings come from lib/settings.py"
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def validate(folder: Path) -> list[Problem]:
    """Everything that is wrong with the notebooks under `folder`, the template included, in order.

    An exploration, which isn't a job, is free in all but this: no connection string stands in it.
    """
    jobs, problems = scan(folder)
    for path in [*find_notebooks(folder), *sorted(folder.glob("_template.ipynb"))]:
        name = name_of(path, folder)
        job, found = parse(name, path)
        problems += found if name.startswith("_") else []
        try:
            cells = read_cells(path)
        except Exception:
            # whatever it is, `scan` has named the notebook
            continue
        problems += (Problem(name, cell, message) for cell, message in _notebook(name, job, cells))
    return sorted({*problems, *_unwritten(jobs)})


def _notebook(name: str, job: Job | None, cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    is_job = any("job" in cell.tags for cell in cells)
    if not is_job and not name.startswith((*JOB_FOLDERS, "_")):
        yield from ((number, CONNECTED) for number, cell in enumerate(cells, start=1) if _connects(cell))
        return
    for number, cell in enumerate(cells, start=1):
        yield from ((number, message) for message in _cell(cell))
    title = 2 if is_job else 1
    if len(cells) < title or cells[title - 1].kind != "markdown" or not cells[title - 1].source.startswith("# "):
        yield title, "the title is missing: a text cell that begins with `# `"
    if is_job:
        yield from _parameter_cells(cells)
        yield from _sections(cells)
    elif name.startswith(JOB_FOLDERS):
        yield 1, "has no cell tagged `job`, so nothing runs it; explorations stand in `explore/`"
    if job:
        yield from _declared(job)


def _cell(cell: Cell) -> Iterator[str]:
    if cell.has_output:
        yield "outputs aren't stripped"
    if cell.kind != "code":
        return
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines; at most {MAX_LINES}, what is longer belongs into lib/"
    if any(MAGIC.match(line) for line in lines):
        yield "a magic or shell command: plain Python only"
        return
    if _connects(cell):
        yield CONNECTED
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        yield f"syntax error in line {error.lineno}: {error.msg}"
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield f"can't be read as Python: {error or 'it is nested too deeply'}"
        return
    if any(isinstance(node, FORBIDDEN) for node in ast.walk(tree)):
        yield "a function or class: what has a name belongs into lib/"


def _connects(cell: Cell) -> bool:
    return cell.kind == "code" and bool(CONNECTION.search(cell.source) or "sys.path" in cell.source)


def _parameter_cells(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    tagged = [number for number, cell in enumerate(cells, start=1) if "parameters" in cell.tags]
    if not tagged:
        yield 0, "no cell is tagged `parameters`"
    for number in tagged[1:]:
        yield number, f"a second cell tagged `parameters`, after cell {tagged[0]}"
    for number in tagged:
        cell = cells[number - 1]
        if cell.kind != "code":
            yield number, "the cell tagged `parameters` has to be a code cell"
        for line in cell.source.splitlines():
            if line.strip() and not re.match(r"\s*#|\w+: [^=]+ = .+  # .+", line):
                yield number, f"`{line.strip()}` has to be `name: type = literal  # meaning`"
            elif "=" in line.partition("=")[2]:
                # papermill doesn't see such a line when it inspects parameters
                yield number, f"`{line.strip()}` has a second `=`, which papermill can't read"


def _sections(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    found = [
        (number, line[3:].strip())
        for number, cell in enumerate(cells, start=1)
        if cell.kind == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    for section in SECTIONS:
        if section not in [name for _, name in found]:
            yield 0, f"the section `## {section}` is missing"
    places = [(SECTIONS.index(name), number) for number, name in found if name in SECTIONS]
    for (before, _), (after, number) in itertools.pairwise(places):
        if after <= before:
            yield (
                number,
                f"`## {SECTIONS[after]}` stands after `## {SECTIONS[before]}`",
            )


def _declared(job: Job) -> Iterator[tuple[int, str]]:
    for name, kind in PARAMETERS.get(job.schedule, PARAMETERS["batch"]).items():
        parameter = job.parameters.get(name)
        if parameter is None:
            yield 0, f"the parameter `{name}: {kind}` is missing"
        elif parameter.type != kind or parameter.default:
            yield 0, f"the parameter `{name}` has to be of type {kind}, with a default that does nothing"
    if job.writes and not job.grain:
        yield 1, "`grain` is missing: what is one row of the table?"
    if job.writes and job.folder in JOB_FOLDERS and job.short_name != job.writes.partition(".")[2]:
        yield 1, f"writes {job.writes}: a notebook has the name of its table"


def _unwritten(jobs: Iterable[Job]) -> Iterator[Problem]:
    jobs = list(jobs)
    written = {job.writes for job in jobs}
    for job in jobs:
        for table in job.reads:
            if not table.startswith("kafka.") and table not in written:
                yield Problem(job.name, 1, f"reads {table}, which no notebook writes")
