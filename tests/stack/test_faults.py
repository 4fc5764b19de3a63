"""Bad input through a whole saver: poison in known and unknown fields, huge messages, and messages that are gone."""

import json
import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import stored
from kafka import KafkaProducer
from kafka.admin import NewTopic
from world import TABLE, World, cart, carts, eventually

from lib.ledger.offsets import DataLoss

AHEAD = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
KILOBYTES_900 = random.Random(1).randbytes(450_000).hex()  # hardly to be compressed, as it would be in earnest


def raw(**values: str) -> bytes:
    """A cart event in which fields have these values, given as JSON."""
    fields = json.loads(cart("bad")) | {name: f"<{name}>" for name in values}
    text = json.dumps(fields)
    for name, value in values.items():
        text = text.replace(f'"<{name}>"', value)
    return text.encode()


DEEP = "[" * 101 + "]" * 101
POISON: list[tuple[str, bytes | None]] = [
    ("not_json", None),
    ("not_json", b""),
    ("not_json", b'{"event_id": "bad"'),
    ("not_json", cart("bad") + cart("worse")),
    ("invalid_utf8", b"\xef\xbb\xbf" + cart("bad")),
    ("invalid_utf8", cart("bad", user_id="@").replace(b"@", b"\xff")),
    ("invalid_utf8", cart("bad", note="@").replace(b"@", b"\xff")),
    ("not_an_object", b"[1]"),
    ("not_an_object", b'"text"'),
    ("too_deep", raw(country=DEEP)),
    ("too_deep", raw(note=DEEP)),
    ("missing_field", cart("")),
    ("missing_field", cart("bad", user_id=None)),
    ("missing_field", b"{}"),
    ("wrong_type", cart("bad", user_id=42)),
    ("wrong_type", cart("bad", quantity="2")),
    ("wrong_type", cart("bad", quantity=2.0)),
    ("wrong_type", cart("bad", timestamp=1_700_000_000)),
    ("wrong_type", cart("bad", timestamp="2026-03-01")),
    ("out_of_range", cart("bad", event_type="steal")),
    ("out_of_range", cart("bad", quantity=-1)),
    ("out_of_range", cart("bad", price=10**15)),
    ("nul_character", raw(user_id=r'"a\u0000b"')),
    ("nul_character", raw(note=r'"a\u0000b"')),
    ("nul_character", raw(note=r'{"a\u0000b": 1}')),
    ("lone_surrogate", raw(user_id=r'"\ud800"')),
    ("lone_surrogate", raw(note=r'["\udfff"]')),
    ("lone_surrogate", raw(note=r'{"\ud800": 1}')),
    ("not_a_number", raw(price="NaN")),
    ("not_a_number", raw(note="-Infinity")),
    ("number_too_large", raw(price="1e400")),
    ("number_too_large", raw(note="[1e400]")),
    ("text_too_long", cart("bad", country="c" * 101)),
    ("too_old", cart("bad", timestamp="1999-12-31T23:59:59Z")),
    ("in_the_future", cart("bad", timestamp=AHEAD)),
    ("rejected_by_database", cart("bad", country="Atlantis")),
    ("rejected_by_database", cart("bad", country="Atlantis", note=1)),
]


