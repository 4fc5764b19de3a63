"""Dead letters by hand: what lies in `ops.dead_letters`, one letter in full, and sending mended ones again."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from lib.ingest.decode import LARGEST, Dead, decode
from lib.plain import printable
from lib.schemas import CONTRACTS, REFUSED_BY_DATABASE
from lib.settings import settings

AT_ONCE = 100
"""Letters in one transaction of a replay: what a crash may send twice, and with messages of 1 MB what is in memory."""

FIND_SECONDS = 5
SEND_SECONDS = 20
NOT_TAKEN = "Kafka didn't take it"


class LetterError(Exception):
    """The letters that were asked for can't be meant; the message says why."""


class BrokerError(Exception):
    """Kafka can't take letters; the message says why and what to do."""


@dataclass(frozen=True)
class Letter:
    """A row of `ops.dead_letters`: a message that couldn't be stored, as it came."""

    dead_letter_id: int
    source_table: str
    topic: str
    kafka_partition: int
    kafka_offset: int
    message_key: bytes | None
    payload: bytes | None
    reason: str
    detail: str
    ingest_batch_id: int
    created_at: datetime
    replayed_at: datetime | None


@dataclass(frozen=True)
class Outcome:
    """What a replay did with a letter: where in its topic the message is now, or why the letter was left as it is.

    Neither of the two: a dry run, and it would have been sent.
    """

    letter: Letter
    place: tuple[int, int] | None = None
    left: str = ""


@dataclass(frozen=True)
class Choice:
    """Which letters are meant: these ids, or all of a reason and table (None: whichever)."""

    ids: Sequence[int] = ()
    reason: str | None = None
    table: str | None = None


SUMMARY = """
with counted as (
    select source_table, reason, count(*) as messages, count(*) filter (where replayed_at is null) as waiting,
        min(created_at) as oldest, max(created_at) as newest,
        coalesce(max(dead_letter_id) filter (where replayed_at is null), max(dead_letter_id)) as example_id
    from ops.dead_letters
    where source_table = coalesce(%(table)s, source_table) and reason = coalesce(%(reason)s, reason)
    group by source_table, reason
)
select c.*, l.detail as example
from counted c join ops.dead_letters l on l.dead_letter_id = c.example_id
order by c.source_table, c.messages desc, c.reason
"""

_LETTERS = sql.SQL("select {} from ops.dead_letters").format(
    sql.SQL(", ").join(map(sql.Identifier, Letter.__dataclass_fields__))
)
"""The letters as they are; what follows in a statement says which."""


def summary(connection: Connection, *, reason: str | None = None, table: str | None = None) -> list[dict[str, Any]]:
    """One row per table and reason: `messages`, `waiting` (not replayed), `oldest`, `newest`, and the newest as example."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(SUMMARY, {"reason": reason, "table": table})
        return [dict(row) for row in cursor.fetchall()]


def read(connection: Connection, dead_letter_id: int) -> Letter:
    """One letter.

    Raises
    ------
    LetterError
        When there is none with this id.
    """
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(sql.SQL("{} where dead_letter_id = %s").format(_LETTERS), [dead_letter_id])
        rows = cursor.fetchall()
    if not rows:
        raise LetterError(f"there is no dead letter {dead_letter_id}")
    return _letter(rows[0])


def replay(
    connection: Connection, choice: Choice, *, payload: bytes | None = None, again: bool = False, dry_run: bool = False
) -> Iterator[Outcome]:
    """Send letters to their topics again, each one that today's decoder takes, and stamp them with the time.

    A letter goes as it stands, or, with a single id, with a mended `payload`. Kafka has acknowledged a message on all
    replicas before its letter is stamped; a crash between the two leaves the letter waiting, and sending it once more
    only gives a duplicate, which the saver drops. A stamped letter is left unless `again`. What is buried while this
    runs isn't meant any more: a saver that still has an older decoder may send letters back.

    Yields
    ------
    Outcome
        For each letter, in the order of their ids, once its stamp is committed.

    Raises
    ------
    LetterError
        When an id is unknown, or a payload doesn't go with exactly one id; nothing was sent.
    BrokerError
        When Kafka doesn't answer or doesn't take a message; the letters after that one weren't tried.
    """
    _check(connection, choice, payload)
    last = _newest(connection)
    after = 0
    with ExitStack() as stack:
        producer = None if dry_run else stack.enter_context(closing(_producer()))
        while True:
            with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
                letters = _next(cursor, choice, again, after, last)
                outcomes = _send(producer, letters, payload, again)
                _stamp(cursor, outcomes)
            yield from outcomes
            if any(outcome.left.startswith(NOT_TAKEN) for outcome in outcomes):
                raise BrokerError(f"Kafka at {settings().kafka_bootstrap} doesn't take everything: see `make status`")
            if not letters:
                return
            after = letters[-1].dead_letter_id


def readable(payload: bytes) -> str:
    """A payload as text that can't harm a terminal: escaped are bytes that aren't UTF-8, and what isn't printed."""
    return printable(payload.decode("utf-8", "backslashreplace"), keep="\n\t")


# --- choosing


