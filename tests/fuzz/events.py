"""Messages as nobody sends them on purpose: those of the generators, changed by somebody who knows how they are read.

A message is kept as names and values in JSON's own text, so that a number may have any notation and a name may occur
twice. Most changes leave it valid, if odd: those are the ones that have to arrive. Everything follows from the seed, and
from the time that "now" is.
"""

import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from generators.model import Scenario, simulate
from tests.fuzz.identifiers import harvest
from tests.fuzz.rules import ID, OPTIONAL, REQUIRED, TIME

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


# --- values


def quoted(chance: random.Random, text: str) -> str:
    """A text in JSON, in one of its notations."""
    match chance.randrange(4):
        case 0:
            return json.dumps(text)
        case 1:
            return '"' + "".join(_escaped(character) for character in text) + '"'
        case _:
            return json.dumps(text, ensure_ascii=False)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


CLASSES = (
    string.ascii_letters,
    string.digits,
    string.punctuation,
    " \t\n\r\x0b\x0c\x1f\x7f",
    "\x01\x02\x07\x08\x1b\x1c\x1d\x1e",
    "\x80\x85\x9b\x9f\xa0\xad",
    "äßéçñøİıſ",
    "e\u0301\u0308\u0323n\u0303\u20dd\u0489",
    "أهلاשלום",
    "\u202a\u202b\u202e\u2066\u2069\u200e\u200f\u061c",
    "\u200b\u200c\u200d\u2060\ufeff\u180e",
    "\u2028\u2029\u0085",
    "日本語中文한국어",
    "😀👩‍👩‍👧🏳️‍🌈🇳🇴",
    "𝒳𐍈𠜎\U0010fffd",
    "\ufffe\uffff\ufdd0\U0001fffe\U0010ffff",
    "\ue000\uf8ff\U000f0000",
    "\ufffd\ufffc",
    "аеорсΑΒΕ",
)
"""Classes of characters: letters, controls, combining and directed ones, separators, noncharacters, private ones …"""

TEXTS = (
    *(
        "",
        " ",
        "null",
        "NULL",
        "None",
        "nan",
        "true",
        "0",
        "-1",
        "1e5",
        "\\N",
        "\\.",
        "\\",
        '"',
        '""',
        "'",
        "''",
        "'\"'",
    ),
    *(
        ",",
        ";",
        "\t",
        "\n",
        "\r\n",
        "a\n\\.\nb",
        "\n\\.\n",
        "\\.\n",
        "\\.\r\n",
        '"\n\\.\n"',
        'a"b',
        "a,b",
        'a""b',
        ",,",
        '",',
    ),
    *("%s", "%(x)s", "{}", "{0}", "{x!r}", ":name", "$1", "$$", "${x}", "?", "--", "/*", "*/", "; drop table x; --"),
    *("<b>", "</script>", "&amp;", "[red]", "[/]", "[[a]]", "`x`", "|", "# a", "../..", "\\u0000", "\\ud800", "\\x00"),
    *(
        "All",
        "Unknown",
        "all",
        "unknown",
        "-1",
        "New",
        "High Value",
        "default",
        "epoch",
        "infinity",
        "now",
        "1:1",
        "a:1",
    ),
    *(
        "é",
        "e\u0301",
        "Å",
        "A\u030a",
        "\u212b",
        "ﬁ",
        "fi",
        "Ⅷ",
        "ＡＢＣ",
        "a ",
        "a",
        "A",
        " a",
        "a\u200b",
        "\ufeffa",
        "a\xa0",
    ),
)
"""Texts that mean something to somebody."""


def text(chance: random.Random, length: int) -> str:
    """A text of so many characters, of one class or of all."""
    if chance.random() < 0.3:
        return "".join(chance.choice(chance.choice(CLASSES)) for _ in range(length))
    one, two = chance.choice(CLASSES), chance.choice(CLASSES)
    return "".join(chance.choice(one if chance.random() < 0.9 else two) for _ in range(length))


def short_text(chance: random.Random) -> str:
    """A text that a field holds."""
    match chance.randrange(3):
        case 0:
            return chance.choice(TEXTS)
        case 1:
            return text(chance, chance.choice((1, 2, 3, 8, 20, 99, 100)))
        case _:
            return (chance.choice(TEXTS) + text(chance, 3) + chance.choice(TEXTS))[:100]


def number(chance: random.Random, whole: int, digits: str = "") -> str:
    """A number in one of its notations: `whole` and the digits behind the point."""
    sign, whole = ("-" if whole < 0 else ""), abs(whole)
    plain = f"{whole}.{digits}" if digits else str(whole)
    mark = chance.choice(("e", "E"))
    together = str(int(f"{whole}{digits}"))
    return sign + chance.choice(
        (
            plain,
            plain,
            f"{plain}{'' if digits else '.'}{'0' * chance.choice((1, 2, 5, 30))}",
            f"{plain}{mark}0",
            f"{plain}{mark}+00",
            f"{together}{mark}-{len(digits)}",
            f"{together}{mark}-{len(digits):03}",
            f"{together}000{mark}-{len(digits) + 3}",
        )
    )


