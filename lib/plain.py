"""Texts and values of notebooks, whatever they are, in forms that a terminal, the registry and a report can take."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

LONGEST_TEXT = 4_000
MOST_ITEMS = 1_000
DEEPEST = 8
LARGEST_BITS = 3_000
"""The most bits of a whole number: Python converts at most 4,300 digits to text, PostgreSQL's `numeric` has 131,072."""
MOST_CHARACTERS = 200_000
"""The most characters of all numbers of a run, as JSON."""


def printable(text: str, keep: str = "") -> str:
    """The text with those characters escaped that a terminal would act on instead of showing them."""
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )


def one_line(text: str, limit: int = 500) -> str:
    """The text in one line that any terminal and file takes, cut where it is longer than `limit`."""
    # what is far too long is cut first, to save the time that escaping it all would take
    line = printable(" ".join(part.strip() for part in text[: 20 * limit].splitlines() if part.strip()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def do_you_mean(name: str, known: Sequence[str]) -> str:
    """What to write behind a name that is none of the `known` ones: the one whose last part it is, or the most alike, if any."""
    close = [each for each in known if each.endswith(f"/{name}")] or difflib.get_close_matches(name, known, n=1)
    return f"; do you mean {close[0]}?" if close else ""


def storable_text(text: str, limit: int = LONGEST_TEXT) -> str:
    """The text with NUL and lone surrogates escaped, which PostgreSQL's `text` and UTF-8 can't hold."""
    kept = text[:limit].replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return kept if len(text) <= limit else f"{kept}… ({len(text):,} characters)"


def storable(value: Any, depth: int = 0) -> Any:
    """The value as JSON that PostgreSQL's `jsonb` takes; what has no such form is described in a few words.

    NaN and infinity become null, a Decimal an int if it is whole, else a float; of long texts, lists and mappings the
    beginning is kept.
    """
    match value:
        case None | bool():
            return value
        case str():
            return storable_text(value)
        case int():
            return (
                int(value) if value.bit_length() <= LARGEST_BITS else f"a whole number of {value.bit_length():,} bits"
            )
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            if not value.is_finite():
                return None
            whole = value.adjusted() < 300 and value == value.to_integral_value()
            return storable(int(value) if whole else float(value))
        case Mapping() if depth < DEEPEST:
            items = list(value.items())[:MOST_ITEMS]
            return {storable_text(str(key), 200): storable(item, depth + 1) for key, item in items}
        case list() | tuple() if depth < DEEPEST:
            return [storable(item, depth + 1) for item in value[:MOST_ITEMS]]
        case date():
            return value.isoformat()
        case bytes() | bytearray():
            return f"{len(value):,} bytes"
    size = " × ".join(map(str, getattr(value, "shape", ())))
    return f"{type(value).__name__} of {size}" if size else type(value).__name__


def numbers(scraps: Mapping[Any, Any]) -> dict[str, Any]:
    """What a notebook has glued, by name, as the registry stores it; a value for which no room is left is only described."""
    kept: dict[str, Any] = {}
    room = MOST_CHARACTERS
    for name, value in list(scraps.items())[:MOST_ITEMS]:
        plain = storable(value)
        size = len(json.dumps(plain))
        room -= size
        kept[storable_text(str(name), 200)] = plain if room >= 0 else f"{type(value).__name__} of {size:,} characters"
        room += size if room < 0 else 0
    return kept


def headline(scraps: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs (label, text) that `report.headline` has glued; none when a notebook has glued something else by that name."""
    found = scraps.get("headline")
    if isinstance(found, Mapping):
        found = list(found.items())
    if not isinstance(found, list | tuple) or not all(isinstance(pair, list | tuple) for pair in found):
        return []
    return [(str(pair[0]), str(pair[1])) for pair in found if len(pair) == 2]
