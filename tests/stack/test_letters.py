"""Dead letters by hand, on the real database and Kafka, through the command line."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stored
from kafka import KafkaConsumer, TopicPartition
from line import Schedule
from psycopg2.extensions import connection as Connection
from typer.testing import CliRunner

from lib import database
from lib.ingest import dead_letters
from lib.ingest.dead_letters import Choice
from lib.schemas import CART_EVENTS, REFUSED_BY_DATABASE
from lib.settings import ROOT, Settings
from schedule import app

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)
PARTITION = 900
"""Kafka has no such partition: letters with it are the tests' own."""


class Shelf:
    """Letters of a test: they are put there as the savers do it, and taken away after the test."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ids: list[int] = []

    def put(self, payload: bytes | None, reason: str = "wrong_type", **columns: Any) -> int:
        """Bury a message; returns the letter's id."""
        row = {
            "topic": CART_EVENTS.topic,
            "kafka_partition": PARTITION,
            "kafka_offset": len(self._ids),
            "payload": payload,
            "reason": reason,
            "detail": "what was wrong",
            "source_table": "cart_events",
            "ingest_batch_id": 1,
        } | columns
        names = ", ".join(row)
        query = f"insert into ops.dead_letters ({names}) values %s returning dead_letter_id"
        self._ids.append(stored.scalar(self._connection, query, tuple(row.values())))
        return self._ids[-1]

    def replayed(self) -> list[bool]:
        """Whether each letter is stamped, in the order of putting."""
        query = "select replayed_at from ops.dead_letters where dead_letter_id = any(%s) order by dead_letter_id"
        return [row["replayed_at"] is not None for row in stored.rows(self._connection, query, self._ids)]

    def clear(self) -> None:
        """Take them away."""
        query = "delete from ops.dead_letters where dead_letter_id = any(%s) returning 1"
        stored.rows(self._connection, query, self._ids)


@pytest.fixture
def shelf(realtime: Connection) -> Iterator[Shelf]:
    """Where a test puts its letters; those that the stack has already count as replayed meanwhile."""
    others = stored.rows(
        realtime,
        "update ops.dead_letters set replayed_at = created_at where replayed_at is null returning dead_letter_id",
    )
    shelf = Shelf(realtime)
    yield shelf
    shelf.clear()
    ids = [row["dead_letter_id"] for row in others]
    stored.rows(
        realtime,
        "update ops.dead_letters set replayed_at = null where dead_letter_id = any(%s) returning 1",
        ids,
    )


Call = Callable[..., str]


@pytest.fixture
def call(stack: Settings) -> Call:
    """`schedule.py dead-letters` with arguments, in this process; returns what it says, errors included."""

    def run(*arguments: str, expect: int = 0) -> str:
        done = CliRunner().invoke(app, ["dead-letters", *arguments])
        assert done.exit_code == expect, done.output
        return done.output

    return run


def cart(event_id: str, time: datetime = TIME, **fields: Any) -> bytes:
    """A cart event's JSON."""
    document = {"event_id": event_id, "event_type": "add", "user_id": "u", "product_id": "p"}
    return json.dumps(document | {"timestamp": time.isoformat()} | fields).encode()


