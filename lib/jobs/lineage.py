"""Which jobs write what a job reads, by the front matter of the notebooks. Every load asks, so it takes milliseconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import plain
from lib.jobs import cells, front_matter


def declared(folder: Path, job: str) -> dict[str, Any]:
    """What the front matter of a job's notebook says; a copy of a template under the template's name has the template's.

    Raises
    ------
    LookupError
        When there is no such notebook, or it isn't a job.
    """
    for path in (folder / f"{job}.ipynb", folder / f"_{job}.ipynb"):
        if front := _front(path):
            return front
        if front is not None:
            raise LookupError(f"{path} has no front matter of a job: give `begin` what it `reads`")
    known = [path.relative_to(folder).with_suffix("").as_posix() for path in cells.find_notebooks(folder)]
    hint = plain.do_you_mean(job, known)
    raise LookupError(
        f"{folder}/{job}.ipynb is no job that can be read: `begin` takes the name of the notebook, with its folder{hint}"
    )


def writers(folder: Path, reads: Sequence[str]) -> list[str]:
    """The jobs that write those of the tables that are in the warehouse, in the order of the tables.

    A notebook that can't be read counts as the writer of the table of its name: it may have been loaded before.
    """
    wanted = [table for table in reads if table.startswith("warehouse.")]
    if not wanted:
        return []
    known: dict[str, list[str]] = {}
    unread: dict[str, list[str]] = {}
    for path in cells.find_notebooks(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        front = _front(path)
        if front is None:
            unread.setdefault(f"warehouse.{path.stem}", []).append(name)
        elif "writes" in front:
            known.setdefault(front["writes"], []).append(name)
    found = []
    for table in wanted:
        names = known.get(table) or unread.get(table, [])
        # of two the one that has the table's name, which is also the one that the scheduler runs
        found += sorted(names, key=lambda name: f"warehouse.{Path(name).name}" != table)[:1]
    return found


def _front(path: Path) -> dict[str, Any] | None:
    """The valid fields of a notebook's front matter; none for an exploration, None for a notebook that can't be read."""
    try:
        first, *_ = [*cells.to_cells(cells.read_document(path)), None]
    except Exception:
        # as in `discovery.parse`: reading it may raise anything, and the others are read all the same
        return None
    if first is None or first.kind != "raw" or "job" not in first.tags:
        return {}
    return front_matter.read(first.source)[0]
