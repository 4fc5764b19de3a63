"""One micro-batch into the real realtime database; each test's transaction is rolled back, or cleaned up after.

Partitions from 100 on are the tests' own: Kafka doesn't have them, and the head takes each one up from offset 0.
"""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from batches import PARTITION, Message, head, messages, next_run, rows, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection

from lib import database
from lib.ingest.sink import Committed, Fenced, Writer
from lib.ledger.head import Head
from lib.schemas import CART_EVENTS, CONTRACTS, PRODUCT_VIEW_EVENTS, TRANSACTIONS, Contract
from lib.settings import Settings

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def saver(stack: Settings) -> Iterator[Connection]:
    """A saver's connection; what it did is rolled back."""
    with closing(database.connect("realtime")) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def committing(realtime: Connection, saver: Connection) -> Iterator[Connection]:
    """A saver's connection that may commit carts: they are taken out again, and the head is put back."""
    with saver, saver.cursor() as cursor:
        before = head(saver)
        cursor.execute("select session_id, heartbeat_at from ops.ingest_heads where source_table = 'cart_events'")
        [session] = cursor.fetchall()
    yield saver
    saver.rollback()
    with realtime, realtime.cursor() as cursor:
        cursor.execute("delete from cart_events where kafka_partition >= %s", [PARTITION])
        cursor.execute("delete from ops.dead_letters where kafka_partition >= %s", [PARTITION])
        cursor.execute(
            "delete from ops.ingest_batches where source_table = 'cart_events' and ingest_batch_id > %s",
            [before.last_batch],
        )
        cursor.execute(
            "update ops.ingest_heads set epoch = %s, last_batch = %s, end_offsets = %s, session_id = %s,"
            " heartbeat_at = %s where source_table = 'cart_events'",
            [before.epoch, before.last_batch, json.dumps(before.end_offsets), *session],
        )


def cart(event_id: str, **fields: Any) -> bytes:
    """A cart event's JSON."""
    document = {"event_id": event_id, "event_type": "add", "user_id": "u", "product_id": "p"}
    return json.dumps(document | {"timestamp": TIME.isoformat()} | fields).encode()


def view(event_id: str, **fields: Any) -> bytes:
    """A product view's JSON."""
    return cart(event_id, **{"event_type": "view"} | fields)


def order(event_id: str, **fields: Any) -> bytes:
    """A transaction's JSON."""
    line = {"product_id": "p", "quantity": 2, "price": 1.5}
    document = {"transaction_id": event_id, "user_id": "u", "products": [line], "total_amount": 3}
    return json.dumps(document | {"transaction_timestamp": TIME.isoformat()} | fields).encode()


PAYLOAD = {"transactions": order, "product_view_events": view, "cart_events": cart}


def stored(connection: Connection, table: str = "cart_events", columns: str = "event_id, kafka_offset") -> list[Any]:
    """The tests' own rows of a table, in the order of the topic."""
    where = f"where kafka_partition >= {PARTITION} order by kafka_partition, kafka_offset"
    return rows(connection, f"select {columns} from {table} {where}")


def ledger(connection: Connection, batch: int, columns: str, contract: Contract = CART_EVENTS) -> Any:
    """Columns of one row of the ledger."""
    query = f"select {columns} from ops.ingest_batches where source_table = %s and ingest_batch_id = %s"
    [row] = rows(connection, query, contract.table, batch)
    return row


# --- a batch


