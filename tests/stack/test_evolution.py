"""New fields of events become columns of a real database, within the rules, and nothing is lost.

The database is this module's own; what a test writes is rolled back.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from batches import PARTITION, Message, head, messages, next_run, own_database, rows, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import errors as sqlstate
from psycopg2.extensions import connection as Connection
from world import TABLE, World, cart, carts, eventually

from lib.ingest import evolution
from lib.schemas import CART_EVENTS, CONTRACTS, Field
from lib.settings import Settings

VIEW = f"{TABLE}_full"


@pytest.fixture(scope="module")
def config(stack: Settings) -> Iterator[Settings]:
    """The settings, with a realtime database of this module's own."""
    with own_database(stack, "evolution") as config:
        yield config


@pytest.fixture
def saver(config: Settings) -> Iterator[Connection]:
    """A saver's connection, which hasn't met a reader yet."""
    with closing(psycopg2.connect(config.dsn("realtime"))) as connection:
        yield connection


def added(connection: Connection) -> dict[str, str]:
    """The added columns and their types, in their order."""
    query = (
        "select column_name, format_type(atttypid, atttypmod) from ops.schema_changes join pg_attribute"
        " on attrelid = source_table::regclass and attname = column_name and not attnotnull"
        " where source_table = %s and format_type(atttypid, atttypmod) = column_type order by attnum"
    )
    return dict(rows(connection, query, TABLE))


def extras(connection: Connection) -> list[Any]:
    """What `extra` holds of each event, in their order."""
    return [extra for (extra,) in rows(connection, f"select extra from {TABLE} order by kafka_partition, kafka_offset")]


def send(connection: Connection, *events: bytes) -> None:
    """Write a batch that goes on where the last one ended."""
    start = head(connection).end_offsets.get(PARTITION, 0)
    receipt = write(connection, CART_EVENTS, messages(*events, start=start), next_run(connection), 0)
    assert receipt and receipt.rows_written == len(events)


# --- what becomes a column


def test_new_scalar_fields_become_columns_in_the_transaction_of_their_first_rows(saver: Connection) -> None:
    send(saver, cart("a"), cart("b", gift=False, weight=1.5, note="", order="desc"), cart("c", pages=2**70, weight=1))
    types = {"gift": "boolean", "note": "text", "order": "text", "weight": "numeric", "pages": "numeric"}
    assert added(saver) == types
    found = rows(saver, f'select gift, note, "order", weight, pages from {TABLE} order by kafka_offset')
    assert found == [
        (None, None, None, None, None),
        (False, "", "desc", Decimal("1.5"), None),
        (None, None, None, 1, 2**70),
    ]
    assert extras(saver) == [None, None, None]
    changes = rows(saver, "select column_name, column_type from ops.schema_changes where ingest_batch_id = 1")
    assert dict(changes) == types


def test_columns_go_with_a_batch_that_is_rolled_back(saver: Connection) -> None:
    write(saver, CART_EVENTS, messages(cart("a", gift=True)), next_run(saver), 0)
    assert added(saver) == {"gift": "boolean"}
    saver.rollback()
    assert added(saver) == {}
    send(saver, cart("a", gift="yes"))
    assert added(saver) == {"gift": "text"}


@pytest.mark.parametrize("table", CONTRACTS)
def test_each_table_has_columns_of_its_own(saver: Connection, table: str) -> None:
    contract = CONTRACTS[table]
    for other in CONTRACTS:
        evolved = evolution.shape(saver.cursor(), CONTRACTS[other]).contract
        assert evolved.added == ()
    with saver.cursor() as cursor:
        cursor.execute("select ops.add_columns(%s, array['gift'], array['boolean'], 1)", [table])
        grown = evolution.shape(cursor, contract).contract
    assert grown.columns == (*contract.columns, "gift")


def test_an_added_column_may_be_declared_later(saver: Connection) -> None:
    send(saver, cart("a", coupon="x", gift=True))
    declared = replace(CART_EVENTS, fields=(*CART_EVENTS.fields, Field("coupon", "text")))
    write(saver, declared, messages(cart("b", coupon="y", gift=False), start=1), next_run(saver), 0)
    assert rows(saver, f"select coupon, gift from {TABLE} order by kafka_offset") == [("x", True), ("y", False)]