def test_poison_of_every_kind_is_kept_with_its_reason_and_costs_its_neighbours_nothing(world: World) -> None:
    world.execute(f"alter table {TABLE} add check (country <> 'Atlantis')")
    good = [cart(f"good-{number}", price=0.1, quantity=3, country="Åland 🏝") for number in range(2 * len(POISON))]
    values = [
        value for number, (_, poison) in enumerate(POISON) for value in (good[2 * number], poison, good[2 * number + 1])
    ]
    # each between its neighbours in one partition
    sent = world.send(values, partitions=[number // 3 % 3 for number in range(len(values))])
    world.ingest(max_offsets=11, catch_up_offsets=11)
    letters = {
        (row["kafka_partition"], row["kafka_offset"]): (row["reason"], row["payload"] and bytes(row["payload"]))
        for row in world.rows("select * from ops.dead_letters")
    }
    assert letters == dict(zip(sent[1::3], POISON, strict=True))
    world.await_ids(good)
    assert world.rows(f"select sum(price) as price, sum(quantity) as quantity from {TABLE}") == [
        {"price": len(good) * Decimal("0.1"), "quantity": len(good) * 3}
    ]
    batches = world.ledger()
    assert len(batches) > len(values) / 11
    assert sum(batch["dead_letters"] for batch in batches) == len(POISON)


def test_huge_messages_in_a_row_are_taken_in_batches_that_fit(world: World, soak: bool) -> None:
    most, pace = (2000, {}) if soak else (200, {"max_offsets": 200, "catch_up_offsets": 200})
    poison = b'{"event_id": "' + KILOBYTES_900.encode()
    for start in range(0, most, 100):
        world.send([cart(f"huge-{number}", note={"text": KILOBYTES_900}) for number in range(start, start + 100)])
    world.send([poison])
    world.ingest(**pace)
    query = f"select count(*) as n, min(length(extra -> 'note' ->> 'text')) as length from {TABLE}"
    assert world.rows(query) == [{"n": most, "length": len(KILOBYTES_900)}]
    (letter,) = world.rows("select reason, payload from ops.dead_letters")
    assert (letter["reason"], bytes(letter["payload"])) == ("not_json", poison)
    batches = world.ledger()
    # all of them at once were too large
    assert max(batch["rows_in"] for batch in batches) <= (10_000 // 4**3 if soak else 50)
    assert sum(batch["rows_in"] for batch in batches) == most + 1


def test_messages_gone_before_a_run_begins_stop_it_with_the_range(world: World) -> None:
    world.send(carts(0, 30))
    world.ingest()
    world.send(carts(30, 60))
    world.truncate(1, before=15)
    for publish in (True, False):
        with pytest.raises(DataLoss, match=rf"{world.topic}: offsets 10 to 14 of partition 1 are gone from Kafka"):
            world.ingest(publish=publish)
    world.await_ids(carts(0, 30))


BATCH_WAITS = (
    "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    " and query like '%%for update'"
)
"""The run's sign of life waits for the head too, and that is no batch."""


def test_messages_gone_under_a_run_at_work_stop_it_within_one_batch_with_the_range(world: World) -> None:
    world.send(carts(0, 30))
    with (
        stored.connected(world.config, "realtime") as connection,
        world.at_work(trigger_interval="0 seconds") as run,
    ):
        world.await_ids(carts(0, 30))
        with connection, connection.cursor() as cursor:
            cursor.execute("select from ops.ingest_heads where source_table = %s for update", [TABLE])
            # the next batch waits for the head, and what follows it is gone before anyone has read it
            world.send(carts(30, 31), partitions=[2])
            eventually(lambda: world.rows(BATCH_WAITS))
            world.send(carts(31, 61))
            world.truncate(2, before=15)
        with pytest.raises(DataLoss, match=rf"{world.topic}: offsets 11 to 14 of partition 2 are gone from Kafka"):
            run.result(timeout=180)
    assert [batch["rows_in"] for batch in world.ledger()] == [30, 1]


def test_a_topic_made_anew_stops_the_run(world: World) -> None:
    world.send(carts(0, 30))
    world.ingest()
    with world.admin() as admin:
        admin.delete_topics([world.topic])
        eventually(lambda: world.topic not in admin.list_topics())
        admin.create_topics([NewTopic(world.topic, num_partitions=3, replication_factor=1)])
    world.send(carts(30, 36))
    with pytest.raises(DataLoss, match=rf"{world.topic}: partition 0 ends at offset 2, and {TABLE} has read up to 10"):
        world.ingest()


@pytest.mark.parametrize(
    "time", [-(10**16), -6_795_364_578_871_345_152], ids=["beyond Spark's range", "Go's zero time"]
)
def test_a_message_whose_record_time_spark_can_not_read_costs_its_neighbours_nothing(world: World, time: int) -> None:
    odd = cart("odd")
    world.send(carts(0, 20))
    with closing(KafkaProducer(bootstrap_servers=world.config.kafka_bootstrap)) as producer:
        producer.send(world.topic, odd, key=b"key", partition=1, timestamp_ms=time).get(timeout=60)
    world.send(carts(20, 40))
    assert world.ingest(publish=False).total("rows_written") == 41
    world.ingest()
    world.await_ids([*carts(0, 40), odd])
    assert sum(batch["rows_in"] for batch in world.ledger()) == 41


def test_a_saver_at_work_goes_on_behind_a_record_time_that_spark_can_not_read(world: World) -> None:
    with world.at_work() as run:
        world.send(carts(0, 10))
        world.await_ids(carts(0, 10))
        with closing(KafkaProducer(bootstrap_servers=world.config.kafka_bootstrap)) as producer:
            producer.send(world.topic, cart("odd"), key=b"key", partition=1, timestamp_ms=-(10**16)).get(timeout=60)
        world.send(carts(10, 20))
        world.await_ids([*carts(0, 20), cart("odd")])
        assert not run.done()


@pytest.mark.parametrize("size", [100, 150], ids=lambda size: f"{size} MiB")
def test_a_message_that_is_huge_once_decompressed_is_a_dead_letter_and_costs_its_neighbours_nothing(
    world: World, size: int, soak: bool
) -> None:
    if size == 100 and not soak:
        pytest.skip("long: --soak runs it")
    huge = b'{"event_id": "' + b"x" * (size << 20) + b'"}'
    options = {"compression_type": "gzip", "max_request_size": 1 << 30, "request_timeout_ms": 120_000}
    world.send(carts(0, 10))
    with closing(KafkaProducer(bootstrap_servers=world.config.kafka_bootstrap, **options)) as producer:
        producer.send(world.topic, huge, key=b"key", partition=1).get(timeout=180)
    world.send(carts(10, 20))
    world.ingest()
    world.await_ids(carts(0, 20))
    [letter] = world.rows("select reason, length(payload) as length from ops.dead_letters")
    assert (letter["reason"], letter["length"]) == ("too_large", 1 << 20)
    assert sum(batch["rows_in"] for batch in world.ledger()) == 21