@pytest.mark.parametrize("table", CONTRACTS)
def test_a_batch_is_rows_dead_letters_a_ledger_row_and_the_head(saver: Connection, table: str) -> None:
    contract, payload = CONTRACTS[table], PAYLOAD[table]
    before = head(saver, contract)
    writer = next_run(saver, contract=contract)
    batch = messages(payload("a"), b"no json", payload("a")) + messages(payload("b"), partition=101)
    receipt = write(saver, contract, reversed(batch), writer, 42)
    number = before.last_batch + 1
    assert receipt == Committed(
        number, rows_in=4, rows_written=2, duplicates=1, conflicts=0, dead_letters=1, offset_gaps=0
    )

    places = stored(saver, table, f"{contract.key}, kafka_partition, kafka_offset, ingest_batch_id, {contract.time}")
    assert places == [("a", 100, 0, number, TIME), ("b", 101, 0, number, TIME)]
    letters = "topic, kafka_partition, kafka_offset, payload, reason, source_table, ingest_batch_id"
    [(topic, partition, offset, came, *rest)] = stored(saver, "ops.dead_letters", letters)
    assert (topic, partition, offset, bytes(came)) == (contract.topic, 100, 1, b"no json")
    assert rest == ["not_json", table, number]

    ends = before.end_offsets | {100: 3, 101: 1}
    assert head(saver, contract) == Head(writer.epoch, number, ends)
    columns = "epoch, query_id, spark_batch_id, offset_gaps, rows_in, rows_written, duplicates, dead_letters"
    assert ledger(saver, number, columns, contract) == (writer.epoch, "query one", 42, 0, 4, 2, 1, 1)
    assert ledger(saver, number, "first_event_at, last_event_at", contract) == (TIME, TIME)
    starts = {str(place): offset for place, offset in (before.end_offsets | {100: 0, 101: 0}).items()}
    assert ledger(saver, number, "start_offsets, end_offsets", contract) == (
        starts,
        {str(place): offset for place, offset in ends.items()},
    )
    assert ledger(saver, number, "by_partition", contract)[0] == {
        "100": {"rows_in": 3, "rows_written": 1, "duplicates": 1, "conflicts": 0, "dead_letters": 1, "offset_gaps": 0},
        "101": {"rows_in": 1, "rows_written": 1, "duplicates": 0, "conflicts": 0, "dead_letters": 0, "offset_gaps": 0},
    }


def test_batches_are_numbered_without_gaps_over_runs(saver: Connection) -> None:
    numbers = []
    for run in range(3):
        writer = next_run(saver, f"query {run}")
        for batch in range(2):
            receipt = write(saver, CART_EVENTS, messages(b"", start=2 * run + batch), writer, batch)
            assert receipt
            numbers.append(receipt.ingest_batch_id)
    assert numbers == list(range(numbers[0], numbers[0] + 6))


def test_an_empty_batch_writes_nothing_and_takes_no_epoch(saver: Connection) -> None:
    before = head(saver)
    assert write(saver, CART_EVENTS, [], next_run(saver), 0) is None
    assert head(saver) == before


def test_latencies_count_every_decoded_message(saver: Connection) -> None:
    now = datetime.now(UTC)
    late = [cart("a", timestamp=(now - timedelta(seconds=90)).isoformat()), cart("b", timestamp=now.isoformat())]
    receipt = write(saver, CART_EVENTS, messages(*late, cart("a"), b"dead"), next_run(saver), 0)
    assert receipt
    buckets = ledger(saver, receipt.ingest_batch_id, "latency_buckets")[0]
    assert sum(buckets.values()) == 3
    assert buckets["inf"] == 2


def test_values_arrive_as_they_were_sent(saver: Connection) -> None:
    texts = ['"quoted", with comma', "two\nlines\r\nand\rmore", "\\.", "\n\\.\n", "\\N", "", "null", "😀é", " ", "a\tb"]
    payloads = [cart(f"e{number}", country=text, category=None) for number, text in enumerate(texts)]
    write(saver, CART_EVENTS, messages(*payloads), next_run(saver), 0)
    assert stored(saver, columns="country, category, session_id") == [(text, None, None) for text in texts]


def test_numbers_and_times_arrive_exactly(saver: Connection) -> None:
    document = cart("a", timestamp="2026-03-01T23:59:59.9999999-01:00", quantity=2**31 - 1).decode()[:-1]
    price = b', "price": 99999999999999.9999, "more": {"deep": [1.10, 100000000000000000000000000000]}}'
    write(saver, CART_EVENTS, messages(document.encode() + price), next_run(saver), 0)
    found = stored(saver, columns="event_timestamp, quantity, price, extra #>> '{more,deep}'")
    assert found == [
        (
            datetime(2026, 3, 2, 0, 59, 59, 999999, tzinfo=UTC),
            2**31 - 1,
            Decimal("99999999999999.9999"),
            "[1.10, 100000000000000000000000000000]",
        )
    ]
    total = order("t").replace(b'"total_amount": 3', b'"total_amount": 9999999999999999.99')
    rounded = order("u").replace(b'"total_amount": 3', b'"total_amount": 1.00499999999999999999999')
    write(saver, TRANSACTIONS, messages(total, rounded), next_run(saver, contract=TRANSACTIONS), 0)
    amounts = stored(saver, "transactions", "total_amount")
    assert amounts == [(Decimal("9999999999999999.99"),), (Decimal("1.00"),)]


# --- exactly once, by offsets


