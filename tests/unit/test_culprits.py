"""Which events a load fails on, and the command that puts them aside, as people copy it."""

import shlex
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import psycopg2
import pytest

from lib.etl.facts import CART_EVENTS, SALES
from lib.warehouse import culprits
from lib.warehouse.load import Load


@pytest.mark.parametrize(
    "text",
    ["plain", "with 'quotes' and \\", "$HOME `ls` !x", "new\nline\tand \x1b[31m", "礼物 ü", "a\u202eb'\x07", "-x", "#"],
)
def test_an_id_is_one_word_for_a_shell_on_one_line_whatever_is_in_it(text: str) -> None:
    word = culprits.quoted(text)
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == text


def test_the_message_has_the_command_in_its_first_line_and_as_the_last_one() -> None:
    text = culprits.message("it fails", "why", {"transactions": ["a", "b c"]})
    first, last = text.splitlines()
    assert first == f"it fails; `{last}` goes on without these events; why"
    assert shlex.split(last) == ["schedule.py", "hold", "transactions", "a", "b c", "--why", "…"]


def test_ids_that_look_like_options_stand_behind_the_end_of_the_options() -> None:
    command = culprits.command("transactions", ["a", "-b"])
    assert shlex.split(command) == ["schedule.py", "hold", "transactions", "--why", "…", "--", "a", "-b"]


def test_of_many_events_a_few_are_named_and_the_others_counted() -> None:
    text = culprits.message("it fails", "why", {"transactions": [f"t{number}" for number in range(12)]})
    assert "(and 7 more)" in text
    assert shlex.split(text.splitlines()[-1])[3:-2] == ["t0", "t1", "t2", "t3", "t4"]


def test_without_events_the_message_is_what_went_wrong() -> None:
    assert culprits.message("it fails", "why", {}) == "it fails, why"


@pytest.mark.parametrize(
    ("rows", "events"),
    [
        ([{"event_id": "a:b:2"}, {"event_id": "a:b:1"}], ["a:b"]),
        ([{"event_id": "a:7", "transaction_id": "a"}], ["a"]),
        ([{"rows_read": 1, "rows_found": 2}], []),
    ],
)
def test_the_order_of_a_line_is_found(rows: list[dict[str, Any]], events: list[str]) -> None:
    assert culprits.of_examples(SALES.source, rows) == events


def test_a_cart_event_is_its_own() -> None:
    assert culprits.of_examples(CART_EVENTS.source, [{"event_id": "a:1"}, {"event_id": "a:1"}]) == ["a:1"]


class Session:
    """A connection that a statement runs on; counts what was undone."""

    def __init__(self) -> None:
        self.undone = 0

    def cursor(self) -> "Session":
        return self

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rollback(self) -> None:
        self.undone += 1


def failing(events: Sequence[str], *bad: str, together: int = 10**9) -> tuple[list[str], Session]:
    """What is found among events when a statement fails on some, or on more than so many together."""
    session, tries = Session(), 0

    def attempt(cursor: Any, some: list[str]) -> None:
        nonlocal tries
        tries += 1
        if set(bad) & set(some) or len(some) > together:
            raise psycopg2.DataError("planted")

    load = cast(Load, SimpleNamespace(connection=session))
    found = culprits.of_statement(load, events, attempt)
    assert session.undone == tries + 1
    return found, session


EVENTS = [f"e{number:03}" for number in range(100)]


def test_the_events_that_a_statement_fails_on_are_found_by_halving() -> None:
    found, session = failing(EVENTS, "e017", "e018", "e099")
    assert found == ["e017", "e018", "e099"]
    assert session.undone < 60


def test_when_all_fail_the_search_ends_with_a_few() -> None:
    found, session = failing(EVENTS, *EVENTS)
    assert found == EVENTS[: culprits.SHOWN + 1]
    assert session.undone < 30


def test_a_sum_that_only_all_of_them_break_has_no_culprit() -> None:
    found, _ = failing(EVENTS, together=60)
    assert found == []


def test_another_error_ends_the_search() -> None:
    def attempt(cursor: Any, some: list[str]) -> None:
        raise psycopg2.OperationalError("gone")

    with pytest.raises(psycopg2.OperationalError):
        culprits.of_statement(cast(Load, SimpleNamespace(connection=Session())), EVENTS, attempt)
