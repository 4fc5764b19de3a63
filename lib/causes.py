"""Why a cell failed, in one line that begins with the cause."""

import re

from lib.plain import one_line

LONGEST = 300
ENDED_EARLY = "the run was ended early, by `sys.exit`, `exit` or SystemExit; no later cell was executed"

TRACEBACK = "Traceback (most recent call last):\n"
OF_PYTHON = re.compile(r"\[PYTHON_EXCEPTION\]|PythonException")
"""Signs that Spark quotes an error that one of its Python processes has raised."""
WRAPPINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(\[STREAM_FAILED\] )?Query \[id = [^\]]*\] terminated with exception: ",
        r"An error occurred while calling \S+\n: ",
        r"Job aborted due to stage failure: .* \(TID \d+\) \([^)]*\): ",
    )
)
"""What Spark and Py4J put before the cause."""
IN_BRACKETS = re.compile(r"\((?:[a-z_]\w*\.)+([A-Z]\w*)\) ")
QUALIFIED = re.compile(r"(?:[a-z_]\w*\.)+([A-Z][\w$]*)(?:: |\n|$)")
"""Classes with their package: `(org.postgresql.util.PSQLException) ERROR: …`, `lib.ledger.offsets.DataLoss: …`."""
STATES = re.compile(r"( SQLSTATE: \w{5})+$")


def brief(name: str, text: str) -> str:
    """An exception in a line: its class and its text.

    Spark wraps errors of a streaming query, of Java and of its Python processes in others. The line then begins with the
    innermost exception, not with a query's id.
    """
    if name == "SystemExit":
        return one_line(f"{ENDED_EARLY}; it gave {text}" if text else ENDED_EARLY, LONGEST)
    cause, said = _unwrapped(name, text)
    line = STATES.sub("", next((line.strip() for line in said.splitlines() if line.strip()), ""))
    return one_line(": ".join(filter(None, (cause, line))) or name, LONGEST)


def without_java(text: str) -> str:
    """The text of an error of Spark without the stack of its server's Java, which Spark logs."""
    return text.partition("\n\nJVM stacktrace:")[0]


def _unwrapped(name: str, text: str) -> tuple[str, str]:
    """Class and text of the innermost exception that the text quotes; the class is empty where it names none."""
    said = without_java(text).lstrip()
    if OF_PYTHON.search(said) and TRACEBACK in said:
        raised = _raised(said.rpartition(TRACEBACK)[2])
        return _unwrapped("", raised) if raised else (name, said)
    for wrapping in WRAPPINGS:
        if match := wrapping.match(said):
            return _unwrapped("", said[match.end() :])
    for with_class in (IN_BRACKETS, QUALIFIED):
        if match := with_class.match(said):
            return _unwrapped(match[1], said[match.end() :])
    return name, said


def _raised(traceback: str) -> str:
    """What follows the frames of a traceback: class and text of the exception."""
    lines = traceback.splitlines()
    at = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith(" ")), len(lines))
    return "\n".join(lines[at:])