SMALL = (
    "0",
    "-0",
    "0.0",
    "-0.0",
    "0e0",
    "0E-5",
    "0.005",
    "0.00499999",
    "0.00005",
    "0.00004999",
    "1e-20",
    "5e-324",
    "1e-400",
)
AMOUNTS = (
    *(*SMALL, "1e2", "1E+2", "100.00000", "0.995", "1.005", "2.675", "1e15", "9007199254740993", "123456789012345.675"),
    *("9999999999999999.99", "9999999999999999.9949", "9999999999999999.994" + "9" * 60, "99999999999999.9999"),
    *("0." + "3" * 1001, "1." + "0" * 1100 + "1", "12" + "." + "5" * 900, "1e-1001", "1e-15000"),
)
"""Amounts at their bounds, inside."""
NO_AMOUNTS = (
    *(
        "9999999999999999.995",
        "10000000000000000",
        "1e16",
        "1e308",
        "1e400",
        "-0.01",
        "-1",
        "-1e-400",
        "1" + "0" * 1200,
    ),
    *(
        "-1e308",
        "1e-99999999999999999999",
        "NaN",
        "Infinity",
        "-Infinity",
        "1.7976931348623159e308",
        '"1"',
        "true",
        "[]",
    ),
    *("+1", "01", ".5", "1.", "1e", "0x10", "1_000", "１", "{}", '""', '"1e2"'),
)
PRICES = (
    *SMALL,
    "99999999999999.9999",
    "99999999999999.99994",
    "1e13",
    "1E+13",
    "1.00005",
    "19.99",
    "0." + "1" * 1001,
    "7e0",
)
NO_PRICES = (*NO_AMOUNTS, "1e14", "100000000000000", "99999999999999.99995", "99999999999999.99999999")
WHOLES = ("0", "1", "2", "-0", "2147483646", "2147483647")
NO_WHOLES = (
    "2147483648",
    "-1",
    "1.0",
    "1e0",
    "1E1",
    "-2147483648",
    "9" * 30,
    "9" * 400,
    '"1"',
    "true",
    "[1]",
    "0.5",
    "1e400",
)
ANY_NUMBERS = (
    *AMOUNTS,
    *PRICES,
    "-1",
    "1e308",
    "-1e308",
    "9" * 308,
    "9" * 300 + "." + "9" * 300,
    "1e-15999",
    "0." + "7" * 5000,
)
"""What a field may hold that nobody has declared."""
POISON = (
    *('"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d"', '{"\\u0000":1}', '["\\udfff"]', "NaN"),
    *("1e400", "-1e999", "9" * 310, '"\x01"', '"\ud800"', "nul", "'a'", "[1,]", '{"a":1,}', "", "[" * 101 + "]" * 101),
)
"""What no message may hold, wherever it stands."""
OTHER_KINDS = (
    "null",
    "true",
    "false",
    "1",
    "1.5",
    '""',
    '"x"',
    "[]",
    "{}",
    "[[]]",
    '[{"a":1}]',
    '{"product_id":"p"}',
    "0",
    '"1"',
)


