"""A batch of messages as columns, ready for COPY.

A typed decoder takes the typical messages, and checks each column as a whole. A message that raises a doubt gets a second
look by `lib.ingest.decode`, which knows every rule. Both give the same values for the same message.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from lib.ingest.decode import AHEAD, EARLIEST, LARGEST, Dead, Event, Refused, amount_end, decode, instant, to_json
from lib.schemas import LINE, MAX_TEXT, MAX_WHOLE, Contract, Field

USUAL = 10**6
"""With prices below this, the total of an order line is surely within its bound."""
FINITE = 10**300
"""Numbers below this surely fit a double."""

PLACE = "#place"
"""The column with a message's place in its batch; no field can get a column of this name."""

Column = tuple[pa.Array, Sequence[int]]
"""A column's values, and the rows that need a second look."""

_ARROW = {
    "text": pa.string(),
    "whole": pa.int32(),
    "money": pa.string(),
    "time": pa.timestamp("us"),
    "lines": pa.string(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "numeric": pa.string(),
}


@dataclass(frozen=True)
class Batch:
    """A batch of messages, decoded; a message's place is its index in the batch.

    `typical` has the column `PLACE` and those of the contract. By place, `odd` are the events that took a second look, and
    `dead` says why the others can't be stored.
    """

    typical: pa.Table
    odd: dict[int, Event]
    dead: dict[int, Dead]

    def rows(self, contract: Contract) -> pa.Table:
        """One row per event in the order of their places: `PLACE`, the contract's columns, and `extra`.

        The contract may have got more columns since the batch was decoded.
        """
        names = [PLACE, *contract.columns, "extra"]
        typical = self.typical.append_column("extra", pa.nulls(len(self.typical), pa.string()))
        if not self.odd:
            return typical.select(names)
        both = pa.concat_tables([typical, _table(contract, self.odd)], promote_options="default")
        return both.select(names).sort_by(PLACE)


def decode_batch(contract: Contract, payloads: Sequence[bytes | None], now: datetime) -> Batch:
    """Decode messages by their contract; `now` (UTC) bounds how far ahead their times may be."""
    typical, doubtful = _typical(contract, payloads, now)
    looked = {place: decode(contract, payloads[place], now) for place in doubtful}
    odd = {place: event for place, event in looked.items() if isinstance(event, Event)}
    return Batch(typical, odd, {place: dead for place, dead in looked.items() if isinstance(dead, Dead)})


# --- typical messages


_TYPES: dict[str, Any] = {
    "id": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)],
    "text": Annotated[str, msgspec.Meta(max_length=MAX_TEXT)],
    "money": Any,  # `int` or, by the hook, `Decimal`: a double would round, and for `Decimal` msgspec takes "2" too
    "time": str,  # msgspec rounds to microseconds, even into the next day
    "lines": msgspec.Raw,
    "boolean": bool,
    "string": str,
    "numeric": Any,
    # of an order line, which is stored as its text: a double is enough to see that the price is usual
    "price": Annotated[float, msgspec.Meta(gt=0, lt=USUAL)],
}


def _struct(name: str, fields: Sequence[Field], **kinds: str) -> type[msgspec.Struct]:
    """A struct for these fields, with the attributes f0, f1 …: a field may have a name that no attribute can have."""

    def annotation(field: Field) -> Any:
        if field.choices:
            return Literal[field.choices]
        if field.kind == "whole":
            return Annotated[int, msgspec.Meta(ge=field.minimum, le=MAX_WHOLE)]
        return _TYPES["id" if field.is_id else kinds.get(field.kind, field.kind)]

    members = [
        (f"f{number}", annotation(field)) if field.required else (f"f{number}", annotation(field) | None, None)
        for number, field in enumerate(fields)
    ]
    names = {f"f{number}": field.name for number, field in enumerate(fields)}
    return msgspec.defstruct(name, members, rename=names, kw_only=True, forbid_unknown_fields=True, gc=False)


@functools.cache
def _decoder(contract: Contract) -> msgspec.json.Decoder[Any]:
    record = _struct(contract.table, (*contract.fields, *contract.added))
    return msgspec.json.Decoder(record, float_hook=Decimal)


_LINES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Annotated[list[_struct("line", LINE, money="price")], msgspec.Meta(min_length=1)]  # type: ignore[misc]
)

_DOUBTS = (msgspec.MsgspecError, UnicodeDecodeError, ArithmeticError, RecursionError)


