"""Messages as nobody sends them on purpose: those of the generators, changed by somebody who knows how they are read.

A message is kept as names and values in JSON's own text, so that a number may have any notation and a name may occur
twice. Most changes leave it valid, if odd: those are the ones that have to arrive. Everything follows from the seed, and
from the time that "now" is.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from generators.model import Scenario, simulate
from tests.fuzz.identifiers import harvest
from tests.fuzz.rules import ID, OPTIONAL, REQUIRED, TIME
from tests.fuzz.values import (
    AMOUNTS,
    ANY_NUMBERS,
    NAMES,
    NO_AMOUNTS,
    NO_PRICES,
    NO_WHOLES,
    OTHER_KINDS,
    POISON,
    PRICES,
    WHOLES,
    number,
    quoted,
    short_text,
    text,
    times,
)

Message = tuple[str, bytes | None]
"""A realtime table, and a message for its topic."""

Members = list[tuple[str, str]]
"""Names and values of an object, each in JSON."""

DAYS = 40
"""The generators' events lie in so many days before now."""
PICKED = {"transactions": 0.9, "product_view_events": 0.2, "cart_events": 0.3}
"""Share of the generators' events of each table: an order holds most that can go wrong."""
REMEMBERED = 300
"""Of the last so many messages one may be sent again."""
LARGEST = 900_000
"""Bytes of a message, with room for Kafka's own."""


@dataclass
class Draft:
    """A message in the making; of a transaction `lines` are its products."""

    table: str
    fields: Members
    lines: list[Members] | None = None

    def set(self, name: str, value: str) -> None:
        """Give a field a value, in JSON."""
        names = [json.loads(known) for known, _ in self.fields]
        if name in names:
            self.fields[names.index(name)] = (json.dumps(name), value)
        else:
            self.fields.append((json.dumps(name), value))

    def drop(self, name: str) -> None:
        """Take a field away."""
        self.fields = [member for member in self.fields if json.loads(member[0]) != name]

    def payload(self, chance: random.Random) -> bytes:
        """The message, its white space by chance."""
        colon, comma = chance.choice(((":", ","), (": ", ", "), (" :\t", "\r\n,")))
        fields = list(self.fields)
        if self.lines is not None:
            lines = comma.join(_object(line, colon, comma) for line in self.lines)
            fields = [(name, f"[{lines}]" if value == LINES else value) for name, value in fields]
        return _object(fields, colon, comma).encode("utf-8", "surrogatepass")


LINES = "\0lines"
"""Stands for a transaction's lines among its fields."""


def _object(members: Members, colon: str, comma: str) -> str:
    return "{" + comma.join(f"{name}{colon}{value}" for name, value in members) + "}"


def messages(seed: int, count: int, now: datetime) -> Iterator[Message]:
    """So many messages; half of them typical or nearly so, most of the others valid all the same."""
    chance = random.Random(seed)
    fuzzer = Fuzzer(chance, now)
    scenario = Scenario(
        start=now - timedelta(days=DAYS, minutes=30),
        history=timedelta(days=DAYS),
        events=4 * count,
        users=200,
        products=80,
        seed=seed,
    )
    picked = (event for event in simulate(scenario) if chance.random() < PICKED[event.table])
    for event in islice(picked, count):
        yield fuzzer.message(event.table, event.value)


# --- the fuzzer

Change = Callable[[Draft], None]


