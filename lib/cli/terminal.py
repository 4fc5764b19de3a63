"""What the commands of `schedule.py` share: consoles, exit codes, and errors for people."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg2
import typer
from rich.console import Console

from lib import locks
from lib.jobs import discovery
from lib.jobs.discovery import Job, JobError
from lib.plain import one_line
from lib.settings import SettingsError, settings

DONE, FAILED, WRONG_USE = 0, 1, 2

# No markup: texts of notebooks, messages and people are printed as they are, with `[red]` and `:smile:` in them.
console = partial(Console, markup=False, emoji=False, highlight=False)
output = console(width=None if sys.stdout.isatty() else 160)
errors = console(stderr=True)
if isinstance(sys.stdout, io.TextIOWrapper):
    # what isn't valid text, or what the terminal can't show, is escaped instead of raising an error
    sys.stdout.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    errors.print(text, style="red", soft_wrap=True)


def refuse(text: str) -> None:
    """End with the exit code for wrong use."""
    complain(text)
    raise typer.Exit(WRONG_USE)


def unreachable(database: str = "warehouse") -> str:
    """What to say when a database doesn't answer."""
    where = psycopg2.extensions.parse_dsn(settings().dsn(database))
    return (
        f"the {_name(database)} isn't reachable at {where.get('host')}:{where.get('port', 5432)}: `make up` starts it"
    )


@contextmanager
def clear_errors(database: str = "warehouse") -> Iterator[None]:
    """Turn errors that people can do something about into one line and an exit code; `database` is the one in use."""
    try:
        yield
    except (JobError, SettingsError) as error:
        refuse(str(error))
    except locks.LockHeld as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except psycopg2.OperationalError as error:
        complain(unreachable(database))
        errors.print(one_line(str(error)), style="dim", soft_wrap=True)
        raise typer.Exit(FAILED) from None
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
        complain(not_set_up(error, database))
        raise typer.Exit(FAILED) from None


def not_set_up(error: psycopg2.Error, database: str = "warehouse") -> str:
    """What to say when a database lacks tables or columns of this version."""
    said = str(error).partition("\n")[0]
    return f"the {_name(database)} isn't set up for this version ({said}): `make up` brings it up to date"


def _name(database: str) -> str:
    return "warehouse" if database == "warehouse" else f"{database} database"


def notebooks_folder() -> Path:
    """Where the notebooks are.

    Raises
    ------
    JobError
        When there is no such folder.
    """
    folder = settings().notebooks_dir
    if not folder.is_dir():
        raise JobError(f"GM_NOTEBOOKS_DIR: {folder} isn't a folder; it has to be the one that the notebooks are in")
    return folder


def discover() -> list[Job]:
    """The jobs; broken notebooks are named and left out."""
    found, problems = discovery.scan(notebooks_folder())
    for problem in discovery.broken_lines(problems):
        errors.print(f"broken, so left out: {problem}", style="red", soft_wrap=True)
    return found


def choose(names: list[str]) -> list[Job]:
    """The jobs that the names mean; only a broken notebook that is one of them is an error."""
    found, problems = discovery.scan(notebooks_folder())
    short = set(names) - {job.short_name for job in found}
    broken = [each for each in problems if each.notebook in names or each.notebook.rpartition("/")[2] in short]
    if broken:
        raise JobError(*broken)
    if problems:
        discover()
    if not (chosen := discovery.select(found, names)):
        raise JobError(f"no job is meant by {' '.join(names)}")
    return chosen
