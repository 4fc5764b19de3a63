"""Rules of data quality: each table has its own, and each says in a sentence what holds."""

import re

import pytest

from lib.etl.facts import FACTS
from lib.jobs import discovery
from lib.settings import ROOT
from lib.warehouse.quality import Rule, read_rules

SHARED = {"fact": "facts", "dim": "dimensions"}
TABLES = [
    job.writes.removeprefix("warehouse.")
    for job in discovery.discover(ROOT / "notebooks")
    if job.writes.startswith("warehouse.")
]


def rules(table: str) -> list[Rule]:
    """All rules that a job checks for its table."""
    shared = [] if table == "dim_date" else [SHARED[kind] for kind in SHARED if table.startswith(f"{kind}_")]
    found = read_rules("warehouse", *shared, table)
    source = {fact.table: fact.source for fact in FACTS}.get(table)
    return found + (read_rules("realtime", "events", source) if source else [])


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_rules_with_a_name_of_their_own_and_a_sentence(table: str) -> None:
    found = rules(table)
    assert found
    assert len({rule.name for rule in found}) == len(found)
    for rule in found:
        assert re.fullmatch(r"[A-Z].*\.", rule.sentence), rule.name
        assert ";" not in rule.query, rule.name


def test_rules_about_events_are_soft_and_rules_about_the_warehouse_hard() -> None:
    found = {rule.name: rule.severity for rule in rules("fact_sales")}
    assert found["total_of_the_lines"] == found["fresh"] == "soft"
    assert found["rows_of_the_ledger"] == found["members_of_the_day"] == "hard"


def test_every_file_of_rules_is_read_by_a_job() -> None:
    files = {path.stem for path in (ROOT / "sql").glob("*/quality/*.sql")}
    assert files == {*TABLES, *SHARED.values(), "events", *(fact.source for fact in FACTS)}
