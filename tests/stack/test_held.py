"""Stored events put aside and released, on databases of the tests' own: loads go on without them, and count nothing twice."""

import json
import random
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any, cast

import ledger
import psycopg2
import pytest
import stored
from arrivals import apart
from batches import PARTITION, head, messages, next_run, own_database, rows, write
from bs4 import BeautifulSoup
from line import Schedule
from psycopg2 import sql
from pyspark.sql import SparkSession
from world import World, cart, carts

from lib import database, locks, spark
from lib.cli import status
from lib.cycles import holding, rebuild
from lib.cycles.holding import AllLoaded, HoldError
from lib.cycles.rebuild import RebuildError, Work
from lib.ingest.sink import Fenced, Writer
from lib.jobs import discovery
from lib.jobs.discovery import Job
from lib.ledger import cuts, metrics
from lib.ledger.cuts import Cut
from lib.schemas import CART_EVENTS, CONTRACTS, TRANSACTIONS
from lib.settings import ROOT, Settings
from lib.warehouse import culprits, held
from lib.warehouse.load import Load

DAY = "2026-03-{:02}"
TABLE = CART_EVENTS.table
READERS = [Job(f"etl/reader_{name}", Path(), "batch", reads=(f"realtime.{TABLE}",)) for name in "ab"]


def save(*events: bytes, table: str = TABLE, run: str = "a run") -> int:
    """Commit a micro-batch as a saver does; its number."""
    contract = CONTRACTS[table]
    with closing(database.connect("realtime")) as connection, connection:
        writer = Writer(1, run)
        sent = messages(*events, start=head(connection, contract).end_offsets.get(PARTITION, 0))
        done = write(connection, contract, sent, writer, 0)
        assert done
        return done.ingest_batch_id


def order(key: str, day: int, user: str, amount: float = 100, product: str = "p") -> bytes:
    """A transaction's JSON."""
    line = {"product_id": product, "quantity": 1, "price": amount, "category": "Toys"}
    return json.dumps(
        {"transaction_id": key, "user_id": user, "total_amount": amount, "country": "Peru", "products": [line]}
        | {"transaction_timestamp": f"{DAY.format(day)}T12:00:00Z"}
    ).encode()


def job_load(job: str, after: Mapping[str, int], cut: Cut, session: SparkSession | None = None) -> Load:
    """A load of a job from its watermark up to a cut, for reading only."""
    since = Cut(0, cut.run_date, dict(after)) if after else None
    window = cuts.Window(since, cut, (cut,))
    return Load(job, cast(SparkSession, session), cast(stored.Connection, None), window, publish=False)


@pytest.fixture(scope="module")
def session(config: Settings) -> Iterator[SparkSession]:
    """A session of the batch layer on these databases."""
    begun = spark.batch()
    yield begun
    spark.close(begun)


