"""Old rows of the ledger merged into ranges, on databases of the tests' own: what the ledger says stays the same."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, pairwise
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import ledger
import psycopg2
import pytest
import stored
from arrivals import apart
from batches import PARTITION, head, messages, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import cart

from lib import database
from lib.cycles import cycle
from lib.ingest.sink import Writer
from lib.jobs.discovery import Job
from lib.ledger import compaction, receipt
from lib.ledger import cuts as incremental
from lib.ledger import totals as metered
from lib.ledger.cuts import Cut
from lib.ledger.totals import Totals
from lib.schemas import CART_EVENTS, CONTRACTS
from lib.settings import Settings

TABLE = CART_EVENTS.table
EMPTY = (
    f"truncate ops.ingest_batches, ops.dead_letters, ops.schema_changes, {TABLE};"
    " update ops.ingest_heads set last_batch = 0, epoch = 0, end_offsets = '{}'; update ops.merge_heads set last_batch = 0"
)
READER = Job("etl/reader", Path(), "batch", reads=(f"realtime.{TABLE}",))
NEVER = Event()


@pytest.fixture(scope="module")
def config(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an empty realtime database and an empty warehouse."""
    with apart(stack, tmp_path_factory.mktemp("runs")) as config:
        yield config


@pytest.fixture
def realtime(config: Settings) -> Iterator[stored.Connection]:
    """The owner's connection to the realtime database, whose ledger of cart events is empty."""
    with stored.connected(config, "realtime") as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(EMPTY)
        yield connection


@pytest.fixture
def warehouse(config: Settings) -> Iterator[stored.Connection]:
    """The owner's connection to the warehouse, without cuts and watermarks."""
    with stored.connected(config, "warehouse") as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("delete from ops.watermarks; delete from ops.cuts")
        yield connection


@pytest.fixture
def saver(config: Settings) -> Iterator[stored.Connection]:
    """A saver's connection; a statement that waits for a lock fails."""
    with closing(database.connect("realtime")) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("set lock_timeout = '1s'")
        yield connection
        connection.rollback()


# --- any ledger

START = datetime(2026, 3, 1, tzinfo=UTC)


class Made(NamedTuple):
    """A micro-batch to make up: per partition rows, duplicates, conflicts, dead letters and gaps; what sets it apart."""

    counts: dict[str, tuple[int, int, int, int, int]]
    buckets: dict[str, int]
    new_run: bool = False
    new_epoch: bool = False
    skips: bool = False


PLAIN = Made({"0": (1, 0, 0, 0, 0)}, {"0.05": 1})

seldom = st.integers(0, 7).map(lambda number: number == 0)
duplicates = st.integers(0, 2)
made = st.builds(
    Made,
    st.dictionaries(
        st.sampled_from("012"),
        st.one_of(
            st.tuples(st.integers(1, 3), duplicates, st.just(0), st.integers(0, 2), st.integers(0, 2)),
            st.tuples(st.just(0), st.just(2), duplicates, st.integers(0, 2), st.just(0)),
        ),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from(["0.05", "60.0", "inf"]), st.integers(1, 9)),
    seldom,
    seldom,
    seldom,
)