def test_a_batch_that_comes_again_writes_nothing(saver: Connection) -> None:
    writer = next_run(saver)
    batch = messages(cart("a"), b"dead", cart("b"))
    assert write(saver, CART_EVENTS, batch, writer, 0)
    before = head(saver)
    assert write(saver, CART_EVENTS, batch, writer, 0) is None
    assert write(saver, CART_EVENTS, batch[1:], next_run(saver, "query two"), 0) is None
    assert head(saver) == before
    assert len(stored(saver)) == 2


def test_of_a_batch_that_overlaps_only_what_is_new_is_written(saver: Connection) -> None:
    batch = messages(*[cart(f"e{number}") for number in range(5)])
    write(saver, CART_EVENTS, batch[:3], next_run(saver), 0)
    receipt = write(saver, CART_EVENTS, batch[1:], next_run(saver, "query two"), 0)
    assert receipt
    assert (receipt.rows_in, receipt.rows_written, receipt.duplicates) == (2, 2, 0)
    assert stored(saver) == [(f"e{number}", number) for number in range(5)]


def test_a_run_of_an_older_epoch_is_fenced(saver: Connection) -> None:
    zombie = next_run(saver, "zombie")
    write(saver, CART_EVENTS, messages(cart("a")), zombie, 0)
    successor = next_run(saver, "successor")
    write(saver, CART_EVENTS, messages(cart("b"), start=1), successor, 0)
    before = head(saver)
    for batch in (messages(cart("c"), start=2), messages(cart("a")), []):
        with pytest.raises(Fenced):
            write(saver, CART_EVENTS, batch, zombie, 1)
    assert head(saver) == before
    assert stored(saver) == [("a", 0), ("b", 1)]
    assert write(saver, CART_EVENTS, messages(cart("c"), start=2), successor, 1)


def test_an_epoch_beyond_the_next_is_fenced(saver: Connection) -> None:
    ahead = Writer(head(saver).epoch + 2, "ahead")
    with pytest.raises(Fenced):
        write(saver, CART_EVENTS, messages(cart("a")), ahead, 0)


def test_of_two_runs_that_plan_the_same_epoch_only_one_writes(committing: Connection) -> None:
    one, two = next_run(committing, "query one"), next_run(committing, "query two")
    assert one.epoch == two.epoch
    assert write(committing, CART_EVENTS, messages(cart("a")), one, 0)
    with closing(database.connect("realtime")) as other, ThreadPoolExecutor() as pool:
        with other.cursor() as cursor:
            cursor.execute("set local lock_timeout = '50ms'")
        with pytest.raises(LockNotAvailable):  # the head is held until the first one's end
            write(other, CART_EVENTS, messages(cart("a")), two, 0)
        other.rollback()
        waiting = pool.submit(write, other, CART_EVENTS, messages(cart("a"), cart("b")), two, 0)
        committing.commit()
        with pytest.raises(Fenced):
            waiting.result(timeout=180)
        other.rollback()
    assert stored(committing) == [("a", 0)]
    assert write(committing, CART_EVENTS, messages(cart("b"), start=1), one, 1)


def test_nothing_is_visible_before_the_commit_and_after_a_rollback(
    committing: Connection, realtime: Connection
) -> None:
    realtime.autocommit = True
    before = head(realtime)
    for end in (committing.rollback, committing.commit):
        write(committing, CART_EVENTS, messages(cart("a"), b"dead"), next_run(committing), 0)
        assert (head(realtime), stored(realtime), stored(realtime, "ops.dead_letters", "reason")) == (before, [], [])
        end()
    assert (stored(realtime), stored(realtime, "ops.dead_letters", "reason")) == ([("a", 0)], [("not_json",)])
    assert head(realtime).last_batch == before.last_batch + 1
    realtime.autocommit = False


# --- duplicates and dead letters


def test_the_first_of_duplicates_stays_and_each_further_one_is_counted(saver: Connection) -> None:
    writer = next_run(saver)
    batch = messages(cart("a", country="first"), cart("b"), cart("a", country="second"))
    first = write(saver, CART_EVENTS, reversed(batch), writer, 0)
    later = write(saver, CART_EVENTS, messages(cart("a", country="third"), cart("b"), start=3), writer, 1)
    assert first and later
    assert (first.rows_written, first.duplicates, first.conflicts) == (2, 1, 1)
    assert (later.rows_in, later.rows_written, later.duplicates, later.conflicts) == (2, 0, 2, 1)
    assert ledger(saver, later.ingest_batch_id, "first_event_at, last_event_at") == (None, None)
    assert stored(saver, columns="event_id, country") == [("a", "first"), ("b", None)]