def times(now: datetime, at: datetime) -> tuple[list[str], list[str], list[str]]:
    """An instant in usual and in rare notations, and what is no time, or none that is taken."""
    day, clock = f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}"
    usual = [f"{day}T{clock}.{at.microsecond:06}000000"[: 20 + digits] + "Z" for digits in range(1, 13)]
    usual += [f"{day}T{clock}Z", f"{day}T{clock}", f"{day}T23:59:59.999999999Z", f"{day}T00:00:00Z"]
    usual += [
        (at.replace(tzinfo=None) + timedelta(hours=hours, minutes=minutes)).isoformat()[:26]
        + f"{'-' if hours < 0 else '+'}{abs(hours):02}:{abs(minutes):02}"
        for hours, minutes in ((0, 0), (14, 0), (-14, 0), (5, 45), (-9, -30), (23, 59), (-23, -59))
    ]
    usual += [
        "2000-01-01T00:00:00Z",
        "2000-01-01T14:00:00+14:00",
        "1999-12-31T12:00:00-12:00",
        "2000-01-01T00:00:00.000001Z",
    ]
    usual += ["2000-02-29T12:00:00Z", "2024-02-29T23:59:59.999999999999Z", "2016-12-31T23:59:59Z"]
    rare = [f"{day}t{clock}z", f"{day} {clock}", f"{day} {clock}Z", f"{day}T{clock},5Z", f"{at:%Y%m%dT%H%M%S}Z"]
    rare += [f"{at:%G-W%V-%u}T{clock}Z", f"{at:%GW%V%u}T{clock}Z", f"{at:%G-W%V}T{clock}Z", f"{day}T{at:%H}Z"]
    rare += [f"{day}T{at:%H:%M}", f"{at:%Y-%m-%d}T{at:%H%M%S}", f"{day}T{clock}+00", f"{day}T{clock}-00:00"]
    rare += [f"{day}T{clock}+0100", f"{day}T{clock}+01:00:30", f"{day}T{clock}+01:00:00.5", f"{day}T24:00:00Z"]
    rare += ["2016-12-31T23:59:60Z", f"{day}T{clock}." + "1" * 40 + "Z", f"{day}T{clock}z", f"{day}T23:59:60"]
    wrong = [
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+14:00",
        "1970-01-01T00:00:00Z",
    ]
    wrong += [f"{now + timedelta(minutes=6):%FT%T}Z", "9999-12-31T23:59:59-14:00", f"{now + timedelta(days=1):%FT%T}Z"]
    wrong += [day, f"{at:%Y%m%d}", f"{at:%G-W%V-%u}", f"{day}T", f"{day}Z", f"{day}T25:00:00Z", f"{day}T12:60:00Z"]
    wrong += [
        "2023-02-29T12:00:00Z",
        f"{day}T{clock}+24:00",
        f"{day}T{clock} Z",
        f" {day}T{clock}Z",
        f"{day}T{clock}Z ",
    ]
    wrong += [
        f"{day}T{clock}UTC",
        f"{day}T{clock}[UTC]",
        str(int(at.timestamp())),
        "now",
        "yesterday",
        "infinity",
        "-infinity",
    ]
    wrong += [
        f"{at:%d.%m.%Y %H:%M}",
        f"{day}x{clock}",
        f"{day}T{clock}.Z",
        f"{day}T{clock}5Z",
        f"{day}T-1:00:00Z",
        f"{day}T{clock}+1",
        "today",
    ]
    wrong += [
        f"{day}T{at:%H}:{at:%M}:５５Z",
        f"{day}T1:2:3Z",
        f"+{day}T{clock}Z",
        f"-{day}T{clock}Z",
        f"0{day}T{clock}Z",
        "",
    ]
    return usual, rare, wrong


NAMES = (
    *(
        "",
        " ",
        "a b",
        "a.b",
        "a-b",
        'a"b',
        "a'b",
        "a,b",
        "%s",
        "%(a)s",
        "{}",
        "{0}",
        ":name",
        "$1",
        "`",
        "\\",
        "\n",
        "[0]",
        "?",
    ),
    *(
        "__proto__",
        "constructor",
        "toString",
        "_id",
        "$ref",
        "@type",
        "Extra",
        "EXTRA",
        "USER_ID",
        "User_Id",
        "Products",
    ),
    *(
        "x" * 62,
        "x" * 63,
        "x" * 64,
        "x" * 65,
        "é",
        "usеr_id",
        "user_id ",
        " user_id",
        "user\u200b_id",
        "ｕｓｅｒ",
        "名前",
        "😀",
    ),
    *(
        "ctid",
        "xmin",
        "xmax",
        "cmin",
        "cmax",
        "tableoid",
        "oid",
        "select",
        "from",
        "user",
        "table",
        "order",
        "group",
        "all",
    ),
    *(
        "default",
        "values",
        "timestamp",
        "date",
        "time",
        "interval",
        "numeric",
        "row",
        "array",
        "null",
        "true",
        "current_user",
    ),
    *(
        "limit",
        "offset",
        "window",
        "end",
        "desc",
        "in",
        "is",
        "not",
        "analyze",
        "lateral",
        "collate",
        "primary",
        "check",
    ),
    *(
        "_corrupt_record",
        "_metadata",
        "_c0",
        "col",
        "key",
        "value",
        "pos",
        "position",
        "one",
        "element",
        "entry",
        "item",
        "map",
    ),
    *(
        "topic",
        "partition",
        "offset",
        "headers",
        "timestamptype",
        "__index_level_0__",
        "index",
        "f0",
        "f1",
        "f5",
        "f12",
        "names",
    ),
    *(
        "kafka_partition",
        "kafka_offset",
        "ingest_batch_id",
        "created_at",
        "extra",
        "place",
        "event_timestamp",
        "other",
        "rows",
    ),
    *(
        "price_",
        "quantity",
        "price",
        "products",
        "category",
        "session_id",
        "total_amount",
        "transaction_id",
        "event_id",
        "type",
    ),
)
"""Names of fields that mean something to somebody: to JSON, Python, PostgreSQL, Spark, Arrow, to our own tables."""


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
        except (ValueError, LookupError, TypeError):
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