@pytest.mark.usefixtures("saver")
def test_a_column_that_was_dropped_by_hand_comes_back(config: Settings) -> None:
    with closing(psycopg2.connect(config.dsn("realtime", admin=True))) as owner:
        send(owner, cart("a", gift=True))
        with owner.cursor() as cursor:
            cursor.execute(f"alter table {TABLE} drop column gift cascade")
        send(owner, cart("b", gift="yes"))
        assert added(owner) == {"gift": "text"}
        assert rows(owner, f"select gift from {VIEW} order by kafka_offset") == [(None,), ("yes",)]


def test_a_field_that_stops_coming_leaves_nulls(saver: Connection) -> None:
    send(saver, cart("a", gift=True))
    send(saver, cart("b"), cart("c", gift=None))
    assert rows(saver, f"select gift from {TABLE} order by kafka_offset") == [(True,), (None,), (None,)]
    assert extras(saver) == [None, None, None]


# --- what stays in extra


HOSTILE = ['"; drop table cart_events; --', "xmin", "ctid", "tableoid", "extra", "kafka_offset", "created_at"]
ODD = ["Gift", "gift wrap", "1st", "_gift", "géant", "", "g" * 64, "gift\n", "event_timestamp", "ingest_batch_id"]


@pytest.mark.parametrize("name", [*HOSTILE, *ODD])
def test_a_name_that_can_not_be_a_column_stays_in_extra(saver: Connection, name: str) -> None:
    send(saver, cart("a", **{name: 1}), cart("b"))
    assert (added(saver), extras(saver)) == ({}, [{name: 1}, None])


def test_nested_values_and_nulls_make_no_column(saver: Connection) -> None:
    others = {"deep": {"a": [1]}, "list": ["x"], "empty": {}, "none": None}
    send(saver, cart("a", **others))
    assert (added(saver), extras(saver)) == ({}, [others])
    send(saver, cart("b", deep="flat", none=1))
    assert added(saver) == {"deep": "text", "none": "numeric"}


def test_a_value_that_contradicts_its_column_stays_in_extra(saver: Connection) -> None:
    send(saver, cart("a", gift=True, note="x"), cart("b", gift="yes", note={"y": 1}))
    send(saver, cart("c", gift=1, note=2), cart("d", gift=False, note="z"))
    assert added(saver) == {"gift": "boolean", "note": "text"}
    assert extras(saver) == [None, {"gift": "yes", "note": {"y": 1}}, {"gift": 1, "note": 2}, None]
    assert rows(saver, f"select gift, note from {TABLE} order by kafka_offset") == [
        *[(True, "x"), (None, None), (None, None), (False, "z")]
    ]


def test_of_a_hundred_new_fields_the_first_32_by_place_and_name_get_columns(saver: Connection) -> None:
    first = {f"b{number:02}": number for number in range(20)}
    second = {f"a{number:02}": number for number in range(80)}
    send(saver, cart("one", **first), cart("two", **second))
    names = [*sorted(first), *sorted(second)[:12]]
    assert list(added(saver)) == names
    assert extras(saver) == [None, {name: value for name, value in second.items() if name not in names}]
    send(saver, cart("three", one_more=1, b00=7))
    assert list(added(saver)) == names
    assert extras(saver)[2] == {"one_more": 1}
    assert rows(saver, f"select b00 from {TABLE} order by kafka_offset") == [(0,), (None,), (7,)]


# --- beside others


@pytest.fixture
def reader(config: Settings) -> Iterator[Connection]:
    """Someone who is reading the table, in a transaction that goes on."""
    with closing(psycopg2.connect(config.dsn("realtime"))) as connection:
        yield connection


def test_a_reader_keeps_a_field_from_its_column_but_not_from_being_stored(
    saver: Connection, reader: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolution, "PAUSE_SECONDS", 3600)
    rows(reader, f"select count(*) from {TABLE}")
    send(saver, cart("a", gift=True, deep=[1]), cart("b", gift="x"))
    assert (added(saver), extras(saver)) == ({}, [{"gift": True, "deep": [1]}, {"gift": "x"}])
    reader.rollback()
    send(saver, cart("c", gift=False), cart("d", note="new"))  # so soon only the new one is tried
    assert added(saver) == {"note": "text"}
    evolution.postponed.clear()
    send(saver, cart("e", gift=False))
    assert added(saver) == {"note": "text", "gift": "boolean"}
    found = rows(saver, f"select gift, note, extra from {VIEW} order by kafka_offset")
    assert found == [
        (True, None, {"gift": True, "deep": [1]}),
        (None, None, {"gift": "x"}),
        (False, None, {"gift": False}),
        (None, "new", None),
        (False, None, None),
    ]


