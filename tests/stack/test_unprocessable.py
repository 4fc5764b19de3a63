"""One message never stops a saver: whatever is raised for it, it is a dead letter, and its neighbours are stored.

The database is this module's own; what a test writes is rolled back.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from batches import PARTITION, head, messages, next_run, own_database, rows, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import errors as sqlstate
from psycopg2.extensions import connection as Connection
from world import TABLE, World, cart, carts

from lib.ingest import evolution, sink
from lib.ingest import insert as storing
from lib.ingest.columnar import decode_batch
from lib.ingest.insert import ProgramFault
from lib.ingest.sink import Committed
from lib.schemas import CART_EVENTS, Field
from lib.settings import Settings

POISON = b"poison"
LATER = "poison beyond the decoder"


@pytest.fixture(scope="module")
def config(stack: Settings) -> Iterator[Settings]:
    """The settings, with a realtime database of this module's own."""
    with own_database(stack, "unprocessable") as config:
        yield config


@pytest.fixture
def owner(config: Settings) -> Iterator[Connection]:
    """The connection of the tables' owner, which a saver's may be as well."""
    with closing(psycopg2.connect(config.dsn("realtime", admin=True))) as connection:
        yield connection


def breaking(where: str, error: Exception, patch: pytest.MonkeyPatch) -> None:
    """Let a step of the sink raise an error as soon as one of its messages is poison."""
    step = getattr(*STEPS[where])

    def broken(*arguments: Any) -> Any:
        if POISON in HOLD[where](arguments):
            raise error
        return step(*arguments)

    patch.setattr(*STEPS[where], broken)


STEPS = {"decode": (storing, "decode_batch"), "grow": (evolution, "grow"), "write": (storing, "insert_events")}
HOLD: dict[str, Callable[[Sequence[Any]], bytes]] = {
    "decode": lambda arguments: b"".join(filter(None, arguments[1])),
    "grow": lambda arguments: repr([event.values for event in arguments[2]]).encode(),
    "write": lambda arguments: repr(arguments[2]["event_id"].to_pylist()).encode(),
}


def poison(number: int = 0) -> bytes:
    """A valid event, which takes the second look."""
    return cart(f"poison-{number}", note=[number])


def send(connection: Connection, *payloads: bytes, query_id: str = "query one") -> Committed:
    """Write a batch that goes on where the last one ended."""
    start = head(connection).end_offsets.get(PARTITION, 0)
    writer = next_run(connection, query_id)
    if rows(connection, "select 1 from ops.ingest_batches where query_id = %s", query_id):
        writer = replace(writer, epoch=writer.epoch - 1)
    receipt = write(connection, CART_EVENTS, messages(*payloads, start=start), writer, 0)
    assert receipt
    assert receipt.rows_in == receipt.rows_written + receipt.duplicates + receipt.dead_letters == len(payloads)
    return receipt


def letters(connection: Connection) -> list[tuple[int, str, str]]:
    """Offset, reason and detail of the dead letters."""
    return rows(connection, "select kafka_offset, reason, detail from ops.dead_letters order by kafka_offset")