def ledger_rows(batches: Sequence[Made]) -> list[dict[str, Any]]:
    """The ledger of made-up micro-batches, as a saver writes it."""
    ends: dict[str, int] = {}
    run = epoch = 1
    rows = []
    for number, batch in enumerate(batches, start=1):
        run, epoch = run + batch.new_run, epoch + batch.new_epoch
        if batch.skips:
            ends = {name: end + 7 for name, end in ends.items()}
        starts = dict.fromkeys(batch.counts, 0) | ends
        counts = {
            name: {
                **{"rows_in": written + twice + dead, "rows_written": written, "duplicates": twice},
                **{"conflicts": other, "dead_letters": dead, "offset_gaps": gaps},
            }
            for name, (written, twice, other, dead, gaps) in batch.counts.items()
        }
        read = {name: starts[name] + each["rows_in"] + each["offset_gaps"] for name, each in counts.items()}
        ends = starts | read
        sums = summed(counts.values())
        at = START + timedelta(hours=(number * 7) % 11) if sums["rows_written"] else None
        rows.append(
            {"source_table": TABLE, "ingest_batch_id": number, "batches": 1, "epoch": epoch, "query_id": f"run {run}"}
            | {"spark_batch_id": number, "start_offsets": starts, "end_offsets": ends, **sums, "by_partition": counts}
            | {"latency_buckets": batch.buckets, "latency_seconds": number / 4}
            | {"first_event_at": at, "last_event_at": at and at + timedelta(minutes=number)}
            | {"committed_at": START + timedelta(seconds=number)}
        )
    return rows


def summed(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of some counts, those that are 0 included."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def one_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a range has to say of these rows."""
    first, last = rows[0], rows[-1]
    names = ("batches", "offset_gaps", "rows_in", "rows_written", "duplicates", "conflicts", "dead_letters")
    partitions = sorted({name for row in rows for name in row["by_partition"]})
    return (
        last
        | summed({name: row[name] for name in (*names, "latency_seconds")} for row in rows)
        | {"start_offsets": first["start_offsets"], "latency_buckets": summed(row["latency_buckets"] for row in rows)}
        | {"by_partition": {name: summed(row["by_partition"].get(name, {}) for row in rows) for name in partitions}}
        | {"first_event_at": min((row["first_event_at"] for row in rows if row["first_event_at"]), default=None)}
        | {"last_event_at": max((row["last_event_at"] for row in rows if row["last_event_at"]), default=None)}
    )


def together(rows: Sequence[dict[str, Any]], boundaries: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The rows that are of one range: between two boundaries, of one run and epoch, each from where the last one ended."""
    found = [[rows[0]]]
    for before, row in pairwise(rows):
        same = all(before[name] == row[name] for name in ("query_id", "epoch"))
        goes_on = before["end_offsets"] == row["start_offsets"] and before["ingest_batch_id"] not in boundaries
        if same and goes_on and row["ingest_batch_id"] <= boundaries[-1]:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def put(connection: stored.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the ledger in the connection's transaction."""
    names = ", ".join(rows[0])
    source = "jsonb_populate_recordset(null::ops.ingest_batches, %s)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"insert into ops.ingest_batches ({names}) select {names} from {source}", [json.dumps(rows, default=str)]
        )


def read(connection: stored.Connection, columns: str = "*") -> list[dict[str, Any]]:
    """The ledger of cart events in order, in the connection's transaction."""
    with connection.cursor(cursor_factory=stored.RealDictCursor) as cursor:
        query = f"select {columns} from ops.ingest_batches where source_table = %s order by ingest_batch_id"
        cursor.execute(query, [TABLE])
        return [dict(row) for row in cursor.fetchall()]


def merge(connection: stored.Connection, boundaries: Sequence[int], portion: int = 1000) -> None:
    """Merge up to the last of the boundaries in the connection's transaction."""
    with connection.cursor() as cursor:
        reached = -1
        while reached < max(boundaries):
            cursor.execute("select ops.merge_batches(%s, %s, %s)", [TABLE, list(boundaries), portion])
            ((reached,),) = cursor.fetchall()
        assert reached == max(boundaries)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(made, min_size=1, max_size=30),
    cuts=st.sets(st.integers(0, 30), min_size=1, max_size=5),
    earlier=st.integers(0, 4),
    portion=st.integers(1, 8),
)
def test_any_ledger_keeps_its_sums_between_any_cuts_and_merging_again_changes_nothing(
    realtime: stored.Connection, batches: list[Made], cuts: set[int], earlier: int, portion: int
) -> None:
    realtime.rollback()
    put(realtime, ledger_rows(batches))
    before = read(realtime)
    boundaries = sorted(cut for cut in cuts if cut <= len(batches)) or [0]
    merge(realtime, boundaries[: earlier + 1], portion)
    merge(realtime, boundaries[min(earlier, len(boundaries) - 1) :], portion)

    after = read(realtime)
    assert after == [one_row(rows) for rows in together(before, boundaries)]
    assert [row["ingest_batch_id"] for row in after] == list(accumulate(row["batches"] for row in after))
    for row in after:
        offsets = sum(end - row["start_offsets"][name] for name, end in row["end_offsets"].items())
        assert offsets == row["rows_in"] + row["offset_gaps"]

    versions = read(realtime, "xmin::text, ctid::text")
    with realtime.cursor() as cursor:
        cursor.execute("update ops.merge_heads set last_batch = 0")
    merge(realtime, boundaries)
    assert read(realtime, "xmin::text, ctid::text") == versions