def test_a_field_is_tried_again_when_its_pause_is_over(
    saver: Connection, reader: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolution, "PAUSE_SECONDS", 0)
    rows(reader, f"select count(*) from {VIEW}")
    send(saver, cart("a", gift=True))
    reader.rollback()
    send(saver, cart("b", gift=True))
    assert rows(saver, f"select gift from {TABLE} order by kafka_offset") == [(None,), (True,)]


def test_only_the_connection_that_met_a_reader_waits(saver: Connection, reader: Connection, config: Settings) -> None:
    rows(reader, f"select count(*) from {TABLE}")
    send(saver, cart("a", gift=True))
    reader.rollback()
    saver.rollback()
    with closing(psycopg2.connect(config.dsn("realtime"))) as other:
        send(other, cart("b", gift=True))
        assert added(other) == {"gift": "boolean"}


def test_the_view_has_every_row_and_column_of_its_table(saver: Connection) -> None:
    send(saver, cart("a", price=1.5, session_id="s"), cart("b", gift=True))
    assert rows(saver, f"select * from {VIEW} order by 1") == rows(saver, f"select * from {TABLE} order by 1")


@pytest.mark.parametrize(
    ("table", "names", "types"),
    [
        ("pg_class", ["gift"], ["text"]),
        ("cart_events_full", ["gift"], ["text"]),
        (TABLE, ["gift; drop table cart_events"], ["text"]),
        (TABLE, ["xmin"], ["text"]),
        (TABLE, ["user_id"], ["text"]),
        (TABLE, ["gift"], ["text not null default 'x'"]),
        (TABLE, ["gift", "note"], ["text"]),
        (TABLE, [None], ["text"]),
        (TABLE, [f"n{number}" for number in range(33)], ["text"] * 33),
    ],
)
def test_the_database_lets_a_saver_add_such_columns_only(
    saver: Connection, table: str, names: list[str], types: list[str]
) -> None:
    with saver.cursor() as cursor, pytest.raises((sqlstate.RaiseException, sqlstate.DuplicateColumn)):
        cursor.execute("select ops.add_columns(%s, %s::text[], %s::text[], 1)", [table, names, types])
    saver.rollback()
    assert added(saver) == {}


@pytest.mark.parametrize("statement", [f"alter table {TABLE} add x text", "select ops.build_full_view('cart_events')"])
def test_a_saver_can_change_no_table_in_another_way(saver: Connection, statement: str) -> None:
    with saver.cursor() as cursor, pytest.raises(sqlstate.InsufficientPrivilege):
        cursor.execute(statement)


# --- with duplicates, refusals, and any split


def test_a_duplicate_is_compared_wherever_a_field_is_kept(saver: Connection, reader: Connection) -> None:
    rows(reader, f"select count(*) from {TABLE}")
    send(saver, cart("a", gift=True, more=[1]))
    reader.rollback()
    evolution.postponed.clear()
    again = messages(cart("a", gift=True, more=[1]), cart("a", gift=False, more=[1]), cart("a", gift=True), start=1)
    receipt = write(saver, CART_EVENTS, again, next_run(saver), 0)
    assert receipt
    assert (receipt.duplicates, receipt.conflicts) == (3, 2)


def test_duplicates_are_told_apart_before_and_after_a_column_is_added(saver: Connection) -> None:
    for place, gift in ((0, {}), (2, {"gift": True})):
        twice = messages(cart(f"e{place}", **gift), cart(f"e{place}", note=[1], **gift), start=place)
        receipt = write(saver, CART_EVENTS, twice, next_run(saver), 0)
        assert receipt
        assert (receipt.rows_written, receipt.duplicates, receipt.conflicts) == (1, 1, 1)


