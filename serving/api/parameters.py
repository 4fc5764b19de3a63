"""What all lists share: periods, pages and their cursors, and texts as filters."""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Self, TypeVar

from fastapi import HTTPException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Row = TypeVar("Row")

MOST_ROWS = 500
MOST_DAYS = 3_660
LATEST = date(2100, 1, 1)
EARLIEST = date(2000, 1, 1)


def _iso_day(value: Any) -> Any:
    """Only 2026-11-01 is a day: a plain number would be taken for a number of seconds."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("a day is written as 2026-11-01")
    return value


def _in_range(value: date) -> date:
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"a day lies between {EARLIEST} and {LATEST}")
    return value


def _printable(value: str) -> str:
    if "\0" in value:
        raise ValueError("a text has no NUL in it")
    return value


Day = Annotated[date, BeforeValidator(_iso_day), AfterValidator(_in_range)]
Text = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Instant = Annotated[datetime, PlainSerializer(lambda at: at.astimezone(UTC).isoformat().replace("+00:00", "Z"))]
"""An instant in UTC, as 2026-11-27T10:00:00Z."""


class Query(BaseModel):
    """Parameters of a request; unknown ones are refused, since a misspelled filter would give everything."""

    model_config = ConfigDict(extra="forbid")


class Page(Query):
    """Which part of a list."""

    limit: int = Field(default=50, ge=1, le=MOST_ROWS, description="Most rows to answer with.")
    cursor: str | None = Field(
        default=None, max_length=1000, description="Of the page before: its `next`. Leave all else as it was."
    )


class Period(Query):
    """From one day to another, both included; by default the last 30 days, today included (UTC)."""

    start: Day | None = Field(default=None, alias="from", description="The first day.", examples=["2026-11-01"])
    end: Day | None = Field(default=None, alias="to", description="The last day.", examples=["2026-11-27"])

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        first, last = self.days
        if first > last:
            raise ValueError(f"`from` ({first}) lies after `to` ({last})")
        if (last - first).days > MOST_DAYS:
            raise ValueError(f"a period has at most {MOST_DAYS:,} days")
        return self

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last day."""
        last = self.end or max(datetime.now(UTC).date(), self.start or date.min)
        return self.start or max(last - timedelta(days=29), EARLIEST), last


def encode(values: Sequence[Any]) -> str:
    """A cursor: where the next page begins."""
    text = json.dumps([None if value is None else str(value) for value in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: Any) -> tuple[Any, ...] | None:
    """The values of a cursor, of these kinds; None without one.

    Raises
    ------
    HTTPException
        422 when it isn't one of this list.
    """
    if cursor is None:
        return None
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(found, list) or len(found) != len(kinds):
            raise ValueError(cursor)
        values = tuple(None if value is None else kind(value) for kind, value in zip(kinds, found, strict=True))
        for value in values:
            # what no text of the database can be; half of a surrogate pair is an error of `encode`
            if isinstance(value, str) and b"\0" in value.encode():
                raise ValueError(cursor)
        return values
    except (ValueError, TypeError, ArithmeticError, RecursionError, binascii.Error):
        raise HTTPException(422, "cursor: isn't the `next` of a page of this list") from None


def page(rows: list[Row], limit: int) -> tuple[list[Row], bool]:
    """The rows of a page, of one more that were asked for, and whether there are more."""
    return rows[:limit], len(rows) > limit