@dataclass
class Fuzzer:
    """Changes messages, and remembers some, to send them again."""

    chance: random.Random
    now: datetime
    remembered: list[Message] = field(default_factory=list)
    identifiers: Sequence[str] = field(default_factory=harvest)

    def message(self, table: str, value: bytes) -> Message:
        """A message from one of the generators'."""
        chance = self.chance
        dice = chance.random()
        if self.remembered and dice < 0.03:
            return chance.choice(self.remembered)
        draft = self.draft(table, value)
        if self.remembered and dice < 0.05:
            self._as_another(draft)
        for _ in range(chance.choices((0, 1, 2, 3, 5), (30, 30, 20, 12, 8))[0]):
            chance.choices(self.changes, self.weights)[0](self, draft)
        payload: bytes | None = draft.payload(chance)
        if chance.random() < 0.04:
            payload = self._bytes(draft, payload or b"")
        made = (table, payload if payload is None else payload[:LARGEST])
        self.remembered.append(made)
        del self.remembered[:-REMEMBERED]
        return made

    def draft(self, table: str, value: bytes) -> Draft:
        """A message of the generators, to be changed."""
        document = json.loads(value)
        members = [(json.dumps(name), json.dumps(part)) for name, part in document.items() if name != "products"]
        if "products" not in document:
            return Draft(table, members)
        lines = [[(json.dumps(name), json.dumps(part)) for name, part in line.items()] for line in document["products"]]
        return Draft(table, [*members, ('"products"', LINES)], lines)

    def _as_another(self, draft: Draft) -> None:
        """Give it the id of one that has been sent already."""
        same = [payload for table, payload in self.remembered if table == draft.table and payload]
        try:
            known = json.loads(self.chance.choice(same))[ID[draft.table]]
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        if isinstance(known, str):
            draft.set(ID[draft.table], json.dumps(known))

    # --- changes that leave a message valid, most of them

    def odd_text(self, draft: Draft) -> None:
        """A text of some class or meaning in a field for texts; an id stays its own."""
        texts = {name for name, kind in (REQUIRED[draft.table] | OPTIONAL[draft.table]).items() if kind != "time"}
        name = self.chance.choice(
            sorted(texts & {"user_id", "product_id", "session_id", "country", "category", ID[draft.table]})
        )
        odd = short_text(self.chance)
        if name == ID[draft.table]:
            odd = (text(self.chance, 12) + odd)[:100]
        elif name in ("user_id", "product_id"):
            odd = odd or "x"
        draft.set(name, quoted(self.chance, odd))

    def odd_time(self, draft: Draft) -> None:
        """A time in another notation, at a bound, late, or ahead by what is allowed."""
        usual, rare, _ = times(self.now, self._at())
        draft.set(
            TIME[draft.table], quoted(self.chance, self.chance.choice(usual if self.chance.random() < 0.8 else rare))
        )

    def _at(self) -> datetime:
        """An instant of the last weeks, sometimes ahead of now, but never beyond the day that a cycle may load."""
        chance = self.chance
        match chance.randrange(4):
            case 0:
                ahead = self.now + timedelta(seconds=chance.uniform(0, 290))
                day = (self.now - timedelta(minutes=15)).date()
                return min(ahead, datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC))
            case 1:
                return self.now - timedelta(days=chance.uniform(100, 4000))
            case _:
                return self.now - timedelta(minutes=30, days=chance.uniform(0, DAYS))

    def odd_number(self, draft: Draft) -> None:
        """A number at a bound, or in another notation."""
        chance = self.chance
        if draft.lines is not None:
            if chance.random() < 0.5:
                draft.set("total_amount", chance.choice((*AMOUNTS, number(chance, chance.randrange(10**16), "994"))))
                return
            line = chance.choice(draft.lines)
            price = chance.choice((*PRICES, number(chance, chance.randrange(10**6), f"{chance.randrange(10**6):06}")))
            _replace(line, "price", price)
        elif draft.table == "cart_events":
            draft.set("quantity", chance.choice((*WHOLES, "null")))
            draft.set("price", chance.choice((*PRICES, "null", number(chance, chance.randrange(10**14), "99"))))
            if chance.random() < 0.8:  # together they would be too much
                draft.set("quantity", chance.choice(("0", "1", "2")))
        else:
            draft.set("view_duration", chance.choice((*WHOLES, "null", "3600", "86400")))

    def dear_lines(self, draft: Draft) -> None:
        """An order whose lines come near to 10**16 each, of a customer and a product who have many such."""
        if draft.lines is None:
            return
        chance = self.chance
        draft.set("user_id", json.dumps(f"rich {chance.randrange(3)}"))
        draft.set("total_amount", "9999999999999999.99")
        draft.lines = [
            [
                ('"product_id"', json.dumps(f"dear {chance.randrange(3)}")),
                ('"quantity"', quantity),
                ('"price"', price),
                ('"category"', '"Dear"'),
            ]
            for quantity, price in (
                *(
                    ("100", "90000000000000"),
                    ("100", "99999999999999.5"),
                    ("2147483647", "4656612"),
                    ("99", "99999999999999.9999"),
                ),
                *(("1", "99999999999999.9999"), ("2147483647", "0.0001"), ("1000000", "9999999999.99"), ("3", "0.005")),
            )
            if chance.random() < 0.4
        ] or draft.lines

    def odd_lines(self, draft: Draft) -> None:
        """Unknown fields, many lines, other orders of names, names twice, no category."""
        if draft.lines is None:
            return
        chance = self.chance
        line = chance.choice(draft.lines)
        match chance.randrange(8):
            case 0 | 1 | 2:
                place = chance.randrange(len(line) + 1)
                line.insert(place, (self._name(long=0.02), self._value(deep=95)))
            case 3:
                chance.shuffle(line)
            case 4:
                name = chance.choice(("product_id", "quantity", "price", "category"))
                line.insert(0, (json.dumps(name), chance.choice(OTHER_KINDS)))
            case 5:
                _replace(line, "category", chance.choice(("null", '""', quoted(chance, short_text(chance)))))
            case 6:
                _replace(line, "product_id", quoted(chance, short_text(chance) or "x"))
            case 7:
                draft.lines = [
                    list(chance.choice(draft.lines)) for _ in range(chance.choice((2, 5, 20, 99, 100, 101, 500)))
                ]

    def unknown_field(self, draft: Draft) -> None:
        """A field that nobody has declared."""
        name, value = self._name(long=0.005), self._value(deep=98)
        draft.fields.insert(self.chance.randrange(len(draft.fields) + 1), (name, value))

    def identifier(self, draft: Draft) -> None:
        """A field called like something of ours, with a value that makes a column."""
        value = self.chance.choice(
            ('"homepage"', "1", "true", "null", "12.50", '""', '["a"]', '{"a": 1}', "false", "-7e-3")
        )
        draft.fields.append((json.dumps(self.chance.choice(self.identifiers)), value))

    def _name(self, long: float) -> str:
        chance = self.chance
        if chance.random() < long:
            return json.dumps("n" * chance.choice((1000, 50_000, 50_001, 65_536)))
        match chance.randrange(4):
            case 0:
                return json.dumps(chance.choice(self.identifiers))
            case 1:
                return quoted(chance, text(chance, chance.choice((1, 5, 63, 64, 200))))
            case _:
                return quoted(chance, chance.choice(NAMES))

    def _value(self, deep: int) -> str:
        """Anything that a message may hold where nobody reads it, nested so deep at most."""
        chance = self.chance
        match chance.randrange(8):
            case 0:
                return chance.choice(("true", "false", "null"))
            case 1:
                return chance.choice(ANY_NUMBERS)
            case 2:
                return number(chance, chance.randrange(-(10**9), 10**9), str(chance.randrange(1, 10**6)))
            case 3 | 4:
                return quoted(chance, short_text(chance))
            case 5:
                return quoted(chance, text(chance, chance.choice((101, 500, 5000))))
            case 6:
                depth = chance.choice((1, 2, 10, deep))
                inner = chance.choice((*ANY_NUMBERS, '"x"', "{}", "[]"[: 2 if depth < deep else 0] or "1"))
                return chance.choice(("[" * depth + inner + "]" * depth, '{"a":' * depth + inner + "}" * depth))
            case _:
                return "[" + ",".join(chance.choice(OTHER_KINDS) for _ in range(chance.choice((0, 1, 10, 300)))) + "]"

    def absent(self, draft: Draft) -> None:
        """An optional field that is absent, null or empty."""
        name = self.chance.choice(sorted(OPTIONAL[draft.table]))
        match self.chance.randrange(3):
            case 0:
                draft.drop(name)
            case 1:
                draft.set(name, "null")
            case _ if name in ("country", "category", "session_id"):
                draft.set(name, '""')

    def twice(self, draft: Draft) -> None:
        """A field that occurs twice: the last counts."""
        name, value = self.chance.choice(draft.fields)
        if value != LINES:
            first = self.chance.choice((*OTHER_KINDS, value, quoted(self.chance, text(self.chance, 101))))
            draft.fields.insert(0, (name, first))

    def shuffled(self, draft: Draft) -> None:
        """The fields in another order."""
        self.chance.shuffle(draft.fields)

    def large(self, draft: Draft) -> None:
        """A message of up to a megabyte."""
        chance = self.chance
        size = chance.choice((20_000, 100_000, 890_000))
        value = chance.choice(
            ('"' + "x" * size + '"', "[" + "1," * (size // 2) + "1]", '"' + '\\"' * (size // 2) + '"')
        )
        draft.fields.append((json.dumps(chance.choice(("payload", "data", "blob", "Blob"))), value))

    # --- changes that break it, most of them

    def broken_field(self, draft: Draft) -> None:
        """A declared field with a value that it can't have."""
        chance = self.chance
        name, kind = chance.choice(sorted((REQUIRED[draft.table] | OPTIONAL[draft.table]).items()))
        wrong = {"time": [json.dumps(time) for time in times(self.now, self._at())[2]], "amount": NO_AMOUNTS}
        wrong |= {
            "price": NO_PRICES,
            "whole": NO_WHOLES,
            "lines": (*OTHER_KINDS, "[{}]", "[null]", '[{"product_id":"p"}]'),
        }
        too_long = quoted(chance, text(chance, chance.choice((101, 102, 1000))))
        draft.set(
            name,
            chance.choice((*wrong.get(kind, (*OTHER_KINDS, too_long, '["x"]', "1e5")), chance.choice(OTHER_KINDS))),
        )

    def broken_line(self, draft: Draft) -> None:
        """An order line that can't be."""
        if draft.lines is None:
            return
        chance = self.chance
        line = chance.choice(draft.lines)
        match chance.randrange(4):
            case 0:
                _replace(line, "quantity", chance.choice((*NO_WHOLES, "0", "2147483647")))
            case 1:
                _replace(line, "price", chance.choice(NO_PRICES))
            case 2:
                _replace(line, "product_id", chance.choice((*OTHER_KINDS, quoted(chance, text(chance, 101)))))
            case _:
                line.pop(chance.randrange(len(line)))

    def missing(self, draft: Draft) -> None:
        """A required field that isn't there."""
        name = self.chance.choice(sorted(REQUIRED[draft.table]))
        match self.chance.randrange(3):
            case 0:
                draft.drop(name)
            case 1:
                draft.set(name, "null")
            case _:
                draft.set(name, '""')

    def poison(self, draft: Draft) -> None:
        """What no message may hold: in an unknown field, in a line, in a value that a later one replaces."""
        chance = self.chance
        value = chance.choice(POISON)
        if draft.lines and chance.random() < 0.3:
            chance.choice(draft.lines).append(('"x"', value))
        else:
            name = chance.choice(('"x"', json.dumps(chance.choice(sorted(REQUIRED[draft.table])))))
            draft.fields.insert(0, (name, value))

    changes: tuple[Callable[["Fuzzer", Draft], None], ...] = (
        *(
            odd_text,
            odd_time,
            odd_number,
            dear_lines,
            odd_lines,
            unknown_field,
            identifier,
            absent,
            twice,
            shuffled,
            large,
        ),
        *(broken_field, broken_line, missing, poison),
    )
    weights: tuple[float, ...] = (14, 7, 14, 4, 14, 10, 10, 5, 4, 3, 0.05, 3, 3, 1, 2)

    def _bytes(self, draft: Draft, payload: bytes) -> bytes | None:
        """Something done to the bytes."""
        chance = self.chance
        place = chance.randrange(len(payload) + 1)
        match chance.randrange(14):
            case 0:
                return payload[:place]
            case 1:
                return payload + payload
            case 2:
                return b"\xef\xbb\xbf" + payload
            case 3:
                return payload.decode("utf-8", "replace").encode(
                    chance.choice(("utf-16", "utf-16-le", "utf-32", "utf-7"))
                )
            case 4:
                return chance.choice((b" ", b"\n\t\r ")) + payload + chance.choice((b" ", b"\n", b"   \r\n"))
            case 5:
                return payload + chance.choice((b"\0", b",", b"}", b"\xff", b"\xc2\xa0", b"\x0c"))
            case 6:
                return (
                    payload[:place]
                    + chance.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8", b"\x80"))
                    + payload[place:]
                )
            case 7:
                return payload[:place] + bytes([chance.randrange(256)]) + payload[place + 1 :]
            case 8:
                return payload[:place] + payload[place + chance.randrange(1, 30) :]
            case 9:
                return chance.choice(
                    (b"", b" ", b"null", b"0", b'"text"', b"[]", b"{}", b"true", b"\0", b"{", b"[" * 5000)
                )
            case 10:
                return None
            case 11:
                return b"[" + payload + b"]"
            case 12:
                return json.dumps(payload.decode("utf-8", "replace")).encode()
            case _:
                other = chance.choice(self.remembered)[1] if self.remembered else None
                return payload[:place] + (other or b"")[place:]


def _replace(line: Members, name: str, value: str) -> None:
    line[:] = [member for member in line if json.loads(member[0]) != name] + [(json.dumps(name), value)]