def test_only_a_duplicate_that_says_something_else_is_a_conflict(saver: Connection) -> None:
    said = cart("a", price=1.5, country=None, flat=1, deep={"x": [1, 2], "y": "z"})
    same = cart("a", deep={"y": "z", "x": [1.0, 2]}, flat=1.0, timestamp="2026-03-01T13:00:00+01:00", price=1.50001)
    other = [cart("a", price=2), cart("a", price=1.5), cart("a", price=1.5, flat=2), cart("a", price=1.5, flat="1")]
    writer = next_run(saver)
    write(saver, CART_EVENTS, messages(said), writer, 0)
    receipt = write(saver, CART_EVENTS, messages(same, *other, cart("b"), start=1), writer, 1)
    assert receipt
    assert (receipt.rows_written, receipt.duplicates, receipt.conflicts) == (1, 5, 4)
    assert ledger(saver, receipt.ingest_batch_id, "conflicts, by_partition #> '{100,conflicts}'") == (4, 4)


TEXTS = [
    "\\.",
    "a\n\\.\nb",
    "\r\n\\.\r\n",
    "\n",
    "\r",
    "\\N",
    "\\",
    '"',
    '""',
    ",",
    "a,b",
    "\t",
    " ",
    "null",
    "\x01\x7f",
    "\u2028",
    "🏝",
]


def test_texts_that_mean_something_to_copy_are_stored_as_they_are(saver: Connection) -> None:
    batch = [cart(f"e{n}", session_id=text, country=text, note=text, deep=[text]) for n, text in enumerate(TEXTS)]
    # the second time through the table that duplicates take
    for start in (0, len(batch)):
        receipt = write(saver, CART_EVENTS, messages(*batch, start=start), next_run(saver, f"run {start}"), 0)
        assert receipt
        assert (receipt.dead_letters, receipt.conflicts) == (0, 0)
    columns = "session_id, country, note, extra -> 'deep' ->> 0"
    assert stored(saver, columns=columns) == [(text,) * 4 for text in TEXTS]


def test_orders_conflict_by_their_lines(saver: Connection) -> None:
    line = {"product_id": "p", "quantity": 2, "price": 1.5}
    writer = next_run(saver, contract=TRANSACTIONS)
    again = [order("a"), order("a", products=[line, line]), order("a", products=[line | {"price": 1.50}])]
    receipt = write(saver, TRANSACTIONS, messages(order("a"), *again), writer, 0)
    assert receipt
    assert (receipt.rows_written, receipt.duplicates, receipt.conflicts) == (1, 3, 1)


def test_dead_letters_keep_their_bytes_as_they_came(saver: Connection) -> None:
    came = [
        (None, None),
        (b"", b""),
        (b"\x00\xff", b"\x00\xff\xed\xa0\x80'\\"),
        (None, view("a")),
        (b"key", cart("a", country="a\0b")),
    ]
    batch = [Message(PARTITION, offset, key, value) for offset, (key, value) in enumerate(came)]
    receipt = write(saver, CART_EVENTS, batch, next_run(saver), 0)
    assert receipt
    assert receipt.dead_letters == receipt.rows_in == 5
    found = stored(saver, "ops.dead_letters", "message_key, payload, reason, replayed_at")
    as_bytes = [tuple(None if value is None else bytes(value) for value in row[:2]) for row in found]
    assert as_bytes == came
    assert [row[2] for row in found] == ["not_json", "not_json", "invalid_utf8", "out_of_range", "nul_character"]
    assert {row[3] for row in found} == {None}


@pytest.mark.parametrize("refused", [{0}, {36}, {17, 18}, {0, 5, 36}, set(range(37))])
def test_what_only_the_database_refuses_is_found_and_the_rest_is_stored(saver: Connection, refused: set[int]) -> None:
    # JSON and a double allow such a number, PostgreSQL's numeric has at most 16,383 decimals
    tiny = b', "tiny": 1e-20000}'
    payloads = [cart(f"e{n}")[:-1] + (tiny if n in refused else b', "x": 1}') for n in range(36)] + [cart("e0")]
    if 36 in refused:
        payloads[36] = payloads[36][:-1] + tiny
    receipt = write(saver, CART_EVENTS, messages(*payloads), next_run(saver), 0)
    assert receipt
    letters = stored(saver, "ops.dead_letters", "kafka_offset, reason, detail, payload")
    assert {offset for offset, *_ in letters} == refused
    for offset, reason, detail, payload in letters:
        assert reason == "rejected_by_database"
        assert detail.startswith("SQLSTATE 22003: ")
        assert bytes(payload) == payloads[offset]
    kept = {offset for _, offset in stored(saver)}
    # the last message repeats the first one's id, and takes its place where that was refused
    assert kept == set(range(36)) - refused | ({36} - refused if 0 in refused else set())
    assert receipt.rows_in == 37 == receipt.rows_written + receipt.duplicates + receipt.dead_letters
    assert (receipt.rows_written, receipt.dead_letters) == (len(kept), len(refused))


