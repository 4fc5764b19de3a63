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
"""Of each field: name, least and greatest value, and the names of its values, beginning with the least."""


def check(line: str) -> None:
    """Refuse what cron doesn't know, and a line that never comes true.

    Raises
    ------
    ValueError
        Saying what is wrong, and what to write.
    """
    # any year will do to begin with: a day that comes at all comes within fifty years
    if following(line, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("never comes true: none of its months has such a day")


def following(line: str, moment: datetime) -> datetime | None:
    """The first minute of a line after `moment`; None when there is none in fifty years.

    Raises
    ------
    ValueError
        For a line that cron doesn't know.
    """
    plain = _plain(line.strip())
    try:
        return next(CronSim(plain, moment.astimezone(UTC)))
    except (CronSimError, StopIteration):
        return None


def _plain(line: str) -> str:
    """The line in the form that crontab(5) and cronsim read alike: fields of numbers."""
    if line.startswith("@"):
        if line not in NICKNAMES:
            raise ValueError(f"has to be one of {', '.join(NICKNAMES)}, or a cron line: nothing else begins with @")
        return NICKNAMES[line]
    fields = re.split(r"[ \t]+", line)
    if len(fields) != len(FIELDS):
        names = ", ".join(name for name, *_ in FIELDS)
        raise ValueError(f"has to have five fields, not {len(fields)}: {names}, as 0 9 * * 1-5")
    parts = ([_part(part, *field) for part in text.split(",")] for text, field in zip(fields, FIELDS, strict=True))
    return " ".join(map(",".join, parts))


def _part(part: str, name: str, least: int, greatest: int, names: tuple[str, ...]) -> str:
    """One of `*`, `4`, `1-5`, `*/2`, `1-9/2` and, where values have names, `mon`, `mon-fri`."""
    match = re.fullmatch(r"(\*|([0-9]{1,9}|[A-Za-z]{3})(?:-([0-9]{1,9}|[A-Za-z]{3}))?)(?:/([0-9]{1,9}))?", part)
    if not match:
        raise ValueError(
            f"{name} `{part}`: has to be *, a value, a range or a list of them, a step behind * or a range"
        )
    base, first, last, step = match.groups()
    if step and not int(step):
        raise ValueError(f"{name} `{part}`: a step is at least 1")
    every = f"/{int(step)}" if step else ""
    if base == "*":
        return base + every
    if step and not last:
        raise ValueError(f"{name} `{part}`: a step stands behind * or a range, as {first}-{greatest}/{step}")
    low, high = (_value(text, name, least, greatest, names) for text in (first, last or first))
    if low > high:
        hint = "; Sunday at the end of a range is 7" if name == "day of week" and high == 0 else ""
        raise ValueError(f"{name} `{part}`: the range ends before it begins{hint}")
    # cronsim reads `5-5/10` as `5/10`: every tenth from 5 on
    return f"{low}-{high}{every}" if low < high else str(low)


def _value(text: str, name: str, least: int, greatest: int, names: tuple[str, ...]) -> int:
    if text.isdigit() and least <= int(text) <= greatest:
        return int(text)
    if text.lower() in names:
        return least + names.index(text.lower())
    also = f", or {names[0]} to {names[-1]}" if names else ""
    raise ValueError(f"{name} `{text}`: has to be {least} to {greatest}{also}")
