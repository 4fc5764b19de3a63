"""The front matter of a job: the YAML of its notebook's first cell, read strictly."""

import re
from datetime import timedelta
from typing import Any

import yaml

from lib import cron
from lib.plain import one_line

LONGEST = 10_000
DEEPEST = 5
MOST_RETRIES = 100
LONGEST_TIMEOUT = timedelta(days=30)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

SCHEDULES = ("stream", "batch", "daily", "manual")

TABLE = re.compile(r"(realtime|warehouse)\.[a-z_][a-z0-9_]*")
SOURCE = re.compile(rf"kafka\.[A-Za-z0-9._-]+|{TABLE.pattern}")


def read(source: str) -> tuple[dict[str, Any], list[str]]:
    """The fields of a `Job` that the front matter gives, by name, and what is wrong with it."""
    try:
        raw = load(source)
    except yaml.YAMLError as error:
        return {}, [f"front matter isn't YAML (a cron line needs quotes): {' '.join(str(error).split())}"]
    except ValueError as error:
        return {}, [f"front matter can't be read: {error}"]
    if not isinstance(raw, dict):
        return {}, ["front matter has to be YAML of `key: value` lines"]
    values: dict[str, Any] = {}
    messages = [f"unknown key `{key}`; known: {', '.join(_READERS)}" for key in raw if key not in _READERS]
    if "schedule" not in raw:
        messages.append("`schedule` is missing")
    for key in _READERS.keys() & raw.keys():
        try:
            values[key] = _READERS[key](raw[key])
        except ValueError as error:
            messages.append(f"`{key}: {one_line(str(raw[key]), 80)}`: {error}")
    return values, sorted(messages)


def load(source: str) -> Any:
    """The YAML of a `job` cell as plain data.

    Raises
    ------
    yaml.YAMLError
        When it isn't YAML.
    ValueError
        When it is too long, nested too deeply, or has aliases (with which a few lines can become gigabytes).
    """
    if len(source) > LONGEST:
        raise ValueError(f"it has at most {LONGEST:,} characters")
    text = source.strip().removeprefix("---").removesuffix("---")
    depth = 0
    # checked before loading: libyaml's loader is ten times as fast as Python's, but crashes on deep nesting
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("`*name`, an alias, isn't taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
    return yaml.load(text, Loader=_LOADER)  # one of the safe loaders


def _schedule(value: Any) -> str:
    if value in SCHEDULES:
        return str(value)
    if not isinstance(value, str) or not (value.startswith("@") or len(value.split()) > 1):
        raise ValueError(f"has to be one of {', '.join(SCHEDULES)}, or a cron line")
    cron.check(value)
    return value


def _reads(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and SOURCE.fullmatch(item) for item in value):
        raise ValueError("has to be a list of `kafka.<topic>`, `realtime.<table>` or `warehouse.<table>`")
    return tuple(value)


def _writes(value: Any) -> str:
    if not isinstance(value, str) or not TABLE.fullmatch(value):
        raise ValueError("has to be one table, `realtime.<table>` or `warehouse.<table>`")
    return value


def _grain(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("has to be a text, as `one row per order line`")
    return one_line(value)


def _snapshots(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*", value):
        raise ValueError("has to be the table's column that holds the run date, as analysis_date")
    return value


def _timeout(value: Any) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]*)([smh])", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("has to be a whole number of seconds, minutes or hours, as 45s, 10m, 2h")
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
    if seconds > LONGEST_TIMEOUT.total_seconds():
        raise ValueError(f"has to be {LONGEST_TIMEOUT.days} days at most")
    return timedelta(seconds=seconds)


def _retries(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_RETRIES:
        raise ValueError(f"has to be a whole number from 0 to {MOST_RETRIES}")
    return value


_READERS = {
    "schedule": _schedule,
    "reads": _reads,
    "writes": _writes,
    "grain": _grain,
    "snapshots": _snapshots,
    "timeout": _timeout,
    "retries": _retries,
}