def _check(connection: Connection, choice: Choice, payload: bytes | None) -> None:
    """Refuse a choice that can't be meant, before anything is sent."""
    if choice.ids and (choice.reason or choice.table):
        raise LetterError("give ids, or a reason and a table, not both")
    if payload is not None and len(choice.ids) != 1:
        raise LetterError("a mended payload is for one letter: give its id, and only that")
    if choice.reason == REFUSED_BY_DATABASE:
        raise LetterError(
            f"what the database refused is sent by its id only: `dead-letters list --reason {choice.reason}`"
        )
    with connection, connection.cursor() as cursor:
        cursor.execute("select dead_letter_id from ops.dead_letters where dead_letter_id = any(%s)", [list(choice.ids)])
        known = {row[0] for row in cursor.fetchall()}
    if unknown := [str(number) for number in choice.ids if number not in known]:
        raise LetterError(f"there is no dead letter {', '.join(unknown)}; nothing was sent")


def _newest(connection: Connection) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("select coalesce(max(dead_letter_id), 0) from ops.dead_letters")
        [(newest,)] = cursor.fetchall()
        return int(newest)


_WITH_IDS = sql.SQL("dead_letter_id = any(%(ids)s)")

_OF_A_KIND = sql.SQL(
    "source_table = coalesce(%(table)s, source_table) and reason = coalesce(%(reason)s, reason)"
    " and reason <> %(refused)s and (%(again)s or replayed_at is null)"
)


def _next(cursor: Cursor, choice: Choice, again: bool, after: int, last: int) -> list[Letter]:
    """The next few letters of a choice; replays take turns with this, so that no two send the same one."""
    cursor.execute("select pg_advisory_xact_lock(hashtext('globalmart replay'))")
    cursor.execute(
        sql.SQL(
            "{} where {} and dead_letter_id > %(after)s and dead_letter_id <= %(last)s"
            " order by dead_letter_id limit %(at_once)s"
        ).format(_LETTERS, _WITH_IDS if choice.ids else _OF_A_KIND),
        {
            **{"ids": list(choice.ids), "table": choice.table, "reason": choice.reason},
            **{"refused": REFUSED_BY_DATABASE, "again": again, "after": after, "last": last, "at_once": AT_ONCE},
        },
    )
    return [_letter(row) for row in cursor.fetchall()]


def _letter(row: Any) -> Letter:
    blobs = {name: None if row[name] is None else bytes(row[name]) for name in ("message_key", "payload")}
    return Letter(**{**row, **blobs})


# --- sending


def _producer() -> KafkaProducer:
    """A producer whose messages are acknowledged by all replicas; gzip because the topic's limit is one of bytes sent."""
    try:
        return KafkaProducer(
            bootstrap_servers=settings().kafka_bootstrap.split(","),
            bootstrap_timeout_ms=FIND_SECONDS * 1000,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            compression_type="gzip",
            max_request_size=LARGEST,
            max_block_ms=FIND_SECONDS * 1000,
            request_timeout_ms=SEND_SECONDS * 500,
            delivery_timeout_ms=SEND_SECONDS * 1000,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise BrokerError(
            f"no Kafka broker answers at {settings().kafka_bootstrap}: `make up` starts it; nothing was sent"
        ) from error


def _send(
    producer: KafkaProducer | None, letters: Sequence[Letter], payload: bytes | None, again: bool
) -> list[Outcome]:
    """Send what can be sent, all at once, and wait until each message is decided; without a producer nothing is."""
    left = {letter.dead_letter_id: _objection(letter, payload, again) for letter in letters}
    if producer is None:
        return [Outcome(letter, left=left[letter.dead_letter_id]) for letter in letters]
    futures = {}
    for letter in letters:
        if not left[letter.dead_letter_id]:
            value = letter.payload if payload is None else payload
            try:
                futures[letter.dead_letter_id] = producer.send(letter.topic, value, key=letter.message_key)
            except KafkaError as error:
                left[letter.dead_letter_id] = f"{NOT_TAKEN}: {error}"
    places = {}
    for number, future in futures.items():
        try:
            sent = future.get(timeout=2 * SEND_SECONDS)
            places[number] = (sent.partition, sent.offset)
        except KafkaError as error:
            left[number] = f"{NOT_TAKEN}: {error}"
    return [Outcome(letter, places.get(letter.dead_letter_id), left[letter.dead_letter_id]) for letter in letters]


def _objection(letter: Letter, payload: bytes | None, again: bool) -> str:
    """Why a letter stays as it is; empty when it can be sent."""
    if letter.replayed_at and not again:
        return f"it was replayed at {letter.replayed_at:%F %T} UTC; --again sends it once more"
    verdict = decode(CONTRACTS[letter.source_table], letter.payload if payload is None else payload, datetime.now(UTC))
    return f"{verdict.reason}: {verdict.detail}" if isinstance(verdict, Dead) else ""


def _stamp(cursor: Cursor, outcomes: Sequence[Outcome]) -> None:
    sent = [outcome.letter.dead_letter_id for outcome in outcomes if outcome.place]
    query = "update ops.dead_letters set replayed_at = clock_timestamp() where dead_letter_id = any(%s)"
    cursor.execute(query, [sent])
