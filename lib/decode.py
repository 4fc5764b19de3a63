"""From a message's bytes to typed values, or to the reason why it can't be stored.

A typed decoder takes the typical message; whatever it doesn't take gets a second, untyped look, which knows every
rule and names the first one that is broken. Both give the same values for the same message.
"""

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import msgspec

from lib.schemas import LINE, MAX_TEXT, MAX_WHOLE, Contract, Field

MAX_DEPTH = 100
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(minutes=5)
USUAL = 10**6
"""Order lines with prices below this need no exact look at their total."""
SCALE = 18
"""Digits of an amount in the database, decimals included: `numeric(18, 2)`, or `numeric(18, 4)` for a price."""


@dataclass(frozen=True)
class Dead:
    """Why a message can't be stored: a code and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Event:
    """A message's declared values in the order of the contract's fields, its time (UTC), and what no column holds."""

    values: tuple[Any, ...]
    time: datetime
    extra: str | None = None


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.dead = Dead(reason, detail)


def decode(contract: Contract, payload: bytes | None, now: datetime) -> Event | Dead:
    """Decode one message by its contract; `now` (UTC) bounds how far ahead its time may be."""
    if payload is not None and b"\\u0000" not in payload:
        try:
            if event := _typed(contract, payload, now):
                return event
        except (msgspec.MsgspecError, UnicodeDecodeError, ArithmeticError, RecursionError, _Refused):
            pass  # the second look names the reason
    try:
        return _untyped(contract, payload, now)
    except _Refused as refused:
        return refused.dead


# --- the typical message


_TYPES: dict[str, Any] = {
    "id": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)],
    "text": Annotated[str, msgspec.Meta(max_length=MAX_TEXT)],
    "money": Any,  # `int` or, by the hook, `Decimal`: a double would round, and for `Decimal` msgspec takes "2" too
    "time": str,  # msgspec rounds to microseconds, even into the next day
    "lines": msgspec.Raw,
}


def _struct(name: str, fields: tuple[Field, ...]) -> type[msgspec.Struct]:
    def annotation(field: Field) -> Any:
        if field.kind == "whole":
            return Annotated[int, msgspec.Meta(ge=field.minimum, le=MAX_WHOLE)]
        return _TYPES["id" if field.is_id else field.kind]

    required = [(field.name, annotation(field)) for field in fields if field.required]
    optional = [(field.name, annotation(field) | None, None) for field in fields if not field.required]
    return msgspec.defstruct(name, [*required, *optional], forbid_unknown_fields=True)


@functools.cache
def _decoder(contract: Contract) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_struct(contract.table, contract.fields), float_hook=Decimal)


_LINES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Annotated[list[_struct("line", LINE)], msgspec.Meta(min_length=1)],  # type: ignore[misc]
    float_hook=Decimal,
)


def _typed(contract: Contract, payload: bytes, now: datetime) -> Event | None:
    """The event; None or any error means that the message needs the second look."""
    record = _decoder(contract).decode(payload)
    values = []
    time = now
    for field in contract.fields:
        value = getattr(record, field.name)
        if field.kind == "time":
            value = time = _time(field, value, now)
        elif field.kind == "money":
            value = _money(field, value) if field.required or value is not None else None
        elif field.kind == "lines":
            if not all(type(line.price) in (int, Decimal) and 0 <= line.price < USUAL for line in _LINES.decode(value)):
                return None
            value = bytes(value).decode()
        elif field.choices:
            _text(field, value)
        values.append(value)
    return Event(tuple(values), time)


# --- the second look


def _untyped(contract: Contract, payload: bytes | None, now: datetime) -> Event:
    document = _document(payload)
    for field in contract.fields:
        if field.required and _is_absent(field, document.get(field.name)):
            raise _Refused("missing_field", f"{field.name} is required and is missing, null or empty")
    values = [_value(field, document.get(field.name), now) for field in contract.fields]
    declared = {field.name for field in contract.fields}
    extra = {name: value for name, value in document.items() if name not in declared}
    time = next(value for field, value in zip(contract.fields, values, strict=True) if field.kind == "time")
    return Event(tuple(values), time, _json(extra) if extra else None)


def _document(payload: bytes | None) -> dict[str, Any]:
    if payload is None:
        raise _Refused("not_json", "the message has no value")
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise _Refused("invalid_utf8", f"byte {error.start} is not valid UTF-8") from None
    if text.startswith("\ufeff"):
        raise _Refused("invalid_utf8", "the message begins with a byte-order mark")
    try:
        document = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise _Refused("not_json", f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _Refused("too_deep", f"nested deeper than {MAX_DEPTH}") from None
    if not isinstance(document, dict):
        raise _Refused("not_an_object", f"the message is a JSON {type(document).__name__}, not an object")
    for text in _texts(document, 1):
        if "\0" in text:
            raise _Refused("nul_character", "a text holds \\u0000, which PostgreSQL can't store")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _Refused("lone_surrogate", "a text holds half of a surrogate pair")
    return document


def _number(text: str) -> int | Decimal:
    """A JSON number, exactly."""
    if math.isinf(float(text)):
        raise _Refused("number_too_large", f"{text[:40]} is beyond a double")
    try:
        return Decimal(text) if set(text) & set(".eE") else int(text)
    except InvalidOperation:
        raise _Refused("number_too_large", f"{text[:40]} has too large an exponent") from None


def _constant(text: str) -> Any:
    raise _Refused("not_a_number", f"{text} is not JSON")


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Every text of a document, keys included; refuses one that is nested too deeply."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise _Refused("too_deep", f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            yield from value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)


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
            return _time(field, value, now)
        case "lines":
            return _lines(field, value, now)


def _wrong_type(field: Field, value: Any, expected: str) -> _Refused:
    return _Refused("wrong_type", f"{field.name} is {_json(value)[:60]}, not {expected}")


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a text")
    if len(value) > MAX_TEXT:
        raise _Refused("text_too_long", f"{field.name} has {len(value)} characters, and {MAX_TEXT} are allowed")
    if field.choices and value not in field.choices:
        raise _Refused("out_of_range", f"{field.name} is {value!r}, not one of {', '.join(field.choices)}")
    return value


def _whole(field: Field, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(field, value, "a whole number")
    if not field.minimum <= value <= MAX_WHOLE:
        raise _Refused("out_of_range", f"{field.name} is {value}, not in {field.minimum} to {MAX_WHOLE}")
    return value


def _money(field: Field, value: Any) -> Decimal:
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        raise _wrong_type(field, value, "an amount")
    if not 0 <= value < _end(field.digits):
        raise _Refused(
            "out_of_range", f"{field.name} is {str(value)[:60]}, not an amount from 0 to below 10**{field.digits}"
        )
    return Decimal(value)


@functools.cache
def _end(digits: int) -> Decimal:
    """What amounts lie below, so that they are below 10**digits when the database has rounded them."""
    return Decimal(10**digits) - Decimal(5).scaleb(digits - SCALE - 1)


def _time(field: Field, value: Any, now: datetime) -> datetime:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a time in ISO 8601")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise _wrong_type(field, value, "a time in ISO 8601") from None
    if "T" not in value and " " not in value:
        raise _wrong_type(field, value, "a time in ISO 8601: a date, T and a time of day")
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if time < EARLIEST:
        raise _Refused("too_old", f"{field.name} is {value}, before 2000")
    if time > now + AHEAD:
        raise _Refused("in_the_future", f"{field.name} is {value}, more than five minutes ahead of {now:%FT%TZ}")
    return time.astimezone(UTC)


def _lines(field: Field, value: Any, now: datetime) -> str:
    if not isinstance(value, list) or not all(isinstance(line, dict) for line in value):
        raise _wrong_type(field, value, "a list of order lines")
    if not value:
        raise _Refused("missing_field", f"{field.name} has no order line")
    for number, line in enumerate(value, 1):
        for part in LINE:
            named = Field(f"{field.name}[{number}].{part.name}", part.kind, minimum=part.minimum, digits=part.digits)
            if part.required and _is_absent(part, line.get(part.name)):
                raise _Refused("missing_field", f"{named.name} is required and is missing, null or empty")
            _value(named, line.get(part.name), now)
        # whichever way the price is rounded
        if line["quantity"] * (line["price"] + Decimal("0.00005")) >= _end(16):
            raise _Refused("out_of_range", f"{field.name}[{number}]: quantity × price is not below 10**16")
    return _json(value)


def _json(value: Any) -> str:
    return _ENCODER.encode(value).decode()


_ENCODER = msgspec.json.Encoder(decimal_format="number")