def in_kafka(config: Settings) -> list[tuple[bytes | None, bytes]]:
    """Key and value of each message that the carts' topic holds."""
    found = []
    with closing(KafkaConsumer(bootstrap_servers=config.kafka_bootstrap, enable_auto_commit=False)) as consumer:
        places = [TopicPartition(CART_EVENTS.topic, partition) for partition in range(3)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        while any(consumer.position(place) < end for place, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += [(record.key, record.value) for record in records]
    return found


def sent(config: Settings, event_id: str) -> list[tuple[bytes | None, bytes]]:
    """The messages of the carts' topic with an event's id."""
    return [(key, value) for key, value in in_kafka(config) if event_id.encode() in value]


def test_list_counts_by_table_and_reason_with_an_example_that_waits(shelf: Shelf, call: Call) -> None:
    shelf.put(b"1", "planted", detail="the first", created_at=TIME)
    waiting = shelf.put(b"2", "planted", detail="evil \x1b[31m [red]text[/red]")
    shelf.put(b"3", "planted", detail="the last", replayed_at=TIME)
    shelf.put(b"4", "planted", source_table="transactions")
    [row] = json.loads(call("list", "--reason=planted", "--table=cart_events", "--json"))
    assert (row["messages"], row["waiting"], row["example_id"]) == (3, 2, waiting)
    assert row["oldest"] == str(TIME) < row["newest"]
    shown = call("list", "--reason=planted")
    assert "transactions" in shown
    assert f"{waiting}: evil \\x1b[31m [red]text[/red]" in shown
    assert "\x1b" not in shown
    assert call("list", "--reason=none") == "no dead letters\n"


def test_a_letter_is_shown_with_nothing_that_a_terminal_would_obey(shelf: Shelf, call: Call) -> None:
    payload = '{"a": "\x1b]0;title\x07 \u202egnp.exe", \n "b": "ü[bold]:smile:"}'.encode() + b"\xff\x9b"
    letter = shelf.put(payload, "invalid_utf8", message_key=b"\x1bkey", detail="byte \x1b[2J")
    shown = call("show", str(letter))
    assert shown.replace("\n", "").isprintable()
    for part in (
        f"{CART_EVENTS.topic}, partition {PARTITION}, offset 0",
        "invalid_utf8",
        r"byte \x1b[2J",
        r"\x1bkey",
        r'{"a": "\x1b]0;title\x07 \u202egnp.exe", ',
        r' "b": "ü[bold]:smile:"}\xff\x9b',
        f"{len(payload)} bytes",
    ):
        assert part in shown
    raw = CliRunner().invoke(app, ["dead-letters", "show", str(letter), "--raw"])
    assert raw.stdout_bytes == payload


def test_what_the_decoder_takes_today_is_sent_and_stamped_and_the_rest_is_named_and_left(
    stack: Settings, shelf: Shelf, call: Call
) -> None:
    good = shelf.put(cart("replay-1"), "in_the_future", message_key=b"key")
    early = shelf.put(cart("replay-2", datetime.now(UTC) + timedelta(hours=1)), "in_the_future")
    bad = shelf.put(cart("replay-3", quantity="2"), "wrong_type")
    shelf.put(cart("replay-4"), REFUSED_BY_DATABASE)
    shelf.put(None, "not_json")
    plan = call("replay", "--dry-run", expect=1)
    assert f"letter {good} would be sent to {CART_EVENTS.topic}" in plan
    assert "1 would be sent, 3 left as they are" in plan
    assert shelf.replayed() == [False] * 5
    assert sent(stack, "replay-") == []

    done = call("replay", expect=1)
    assert f"letter {good} sent to {CART_EVENTS.topic}, partition" in done
    assert f"letter {early} is left: in_the_future" in done
    assert f"letter {bad} is left: wrong_type: quantity" in done
    assert shelf.replayed() == [True, False, False, False, False]
    assert sent(stack, "replay-") == [(b"key", cart("replay-1"))]


def test_a_letter_is_sent_once_unless_asked_again(stack: Settings, shelf: Shelf, call: Call) -> None:
    letter = shelf.put(cart("once-1"))
    call("replay", "--reason=wrong_type")
    assert "0 sent, 0 left" in call("replay")
    assert f"letter {letter} is left: it was replayed at" in call("replay", str(letter), expect=1)
    assert len(sent(stack, "once-1")) == 1
    call("replay", str(letter), "--again")
    assert len(sent(stack, "once-1")) == 2


def test_what_the_database_refused_is_sent_only_by_its_id(stack: Settings, shelf: Shelf, call: Call) -> None:
    letter = shelf.put(cart("refused-1"), REFUSED_BY_DATABASE)
    assert "by its id only" in call("replay", f"--reason={REFUSED_BY_DATABASE}", expect=2)
    call("replay")
    assert shelf.replayed() == [False]
    call("replay", str(letter))
    assert shelf.replayed() == [True]
    assert len(sent(stack, "refused-1")) == 1


def test_a_mended_letter_is_stored_by_the_saver_and_sent_twice_it_is_a_duplicate(
    stack: Settings, shelf: Shelf, call: Call, schedule: Schedule, realtime: Connection, tmp_path: Path
) -> None:
    letter = shelf.put(cart("mended-1", quantity="2"))
    mended = tmp_path / "mended.json"
    mended.write_bytes(cart("mended-1", quantity="still wrong"))
    left = call("replay", str(letter), f"--payload={mended}", expect=1)
    assert f"letter {letter} is left: wrong_type: quantity" in left
    assert shelf.replayed() == [False]
    mended.write_bytes(cart("mended-1", quantity=2))
    call("replay", str(letter), f"--payload={mended}")
    # as after a crash between sending and stamping
    call("replay", str(letter), f"--payload={mended}", "--again")
    duplicates = (
        "select coalesce(sum(duplicates), 0)::bigint from ops.ingest_batches where source_table = 'cart_events'"
    )
    before = stored.scalar(realtime, duplicates)
    schedule("run", "ingest/cart_events")
    [row] = stored.rows(realtime, "select quantity from cart_events where event_id = 'mended-1'")
    assert row["quantity"] == 2
    assert len(sent(stack, "mended-1")) == 2
    assert stored.scalar(realtime, duplicates) > before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "999999999"], "there is no dead letter 999999999"),
        (["show", "999999999"], "there is no dead letter 999999999"),
        (["replay", "1", "2", "--payload", str(ROOT / "README.md")], "for one letter"),
        (["replay", "--payload", str(ROOT / "README.md")], "for one letter"),
        (["replay", "1", "--reason=wrong_type"], "not both"),
        (["replay", "--table=customers"], "customers"),
    ],
)
@pytest.mark.usefixtures("stack")
def test_wrong_use_is_a_line_and_exit_code_2(call: Call, arguments: list[str], message: str) -> None:
    assert message in call(*arguments, expect=2)


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("GM_REALTIME_PORT", "the realtime database isn't reachable at localhost:1"),
        ("GM_KAFKA_PORT", "nothing was sent"),
    ],
)
def test_a_part_that_is_away_is_a_line_and_exit_code_1(
    schedule: Schedule, shelf: Shelf, setting: str, message: str
) -> None:
    shelf.put(cart("away-1"))
    done = schedule("dead-letters", "replay", expect=1, **{setting: "1"})
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert shelf.replayed() == [False]


def test_letters_are_sent_in_steps_and_what_is_buried_meanwhile_waits(
    stack: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "AT_ONCE", 2)
    for number in range(5):
        shelf.put(cart(f"steps-{number}"))
    with closing(database.connect("realtime")) as connection:
        outcomes = dead_letters.replay(connection, Choice())
        first = next(outcomes)
        # as a saver with an older decoder would send one back
        shelf.put(cart("steps-back"))
        assert shelf.replayed() == [True, True, False, False, False, False]
        places = [outcome.place for outcome in (first, *outcomes)]
    assert shelf.replayed() == [True] * 5 + [False]
    assert len(set(places)) == 5
    assert len(sent(stack, "steps-")) == 5


def test_two_replays_at_once_send_each_letter_once(
    stack: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "AT_ONCE", 1)
    for number in range(6):
        shelf.put(cart(f"both-{number}"))

    def replay() -> int:
        with closing(database.connect("realtime")) as connection:
            return len(list(dead_letters.replay(connection, Choice())))

    with ThreadPoolExecutor(2) as pool:
        counts = [task.result() for task in [pool.submit(replay) for _ in range(2)]]
    assert sum(counts) == 6
    assert len(sent(stack, "both-")) == 6
