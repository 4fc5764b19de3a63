"""What may be stored, and what a stored event holds: a second decoder, plain and slow, from the pages and not from `lib`.

Where the rules leave room (an ISO 8601 time in a rare notation, a number that PostgreSQL may refuse), it says so: such
a message may be stored or dead, but what is stored has to be right all the same.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

ID = {"transactions": "transaction_id", "product_view_events": "event_id", "cart_events": "event_id"}
TIME = {"transactions": "transaction_timestamp", "product_view_events": "timestamp", "cart_events": "timestamp"}
_SHOPPER = {name: "id" for name in ("event_id", "user_id", "product_id")} | {"event_type": "type", "timestamp": "time"}
REQUIRED = {
    "transactions": {"transaction_id": "id", "user_id": "id", "transaction_timestamp": "time", "total_amount": "amount"}
    | {"products": "lines"},
    "product_view_events": _SHOPPER,
    "cart_events": _SHOPPER,
}
_CHOSEN = {"session_id": "optional id", "country": "text", "category": "text"}
OPTIONAL = {
    "transactions": {"country": "text"},
    "product_view_events": _CHOSEN | {"view_duration": "whole"},
    "cart_events": _CHOSEN | {"quantity": "whole", "price": "price"},
}
TYPES = {"product_view_events": {"view"}, "cart_events": {"add", "remove", "update", "checkout"}}

MOST_NESTED = 100
LONGEST_TEXT = 100
GREATEST_WHOLE = 2147483647
FIRST_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)
EXACT = Context(prec=5000, Emin=-999_999, Emax=999_999)
CENT, PRICE_STEP = Decimal("0.01"), Decimal("0.0001")
DATABASE_DIGITS = 16_000
"""PostgreSQL's numbers have somewhat more digits behind the point; with more, it may refuse a number that JSON allows."""


class Refuse(Exception):
    """A rule is broken."""


@dataclass(frozen=True)
class Number:
    """A JSON number as it is written."""

    text: str

    @property
    def is_whole(self) -> bool:
        """Whether it is written as a whole number."""
        return re.fullmatch(r"-?\d+", self.text) is not None

    @property
    def value(self) -> Decimal:
        """The number, exactly; 0 for one whose exponent no computer holds."""
        try:
            return Decimal(self.text)
        except InvalidOperation:
            return Decimal(0)


class Members(list[tuple[str, Any]]):
    """An object's members in order; a name may occur twice."""


@dataclass(frozen=True)
class Verdict:
    """What has to become of a message: `accept` is None where the rules leave room.

    `event` has the fields by name, numbers as Decimal and times as instants; `others` are the fields that nobody
    declared. Both are there unless the message must be dead.
    """

    accept: bool | None
    why: str = ""
    event: dict[str, Any] | None = None
    others: dict[str, Any] | None = None


def judge(table: str, payload: bytes | None, earliest: datetime, latest: datetime) -> Verdict:
    """Judge a message that is decoded at some time between `earliest` and `latest`."""
    room: list[str] = []
    try:
        fields = dict(_document(payload, room))
        event = {}
        for name, kind in (REQUIRED[table] | OPTIONAL[table]).items():
            value = fields.pop(name, None)
            if value is None or (value == "" and kind in ("id", "optional id")):
                if name in REQUIRED[table]:
                    raise Refuse(f"{name} is missing")
                event[name] = None
            elif kind == "time":
                event[name] = _time(value, earliest, latest, room)
            elif kind == "type":
                event[name] = _text(value)
                if value not in TYPES[table]:
                    raise Refuse(f"no event is a {value}")
            else:
                event[name] = _KINDS[kind](value, room)
    except Refuse as refused:
        return Verdict(False, str(refused))
    return Verdict(
        None if room else True, "; ".join(room), event, {name: plain(value) for name, value in fields.items()}
    )


def plain(value: Any) -> Any:
    """The value in Python's own types; of a name that occurs twice the last counts."""
    if isinstance(value, Members):
        return {name: plain(member) for name, member in value}
    if isinstance(value, list):
        return [plain(member) for member in value]
    return value.value if isinstance(value, Number) else value


# --- the document


def _document(payload: bytes | None, room: list[str]) -> Members:
    if payload is None:
        raise Refuse("no value")
    # bytes that are no UTF-8 become halves of surrogate pairs
    text = payload.decode("utf-8", "surrogateescape")
    try:
        document = json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=Number, object_pairs_hook=Members
        )
    except RecursionError:
        raise Refuse("nested too deep") from None
    except ValueError as error:
        raise Refuse(f"no JSON: {error}") from None
    if not isinstance(document, Members):
        raise Refuse("no object")
    for value, depth, counts in _walk(document):
        if poison := _poison(value, depth):
            if counts:
                raise Refuse(poison)
            room.append(f"in a value that a later one replaces: {poison}")
        elif isinstance(value, Number) and _is_long(value):
            room.append("a number with very many digits behind the point")
    return document


def _walk(document: Members) -> Iterator[tuple[Any, int, bool]]:
    """Everything in the document, names too, how deep it is nested, and whether it counts, or a later value replaces it."""
    waiting: list[tuple[Any, int, bool]] = [(document, 1, True)]
    while waiting:
        value, depth, counts = waiting.pop()
        yield value, depth if isinstance(value, list) else depth - 1, counts
        if isinstance(value, Members):
            last = {name: place for place, (name, _) in enumerate(value)}
            for place, (name, member) in enumerate(value):
                waiting += [(name, depth + 1, counts), (member, depth + 1, counts and last[name] == place)]
        elif isinstance(value, list):
            waiting += [(part, depth + 1, counts) for part in value]


