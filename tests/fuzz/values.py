"""Texts, numbers, times and names that mean something to somebody, or lie at a bound; and how JSON may write them."""

import json
import random
import string
from datetime import datetime, timedelta


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


# fmt: off
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
    *("", " ", "null", "NULL", "None", "nan", "true", "0", "-1", "1e5", "\\N", "\\.", "\\", '"', '""', "'", "''", "'\"'"),
    *(",", ";", "\t", "\n", "\r\n", "a\n\\.\nb", "\n\\.\n", "\\.\n", "\\.\r\n", '"\n\\.\n"', 'a"b', "a,b", 'a""b', ",,", '",'),
    *("%s", "%(x)s", "{}", "{0}", "{x!r}", ":name", "$1", "$$", "${x}", "?", "--", "/*", "*/", "; drop table x; --"),
    *("<b>", "</script>", "&amp;", "[red]", "[/]", "[[a]]", "`x`", "|", "# a", "../..", "\\u0000", "\\ud800", "\\x00"),
    *("All", "Unknown", "all", "unknown", "-1", "New", "High Value", "default", "epoch", "infinity", "now", "1:1", "a:1"),
    *("é", "e\u0301", "Å", "A\u030a", "\u212b", "ﬁ", "fi", "Ⅷ", "ＡＢＣ", "a ", "a", "A", " a", "a\u200b", "\ufeffa", "a\xa0"),
)
"""Texts that mean something to somebody."""
# fmt: on


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