# --- a ledger that a saver wrote


def save(connection: stored.Connection, *batches: Sequence[bytes], run: str = "first run", epoch: int = 1) -> list[int]:
    """Commit micro-batches of a run as a saver does; their numbers."""
    numbers = []
    for batch in batches:
        with connection:
            sent = messages(*batch, start=head(connection).end_offsets.get(PARTITION, 0))
            done = write(connection, CART_EVENTS, sent, Writer(epoch, run), 0)
            assert done
            numbers.append(done.ingest_batch_id)
    return numbers


def save_some(connection: stored.Connection) -> None:
    """Two runs of three micro-batches each, with everything that can happen to a message."""
    now = datetime.now(UTC)
    for epoch, run in enumerate(("first run", "second run"), start=1):
        new, again = (cart(f"{run} {name}", timestamp=now.isoformat()) for name in ("a", "b"))
        save(
            connection,
            [new, b"no json", cart(f"{run} c", timestamp=(now - timedelta(seconds=3)).isoformat())],
            [again, again, new, cart(f"{run} a", timestamp=now.isoformat(), country="Peru"), b"[]"],
            [cart(f"{run} d", **{f"field_{epoch}": "new"}), b"no json"],
            run=run,
            epoch=epoch,
        )


def store_cuts(connection: stored.Connection, *batches: int, age: float = 8, job: str = READER.name) -> None:
    """Store cuts of cart events that are so many days old, and let a job have loaded the last of them."""
    with connection, connection.cursor() as cursor:
        for batch in batches:
            cut = incremental.store_cut(cursor, Cut(0, date(2026, 3, 1), dict.fromkeys(CONTRACTS, 0) | {TABLE: batch}))
            aged = "update ops.cuts set created_at = clock_timestamp() - %s * interval '1 day' where cut_id = %s"
            cursor.execute(aged, [age, cut.cut_id])
        incremental.advance(cursor, job, cut)


def sizes(connection: stored.Connection) -> list[int]:
    """How many batches each row of the ledger stands for."""
    with connection:
        return [row["batches"] for row in read(connection)]


def test_the_merged_ledger_is_whole_and_its_ranges_end_with_cuts_and_runs(
    realtime: stored.Connection, warehouse: stored.Connection, saver: stored.Connection
) -> None:
    save_some(saver)
    ledger.assert_whole(realtime, TABLE)
    store_cuts(warehouse, 2, 5)
    compaction.merge([READER], days=7, stop=NEVER)
    assert sizes(realtime) == [2, 1, 2, 1]
    ledger.assert_whole(realtime, TABLE)
    store_cuts(warehouse, 6)
    compaction.merge([READER], days=7, stop=NEVER)
    assert sizes(realtime) == [2, 1, 2, 1]
    save(saver, [cart("later")], run="second run", epoch=2)
    ledger.assert_whole(realtime, TABLE)


