"""Why a cell failed, in one line that begins with the cause."""

import re

from lib.plain import one_line

LONGEST = 300
ENDED_EARLY = "the run was ended early, by `sys.exit`, `exit` or SystemExit; no later cell was executed"

QUERY = re.compile(r"^(\[STREAM_FAILED\] )?Query \[id = [^\]]*\] terminated with exception: ")
CONDITION = re.compile(r"^\[[A-Z][A-Z0-9_.]+\] ")
QUALIFIED = re.compile(r"^(?:[a-z_][\w$]*\.)+([A-Z]\w*)(: |$)")
"""A class with its package, as Java and Spark write it: `org.postgresql.util.PSQLException: …`."""


def told(name: str, text: str) -> str:
    """An exception in a line: its class and what it says, or the exception that has caused it where its text tells.

    Spark wraps what went wrong in its workers, in its streaming queries and in Java; what helps then is the innermost
    exception, and never the number of a query.
    """
    if name == "SystemExit":
        return one_line(f"{ENDED_EARLY}; it gave {text}" if text else ENDED_EARLY, LONGEST)
    cause = _of_python(text) or _of_java(text) or first_line(text)
    stripped = QUALIFIED.sub(r"\1\2", QUERY.sub("", cause))
    if stripped != cause or _is_told(stripped):
        return one_line(stripped, LONGEST)
    return one_line(f"{name}: {stripped}" if stripped else name, LONGEST)


def first_line(text: str) -> str:
    """The first line of `text` that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _of_python(text: str) -> str:
    return ""


def _of_java(text: str) -> str:
    return ""


def _is_told(text: str) -> bool:
    return False