# fmt: off
SMALL = ("0", "-0", "0.0", "-0.0", "0e0", "0E-5", "0.005", "0.00499999", "0.00005", "0.00004999", "1e-20", "5e-324", "1e-400")
AMOUNTS = (
    *(*SMALL, "1e2", "1E+2", "100.00000", "0.995", "1.005", "2.675", "1e15", "9007199254740993", "123456789012345.675"),
    *("9999999999999999.99", "9999999999999999.9949", "9999999999999999.994" + "9" * 60, "99999999999999.9999"),
    *("0." + "3" * 1001, "1." + "0" * 1100 + "1", "12" + "." + "5" * 900, "1e-1001", "1e-15000"),
)
"""Amounts at their bounds, inside."""
NO_AMOUNTS = (
    *("9999999999999999.995", "10000000000000000", "1e16", "1e308", "1e400", "-0.01", "-1", "-1e-400", "1" + "0" * 1200),
    *("-1e308", "1e-99999999999999999999", "NaN", "Infinity", "-Infinity", "1.7976931348623159e308", '"1"', "true", "[]"),
    *("+1", "01", ".5", "1.", "1e", "0x10", "1_000", "１", "{}", '""', '"1e2"'),
)
PRICES = (*SMALL, "99999999999999.9999", "99999999999999.99994", "1e13", "1E+13", "1.00005", "19.99", "0." + "1" * 1001, "7e0")
NO_PRICES = (*NO_AMOUNTS, "1e14", "100000000000000", "99999999999999.99995", "99999999999999.99999999")
WHOLES = ("0", "1", "2", "-0", "2147483646", "2147483647")
NO_WHOLES = ("2147483648", "-1", "1.0", "1e0", "1E1", "-2147483648", "9" * 30, "9" * 400, '"1"', "true", "[1]", "0.5", "1e400")
ANY_NUMBERS = (*AMOUNTS, *PRICES, "-1", "1e308", "-1e308", "9" * 308, "9" * 300 + "." + "9" * 300, "1e-15999", "0." + "7" * 5000)
"""What a field may hold that nobody has declared."""
POISON = (
    *('"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d"', '{"\\u0000":1}', '["\\udfff"]', "NaN"),
    *("1e400", "-1e999", "9" * 310, '"\x01"', '"\ud800"', "nul", "'a'", "[1,]", '{"a":1,}', "", "[" * 101 + "]" * 101),
)
"""What no message may hold, wherever it stands."""
OTHER_KINDS = ("null", "true", "false", "1", "1.5", '""', '"x"', "[]", "{}", "[[]]", '[{"a":1}]', '{"product_id":"p"}', "0")


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
    usual += ["2000-01-01T00:00:00Z", "2000-01-01T14:00:00+14:00", "1999-12-31T12:00:00-12:00", "2000-01-01T00:00:00.000001Z"]
    usual += ["2000-02-29T12:00:00Z", "2024-02-29T23:59:59.999999999999Z", "2016-12-31T23:59:59Z"]
    rare = [f"{day}t{clock}z", f"{day} {clock}", f"{day} {clock}Z", f"{day}T{clock},5Z", f"{at:%Y%m%dT%H%M%S}Z"]
    rare += [f"{at:%G-W%V-%u}T{clock}Z", f"{at:%GW%V%u}T{clock}Z", f"{at:%G-W%V}T{clock}Z", f"{day}T{at:%H}Z"]
    rare += [f"{day}T{at:%H:%M}", f"{at:%Y-%m-%d}T{at:%H%M%S}", f"{day}T{clock}+00", f"{day}T{clock}-00:00"]
    rare += [f"{day}T{clock}+0100", f"{day}T{clock}+01:00:30", f"{day}T{clock}+01:00:00.5", f"{day}T24:00:00Z"]
    rare += ["2016-12-31T23:59:60Z", f"{day}T{clock}." + "1" * 40 + "Z", f"{day}T{clock}z", f"{day}T23:59:60"]
    wrong = ["1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00+00:01", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"]
    wrong += [f"{now + timedelta(minutes=6):%FT%T}Z", "9999-12-31T23:59:59-14:00", f"{now + timedelta(days=1):%FT%T}Z"]
    wrong += [day, f"{at:%Y%m%d}", f"{at:%G-W%V-%u}", f"{day}T", f"{day}Z", f"{day}T25:00:00Z", f"{day}T12:60:00Z"]
    wrong += ["2023-02-29T12:00:00Z", f"{day}T{clock}+24:00", f"{day}T{clock} Z", f" {day}T{clock}Z", f"{day}T{clock}Z "]
    wrong += [f"{day}T{clock}UTC", f"{day}T{clock}[UTC]", str(int(at.timestamp())), "now", "yesterday", "infinity", "-infinity"]
    wrong += [f"{at:%d.%m.%Y %H:%M}", f"{day}x{clock}", f"{day}T{clock}.Z", f"{day}T-1:00:00Z", f"{day}T{clock}+1", "today"]
    wrong += [f"{day}T{clock}5Z", f"{day}T{clock}x", f"{day}T{clock}+1:00", f"{day}T{clock}Z+01:00", f"{day}T{clock}+01:00Z"]
    wrong += [f"{day}T{at:%H}:{at:%M}:５５Z", f"{day}T1:2:3Z", f"+{day}T{clock}Z", f"-{day}T{clock}Z", f"0{day}T{clock}Z", ""]
    return usual, rare, wrong


NAMES = (
    *("", " ", "a b", "a.b", "a-b", 'a"b', "a'b", "a,b", "%s", "%(a)s", "{}", "{0}", ":name", "$1", "`", "\\", "\n", "[0]", "?"),
    *("__proto__", "constructor", "toString", "_id", "$ref", "@type", "Extra", "EXTRA", "USER_ID", "User_Id", "Products"),
    *("x" * 62, "x" * 63, "x" * 64, "x" * 65, "é", "usеr_id", "user_id ", " user_id", "user\u200b_id", "ｕｓｅｒ", "名前", "😀"),
    *("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid", "select", "from", "user", "table", "order", "group", "all"),
    *("default", "values", "timestamp", "date", "time", "interval", "numeric", "row", "array", "null", "true", "current_user"),
    *("limit", "offset", "window", "end", "desc", "in", "is", "not", "analyze", "lateral", "collate", "primary", "check"),
    *("_corrupt_record", "_metadata", "_c0", "col", "key", "value", "pos", "position", "one", "element", "entry", "item", "map"),
    *("topic", "partition", "offset", "headers", "timestamptype", "__index_level_0__", "index", "f0", "f1", "f5", "f12", "names"),
    *("kafka_partition", "kafka_offset", "ingest_batch_id", "created_at", "extra", "place", "event_timestamp", "other", "rows"),
    *("price_", "quantity", "price", "products", "category", "session_id", "total_amount", "transaction_id", "event_id", "type"),
)
"""Names of fields that mean something to somebody: to JSON, Python, PostgreSQL, Spark, Arrow, to our own tables."""
# fmt: on
