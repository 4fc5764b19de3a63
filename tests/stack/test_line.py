"""The whole line on real parts: known events through Kafka, and all 14 tables against what the oracle computes from them."""

from collections import Counter

import pandas as pd
import pytest
import stored
import story
from line import ID, Line

from lib.settings import TOPICS
from tests.oracle import COLUMNS


@pytest.fixture(scope="module")
def expected(line: Line) -> dict[int, dict[str, pd.DataFrame]]:
    """What the oracle computes for the state after each cycle, by step."""
    return {step: line.expected(step) for step in line.states}


@pytest.mark.parametrize(
    ("step", "table"),
    [
        (step, table)
        for step in story.CUTS
        for table in COLUMNS
        if step not in story.ETL_ONLY or table not in stored.ANALYTICS
    ],
)
def test_after_each_cycle_every_table_holds_what_the_oracle_computes(
    line: Line, expected: dict[int, dict[str, pd.DataFrame]], step: int, table: str
) -> None:
    found = line.states[step].tables[table]
    differences = stored.differences(table, expected[step][table], found)
    assert not differences, differences


def test_the_story_has_what_it_is_told_for(line: Line) -> None:
    last = line.states[7].tables
    closed = {table: int((~last[table]["is_current"]).sum()) for table in ("dim_customers", "dim_products")}
    assert closed["dim_customers"] > 50
    assert closed["dim_products"] > 5
    assert set(last["dim_customers"]["customer_segment"]) == {
        "New",
        "Low Value",
        "Medium Value",
        "High Value",
        "Unknown",
    }
    assert last["rfm_analysis"]["analysis_date"].nunique() == 3
    assert line.states[6].tables["sales_trends"]["growth_rate"].notna().sum() > 10
    assert all(len(frame) > 3 for frame in last.values())


def test_a_cut_stops_before_the_first_batch_with_an_event_after_its_run_date(
    line: Line, realtime: stored.Connection
) -> None:
    before = line.states[6].cuts[-1]
    for table in TOPICS:
        ledger = stored.rows(
            realtime,
            "select ingest_batch_id, last_event_at::date as day from ops.ingest_batches where source_table = %s"
            " and ingest_batch_id <= %s order by 1",
            table,
            before[table] + 1,
        )
        assert [str(row["day"]) for row in ledger[-2:]] == ["2026-01-12", "2026-01-13"]


# --- counts tie


@pytest.mark.parametrize("table", TOPICS)
def test_every_acknowledged_message_is_a_row_a_duplicate_or_a_dead_letter(
    line: Line, realtime: stored.Connection, table: str
) -> None:
    messages = [message for message in line.messages if message.table == table]
    assert len(messages) == line.acknowledged[TOPICS[table]]
    dead = sum(message.value in story.DEAD for message in messages)
    unique = len(line.events()[table])
    (ledger,) = stored.rows(
        realtime,
        "select sum(rows_in)::int as rows_in, sum(rows_written)::int as rows_written, sum(duplicates)::int as duplicates,"
        " sum(dead_letters)::int as dead_letters from ops.ingest_batches where source_table = %s",
        table,
    )
    assert ledger == {
        "rows_in": len(messages),
        "rows_written": unique,
        "duplicates": len(messages) - unique - dead,
        "dead_letters": dead,
    }
    assert ledger["duplicates"] > 3
    assert stored.scalar(realtime, f"select count(*) from {table}") == unique


@pytest.mark.parametrize("table", TOPICS)
def test_the_ledger_counts_without_gaps_and_each_batch_goes_on_where_the_last_one_ended(
    line: Line, realtime: stored.Connection, table: str
) -> None:
    ledger = stored.rows(
        realtime,
        "select ingest_batch_id, start_offsets, end_offsets, rows_in, by_partition from ops.ingest_batches"
        " where source_table = %s order by 1",
        table,
    )
    assert [row["ingest_batch_id"] for row in ledger] == list(range(1, len(ledger) + 1))
    ends: dict[str, int] = {}
    for row in ledger:
        assert {partition: row["start_offsets"].get(partition, 0) for partition in ends} == ends
        ends = row["end_offsets"]
        counts = {partition: end - row["start_offsets"].get(partition, 0) for partition, end in ends.items()}
        assert sum(counts.values()) == row["rows_in"]
        assert {partition: part["rows_in"] for partition, part in row["by_partition"].items()} == {
            partition: count for partition, count in counts.items() if count
        }
    held = Counter(str(message.partition) for message in line.messages if message.table == table)
    assert ends == held
    head = stored.rows(realtime, "select * from ops.ingest_heads where source_table = %s", table)[0]
    assert (head["last_batch"], head["end_offsets"]) == (len(ledger), ends)


@pytest.mark.parametrize(
    ("fact", "table", "things"),
    [
        ("fact_sales", "transactions", "jsonb_array_length(products)"),
        ("fact_product_views", "product_view_events", "1"),
        ("fact_cart_events", "cart_events", "1"),
    ],
)
@pytest.mark.parametrize("step", story.CUTS)
def test_up_to_each_cut_the_facts_hold_every_order_line_view_and_cart_event(
    line: Line, realtime: stored.Connection, step: int, fact: str, table: str, things: str
) -> None:
    state = line.states[step]
    query = f"select sum({things})::int from {table} where ingest_batch_id <= %s"
    assert len(state.tables[fact]) == stored.scalar(realtime, query, state.cuts[-1][table])


@pytest.mark.usefixtures("line")
def test_what_is_counted_by_day_is_what_the_facts_hold(warehouse: stored.Connection) -> None:
    counted = stored.rows(warehouse, "select fact, date_id, row_count, amount from ops.fact_days order by 1, 2")
    held = "select '{0}' as fact, date_id, count(*) as row_count, {1} as amount from {0} group by date_id"
    facts = {"fact_sales": "sum(total_amount)", "fact_cart_events": "sum(total_amount)"} | {
        "fact_product_views": "null"
    }
    query = " union all ".join(held.format(*fact) for fact in facts.items())
    assert counted == stored.rows(warehouse, f"{query} order by 1, 2")
    assert len(counted) > 30


def test_every_dead_letter_is_kept_as_it_came_with_its_reason(line: Line, realtime: stored.Connection) -> None:
    letters = stored.rows(realtime, "select * from ops.dead_letters")
    found = {bytes(row["payload"]): (row["source_table"], row["reason"]) for row in letters}
    assert found == story.DEAD
    assert len(letters) == len(story.DEAD)
    places = {(row["topic"], row["kafka_partition"], row["kafka_offset"]): bytes(row["payload"]) for row in letters}
    assert places == {
        (TOPICS[message.table], message.partition, message.offset): message.value
        for message in line.messages
        if message.value in story.DEAD
    }


def test_each_row_stands_where_its_message_came_from(line: Line, realtime: stored.Connection) -> None:
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for message, event in line.good():
        first.setdefault((message.table, event[ID[message.table]]), (message.partition, message.offset))
    places = {
        (table, row[key]): (row["kafka_partition"], row["kafka_offset"])
        for table, key in ID.items()
        for row in stored.rows(realtime, f"select {key}, kafka_partition, kafka_offset from {table}")
    }
    assert places == first


def test_what_no_column_holds_is_kept(line: Line, realtime: stored.Connection) -> None:
    extra = stored.rows(realtime, "select event_id, extra from product_view_events where extra is not null")
    assert extra == [{"event_id": "offset", "extra": {"nested": {"a": [1]}}}]
    colors = stored.rows(realtime, "select event_id, color from product_view_events where color is not null")
    assert colors == [{"event_id": "offset", "color": "red"}]