def _typical(contract: Contract, payloads: Sequence[bytes | None], now: datetime) -> tuple[pa.Table, list[int]]:
    """The typical events, and the places of the messages that need a second look."""
    read = _decoder(contract).decode
    records, places, doubtful = [], [], []
    for place, payload in enumerate(payloads):
        if payload is None or len(payload) > LARGEST or b"\\u0000" in payload:
            doubtful.append(place)
            continue
        try:
            records.append(read(payload))
            places.append(place)
        except _DOUBTS:
            doubtful.append(place)
    arrays = [pa.array(places, pa.int64())]
    odd: set[int] = set()
    for number, field in enumerate((*contract.fields, *contract.added)):
        array, rows = _COLUMNS.get(field.kind, _plain)(field, list(map(attrgetter(f"f{number}"), records)), now)
        arrays.append(array)
        odd.update(rows)
    table = pa.table(arrays, names=[PLACE, *contract.columns])
    if odd:
        doubtful += [places[row] for row in odd]
        table = table.take(np.setdiff1d(np.arange(len(records)), list(odd), assume_unique=True))
    return table, sorted(doubtful)


def _plain(field: Field, values: list[Any], now: datetime) -> Column:
    return pa.array(values, _ARROW[field.kind]), ()


def _amounts(field: Field, values: list[Any], now: datetime) -> Column:
    start, end = (0, amount_end(field.digits)) if field.kind == "money" else (-FINITE, FINITE)
    texts: list[str | None] = []
    doubtful = []
    for row, value in enumerate(values):
        if (type(value) is Decimal or type(value) is int) and start <= value < end:
            texts.append(str(value))
        else:
            texts.append(None)
            if value is not None or field.required:
                doubtful.append(row)
    return pa.array(texts, pa.string()), doubtful


def _times(field: Field, values: list[str], now: datetime) -> Column:
    try:
        times = pa.array(values, pa.string()).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:  # Arrow takes less than ISO 8601 allows
        return _odd_times(field, values, now)
    instants = times.view(pa.int64()).to_numpy()
    outside = (instants < _microseconds(EARLIEST)) | (instants > _microseconds(now + AHEAD))
    return times, np.flatnonzero(outside).tolist()


def _odd_times(field: Field, values: list[str], now: datetime) -> Column:
    times: list[datetime | None] = []
    doubtful = []
    for row, value in enumerate(values):
        try:
            times.append(instant(field, value, now).replace(tzinfo=None))
        except Refused:
            times.append(None)
            doubtful.append(row)
    return pa.array(times, pa.timestamp("us")), doubtful


def _microseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _lines(field: Field, values: list[msgspec.Raw], now: datetime) -> Column:
    texts: list[str | None] = []
    doubtful = []
    for row, value in enumerate(values):
        try:
            _LINES.decode(value)
            texts.append(str(value, "utf-8"))
        except _DOUBTS:
            texts.append(None)
            doubtful.append(row)
    return pa.array(texts, pa.string()), doubtful


_COLUMNS: dict[str, Callable[[Field, list[Any], datetime], Column]] = {
    "money": _amounts,
    "numeric": _amounts,
    "time": _times,
    "lines": _lines,
}


# --- events that took a second look


def _table(contract: Contract, events: dict[int, Event]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in (*contract.columns, "extra")}
    for event in events.values():
        others = dict(event.others)
        values = [
            *event.values,
            *(_take(field, others) for field in contract.added),
            to_json(others) if others else None,
        ]
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    arrays = [pa.array(list(events), pa.int64())]
    for field in (*contract.fields, *contract.added):
        values = columns[field.column]
        if field.kind in ("money", "numeric"):
            values = [None if value is None else str(value) for value in values]
        arrays.append(pa.array(values, _ARROW[field.kind]))
    return pa.table([*arrays, pa.array(columns["extra"], pa.string())], names=[PLACE, *columns])


def _take(field: Field, others: dict[str, Any]) -> Any:
    """Move an added column's value out of an event's other fields; a value of another type stays there."""
    value = others.get(field.name)
    if value is None or kind_of(value) == field.kind:
        others.pop(field.name, None)
        return value
    return None


def kind_of(value: Any) -> Literal["boolean", "string", "numeric"] | None:
    """The kind of an added column that holds such a value; None when none does."""
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | Decimal():
            return "numeric"
        case _:
            return None
