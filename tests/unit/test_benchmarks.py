"""What the benchmarks compute without a stack: envelopes, medians, and what has grown."""

import json
from datetime import UTC, datetime

import pandas as pd
import pytest

from benchmarks import figures, soak
from benchmarks.peers.envelope import enveloped
from benchmarks.processes import Spent, used
from generators.model import Scenario, simulate
from lib.schemas import CONTRACTS


def test_an_envelope_holds_the_event_and_declares_every_field_of_it() -> None:
    scenario = Scenario(start=datetime(2026, 11, 1, tzinfo=UTC), events=300)
    seen = set()
    for event in simulate(scenario):
        message = json.loads(enveloped(event.table, event.value))
        declared = {field["field"]: field["type"] for field in message["schema"]["fields"]}
        payload = message["payload"]
        assert set(payload) <= set(declared)
        if event.table == "transactions":
            payload["products"] = json.loads(payload["products"])
        assert payload == json.loads(event.value)
        seen.add(event.table)
    assert seen == set(CONTRACTS)


def test_medians_keep_the_order_in_which_the_kinds_came() -> None:
    records = pd.DataFrame({"what": ["b", "a"] * 3, "rate": [1.0, 40.0, 3.0, 20.0, 2.0, 30.0]})
    assert figures.medians(records, "what").to_numpy().tolist() == [["b", 2.0], ["a", 30.0]]


def test_a_table_shows_large_numbers_with_separators_and_leaves_absent_ones_empty() -> None:
    table = pd.DataFrame({"what": ["x", "y"], "rate": [60000.0, float("nan")], "cores": [0.64, 2.0]})
    assert figures.markdown(table).splitlines()[2:] == ["| x | 60,000 | 0.64 |", "| y |  | 2 |"]


@pytest.mark.parametrize(("late", "expected"), [(110, []), (111, ["descriptors: 100 early, 111 late"])])
def test_what_grew_by_more_than_a_tenth_is_named(late: int, expected: list[str]) -> None:
    columns = pd.MultiIndex.from_product([["MB", "own MB", "descriptors", "listening"], ["5 min", "30 min"]])
    held = pd.DataFrame([[9, 99, 5, 5, 60, late - 40, 1, 1], [9, 99, 4, 4, 40, 40, 0, 0]], columns=columns)
    assert soak.grown(held) == expected


def test_the_cpu_of_a_process_that_ends_in_between_is_counted_once_and_never_subtracted() -> None:
    server, child, other = (1, 0.0), (2, 1.0), (3, 2.0)
    before = {server: Spent(10), child: Spent(4, 1), other: Spent(7, 99)}
    # the server has its child's 4 seconds and 1 more in its own sum; nobody has the other's
    assert used(before, {server: Spent(10 + 4 + 1 + 2)}) == 3
    # a server that doesn't keep its children's sum
    assert used(before, {server: Spent(10.5)}) == 0
    # the number of a process that has ended is given again
    assert used(before, {server: Spent(14), child: Spent(4, 1), (3, 8.0): Spent(0.5, 1)}) == 4.5


def test_the_cpu_of_a_whole_branch_that_has_ended_is_taken_off_its_last_living_ancestor() -> None:
    before = {(1, 0.0): Spent(1), (2, 0.0): Spent(2, 1), (3, 0.0): Spent(4, 2)}
    assert used(before, {(1, 0.0): Spent(1 + 2 + 4 + 8)}) == 8
