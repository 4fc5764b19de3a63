"""The front matter of a job: the YAML of its first cell, read strictly."""

import re
from datetime import timedelta
from typing import Any

import yaml

from lib import cron

SCHEDULES = ("stream", "batch", "daily", "manual")

TABLE = re.compile(r"(realtime|warehouse)\.[a-z_][a-z0-9_]*")
SOURCE = re.compile(rf"kafka\.[A-Za-z0-9._-]+|{TABLE.pattern}")


def read(source: str) -> tuple[dict[str, Any], list[str]]:
    """The fields of a `Job` that the front matter gives by name, and what is wrong with it."""
    try:
        raw = yaml.safe_load(source.strip().removeprefix("---").removesuffix("---"))
    except yaml.YAMLError as error:
        return {}, [f"front matter isn't YAML (a cron line needs quotes): {' '.join(str(error).split())}"]
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
            messages.append(f"`{key}: {raw[key]}`: {error}")
    return values, sorted(messages)


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
    return value


def _snapshots(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*", value):
        raise ValueError("has to be the table's column that holds the run date, as analysis_date")
    return value


def _timeout(value: Any) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]*)([smh])", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("has to be a whole number of seconds, minutes or hours, as 45s, 10m, 2h")
    return int(match[1]) * {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}[match[2]]


def _retries(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("has to be a whole number from 0")
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
