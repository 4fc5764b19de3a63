"""Texts and values in the forms that every place takes."""

import json
from datetime import date
from decimal import Decimal

import pandas as pd
import pytest

from lib import plain

LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        ("a\0b", "a\\x00b"),
        ("half \ud800", "half \\ud800"),
        (Decimal("12.0"), 12),
        (Decimal("0.5"), 0.5),
        (Decimal("NaN"), None),
        (Decimal("sNaN"), None),
        (Decimal("1e999999"), None),
        (True, True),
        ([10**9000], ["a whole number of 29,898 bits"]),
        (b"abc", "3 bytes"),
        (date(2026, 11, 22), "2026-11-22"),
        ({1: {"a\0": (1, None)}}, {"1": {"a\\x00": [1, None]}}),
        (pd.DataFrame({"a": [1, 2]}), "DataFrame of 2 × 1"),
        ({1, 2}, "set"),
        ("x" * 9_000, "x" * 4_000 + "… (9,000 characters)"),
        (list(range(5_000)), list(range(1_000))),
    ],
)
def test_every_value_has_a_form_that_the_registry_takes(value: object, stored: object) -> None:
    assert plain.numbers({"n": value}) == {"n": stored}
    json.dumps(plain.numbers({"n": value}), allow_nan=False).encode()


def test_a_list_that_holds_itself_is_stored_too() -> None:
    json.dumps(plain.numbers({"n": LOOP}))


def test_what_is_too_large_is_described_and_the_rest_kept() -> None:
    many = {str(number): "x" * 3_000 for number in range(1_000)}
    assert plain.numbers({"a": 1, "many": many, "b": 2}) == {"a": 1, "many": "dict of 3,010,890 characters", "b": 2}


def test_numbers_keep_their_names_whatever_they_are() -> None:
    assert plain.numbers({None: 1, "a\0": 2, "\udfff": 3}) == {"None": 1, "a\\x00": 2, "\\udfff": 3}


@pytest.mark.parametrize("glued", [7, "text", [1, 2], [[1]], None, {"a"}, [["a", "b", "c"]]])
def test_a_headline_of_another_form_is_none(glued: object) -> None:
    assert plain.headline({"headline": glued}) == []


def test_a_headline_is_pairs_of_texts() -> None:
    assert plain.headline({"headline": [["Revenue", 7]]}) == [("Revenue", "7")]
    assert plain.headline({"headline": {"Revenue": "7"}}) == [("Revenue", "7")]
    assert plain.headline({}) == []


def test_a_line_is_one_and_shows_what_a_terminal_would_obey() -> None:
    assert plain.one_line("a\n\n  b\r\nc\x1b[2J\0\ud800 [red]") == "a b c\\x1b[2J\\x00\\ud800 [red]"
    assert len(plain.one_line("x" * 10_000)) == 500