@pytest.mark.parametrize(
    ("cuts", "readers", "rows"),
    [
        ([(3, 8, "one"), (6, 8, "one")], ["one"], [3, 3]),
        ([(3, 8, "one"), (6, 6, "one")], ["one"], [3, 1, 1, 1]),
        ([(3, 8, "one"), (6, 8, "two")], ["one", "two"], [3, 1, 1, 1]),
        ([(3, 8, "one"), (6, 8, "one")], ["one", "two"], [1] * 6),
        ([(3, 8, "one"), (6, 8, "one")], [], [1] * 6),
    ],
    ids=[
        "old and loaded",
        "too young",
        "a reader behind",
        "a reader that has loaded nothing",
        "no reader",
    ],
)
def test_only_what_an_old_cut_covers_and_every_reader_has_loaded_is_merged(
    realtime: stored.Connection,
    warehouse: stored.Connection,
    cuts: list[tuple[int, float, str]],
    readers: list[str],
    rows: list[int],
) -> None:
    with realtime:
        put(realtime, ledger_rows([PLAIN] * 6))
    for batch, age, job in cuts:
        store_cuts(warehouse, batch, age=age, job=job)
    elsewhere = Job("elsewhere", Path(), "batch", reads=("realtime.transactions",))
    jobs = [elsewhere, *(Job(name, Path(), "batch", reads=READER.reads) for name in readers)]
    compaction.merge(jobs, days=7, stop=NEVER)
    assert sizes(realtime) == rows