def test_new_fields_of_the_neighbours_of_a_refused_message_get_columns(saver: Connection) -> None:
    tiny = cart("tiny", weight=0).replace(b'"weight": 0', b'"weight": 1e-20000')  # beyond PostgreSQL's numeric
    batch = messages(cart("a", gift=True), tiny, cart("b", weight=1), cart("a", gift=False))
    receipt = write(saver, CART_EVENTS, batch, next_run(saver), 0)
    assert receipt
    assert (receipt.rows_written, receipt.duplicates, receipt.conflicts, receipt.dead_letters) == (2, 1, 1, 1)
    assert rows(saver, f"select gift, weight from {TABLE} order by kafka_offset") == [(True, None), (None, 1)]


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "gift": st.booleans(),
        "note": st.text("ab", max_size=2),
        "weight": st.integers(0, 3),
        "xmin": st.just(1),
        "deep": st.just({"a": [1]}),
        "quantity": st.sampled_from([1, 2, "dead"]),
    },
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(st.tuples(st.sampled_from("abcdef"), FIELDS), min_size=1, max_size=9),
    splits=st.lists(st.sets(st.integers(1, 8)), min_size=2, max_size=2),
)
def test_any_split_into_batches_gives_the_same_rows(
    saver: Connection, sent: list[tuple[str, dict[str, Any]]], splits: list[set[int]]
) -> None:
    came = messages(*[cart(event_id, **fields) for event_id, fields in sent])
    one, other = (stored_in_batches(saver, came, sorted(ends)) for ends in splits)
    assert one == other


def stored_in_batches(connection: Connection, came: list[Message], ends: list[int]) -> tuple[Any, ...]:
    """What a database that has only these messages holds of them in the end."""
    connection.rollback()
    writer, counts = next_run(connection), [0, 0, 0, 0]
    for start, end in zip([0, *ends], [*ends, len(came)], strict=True):
        if receipt := write(connection, CART_EVENTS, came[start:end], writer, 0):
            made = (receipt.rows_written, receipt.duplicates, receipt.conflicts, receipt.dead_letters)
            counts = [sum(pair) for pair in zip(counts, made, strict=True)]
            assert receipt.rows_in == receipt.rows_written + receipt.duplicates + receipt.dead_letters
    query = f"select kafka_offset, to_jsonb(e) - array['created_at', 'ingest_batch_id'] from {VIEW} as e order by kafka_offset"
    letters = "select kafka_offset, reason from ops.dead_letters order by kafka_offset"
    found = (counts, added(connection), rows(connection, query), rows(connection, letters))
    connection.rollback()
    return found


# --- while a saver is at work


def test_a_saver_at_work_takes_new_fields_while_a_reader_holds_its_table(world: World) -> None:
    hundred = {f"f{number:03}": number for number in range(100)}
    hostile = {'"; drop table cart_events; --': 1, "xmin": 2, "extra": 3}
    before, after = carts(0, 3), [cart("first of many", gift=False, colour="red")]
    meanwhile = [
        *(cart("new", gift=True), cart("nested", deep={"a": [1]}), cart("contrary", gift="yes")),
        *(cart("hostile", **hostile), cart("hundred", **hundred)),
    ]
    with world.at_work() as run, closing(psycopg2.connect(world.config.dsn("realtime"))) as reader:
        world.send(before)
        world.await_ids(before)
        rows(reader, f"select count(*) from {TABLE}")
        world.send(meanwhile)
        world.await_ids([*before, *meanwhile])
        assert added(reader) == {}
        reader.rollback()

        def has_grown() -> bool:
            after.append(cart(f"later {len(after)}", gift=False, colour="red"))
            world.send(after[-1:])
            return "colour" in added(reader)

        world.send(after)
        eventually(has_grown, seconds=180)
        after.append(cart("later", gift=False, colour="red"))
        world.send(after[-1:])
        world.await_ids([*before, *meanwhile, *after])
        # what the reader was in the way of waits for half a minute, if that isn't over
        assert added(reader).keys() <= {"colour", "gift"}
        assert not run.done()
    query = f"select event_id, extra, colour, to_jsonb(e) -> 'gift' as gift from {VIEW} as e"
    found = {row["event_id"]: row for row in world.rows(query)}
    assert found["new"]["extra"] == {"gift": True}
    assert found["nested"]["extra"] == {"deep": {"a": [1]}}
    assert found["contrary"]["extra"] == {"gift": "yes"}
    assert found["hostile"]["extra"] == hostile
    assert found["hundred"]["extra"] == hundred
    assert found["later"]["colour"] == "red"
    assert (found["later"]["extra"] or {"gift": found["later"]["gift"]}) == {"gift": False}
    assert {batch["epoch"] for batch in world.ledger()} == {1}


def test_a_saver_by_hand_leaves_no_column_behind(world: World) -> None:
    world.send([cart("a", gift=True)])
    tried = world.ingest(publish=False)
    assert tried.total("rows_written") == 1
    assert world.rows("select * from ops.schema_changes") == []
    world.ingest()
    assert world.rows(f"select gift from {TABLE}") == [{"gift": True}]