def _poison(value: Any, depth: int) -> str:
    """Why nothing in a message may be like this."""
    if depth > MOST_NESTED:
        return "nested too deep"
    if isinstance(value, str) and ("\0" in value or re.search("[\ud800-\udfff]", value)):
        return "a text that can't be stored"
    if isinstance(value, Number):
        if value.text in ("NaN", "Infinity", "-Infinity"):
            return f"{value.text} is no JSON"
        if abs(float(value.text)) == float("inf"):
            return "a number beyond a double"
    return ""


def _is_long(number: Number) -> bool:
    exponent = re.search(r"[eE]-(\d+)", number.text)
    return len(number.text) + (int(exponent[1]) if exponent else 0) > DATABASE_DIGITS


# --- the fields


def _text(value: Any, room: Any = None) -> str:
    if not isinstance(value, str):
        raise Refuse("no text")
    if len(value) > LONGEST_TEXT:
        raise Refuse("too long a text")
    return value


def _whole(value: Any, room: Any = None, least: int = 0) -> int:
    if not isinstance(value, Number) or not value.is_whole:
        raise Refuse("no whole number")
    if not least <= value.value <= GREATEST_WHOLE:
        raise Refuse("a whole number out of range")
    return int(value.value)


def _money(value: Any, room: list[str], step: Decimal, end: int) -> Decimal:
    if not isinstance(value, Number):
        raise Refuse("no number")
    amount = value.value
    if amount < 0 or amount >= end:
        raise Refuse("an amount out of range")
    rounded = amount.quantize(step, ROUND_HALF_UP, EXACT)
    if rounded >= end:
        raise Refuse("an amount that is out of range when it is rounded")
    return rounded + 0  # no -0


def _amount(value: Any, room: list[str]) -> Decimal:
    return _money(value, room, CENT, 10**16)


def _price(value: Any, room: list[str]) -> Decimal:
    return _money(value, room, PRICE_STEP, 10**14)


def _lines(value: Any, room: list[str]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or isinstance(value, Members) or not value:
        raise Refuse("no order lines")
    lines = []
    for members in value:
        if not isinstance(members, Members):
            raise Refuse("an order line that is no object")
        line = dict(members)
        if line.get("product_id") in (None, "") or line.get("quantity") is None or line.get("price") is None:
            raise Refuse("an order line without product, quantity or price")
        product, quantity, price = (
            _text(line["product_id"]),
            _whole(line["quantity"], least=1),
            _price(line["price"], room),
        )
        category = None if line.get("category") is None else _text(line["category"])
        total = EXACT.multiply(quantity, price).quantize(CENT, ROUND_HALF_UP, EXACT)
        if total >= 10**16:
            raise Refuse("an order line out of range")
        if EXACT.multiply(quantity, price + PRICE_STEP) >= 10**16 - 1:
            room.append("a total at its bound")
        known = {"product_id": product, "quantity": quantity, "price": price, "category": category}
        lines.append({"known": known, "whole": plain(members)})
    return lines


_KINDS = {
    "id": _text,
    "optional id": _text,
    "text": _text,
    "whole": _whole,
    "amount": _amount,
    "price": _price,
    "lines": _lines,
}


# --- times

_CALENDAR = r"-(?P<month>\d\d)-(?P<day>\d\d)|(?P<month2>\d\d)(?P<day2>\d\d)"
_DATE = rf"(?P<year>\d{{4}})(?:{_CALENDAR}|-?W(?P<week>\d\d)(?:-?(?P<weekday>\d))?)"
_CLOCK = r"(?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
_ZONE = r"(?P<zone>[Zz]|(?P<sign>[+-])(?P<zh>\d\d)(?::?(?P<zm>\d\d)(?::?(?P<zs>\d\d)(?:\.(?P<zf>\d+))?)?)?)?"
_ISO = re.compile(f"{_DATE}[Tt ]{_CLOCK}{_ZONE}", re.ASCII)
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-](0\d|1[0-4]):\d\d)?", re.ASCII)


def _time(value: Any, earliest: datetime, latest: datetime, room: list[str]) -> datetime:
    if not isinstance(value, str):
        raise Refuse("no time")
    found = _ISO.fullmatch(value)
    if not found:
        raise Refuse("no time in ISO 8601")
    if not _USUAL.fullmatch(value):
        room.append("a time in a rare notation")
    instant = _instant(found.groupdict(), room)
    if instant < FIRST_INSTANT:
        raise Refuse("before 2000")
    if instant > latest + timedelta(minutes=5):
        raise Refuse("in the future")
    if instant > earliest + timedelta(minutes=5):
        room.append("it depends on the time of decoding")
    return instant


def _instant(part: dict[str, str | None], room: list[str]) -> datetime:
    def number(name: str) -> int:
        return int(part[name] or 0)

    hour, minute, second = number("hour"), number("minute"), number("second")
    if hour > 24 or minute > 59 or second > 60 or number("zh") > 23 or number("zm") > 59 or number("zs") > 59:
        raise Refuse("no such time")
    if hour == 24:
        if minute or second or number("fraction"):
            raise Refuse("no such time")
        room.append("24:00")
    if second == 60:
        room.append("a leap second")
    try:
        if part["week"]:
            day = datetime.fromisocalendar(number("year"), number("week"), number("weekday") or 1)
        else:
            day = datetime(number("year"), number("month") or number("month2"), number("day") or number("day2"))
    except ValueError:
        raise Refuse("no such day") from None
    micro, zone_micro = (int(((part[name] or "") + "000000")[:6]) for name in ("fraction", "zf"))
    east = timedelta(hours=number("zh"), minutes=number("zm"), seconds=number("zs"), microseconds=zone_micro)
    clock = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=micro)
    try:
        return day.replace(tzinfo=UTC) + clock - (east if part["sign"] != "-" else -east)
    except OverflowError:
        raise Refuse("no such time") from None