ERRORS = [
    pa.ArrowInvalid("a column's name stands there twice"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    ZeroDivisionError("division by zero"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    KeyError("nul \0 in a text"),
    psycopg2.ProgrammingError("can't adapt type"),
    sqlstate.RaiseException("a trigger refuses it"),
    StopIteration(),
]


@pytest.mark.parametrize("where", STEPS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_one_message_raises_only_that_one_is_buried(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    breaking(where, error, monkeypatch)
    good = [cart(f"good-{number}", note=[number]) for number in range(12)]
    receipt = send(owner, *good[:7], poison(), *good[7:], b"{}", good[0])
    assert (receipt.rows_written, receipt.duplicates, receipt.dead_letters) == (12, 1, 2)
    (offset, reason, detail), (_, other, _) = letters(owner)
    assert (offset, reason, other) == (7, "unprocessable", "missing_field")
    assert detail.startswith(type(error).__name__)


def test_an_error_that_the_database_itself_raises_is_buried_with_its_neighbours_stored(owner: Connection) -> None:
    with owner.cursor() as cursor:
        cursor.execute(
            f"create function pg_temp.refuse() returns trigger language plpgsql as $$ begin if new.user_id = 'no' then"
            f" raise exception 'not this one'; end if; return new; end $$;"
            f"create trigger refuse before insert on {TABLE} for each row execute function pg_temp.refuse()"
        )
    receipt = send(owner, *carts(0, 9), cart("bad", user_id="no"), *carts(9, 20))
    assert (receipt.rows_written, receipt.dead_letters) == (20, 1)
    [(offset, reason, detail)] = letters(owner)
    assert (offset, reason) == (9, "unprocessable")
    assert detail.startswith("RaiseException: not this one")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["good", "poison", "again", "dead", "new field"]), min_size=1, max_size=20))
def test_any_mixture_stores_what_can_be_and_the_counts_tie(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
) -> None:
    owner.rollback()
    with monkeypatch.context() as patch:
        breaking("decode", RuntimeError("no"), patch)
        made = {
            "good": lambda number: cart(f"good-{number}"),
            "poison": poison,
            "again": lambda number: cart("again", price=number),
            "dead": lambda number: b"{}",
            "new field": lambda number: cart(f"new-{number}", **{f"n{number}": number}),
        }
        receipt = send(owner, *[made[kind](number) for number, kind in enumerate(kinds)])
    dead = [number for number, kind in enumerate(kinds) if kind in ("poison", "dead")]
    assert [offset for offset, *_ in letters(owner)] == dead
    assert receipt.rows_written == len(kinds) - len(dead) - max(kinds.count("again") - 1, 0)
    assert receipt.duplicates == max(kinds.count("again") - 1, 0)
    added = [name for (name,) in rows(owner, "select column_name from ops.schema_changes order by 1")]
    assert added == sorted(f"n{number}" for number, kind in enumerate(kinds) if kind == "new field")


@pytest.mark.parametrize(("bad", "good"), [(20, 0), (20, 3), (21, 399), (1, 1)])
def test_up_to_twenty_or_a_twentieth_of_a_batch_are_buried(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, bad: int, good: int
) -> None:
    breaking("decode", RuntimeError("no"), monkeypatch)
    receipt = send(owner, *map(poison, range(bad)), *carts(0, good))
    assert (receipt.dead_letters, receipt.rows_written) == (bad, good)


@pytest.mark.parametrize(("bad", "good"), [(21, 0), (21, 398), (40, 700)])
def test_more_of_them_stop_the_run_loudly_and_nothing_is_written(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, bad: int, good: int
) -> None:
    breaking("decode", RuntimeError("no way"), monkeypatch)
    with pytest.raises(ProgramFault, match=r"looks like a fault of the program[\s\S]*RuntimeError: no way"):
        send(owner, *map(poison, range(bad)), *carts(0, good))
    owner.rollback()
    assert (letters(owner), head(owner).last_batch) == ([], 0)


def test_small_batches_of_one_run_are_counted_together(owner: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking("decode", RuntimeError("no"), monkeypatch)
    for start in (0, 10):
        send(owner, *map(poison, range(start, start + 10)))
    with pytest.raises(ProgramFault, match="21 of 21 messages of this run"):
        send(owner, poison(20))
    owner.rollback()
    for start in (0, 10):
        send(owner, *map(poison, range(start, start + 10)))
    assert send(owner, poison(20), query_id="query two").dead_letters == 1


AWAY = [
    psycopg2.OperationalError("server closed the connection unexpectedly"),
    psycopg2.InterfaceError("connection already closed"),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_a_database_that_is_away_buries_nothing(
    owner: Connection, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    breaking("write", error, monkeypatch)
    with pytest.raises(type(error)):
        send(owner, *carts(0, 3), poison())
    owner.rollback()
    assert letters(owner) == []


@pytest.mark.parametrize(
    "state",
    ["57P01", "53100", "40P01", "55P03", "25006", "42501"],
    ids=["shut down", "disk full", "deadlock", "locked", "read-only", "no privilege"],
)
def test_what_is_wrong_with_the_database_and_not_with_a_message_buries_nothing(owner: Connection, state: str) -> None:
    with owner.cursor() as cursor:
        cursor.execute(
            f"create function pg_temp.refuse() returns trigger language plpgsql as $$ begin"
            f" raise exception 'no' using errcode = '{state}'; end $$;"
            f"create trigger refuse before insert on {TABLE} for each row execute function pg_temp.refuse()"
        )
    with pytest.raises(psycopg2.Error) as raised:
        send(owner, *carts(0, 3))
    assert raised.value.pgcode == state
    owner.rollback()
    assert letters(owner) == []


def test_a_batch_without_trouble_is_decoded_and_written_once(
    owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(storing, "decode_batch", lambda *arguments: calls.append(1) or decode_batch(*arguments))
    assert send(owner, *carts(0, 50), b"{}").rows_written == 50
    assert len(calls) == 1


# --- columns that somebody changed by hand


def test_columns_that_were_dropped_take_no_second_place_when_all_are_taken(owner: Connection) -> None:
    send(owner, cart("a", **{f"f{number:02}": 1 for number in range(32)}))
    with owner.cursor() as cursor:
        cursor.execute(f"alter table {TABLE} drop column f07 cascade")
    send(owner, cart("b", one_more=1), cart("c", f07="back", another=True))
    found = rows(owner, f"select f07, extra from {TABLE}_full order by kafka_offset")
    assert found == [(None, None), (None, {"one_more": 1}), ("back", {"another": True})]


def test_fields_stay_in_extra_where_the_database_counts_more_columns_than_we_do(owner: Connection) -> None:
    with owner.cursor() as cursor:
        cursor.execute(
            "insert into ops.schema_changes (source_table, column_name, column_type, ingest_batch_id)"
            " select %s, 'gone_' || number, 'text', 1 from generate_series(1, 40) as number",
            [TABLE],
        )
    send(owner, cart("a", gift=True), cart("b", gone_1="x"))
    send(owner, cart("c", gift=True))
    assert [extra for (extra,) in rows(owner, f"select extra from {TABLE} order by kafka_offset")] == [
        {"gift": True},
        {"gone_1": "x"},
        {"gift": True},
    ]


def test_fields_stay_in_extra_when_the_database_adds_no_column_for_any_reason(owner: Connection) -> None:
    with owner.cursor() as cursor:
        cursor.execute(
            "create or replace function ops.add_columns(target text, names text[], types text[], batch bigint)"
            " returns void language plpgsql as $$ begin raise exception 'not today'; end $$"
        )
    send(owner, cart("a", gift=True), cart("b"))
    assert rows(owner, f"select extra from {TABLE} order by kafka_offset") == [({"gift": True},), (None,)]


@pytest.mark.parametrize("type_", ["integer", "boolean", "varchar(3)", "jsonb"])
def test_a_column_that_was_given_another_type_by_hand_leaves_its_field_in_extra(owner: Connection, type_: str) -> None:
    send(owner, cart("a", weight=1.5))
    with owner.cursor() as cursor:
        cursor.execute(f"alter table {TABLE} drop column weight cascade, add column weight {type_}")
    send(owner, cart("b", weight=2.5), cart("c", weight=3, gift=True))
    found = rows(owner, f"select weight, extra, gift from {TABLE}_full order by kafka_offset")[1:]
    if type_ == "boolean":
        # a type of ours, so that values of that type would go there
        assert [extra for _, extra, _ in found] == [{"weight": 2.5}, {"weight": 3}]
    assert [(weight, extra) for weight, extra, _ in found] == [(None, {"weight": 2.5}), (None, {"weight": 3})]


def test_a_column_whose_field_was_declared_with_another_name_is_left_alone(owner: Connection) -> None:
    send(owner, cart("a", coupon="x"))
    declared = replace(CART_EVENTS, fields=(*CART_EVENTS.fields, Field("coupon", "text", column="session_id")))
    declared = replace(declared, fields=tuple(field for field in declared.fields if field.name != "session_id"))
    assert write(owner, declared, messages(cart("b", coupon="y"), start=1), next_run(owner), 0)
    assert rows(owner, f"select coupon, session_id from {TABLE} order by kafka_offset") == [("x", None), (None, "y")]


def test_duplicates_are_told_apart_after_one_column_has_taken_the_place_of_another(owner: Connection) -> None:
    send(owner, cart("a", gift=True), cart("a", gift=True))
    with owner.cursor() as cursor:
        cursor.execute(f"alter table {TABLE} drop column gift cascade")
        cursor.execute("delete from ops.schema_changes")
    assert send(owner, cart("b", colour="red"), cart("b", colour="red")).duplicates == 1


# --- on a whole saver


def test_a_cart_event_with_an_unknown_field_place_is_stored(world: World) -> None:
    first, second = cart("place", place="homepage"), cart("again", place=1)
    world.send([*carts(0, 3), first, second])
    world.ingest()
    world.await_ids([*carts(0, 3), first, second])
    found = world.rows(f"select event_id, place, extra from {TABLE} where event_id in ('place', 'again') order by 1")
    assert found == [
        {"event_id": "again", "place": None, "extra": {"place": 1}},
        {"event_id": "place", "place": "homepage", "extra": None},
    ]


def test_no_name_of_a_field_meets_a_column_of_a_batch(owner: Connection) -> None:
    columns = {"partition", "offset", "key", "value", *sink.MESSAGES.names, "place", "#place", "extra", "rows", "now"}
    columns |= {"kafka_partition", "kafka_offset", "ingest_batch_id", "event_timestamp", "created_at"}
    fields = {name: "foreign" for name in columns if name not in {field.name for field in CART_EVENTS.fields}}
    receipt = send(owner, cart("a"), cart("b", **fields), cart("c", **fields))
    assert receipt.rows_written == 3
    [stored] = rows(owner, f"select to_jsonb(e) || coalesce(extra, '{{}}') from {TABLE} as e where event_id = 'b'")
    in_extra = rows(owner, f"select extra from {TABLE} where event_id = 'b'")[0][0]
    for name in fields:
        assert in_extra.get(name, stored[0].get(name)) == "foreign", name
    assert json.dumps(in_extra)
