"""Cron lines as in crontab(5), in UTC."""

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 7, DAYS),
)
"""Name, least and greatest value of each field, and the names of its values, the least one's first."""


def check(line: str) -> None:
    """Refuse what cron doesn't know, and lines that never come true.

    Raises
    ------
    ValueError
        Saying what is wrong, and what to write.
    """
    line = line.strip()
    if line.startswith("@"):
        if line not in NICKNAMES:
            raise ValueError(f"has to be one of {', '.join(NICKNAMES)}, or a cron line: nothing else begins with @")
        return
    fields = re.split(r"[ \t]+", line)
    if len(fields) != len(FIELDS):
        names = ", ".join(name for name, *_ in FIELDS)
        raise ValueError(f"has to have five fields, not {len(fields)}: {names}, as 0 9 * * 1-5")
    for text, field in zip(fields, FIELDS, strict=True):
        for part in text.split(","):
            _check_part(part, *field)
    # a day that a year has is there within a century at most, so that any year is as good to begin with
    if following(line, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("never comes true: none of its months has such a day")


def _check_part(part: str, name: str, least: int, greatest: int, names: tuple[str, ...]) -> None:
    """Refuse what isn't one of `*`, `4`, `1-5`, `*/2`, `1-9/2` and, where values have names, `mon`, `mon-fri`."""
    match = re.fullmatch(r"(\*|([0-9]{1,9}|[A-Za-z]{3})(?:-([0-9]{1,9}|[A-Za-z]{3}))?)(?:/([0-9]{1,9}))?", part)
    if not match:
        raise ValueError(
            f"{name} `{part}`: has to be *, a value, a range or a list of them, a step behind * or a range"
        )
    base, first, last, step = match.groups()
    values = [_value(text, name, least, greatest, names) for text in (first, last) if text]
    if len(values) == 2 and values[0] > values[1]:
        hint = "; Sunday at the end of a range is 7" if name == "day of week" and values[1] == 0 else ""
        raise ValueError(f"{name} `{part}`: the range ends before it begins{hint}")
    if step and base != "*" and not last:
        raise ValueError(f"{name} `{part}`: a step stands behind * or a range, as {first}-{greatest}/{step}")
    if step and not int(step):
        raise ValueError(f"{name} `{part}`: a step is at least 1")


def _value(text: str, name: str, least: int, greatest: int, names: tuple[str, ...]) -> int:
    if text.isdigit() and least <= int(text) <= greatest:
        return int(text)
    if text.lower() in names:
        return least + names.index(text.lower())
    also = f", or {names[0]} to {names[-1]}" if names else ""
    raise ValueError(f"{name} `{text}`: has to be {least} to {greatest}{also}")


def following(line: str, moment: datetime) -> datetime | None:
    """The first minute after `moment` of a line that `check` has passed; None when there is none in fifty years."""
    try:
        return next(CronSim(NICKNAMES.get(line.strip(), line), moment.astimezone(UTC)))
    except (CronSimError, StopIteration):
        return None
