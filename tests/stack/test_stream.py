"""A saver's run on the real stack: torn checkpoints, zombies, repeated events, and a topic, lag and pace that change."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import stored
from kafka.admin import NewPartitions
from pyspark.sql import SparkSession
from pyspark.sql.connect.streaming.query import StreamingQuery
from world import World, carts, eventually

from lib import spark
from lib.ingest import sink, stream
from lib.settings import Settings, settings

BRISK = "100 milliseconds"


@pytest.fixture
def other(stack: Settings) -> Iterator[SparkSession]:
    """Another session, as another notebook has one."""
    session = spark.speed()
    yield session
    spark.close(session)


@pytest.fixture
def as_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are the scheduler's, which may take over from others."""
    monkeypatch.setattr(settings(), "run_id", "a run of the scheduler")


def abandoned(world: World, session: SparkSession) -> stream.Query:
    """The query of a run whose notebook has died: it goes on, and nobody follows it."""
    run = stream.SaverRun(session, world.contract, BRISK, 1000, 1000, lambda progress: None)
    run.register()
    run.start(1000)
    return run.queries[0]


def resume(world: World, checkpoint: Path) -> StreamingQuery:
    """A query on a checkpoint that another one has left, as if checkpoints had a say."""
    frame = stream.read_topic(world.session.readStream, world.contract, startingOffsets="earliest")
    writer = stream.write_in_worker(frame, world.contract, sink.Writer(world.epoch() + 1, "resumed"))
    writer = writer.option("checkpointLocation", str(checkpoint)).options(**stream.ASYNCHRONOUS)
    return writer.trigger(processingTime=BRISK).start()


def remove_last(log: Path) -> None:
    """Remove the last file of a checkpoint's log, and its checksum."""
    last = max([file for file in log.iterdir() if file.name.isdigit()], key=lambda file: int(file.name))
    last.unlink()
    (log / f".{last.name}.crc").unlink(missing_ok=True)


@pytest.mark.usefixtures("as_scheduler")
@pytest.mark.parametrize("lost", ["the last files", "all of it"])
def test_a_checkpoint_that_is_torn_or_lost_decides_nothing(world: World, other: SparkSession, lost: str) -> None:
    query = abandoned(world, other)
    for step in range(2):
        world.send(carts(30 * step, 30 * step + 30))
        world.await_ids(carts(0, 30 * step + 30))
    query.handle.stop()
    world.send(carts(60, 90))
    if lost == "the last files":
        remove_last(query.checkpoint / "offsets")
        remove_last(query.checkpoint / "commits")
    else:
        shutil.rmtree(query.checkpoint)
    resumed = resume(world, query.checkpoint)
    world.await_ids(carts(0, 90))
    resumed.stop()
    world.send(carts(90, 120))
    assert world.ingest().total("rows_written") == 30
    world.await_ids(carts(0, 120))
    assert world.total("duplicates") == 0


@pytest.mark.usefixtures("as_scheduler")
def test_a_checkpoint_removed_under_a_query_at_work_costs_nothing(world: World, other: SparkSession) -> None:
    query = abandoned(world, other)
    world.send(carts(0, 30))
    world.await_ids(carts(0, 30))
    shutil.rmtree(query.checkpoint)
    world.send(carts(30, 60))
    world.ingest()
    world.await_ids(carts(0, 60))
    assert world.total("duplicates") == 0


@pytest.mark.usefixtures("as_scheduler")
def test_a_zombie_writes_nothing_once_its_successor_has(world: World, other: SparkSession) -> None:
    zombie = abandoned(world, other)
    world.send(carts(0, 30))
    world.await_ids(carts(0, 30))
    sent = 30
    with world.at_work(trigger_interval=BRISK):

        def taken_over() -> bool:
            nonlocal sent
            world.send(carts(sent, sent + 3))
            sent += 3
            return not zombie.handle.isActive

        eventually(taken_over)
        assert sink.Fenced.__name__ in str(zombie.handle.exception())
        world.await_ids(carts(0, sent))
    batches = world.ledger()  # epochs never fall in it
    assert {batch["epoch"] for batch in batches} == {1, 2}
    assert sum(batch["rows_in"] for batch in batches) == sent


def test_events_sent_three_times_across_restarts_have_one_row_each_and_the_rest_is_counted(world: World) -> None:
    events = carts(0, 60)
    world.send([*events[:40], *events[:40]])
    world.ingest()
    world.send([*events[:40], *events[40:], *events[40:]])
    world.ingest(max_offsets=7, catch_up_offsets=7)
    world.send(events[40:])
    world.ingest()
    world.await_ids(events)
    assert {name: world.total(name) for name in ("rows_in", "rows_written", "duplicates", "dead_letters")} == {
        "rows_in": 180,
        "rows_written": 60,
        "duplicates": 120,
        "dead_letters": 0,
    }
    assert len({batch["epoch"] for batch in world.ledger()}) == 3


def test_a_partition_added_while_the_stream_runs_is_read_from_its_start(world: World) -> None:
    with world.at_work(trigger_interval=BRISK):
        world.send(carts(0, 30))
        world.await_ids(carts(0, 30))
        with world.admin() as admin:
            admin.create_partitions({world.topic: NewPartitions(total_count=5)})
        world.send(carts(30, 60), partitions=[3, 4])
        world.await_ids(carts(0, 60))
    world.send(carts(60, 90), partitions=[0, 4])
    world.ingest()
    world.await_ids(carts(0, 90))
    ends = world.ledger()[-1]["end_offsets"]
    assert ends == {"0": 25, "1": 10, "2": 10, "3": 15, "4": 30}


def test_a_run_far_behind_uses_the_larger_cap_and_goes_back_when_it_is_level(world: World) -> None:
    world.send(carts(0, 1300))
    pace = {"trigger_interval": BRISK, "max_offsets": 100, "catch_up_offsets": 500}
    with world.at_work(**pace):
        eventually(lambda: len(world.ids()) == 1300)
        sent = 1300

        def gone_back() -> bool:
            nonlocal sent
            world.send(carts(sent, sent + 3))
            sent += 3
            return world.epoch() == 2

        eventually(gone_back)
        # all of them are there before the next batch but one is taken
        with (
            stored.connected(world.config, "realtime") as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("select from ops.ingest_heads where source_table = %s for update", [world.contract.table])
            world.send(carts(sent, sent + 450))
        eventually(lambda: len(world.ids()) == sent + 450)
    batches = world.ledger()
    largest = {epoch: max(b["rows_in"] for b in batches if b["epoch"] == epoch) for epoch in (1, 2)}
    assert 100 < largest[1] <= 500
    assert 50 < largest[2] <= 100
    assert len({batch["query_id"] for batch in batches}) == 1


def test_by_hand_a_saver_at_work_is_left_alone_and_its_receipt_shown(
    world: World, other: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FRESH", timedelta(hours=1))  # its signs of life may come late here
    with world.at_work(trigger_interval=BRISK):
        world.send(carts(0, 30))
        world.await_ids(carts(0, 30))
        with pytest.raises(stream.AtWork, match="only the scheduler takes over"):
            world.ingest(other)
        shown = world.ingest(other, publish=False)
        world.send(carts(30, 33))
        world.await_ids(carts(0, 33))
    assert (shown.state, shown.total("rows_written"), shown.stored_rows) == ("at work", 30, 30)
    assert {batch["epoch"] for batch in world.ledger()} == {1}
