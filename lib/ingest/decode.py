"""From a message's bytes to exact values, or to the reason why it can't be stored: every rule, in one place.

It is thorough, not fast: `lib.ingest.columnar` decodes typical messages by the thousand, and asks here about the others.
"""

import functools
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from typing import Any

import msgspec

from lib.schemas import LINE, MAX_TEXT, MAX_WHOLE, Contract, Field

LARGEST = 64 << 20
"""The most bytes of a message. Kafka's limit is on compressed batches, which may be a thousand times larger when read."""
MAX_DEPTH = 100
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(minutes=5)
SCALE = 18
"""Digits of an amount in the database, decimals included: an amount is `numeric(18, 2)`, a price `numeric(18, 4)`."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<nul>u0000)|(?P<half>u[dD][89a-fA-F]..)|.)")
"""An escape in a JSON text; a surrogate pair counts as one."""
_TIME = re.compile(r"[\dW-]+[T ]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?(Z|[+-]\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?)?", re.ASCII)
"""A date, a time of day, and perhaps an offset; `fromisoformat` alone would also take times with a stray character."""


@dataclass(frozen=True)
class Dead:
    """Why a message can't be stored: a code and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Event:
    """The values of a message's declared fields, in the order of the contract, and its other fields by name."""

    values: tuple[Any, ...]
    others: dict[str, Any]


class Refused(Exception):
    """A rule is broken; `dead` says which."""

    def __init__(self, reason: str, detail: str) -> None:
        self.dead = Dead(reason, detail)


def decode(contract: Contract, payload: bytes | None, now: datetime) -> Event | Dead:
    """Decode one message by its contract; `now` (UTC) bounds how far ahead its time may be."""
    try:
        document = _document(payload)
        for field in contract.fields:
            if field.required and _is_absent(field, document.get(field.name)):
                raise Refused("missing_field", f"{field.name} is required and is missing, null or empty")
        values = tuple(_value(field, document.pop(field.name, None), now) for field in contract.fields)
    except Refused as refused:
        return refused.dead
    return Event(values, document)


# --- the document


def _document(payload: bytes | None) -> dict[str, Any]:
    if payload is None:
        raise Refused("not_json", "the message has no value")
    if len(payload) > LARGEST:
        raise Refused(
            "too_large", f"{len(payload) >> 20} MiB, and {LARGEST >> 20} are allowed; its beginning is kept here"
        )
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise Refused("invalid_utf8", f"byte {error.start} is not valid UTF-8") from None
    if text.startswith("\ufeff"):
        raise Refused("invalid_utf8", "the message begins with a byte-order mark")
    try:
        document = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise Refused("not_json", f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Refused("too_deep", f"nested deeper than {MAX_DEPTH}") from None
    if not isinstance(document, dict):
        raise Refused("not_an_object", f"the message is a JSON {type(document).__name__}, not an object")
    _look_for_poison(text)
    return document


def _look_for_poison(text: str) -> None:
    """Refuse what a document may hold nowhere: neither in keys, nor in values that a later key of the same name replaces."""
    if "\\u" in text:
        for escape in _ESCAPE.finditer(text):
            if escape["nul"]:
                raise Refused("nul_character", "a text holds \\u0000, which PostgreSQL can't store")
            if escape["half"]:
                raise Refused("lone_surrogate", "a text holds half of a surrogate pair")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        depth = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", _STRING.sub("", text)))
        if max(depth) > MAX_DEPTH:
            raise Refused("too_deep", f"nested deeper than {MAX_DEPTH}")


def _number(text: str) -> int | Decimal:
    """A JSON number, exactly."""
    if math.isinf(float(text)):
        raise Refused("number_too_large", f"{text[:40]} is beyond a double")
    try:
        return Decimal(text) if set(text) & set(".eE") else int(text)
    except InvalidOperation:
        raise Refused("number_too_large", f"{text[:40]} has too large an exponent") from None


def _constant(text: str) -> Any:
    raise Refused("not_a_number", f"{text} is not JSON")


# --- the fields


def _is_absent(field: Field, value: Any) -> bool:
    return value is None or (value == "" and field.is_id)


def _value(field: Field, value: Any, now: datetime) -> Any:
    if _is_absent(field, value):
        return None
    match field.kind:
        case "text":
            return _text(field, value)
        case "whole":
            return _whole(field, value)
        case "money":
            return _money(field, value)
        case "time":
            return instant(field, value, now)
        case "lines":
            return _lines(field, value, now)


def _wrong_type(field: Field, value: Any, expected: str) -> Refused:
    return Refused("wrong_type", f"{field.name} is {to_json(value)[:60]}, not {expected}")


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a text")
    if len(value) > MAX_TEXT:
        raise Refused("text_too_long", f"{field.name} has {len(value)} characters, and {MAX_TEXT} are allowed")
    if field.choices and value not in field.choices:
        raise Refused("out_of_range", f"{field.name} is {value!r}, not one of {', '.join(field.choices)}")
    return value


def _whole(field: Field, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(field, value, "a whole number")
    if not field.minimum <= value <= MAX_WHOLE:
        raise Refused("out_of_range", f"{field.name} is {value}, not in {field.minimum} to {MAX_WHOLE}")
    return value


def _money(field: Field, value: Any) -> Decimal:
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        raise _wrong_type(field, value, "an amount")
    if not 0 <= value < amount_end(field.digits):
        raise Refused(
            "out_of_range", f"{field.name} is {str(value)[:60]}, not an amount from 0 to below 10**{field.digits}"
        )
    return Decimal(value)


@functools.cache
def amount_end(digits: int) -> Decimal:
    """The bound that amounts lie below, so that they stay below 10**digits when the database rounds them."""
    return Decimal(10**digits) - Decimal(5).scaleb(digits - SCALE - 1)


def instant(field: Field, value: Any, now: datetime) -> datetime:
    """A field's time in UTC; without an offset it is taken as UTC.

    Raises
    ------
    Refused
        When it isn't a time in ISO 8601, or not between 2000 and five minutes from `now`.
    """
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a time in ISO 8601")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise _wrong_type(field, value, "a time in ISO 8601") from None
    if not _TIME.fullmatch(value):
        raise _wrong_type(field, value, "a time in ISO 8601: a date, T and a time of day")
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if time < EARLIEST:
        raise Refused("too_old", f"{field.name} is {value}, before 2000")
    if time > now + AHEAD:
        raise Refused("in_the_future", f"{field.name} is {value}, more than five minutes ahead of {now:%FT%TZ}")
    return time.astimezone(UTC)


def _lines(field: Field, value: Any, now: datetime) -> str:
    if not isinstance(value, list) or not all(isinstance(line, dict) for line in value):
        raise _wrong_type(field, value, "a list of order lines")
    if not value:
        raise Refused("missing_field", f"{field.name} has no order line")
    for number, line in enumerate(value, 1):
        for part in LINE:
            named = Field(f"{field.name}[{number}].{part.name}", part.kind, minimum=part.minimum, digits=part.digits)
            if part.required and _is_absent(part, line.get(part.name)):
                raise Refused("missing_field", f"{named.name} is required and is missing, null or empty")
            _value(named, line.get(part.name), now)
        # the price in the database is rounded to four decimals, up at most by this
        if line["quantity"] * (line["price"] + Decimal("0.00005")) >= amount_end(16):
            raise Refused("out_of_range", f"{field.name}[{number}]: quantity × price is not below 10**16")
    return to_json(value)


def to_json(value: Any) -> str:
    """A value as JSON, numbers exactly."""
    return _ENCODER.encode(value).decode()


_ENCODER = msgspec.json.Encoder(decimal_format="number")