def test_a_merge_that_is_stopped_or_takes_too_long_goes_on_the_next_time(
    realtime: stored.Connection, warehouse: stored.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with realtime:
        put(realtime, ledger_rows([PLAIN] * 6))
        merge(realtime, [2])
    store_cuts(warehouse, 2, 6)
    stopped = Event()
    stopped.set()
    compaction.merge([READER], days=7, stop=stopped)
    assert sizes(realtime) == [2, 1, 1, 1, 1]
    monkeypatch.setattr(compaction, "MOST_SECONDS", 0)
    compaction.merge([READER], days=7, stop=NEVER)
    assert sizes(realtime) == [2, 1, 1, 1, 1]
    monkeypatch.setattr(compaction, "MOST_SECONDS", 60)
    monkeypatch.setattr(compaction, "PORTION", 1)
    compaction.merge([READER], days=7, stop=NEVER)
    assert sizes(realtime) == [2, 4]


def test_the_cut_of_a_fresh_rebuild_has_to_grow_old_and_those_that_it_replaced_stay_uncrossed(
    realtime: stored.Connection, warehouse: stored.Connection
) -> None:
    with realtime:
        put(realtime, ledger_rows([PLAIN] * 6))
    store_cuts(warehouse, 3, 6)
    with warehouse, warehouse.cursor() as cursor:
        last = incremental.latest_cut(cursor)
        assert last
        fresh = incremental.numbered(cursor, last)
        incremental.supersede(cursor, fresh)
        incremental.advance(cursor, READER.name, fresh)
    compaction.merge([READER], days=7, stop=NEVER)
    assert sizes(realtime) == [1] * 6
    compaction.merge([READER], days=1e-9, stop=NEVER)
    assert sizes(realtime) == [3, 3]


def test_a_saver_writes_while_the_ledger_is_merged_and_the_other_way_round(
    realtime: stored.Connection, saver: stored.Connection
) -> None:
    save_some(saver)
    merge(realtime, [3])
    save(saver, [cart("meanwhile")], run="second run", epoch=2)
    realtime.commit()
    with saver:
        assert write(saver, CART_EVENTS, messages(cart("open"), start=21), Writer(2, "second run"), 0)
        with realtime, realtime.cursor() as cursor:
            cursor.execute("set local lock_timeout = '1s'")
            merge(realtime, [3, 7])
    assert sizes(realtime) == [3, 4, 1]
    ledger.assert_whole(realtime, TABLE)


def test_the_head_may_be_in_a_range_and_its_run_goes_on(realtime: stored.Connection, saver: stored.Connection) -> None:
    save_some(saver)
    with realtime:
        merge(realtime, [6])
    assert save(saver, [cart("next")], run="second run", epoch=2) == [7]
    ledger.assert_whole(realtime, TABLE)


def test_a_saver_can_merge_the_ledger_but_not_change_it_otherwise(saver: stored.Connection) -> None:
    for statement in (
        "delete from ops.ingest_batches",
        "update ops.ingest_batches set rows_in = 1",
        "update ops.merge_heads set last_batch = 1",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), saver, saver.cursor() as cursor:
            cursor.execute(statement)
    with (
        pytest.raises(psycopg2.errors.RaiseException, match="orders is no table of events"),
        saver,
        saver.cursor() as cursor,
    ):
        cursor.execute("select ops.merge_batches('orders', array[1], 1)")


# --- who reads it


def totals(connection: stored.Connection, known: Mapping[str, Totals] | None = None) -> dict[str, Any]:
    """What is exported of cart events, but for the times between commits and the heartbeat."""
    found = vars(metered.refresh(connection, known or {})[TABLE])
    found["latency_seconds"] = round(found["latency_seconds"], 6)
    return {name: value for name, value in found.items() if name not in ("intervals", "interval_seconds", "heartbeat")}


def test_the_exporter_counts_the_same_after_a_merge_and_after_a_restart(
    realtime: stored.Connection, saver: stored.Connection
) -> None:
    save_some(saver)
    with closing(database.connect("realtime")) as reader:
        before, known = totals(reader), metered.refresh(reader, {})
        with realtime:
            merge(realtime, [1, 5])
        assert totals(reader) == totals(reader, known) == before
        # the first batch of all has none before it, and of the three ranges only the first and the last are single ones
        assert metered.refresh(reader, {})[TABLE].intervals.total() == 1

        save(saver, [cart("later")], [cart("later still")], run="second run", epoch=2)
        with realtime:
            merge(realtime, [5, 8])
        assert sizes(realtime) == [1, 2, 2, 3]
        assert totals(reader, known) == totals(reader)
        assert totals(reader)["counts"]["rows_written"] == before["counts"]["rows_written"] + 2


def test_the_receipt_of_a_run_counts_what_ranges_hold_of_it(
    realtime: stored.Connection, saver: stored.Connection
) -> None:
    save_some(saver)

    def told(run: str) -> Any:
        found = receipt.read(realtime, CART_EVENTS, run, "published")
        frames = (found.partitions(), found.dead_letters, found.schema_changes)
        return [frame.to_dict("records") for frame in frames], found.total("rows_written"), found.stored_rows

    before = [told("first run"), told("second run")]
    assert len({str(each) for each in before}) == 2
    merge(realtime, [2, 6])
    assert [told("first run"), told("second run")] == before
    found = receipt.read(realtime, CART_EVENTS, "first run", "published")
    assert (len(found.batches), found.stored_rows, found.live_events) == (2, 4, 1)


def test_a_cut_before_an_event_of_a_later_day_lies_before_its_range(
    realtime: stored.Connection, warehouse: stored.Connection
) -> None:
    rows = ledger_rows([PLAIN] * 5)
    rows[3]["last_event_at"] = datetime(2026, 3, 3, tzinfo=UTC)
    with realtime:
        put(realtime, rows)
        merge(realtime, [2, 5])
    store_cuts(warehouse, 1)
    with warehouse, warehouse.cursor() as cursor:
        assert incremental.next_cut(cursor, date(2026, 3, 2)).batches[TABLE] == 2
        assert incremental.next_cut(cursor, date(2026, 3, 3)).batches[TABLE] == 5


def test_a_merge_that_fails_is_logged_and_the_cycle_goes_on(
    config: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(config, "realtime_dsn", stored.renamed(config, "realtime_nowhere")["realtime_dsn"])
    cycle.merge_ledger(NEVER)
    (record,) = caplog.records
    assert "the ledger wasn't merged; the next cycle tries again: " in record.message
    assert '"realtime_nowhere" does not exist' in record.message
