"""Deduplication: first within a batch, on real Spark, then against the table, in real PostgreSQL."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values
from pyspark.sql import DataFrame

from lib import warehouse
from lib.settings import Settings
from lib.warehouse import dedup
from lib.warehouse.load import Load

Row = tuple[str, int | None, int]
"""Id, order (NULL comes first), and a number that tells rows with the same order apart."""


@pytest.fixture(scope="module")
def load(stack: Settings) -> Iterator[Load]:
    """A load with a table of its own, which is dropped at the end."""
    with closing(psycopg2.connect(stack.dsn("warehouse", admin=True))) as admin:
        with admin, admin.cursor() as cursor:
            cursor.execute("create table test_events (event_id text primary key, at int, number int not null)")
            cursor.execute("grant select, insert on test_events to globalmart_etl")
        begun = warehouse.begin("test/dedup", reads=())
        yield begun
        begun.abandon()
        with admin, admin.cursor() as cursor:
            cursor.execute("drop table test_events")


def frame(load: Load, rows: Sequence[Row]) -> DataFrame:
    """The rows as a frame."""
    return load.session.createDataFrame(list(rows), "event_id string, at int, number int")


def first(rows: Sequence[Row]) -> list[Row]:
    """The first row of each id, by the model."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row[1] is not None, row[1] or 0, row[2])):
        found.setdefault(row[0], row)
    return sorted(found.values())


rows = st.lists(
    st.tuples(st.sampled_from([f"e'{n}é" for n in range(40)]), st.none() | st.integers(-2, 2), st.integers(0, 9)),
    max_size=200,
)
spark_examples = settings(max_examples=6, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@spark_examples
@given(batches=st.lists(rows, min_size=2, max_size=2), shuffle=st.randoms(use_true_random=False))
def test_the_first_of_each_id_is_stored_once_whatever_the_order_of_the_rows(
    load: Load, batches: list[list[Row]], shuffle: random.Random
) -> None:
    stored: dict[str, Row] = {}
    for batch in batches:
        shuffle.shuffle(batch)
        unique = dedup.first_of_each(frame(load, batch), ["event_id"], ["at", "number"])
        staged = load.stage("test", unique, like="test_events")
        held = load.query(f"select event_id, at, number from staging.{staged}").astype(object)
        found = [
            (name, None if at != at or at is None else int(at), int(number)) for name, at, number in held.to_numpy()
        ]
        assert sorted(found, key=lambda row: row[0]) == sorted(first(batch), key=lambda row: row[0])

        new = {row[0]: row for row in found if row[0] not in stored}
        assert load.insert_new("test_events", staged, ["event_id"]) == len(new)
        assert load.insert_new("test_events", staged, ["event_id"]) == 0
        stored |= new
    in_table = load.query('select event_id, number from test_events order by event_id collate "C"').to_numpy().tolist()
    load.connection.rollback()
    assert in_table == [[name, stored[name][2]] for name in sorted(stored)]


def test_the_key_may_have_several_columns(load: Load) -> None:
    given_rows: list[Row] = [("a", 1, 2), ("a", 2, 1), ("a", 1, 1), ("b", 1, 1)]
    kept = dedup.first_of_each(frame(load, given_rows), ["event_id", "at"], ["number"]).collect()
    assert sorted(map(tuple, kept)) == [("a", 1, 1), ("a", 2, 1), ("b", 1, 1)]


keys = st.tuples(st.sampled_from("abcdef"), st.integers(0, 3))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=st.sets(keys), candidates=st.lists(keys), more=st.lists(keys, max_size=3))
def test_candidates_that_the_table_has_are_left_out_and_no_others(
    warehouse: Connection, known: set[tuple[str, int]], candidates: list[tuple[str, int]], more: list[tuple[str, int]]
) -> None:
    warehouse.rollback()
    with warehouse.cursor() as cursor:
        cursor.execute('create temporary table "the table" (name text, number int, primary key (name, number))')
        cursor.execute("create temporary table staged (name text, number int)")
        for table, values in (('"the table"', sorted(known)), ("staged", candidates + more)):
            if values:
                execute_values(cursor, f"insert into {table} values %s", values)
        for columns in (["name", "number"], ["number"], ["name"]):
            condition = dedup.unless_known("the table", "staged", columns)
            cursor.execute(sql.SQL("select name, number from staged where {}").format(condition))
            places = [("name", "number").index(column) for column in columns]
            seen = {tuple(row[place] for place in places) for row in known}
            expected = [row for row in candidates + more if tuple(row[place] for place in places) not in seen]
            assert sorted(cursor.fetchall()) == sorted(expected)
    warehouse.rollback()


def test_the_table_is_probed_by_its_index_with_the_candidates_keys(warehouse: Connection) -> None:
    with warehouse.cursor() as cursor:
        cursor.execute("create temporary table known_events (event_id text primary key)")
        cursor.execute("insert into known_events select md5(n::text) from generate_series(1, 50000) n")
        cursor.execute(
            "create temporary table staged as select md5(n::text) as event_id from generate_series(49990, 50010) n"
        )
        cursor.execute("analyze known_events; analyze staged")
        condition = dedup.unless_known("known_events", "staged", ["event_id"])
        cursor.execute(sql.SQL("explain select * from staged where {}").format(condition))
        plan = "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute(sql.SQL("select count(*) from staged where {}").format(condition))
        assert cursor.fetchall() == [(10,)]
    warehouse.rollback()
    assert "known_events_pkey" in plan
    assert "Seq Scan on known_events" not in plan