KINDS = {
    "fresh": lambda place: cart(f"own-{place}"),
    "again": lambda place: cart("shared"),
    "contrary": lambda place: cart("shared", country=place),
    "dead": lambda place: b"{}",
    "refused": lambda place: cart(f"own-{place}", x=0)[:-2] + b"1e-20000}",
}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    topic=st.lists(st.lists(st.sampled_from(list(KINDS)), max_size=12), min_size=1, max_size=3),
    ends=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_deliveries_store_each_message_once_and_the_counts_tie(
    saver: Connection, topic: list[list[str]], ends: list[tuple[int, int]], shuffle: Any
) -> None:
    """Deliveries reach up to some offset, and begin at the last one's end or before it."""
    saver.rollback()
    partitions = {
        PARTITION + number: messages(
            *[KINDS[kind](f"{number}-{offset}") for offset, kind in enumerate(kinds)], partition=PARTITION + number
        )
        for number, kinds in enumerate(topic)
    }
    reached = 0
    total: Counter[str] = Counter()
    start = head(saver)
    for run, (end, back) in enumerate([*ends, (12, 12)]):
        batch = [one for sent in partitions.values() for one in sent[max(reached - back, 0) : max(end, reached)]]
        shuffle.shuffle(batch)
        receipt = write(saver, CART_EVENTS, batch, next_run(saver, f"query {run}"), run)
        if receipt:
            total.update(
                {
                    name: getattr(receipt, name)
                    for name in ("rows_in", "rows_written", "duplicates", "conflicts", "dead_letters")
                }
            )
            assert_ties(saver, receipt)
        reached = max(end, reached)
    kinds = Counter(kind for sent in topic for kind in sent)
    assert total["rows_in"] == kinds.total()
    assert total["dead_letters"] == kinds["dead"] + kinds["refused"] == len(stored(saver, "ops.dead_letters", "1"))
    assert total["rows_written"] == kinds["fresh"] + min(kinds["again"] + kinds["contrary"], 1) == len(stored(saver))
    now = head(saver)
    assert now.end_offsets == start.end_offsets | {place: len(sent) for place, sent in partitions.items() if sent}
    saver.rollback()


def assert_ties(connection: Connection, receipt: Committed) -> None:
    """The ledger's counts per partition add up, and are those of the tables."""
    columns = "by_partition, start_offsets, end_offsets"
    by_partition, starts, ends = ledger(connection, receipt.ingest_batch_id, columns)
    for place, counts in by_partition.items():
        assert counts["rows_in"] == counts["rows_written"] + counts["duplicates"] + counts["dead_letters"]
        assert counts["rows_in"] == ends[place] - starts[place]
        assert counts["rows_written"] == held(connection, "cart_events", place, receipt)
        assert counts["dead_letters"] == held(connection, "ops.dead_letters", place, receipt)
    for name in ("rows_in", "rows_written", "duplicates", "conflicts", "dead_letters", "offset_gaps"):
        assert getattr(receipt, name) == sum(counts[name] for counts in by_partition.values())


def held(connection: Connection, table: str, partition: str, receipt: Committed) -> int:
    """The rows of one partition and batch in a table."""
    query = f"select count(*) from {table} where kafka_partition = %s and ingest_batch_id = %s"
    [[count]] = rows(connection, query, int(partition), receipt.ingest_batch_id)
    return int(count)


def test_a_saver_can_neither_change_nor_delete_what_is_stored(saver: Connection) -> None:
    for statement in ("delete from cart_events", "update cart_events set user_id = 'x'", "truncate ops.ingest_batches"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), saver.cursor() as cursor:
            cursor.execute(statement)
        saver.rollback()


def test_a_view_in_the_topic_of_carts_is_dead_and_the_other_way_round(saver: Connection) -> None:
    for contract, payload in ((CART_EVENTS, view("a")), (PRODUCT_VIEW_EVENTS, cart("a"))):
        receipt = write(saver, contract, messages(payload), next_run(saver, contract=contract), 0)
        assert receipt
        assert receipt.dead_letters == 1