@pytest.fixture(scope="module")
def config(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an empty realtime database and an empty warehouse."""
    with apart(stack, tmp_path_factory.mktemp("runs")) as config:
        yield config


EMPTY = (
    f"truncate ops.ingest_batches, ops.dead_letters, ops.schema_changes, ops.held_events, {', '.join(CONTRACTS)};"
    " update ops.ingest_heads set last_batch = 0, epoch = 0, end_offsets = '{}'; update ops.merge_heads set last_batch = 0"
)


def empty(config: Settings) -> None:
    """Forget all events, cuts and loads."""
    for name, statement in (("realtime", EMPTY), ("warehouse", "delete from ops.watermarks; delete from ops.cuts")):
        with stored.connected(config, name) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)


# --- who sees what, under any order of holds, releases, cuts and loads


class Walk:
    """Jobs that load a table by cuts, each event one; some of the events are held and released meanwhile."""

    def __init__(self, realtime: stored.Connection, warehouse: stored.Connection, seed: int) -> None:
        self.realtime, self.warehouse = realtime, warehouse
        self.random = random.Random(seed)
        self.jobs = [job.name for job in READERS]
        self.cuts: list[Cut] = []
        self.read: dict[str, list[tuple[str, int]]] = {job: [] for job in self.jobs}
        self.stored: list[str] = []
        self.held: set[str] = set()

    def save(self) -> None:
        new = [f"e{len(self.stored) + number}" for number in range(self.random.randint(1, 4))]
        save(*map(cart, new))
        self.stored += new

    def cut(self) -> None:
        with self.warehouse, self.warehouse.cursor() as cursor:
            self.cuts.append(cuts.store_cut(cursor, cuts.next_cut(cursor, date(2026, 3, 2))))

    def load(self) -> None:
        """One job loads up to the last cut."""
        job = self.random.choice(self.jobs)
        if not self.cuts:
            return
        with self.warehouse, self.warehouse.cursor() as cursor:
            since = cuts.watermark(cursor, job)
            self.read[job] += self.events(job, since.batches if since else {}, self.cuts[-1])
            cuts.advance(cursor, job, self.cuts[-1])

    def events(self, job: str, after: Mapping[str, int], cut: Cut) -> list[tuple[str, int]]:
        """What a load of the job reads: ids, with the batch that they have for it."""
        load = job_load(job, after, cut)
        first, last = load.window.unread(TABLE)
        query = sql.SQL(
            "select event_id, ingest_batch_id from {} where ingest_batch_id > %s and ingest_batch_id <= %s"
        ).format(held.source(load, TABLE))
        found = [tuple(row.values()) for row in stored.rows(self.realtime, query, first, last)]
        assert held.sums(self.realtime, load, TABLE).expected == len(found)
        return found

    def frame(self, session: SparkSession, job: str, after: Mapping[str, int], cut: Cut) -> list[tuple[str, int]]:
        """The same of the frame that a notebook gets."""
        seen = job_load(job, after, cut, session).events(TABLE).select("event_id", "ingest_batch_id")
        return [tuple(row) for row in seen.collect()]

    def hold(self) -> None:
        if not self.stored:
            return
        chosen = self.random.sample(self.stored, min(2, len(self.stored)))
        loaded = [event for event in chosen if all(event in dict(self.read[job]) for job in self.jobs)]
        if set(loaded) - self.held:
            with pytest.raises(AllLoaded):
                holding.hold(TABLE, chosen, why="a walk", jobs=READERS)
            return
        done = holding.hold(TABLE, chosen, why="a walk", jobs=READERS)
        assert set(done.already) == self.held & set(chosen)
        self.held |= set(chosen)

    def release(self) -> None:
        if self.held:
            chosen = self.random.sample(sorted(self.held), 1)
            assert holding.release(TABLE, chosen).changed == chosen
            self.held -= set(chosen)


@pytest.mark.parametrize("seed", range(12))
def test_each_job_sees_each_event_once_whatever_is_held_and_released_and_one_pass_sees_the_same(
    config: Settings, session: SparkSession, seed: int
) -> None:
    with stored.connected(config, "realtime") as realtime, stored.connected(config, "warehouse") as warehouse:
        empty(config)
        walk = Walk(realtime, warehouse, seed)
        steps = [walk.save, walk.cut, walk.load, walk.load, walk.hold, walk.hold, walk.release]
        for _ in range(40):
            walk.random.choice(steps)()
            for job in walk.jobs:
                with warehouse, warehouse.cursor() as cursor:
                    since = cuts.watermark(cursor, job)
                if since:
                    assert sorted(walk.events(job, {}, since)) == sorted(walk.read[job])
                    assert max(Counter(event for event, _ in walk.read[job]).values(), default=0) <= 1
        walk.cut()
        for job, after in zip(walk.jobs, ({}, walk.cuts[len(walk.cuts) // 2].batches), strict=True):
            expected = walk.events(job, after, walk.cuts[-1])
            assert sorted(walk.frame(session, job, after, walk.cuts[-1])) == sorted(expected)
        while walk.held:
            walk.release()
        walk.cut()
        while not all(walk.cuts[-1] == incremental_watermark(warehouse, job) for job in walk.jobs):
            walk.load()
        for job in walk.jobs:
            assert sorted(event for event, _ in walk.read[job]) == sorted(walk.stored)
        ledger.assert_whole(realtime, TABLE)


def incremental_watermark(warehouse: stored.Connection, job: str) -> Cut | None:
    """The cut up to which a job has loaded."""
    with warehouse, warehouse.cursor() as cursor:
        return cuts.watermark(cursor, job)


@pytest.fixture
def events(config: Settings) -> Iterator[stored.Connection]:
    """The owner's connection to the realtime database with two cart events, which nobody has loaded."""
    empty(config)
    save(cart("one"), cart("two"))
    with stored.connected(config, "realtime") as realtime:
        yield realtime


HELD = "select event_id, why, released_batch from ops.held_events order by event_id"


def test_an_unknown_event_is_refused_and_the_others_with_it(events: stored.Connection) -> None:
    with pytest.raises(HoldError, match="cart_events has no event 'three'"):
        holding.hold(TABLE, ["one", "three"], why="w", jobs=READERS)
    assert stored.rows(events, HELD) == []
    with pytest.raises(HoldError, match="'one': never held"):
        holding.release(TABLE, ["one"])
    assert head(events).last_batch == 1


def test_holding_and_releasing_twice_is_harmless(events: stored.Connection) -> None:
    assert holding.hold(TABLE, ["one"], why="w", jobs=READERS).changed == ["one"]
    again = holding.hold(TABLE, ["one", "two"], why="other", jobs=READERS)
    assert (again.changed, again.already) == (["two"], ["one"])
    assert [row["why"] for row in stored.rows(events, HELD)] == ["w", "other"]
    assert holding.release(TABLE, ["one"]).batch == 2
    again = holding.release(TABLE, ["one"])
    assert (again.changed, again.already, again.batch) == ([], ["one"], None)
    assert head(events).last_batch == 2


def test_the_jobs_role_reads_held_events_and_changes_none(config: Settings, events: stored.Connection) -> None:
    holding.hold(TABLE, ["one"], why="w", jobs=READERS)
    for statement in ("delete from ops.held_events", "update ops.held_events set why = 'x'"):
        with stored.connected(config, "realtime", admin=False) as connection:
            assert len(stored.rows(connection, "select * from ops.held_events")) == 1
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
                cursor.execute(statement)


def test_nothing_is_held_while_a_load_is_at_work_that_publishes(config: Settings, events: stored.Connection) -> None:
    with closing(database.connect("warehouse")) as connection, connection.cursor() as cursor:
        locks.share(cursor, locks.LOADS, "etl/reader_a")
        with pytest.raises(locks.LockHeld, match="a load is at work already: etl/reader_a"):
            holding.hold(TABLE, ["one"], why="w", jobs=READERS)
    assert stored.rows(events, HELD) == []


def test_without_a_held_event_a_load_reads_the_table_itself(config: Settings, events: stored.Connection) -> None:
    cut = Cut(0, date(2026, 3, 2), {TABLE: 1})
    assert held.source(job_load("etl/x", {}, cut), TABLE) == sql.Identifier(TABLE)
    holding.hold(TABLE, ["one"], why="w", jobs=READERS)
    load = job_load("etl/x", {}, cut)
    assert held.source(load, "transactions") == sql.Identifier("transactions")
    assert "held_events" in held.source(load, TABLE).as_string(events)


def test_loads_still_find_the_events_of_their_batches_by_the_index(config: Settings, events: stored.Connection) -> None:
    holding.hold(TABLE, ["one"], why="w", jobs=READERS)
    source = held.source(job_load("etl/x", {}, Cut(0, date(2026, 3, 2), {TABLE: 1})), TABLE)
    with events, events.cursor() as cursor:
        # the table is all but empty: any way through it is cheap
        cursor.execute("set local enable_seqscan = off; set local enable_indexscan = off")
        query = "explain select user_id from {} where ingest_batch_id > %s and ingest_batch_id <= %s"
        cursor.execute(sql.SQL(query).format(source), [5, 9])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert re.search(r"idx_cart_events_batch.*\n.*ingest_batch_id > 5", plan), plan


def test_status_and_metrics_count_what_is_held_and_a_release_is_no_commit_of_a_saver(
    config: Settings, events: stored.Connection
) -> None:
    committed = stored.scalar(events, "select committed_at from ops.ingest_batches")
    for expected, change in ((0, None), (2, holding.hold), (1, holding.release)):
        if change is holding.hold:
            holding.hold(TABLE, ["one", "two"], why="w", jobs=READERS)
        elif change:
            holding.release(TABLE, ["one"])
        state = status.read([])["ingestion"]
        assert {name: row["held"] for name, row in state.items()} == dict.fromkeys(CONTRACTS, 0) | {TABLE: expected}
        assert state[TABLE]["committed_at"] == committed
        with closing(metrics.Exporter(config)) as exporter:
            found = {
                (family.name, sample.labels["table"]): sample.value
                for family in exporter.collect()
                for sample in family.samples
                if family.name.startswith(("globalmart_ingest_held", "globalmart_ingest_last"))
            }
        assert found["globalmart_ingest_held_events", TABLE] == expected
        assert found["globalmart_ingest_held_events", "transactions"] == 0
        assert found["globalmart_ingest_last_commit_timestamp_seconds", TABLE] == committed.timestamp()


def test_the_events_of_a_load_that_name_a_product_or_customer_are_found_but_for_held_ones(
    config: Settings, events: stored.Connection
) -> None:
    save(order("sale", 1, "u", product="p"), order("other", 1, "u", product="q"), table="transactions")
    load = job_load("etl/x", {}, Cut(0, date(2026, 3, 2), dict.fromkeys(CONTRACTS, 1)))
    everything = {"transactions": ["sale"], TABLE: ["one", "two"]}
    assert culprits.of_keys(load, "product_id", ["p"]) == everything
    assert culprits.of_keys(load, "user_id", ["u"]) == everything | {"transactions": ["other", "sale"]}
    assert culprits.of_keys(load, "country", ["Peru"]) == {"transactions": ["other", "sale"]}
    holding.hold(TABLE, ["one"], why="w", jobs=READERS)
    later = replace(load)
    assert culprits.of_keys(later, "product_id", ["p"]) == everything | {TABLE: ["two"]}


# --- savers


def test_a_release_fences_nobody_and_a_run_that_was_taken_over_stays_fenced(stack: Settings) -> None:
    with own_database(stack, "held_saver") as config, closing(database.connect("realtime")) as connection:
        first = next_run(connection, "first")
        assert write(connection, CART_EVENTS, messages(cart("one")), first, 0)
        connection.commit()
        put_aside(config, "one")
        assert holding.release(TABLE, ["one"]).batch == 2
        assert write(connection, CART_EVENTS, messages(cart("two"), start=1), first, 1)
        connection.commit()
        put_aside(config, "two")
        holding.release(TABLE, ["two"])
        second = next_run(connection, "second")
        assert write(connection, CART_EVENTS, messages(cart("three"), start=2), second, 0)
        connection.commit()
        put_aside(config, "three")
        holding.release(TABLE, ["three"])
        with pytest.raises(Fenced):
            write(connection, CART_EVENTS, messages(cart("four"), start=3), first, 2)
        connection.rollback()
        assert [
            row[0] for row in rows(connection, "select rows_in = 0 from ops.ingest_batches order by ingest_batch_id")
        ] == [False, True, False, True, False, True]


def put_aside(config: Settings, *ids: str) -> None:
    """Hold events of which no job of the warehouse is asked."""
    with stored.connected(config, "realtime") as connection, connection, connection.cursor() as cursor:
        for event in ids:
            cursor.execute(
                "insert into ops.held_events (source_table, event_id, why) values (%s, %s, 'w')", [TABLE, event]
            )


def test_a_saver_at_work_goes_on_behind_a_release(world: World) -> None:
    world.send(carts(0, 30))
    with world.at_work() as run:
        world.await_ids(carts(0, 30))
        put_aside(world.config, "cart-00003", "cart-00007")
        released = holding.release(TABLE, ["cart-00003"])
        world.send(carts(30, 60))
        world.await_ids(carts(0, 60))
        assert not run.done()
        assert world.epoch() == 1
    receipt = run.result()
    assert receipt.follow_on()
    assert list(receipt.held["event_id"]) == ["cart-00007"]
    assert receipt.total("rows_written") == receipt.stored_rows == 60
    assert released.batch not in set(receipt.batches["ingest_batch_id"])
    whole = world.ledger()
    assert [batch["rows_in"] for batch in whole if batch["ingest_batch_id"] == released.batch] == [0]
    world.send(carts(60, 70))
    assert world.ingest().total("rows_written") == 10


# --- the line


REFUSE = """
create or replace function ops.plant() returns trigger language plpgsql as $$
begin
    if new.transaction_id = any({refused}) then raise exception 'planted' using errcode = '22003'; end if;
    if new.transaction_id = any({dropped}) then return null; end if;
    if new.transaction_id = any({odd}) then new.customer_id := -1; end if;
    return new;
end $$;
create or replace trigger plant before insert on fact_sales for each row execute function ops.plant();
grant execute on function ops.plant to public
"""


def plant(
    config: Settings, *, refused: Sequence[str] = (), dropped: Sequence[str] = (), odd: Sequence[str] = ()
) -> None:
    """From now on the warehouse refuses orders, loses them without a word, or gives them to nobody."""
    values = {"refused": refused, "dropped": dropped, "odd": odd}
    arrays = {name: "array[" + ", ".join(f"'{key}'" for key in keys) + "]::text[]" for name, keys in values.items()}
    with stored.connected(config, "warehouse") as connection, connection, connection.cursor() as cursor:
        cursor.execute(REFUSE.format(**arrays))


def last_run(config: Settings, job: str) -> dict[str, Any]:
    """The last run of a job."""
    with stored.connected(config, "warehouse") as connection:
        query = "select * from ops.job_runs where job = %s order by started_at desc limit 1"
        return stored.rows(connection, query, job)[0]


def page_of(config: Settings, run: dict[str, Any]) -> str:
    """The text of a run's report."""
    return BeautifulSoup((config.runs_dir / run["report"]).read_text(), "html.parser").text


def printed_command(text: str) -> list[str]:
    """The arguments of the command that a message prints, with a reason."""
    (command,) = set(re.findall(r"schedule\.py (hold .*? --why )", text))
    return [*shlex.split(command), "it stops the line"]


def facts(config: Settings) -> dict[str, int]:
    """The batch of each order in the fact; an order is there once."""
    with stored.connected(config, "warehouse") as connection:
        found = stored.rows(connection, "select transaction_id, ingest_batch_id from fact_sales")
    assert len(found) == len({row["transaction_id"] for row in found})
    return {row["transaction_id"]: row["ingest_batch_id"] for row in found}


def totals(config: Settings) -> dict[str, int]:
    """How many orders each customer has by the dimension."""
    with stored.connected(config, "warehouse") as connection:
        query = "select user_id, total_transactions from dim_customers where is_current and user_id <> ''"
        return {row["user_id"]: row["total_transactions"] for row in stored.rows(connection, query)}


@pytest.fixture
def once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's notebooks, tried once: what fails here fails every time."""
    folder = Path(shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks"))
    for path in folder.rglob("*.ipynb"):
        path.write_text(path.read_text().replace("retries: 2", "retries: 0"))
    monkeypatch.setenv("GM_NOTEBOOKS_DIR", str(folder))
    return folder


def test_a_line_that_stands_still_goes_on_with_the_printed_command_and_ends_as_if_nothing_had_been(
    config: Settings, schedule: Schedule, once: Path
) -> None:
    sales, bad = TRANSACTIONS.table, "bad 'one'"
    found = [job for job in discovery.discover(once) if (job.writes or "").startswith("warehouse.")]
    work = Work(found, Event(), lambda run: None, lambda text: None)
    empty(config)
    save(order("good", 1, "u"), order(bad, 1, "u"), order("lost", 1, "v"), order("odd", 1, "w"), table=sales)
    plant(config, refused=["bad ''one''"], dropped=["lost"], odd=["odd"])

    # refused by the database, then by rules: one that counts, and one that has rows
    shown = schedule("run", "etl", f"--run-date={DAY.format(1)}", expect=1).stdout
    run = last_run(config, "etl/fact_sales")
    assert "FailedOn: fact_sales can't be loaded" in run["error"]
    assert "planted" in page_of(config, run)
    for text in (run["error"], page_of(config, run), shown):
        assert printed_command(text) == ["hold", sales, bad, "--why", "it stops the line"]
    schedule(*printed_command(run["error"]))
    schedule("run", "fact_sales", f"--run-date={DAY.format(1)}", expect=1)
    run = last_run(config, "etl/fact_sales")
    assert "BrokenRule: fact_sales breaks its rules" in run["error"]
    assert "rows_of_the_ledger" in page_of(config, run)
    assert printed_command(run["error"])[2:-2] == ["odd", "lost"]
    schedule(*printed_command(run["error"]))

    # without them the line goes on; a customer keeps what was counted before
    save(order("next", 2, "u"), table=sales)
    schedule("run", "batch", f"--run-date={DAY.format(2)}")
    assert facts(config) == {"good": 1, "next": 2}
    assert totals(config) == {"u": 3, "v": 1, "w": 1}
    report = page_of(config, last_run(config, "etl/fact_sales"))
    for text in ("No stored event is put aside", "Events of transactions in the batches of this load", bad):
        assert text in report
    with stored.connected(config, "warehouse") as connection:
        query = "select failed_rows, examples from ops.data_quality where run_id = %s and rule = 'nothing_held'"
        (finding,) = stored.rows(connection, query, last_run(config, "etl/fact_sales")["run_id"])
    assert finding["failed_rows"] == 3
    assert {row["event_id"] for row in finding["examples"]} == {bad, "lost", "odd"}
    assert json.loads(schedule("status", "--json").stdout)["ingestion"][sales]["held"] == 3
    listed = json.loads(schedule("held", "--json").stdout)
    assert {row["event_id"] for row in listed} == {bad, "lost", "odd"}
    assert all("etl/dim_customers" in row["loaded_by"] and "etl/fact_sales" not in row["loaded_by"] for row in listed)
    schedule("backfill", f"--from={DAY.format(1)}", f"--to={DAY.format(1)}")
    schedule("rebuild", "--compare")

    # one comes back, is refused again, and held again, with what the dimensions had of it
    assert "batch 3" in schedule("release", sales, bad).stdout
    schedule("run", "etl", expect=1)
    schedule("hold", sales, bad, "--why", "still")
    plant(config)
    assert "batch 4" in schedule("release", sales, bad, "lost", "odd").stdout
    # one that nobody has loaded yet
    save(order("new", 4, "x"), table=sales)
    built = rebuild.plan(work.jobs)
    schedule("hold", sales, "new", "--why", "early")
    with pytest.raises(RebuildError, match="events were held since"):
        rebuild.catch_up(built, work)
    schedule("run", "batch")
    assert facts(config) == {"good": 1, "next": 2, bad: 4, "lost": 4, "odd": 4}
    assert totals(config) == {"u": 3, "v": 1, "w": 1}
    assert schedule("hold", sales, bad, "--why", "late", expect=1).stderr.startswith(repr(bad))
    assert "has no event 'nobody'" in schedule("hold", sales, "nobody", "--why", "w", expect=2).stderr
    schedule("hold", sales, "new", expect=2)
    schedule("release", sales, "new")
    schedule("run", "batch")
    assert facts(config)["new"] == 6
    assert totals(config) == {"u": 3, "v": 1, "w": 1, "x": 1}
    assert schedule("held").stdout == "no event is held\n"
    schedule("rebuild", "--compare")
    with stored.connected(config, "realtime") as connection:
        ledger.assert_whole(connection, sales)
