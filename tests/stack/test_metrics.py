"""Metrics against the ledger of a realtime database of their own on the real server, and the real Kafka's offsets."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
import stored
from kafka import KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from generators.events import Event
from generators.producer import produce
from lib import migrate
from lib.ingest import sink
from lib.ledger import jobs, metrics
from lib.ledger.head import LATENCY_SECONDS, read_head
from lib.ledger.metrics import Exporter
from lib.schemas import CART_EVENTS, CONTRACTS
from lib.settings import ROOT, TOPICS, Settings
from lib.stack import lifecycle as parts_of_stack
from lib.stack import scratch

Samples = dict[tuple[str, ...], float]
"""Value by the name of the sample and the values of its labels, the table first."""

names = count()
PARTS = ("realtime", "warehouse", "kafka")

RUNS = """
insert into ops.cuts (run_date, transactions, product_view_events, cart_events, created_at)
values ('2026-01-01', 1, 1, 1, '2026-01-01 00:00+00'), ('2026-01-01', 2, 2, 2, '2026-01-01 00:10+00');
insert into ops.job_runs (run_id, cycle_id, job, run_date, cut_id, status, started_at, finished_at)
select number::text, cycle_id, job, '2026-01-01', cut_id, status, '2026-01-01'::timestamptz + began * interval '1 minute',
    '2026-01-01'::timestamptz + ended * interval '1 minute'
from (
    values
        (1, '20260101T000000-batch-3f2a', 'etl/good', 1, 'done', 1, 2),
        (2, '20260101T001000-batch-3f2b', 'etl/good', 2, 'done', 11, 12),
        (3, '20260101T000000-batch-3f2a', 'etl/failing', 1, 'done', 1, 2),
        (4, '20260101T001000-batch-3f2b', 'etl/failing', 2, 'killed', 11, 12),
        (5, '20260101T001000-batch-3f2b', 'etl/failing', 2, 'skipped', 13, 13),
        (6, '20260101T000000-batch+weekly-3f2a', 'etl/at_work', 1, 'done', 1, 3),
        (7, '20260101T001000-batch-3f2b', 'etl/at_work', 2, 'running', 11, null),
        (8, '20260101T000300-explore/by_hand-aaaa', 'explore/by_hand', 1, 'done', 3, 4),
        (9, '20260101T000500-explore/by_hand-bbbb', 'explore/by_hand', 1, 'failed', 5, 6),
        (10, null, 'ingest/saver', null, 'failed', 1, 2),
        (11, '20260101T000000-batch-3f2a', 'etl/taken_away', 1, 'failed', 1, 2)
) as run (number, cycle_id, job, cut_id, status, began, ended)
"""
"""Runs of cycles of 0:00 and 0:10, of a job by hand, of a saver, and of a notebook that was taken away."""


@pytest.fixture
def config(stack: Settings) -> Iterator[Settings]:
    """The settings of the stack, but for an empty realtime database of the test's own."""
    name = f"metrics_{next(names)}"
    with closing(psycopg2.connect(stack.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    own = stack.model_copy(update=stored.renamed(stack, name))
    migrate.migrate(own, "realtime")
    yield own
    with closing(psycopg2.connect(stack.dsn("realtime", admin=True))) as connection, connection.cursor() as cursor:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        cursor.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is slow to answer isn't away."""
    monkeypatch.setattr(metrics, "ANSWER_SECONDS", 60)


@pytest.fixture
def exporter(config: Settings) -> Iterator[Exporter]:
    """An exporter that has seen nothing yet."""
    with closing(Exporter(config)) as exporter:
        yield exporter


def scrape(exporter: Exporter) -> Samples:
    """What Prometheus would read."""
    registry = CollectorRegistry()
    registry.register(exporter)
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> Samples:
    """The samples of an exposition; each family has a help text, and no sample comes twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            table = [sample.labels.pop("table")] if "table" in sample.labels else []
            key = (sample.name, *table, *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return found


def document(event_id: str, age: float = 0, **fields: Any) -> bytes:
    """An event that fits each of the three contracts, so many seconds old."""
    moment = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    line = {"product_id": "p", "quantity": 1, "price": 1}
    known = {"transaction_id": event_id, "transaction_timestamp": moment, "total_amount": 1, "products": [line]}
    return json.dumps(
        {"event_id": event_id, "event_type": "add", "user_id": "u", "product_id": "p", "timestamp": moment}
        | known
        | fields
    ).encode()


def write(config: Settings, *payloads: bytes, table: str = "cart_events", partition: int = 0) -> None:
    """Commit one micro-batch to the database, as a saver would."""
    with closing(psycopg2.connect(config.dsn("realtime"))) as connection, connection:
        with connection.cursor() as cursor:
            head = read_head(cursor, table)
        start = head.end_offsets.get(partition, 0)
        sent = [{"partition": partition, "offset": start + place, "value": one} for place, one in enumerate(payloads)]
        messages = pa.Table.from_pylist(sent, sink.MESSAGES)
        writer = sink.Writer(1, "metrics")
        kafka = config.kafka_bootstrap
        assert sink.write_batch(connection, CONTRACTS[table], messages, writer, head.last_batch, kafka=kafka)


def rows(config: Settings, query: str, *parameters: Any) -> list[dict[str, Any]]:
    """The rows of a query on the test's database, as its owner."""
    with closing(psycopg2.connect(config.dsn("realtime", admin=True))) as connection:
        return stored.rows(connection, query, *parameters)


def start_realtime(config: Settings) -> None:
    """Start the server of the realtime database, and wait until it answers."""
    parts_of_stack.start(config, ["realtime"])
    retry = retry_if_exception_type(psycopg2.OperationalError)
    connect = Retrying(stop=stop_after_delay(180), wait=wait_fixed(0.1), retry=retry)
    connect(psycopg2.connect, config.dsn("realtime")).close()


def test_the_exposition_is_the_sum_of_the_ledger(config: Settings, exporter: Exporter) -> None:
    same = document("a")
    write(config, same, same, b"no json", document("b", age=3), document("c", age=86400))
    write(config, document("d"), b"\xff", b"no json", document("b", quantity=7))
    write(config, document("e"), table="transactions", partition=2)
    found = scrape(exporter)
    ledger = rows(
        config,
        "select source_table, count(*) as batches, sum(rows_in) as messages, sum(rows_written) as rows,"
        " sum(duplicates) as duplicates, sum(conflicts) as conflicts, sum(latency_seconds) as latency,"
        " extract(epoch from max(committed_at))::float as committed,"
        " extract(epoch from max(committed_at) - min(committed_at))::float as between"
        " from ops.ingest_batches group by source_table",
    )
    assert {row["source_table"] for row in ledger} == {"cart_events", "transactions"}
    assert sum(row["duplicates"] for row in ledger) > sum(row["conflicts"] for row in ledger) > 0
    for row in ledger:
        table = row["source_table"]
        for name in ("batches", "messages", "rows", "duplicates", "conflicts"):
            assert found[f"globalmart_ingest_{name}_total", table] == row[name]
        assert found["globalmart_ingest_last_commit_timestamp_seconds", table] == row["committed"]
        assert found["globalmart_ingest_commit_interval_seconds_count", table] == row["batches"] - 1
        assert found["globalmart_ingest_commit_interval_seconds_sum", table] == pytest.approx(row["between"])
        assert found.get(("globalmart_ingest_latency_seconds_sum", table), 0) == pytest.approx(row["latency"])
        assert 0 <= found["globalmart_ingest_heartbeat_age_seconds", table] < 600
    letters = {
        key[1:]: value for key, value in found.items() if key[0] == "globalmart_ingest_dead_letters_total" and value
    }
    assert letters == {("cart_events", "not_json"): 2, ("cart_events", "invalid_utf8"): 1}
    assert found["globalmart_ingest_rows_total", "product_view_events"] == 0
    assert found["globalmart_up", "realtime"] == found["globalmart_up", "kafka"] == 1


def test_the_latency_histogram_is_that_of_the_buckets_of_the_ledger(config: Settings, exporter: Exporter) -> None:
    write(config, document("a"), document("b", age=3), document("c", age=86400))
    write(config, document("d", age=86400))
    found = scrape(exporter)
    counts: dict[float, int] = {}
    for row in rows(config, "select latency_buckets from ops.ingest_batches"):
        for bound, events in row["latency_buckets"].items():
            counts[float(bound)] = counts.get(float(bound), 0) + events
    name = "globalmart_ingest_latency_seconds"
    buckets = {float(key[2]): value for key, value in found.items() if key[:2] == (f"{name}_bucket", "cart_events")}
    assert buckets == {
        limit: sum(events for bound, events in counts.items() if bound <= limit)
        for limit in (*LATENCY_SECONDS, float("inf"))
    }
    assert buckets[float("inf")] == 4
    assert found.get((f"{name}_count", "cart_events"), 4) == 4
    assert buckets[60] == 2


def test_a_scrape_adds_only_what_is_new(config: Settings, exporter: Exporter) -> None:
    for number in range(3):
        write(config, document(f"a{number}"), b"no json")
    before = scrape(exporter)
    assert scrape(exporter)["globalmart_ingest_rows_total", "cart_events"] == 3
    # what has been counted isn't read any more: it may be gone
    rows(config, "delete from ops.dead_letters returning 1")
    rows(config, "delete from ops.ingest_batches where ingest_batch_id < 3 returning 1")
    write(config, document("b"), document("b"), b"no json", b"[]")
    after = scrape(exporter)
    for key, gain in {
        ("globalmart_ingest_rows_total", "cart_events"): 1,
        ("globalmart_ingest_duplicates_total", "cart_events"): 1,
        ("globalmart_ingest_batches_total", "cart_events"): 1,
        ("globalmart_ingest_messages_total", "cart_events"): 4,
        ("globalmart_ingest_dead_letters_total", "cart_events", "not_json"): 1,
        ("globalmart_ingest_commit_interval_seconds_count", "cart_events"): 1,
        ("globalmart_ingest_latency_seconds_bucket", "cart_events", "+Inf"): 2,
    }.items():
        assert after[key] == before[key] + gain, key
    assert after["globalmart_ingest_dead_letters_total", "cart_events", "not_an_object"] == 1


def test_a_database_made_anew_is_counted_from_its_start(config: Settings, exporter: Exporter) -> None:
    for number in range(3):
        write(config, document(f"a{number}"))
    scrape(exporter)
    rows(
        config,
        "truncate ops.ingest_batches, cart_events; update ops.ingest_heads set epoch = 0, last_batch = 0 returning 1",
    )
    write(config, document("b"))
    assert scrape(exporter)["globalmart_ingest_rows_total", "cart_events"] == 1


def test_an_added_column_is_counted(config: Settings, exporter: Exporter) -> None:
    rows(config, "select ops.add_columns('cart_events', array['colour', 'size'], array['text', 'numeric'], 1)::text")
    found = scrape(exporter)
    assert found["globalmart_ingest_schema_changes_total", "cart_events"] == 2
    assert found["globalmart_ingest_schema_changes_total", "transactions"] == 0


def test_lag_is_what_kafka_holds_after_the_head(config: Settings, exporter: Exporter) -> None:
    events = [Event("cart_events", int(time.time() * 1000), document(f"lag{number}")) for number in range(6)]
    assert not produce(events, TOPICS, bootstrap=config.kafka_bootstrap).failed
    with closing(KafkaConsumer(bootstrap_servers=config.kafka_bootstrap)) as consumer:
        places = [TopicPartition(CART_EVENTS.topic, partition) for partition in range(3)]
        first, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
    lag = {str(place.partition): ends[place] - first[place] for place in places}
    write(config, document("first"), partition=1)
    lag["1"] = ends[places[1]] - 1
    found = {
        key[2]: value
        for key, value in scrape(exporter).items()
        if key[:2] == ("globalmart_ingest_lag_messages", "cart_events")
    }
    assert found == lag
    assert all(value > 0 for value in found.values())


def test_a_scrape_is_answered_while_postgresql_is_away_and_goes_on_after(config: Settings, exporter: Exporter) -> None:
    write(config, document("a"))
    before = scrape(exporter)
    parts_of_stack.stop(config, ["realtime"])
    try:
        away = scrape(exporter)
    finally:
        start_realtime(config)
    assert (away["globalmart_up", "realtime"], away["globalmart_up", "kafka"]) == (0, 1)
    rest = {key: value for key, value in away.items() if "_total" in key[0] or "latency" in key[0]}
    assert rest == {key: before[key] for key in rest}
    age = ("globalmart_ingest_heartbeat_age_seconds", "cart_events")
    assert away[age] > before[age]
    write(config, document("b"))
    after = scrape(exporter)
    assert after["globalmart_up", "realtime"] == 1
    assert after["globalmart_ingest_rows_total", "cart_events"] == 2


def test_a_restart_between_two_scrapes_goes_unseen(config: Settings, exporter: Exporter) -> None:
    scrape(exporter)
    parts_of_stack.stop(config, ["realtime"])
    start_realtime(config)
    assert scrape(exporter)["globalmart_up", "realtime"] == 1


def test_a_scrape_is_answered_while_nothing_else_is(config: Settings, caplog: pytest.LogCaptureFixture) -> None:
    ports = scratch.environment(config.data_dir)
    nowhere = {
        "kafka_bootstrap": f"localhost:{ports['GM_KAFKA_PORT']}",
        "realtime_dsn": SecretStr(f"postgresql://u:p@localhost:{ports['GM_REALTIME_PORT']}/realtime"),
        "warehouse_dsn": SecretStr(f"postgresql://u:p@localhost:{ports['GM_WAREHOUSE_PORT']}/warehouse"),
    }
    with closing(Exporter(config.model_copy(update=nowhere))) as exporter:
        found = scrape(exporter)
        assert {found.pop(("globalmart_disk_free_bytes",)) > 0, found.pop(("globalmart_disk_size_bytes",)) > 0} == {
            True
        }
        assert found == {("globalmart_up", part): 0 for part in PARTS}
        scrape(exporter)
    # one line for each part, however often it is asked
    assert len([record for record in caplog.records if record.name == metrics.log.name]) == 3


def test_without_kafka_the_counters_are_there_and_lag_is_not(config: Settings) -> None:
    write(config, document("a"))
    nowhere = {"kafka_bootstrap": f"localhost:{scratch.environment(config.data_dir)['GM_KAFKA_PORT']}"}
    with closing(Exporter(config.model_copy(update=nowhere))) as exporter:
        found = scrape(exporter)
    assert (found["globalmart_up", "realtime"], found["globalmart_up", "kafka"]) == (1, 0)
    assert found["globalmart_ingest_rows_total", "cart_events"] == 1
    assert not [key for key in found if "lag" in key[0]]


def test_the_program_answers_on_loopback(stack: Settings) -> None:
    parts_of_stack.start(stack, ["metrics"])
    address = f"http://127.0.0.1:{stack.metrics_port}/metrics"

    def asked(*chosen: str) -> Samples:
        query = "&".join(f"name[]={name}" for name in chosen)
        with urllib.request.urlopen(f"{address}?{query}" if query else address) as answer:
            return parsed(answer.read().decode())

    # a part that takes longer than three seconds to answer counts as away
    waiting = Retrying(
        stop=stop_after_delay(120),
        wait=wait_fixed(0.25),
        retry=retry_if_exception_type(OSError)
        | retry_if_result(lambda found: {found["globalmart_up", part] for part in PARTS} != {1}),
    )
    try:
        found = waiting(asked)
        up = {("globalmart_up", part) for part in PARTS}
        assert set(asked("globalmart_up")) == up
        rows = {("globalmart_ingest_rows_total", table) for table in CONTRACTS}
        assert set(asked("globalmart_ingest_rows_total", "globalmart_up", "nonsense")) == rows | up
        counts = asked("globalmart_ingest_commit_interval_seconds_count")
        assert {key[0] for key in counts} <= {"globalmart_ingest_commit_interval_seconds_count"}
        assert asked("nonsense") == {}
    finally:
        parts_of_stack.stop(stack, ["metrics"])
    with stored.connected(stack, "realtime") as connection:
        written = stored.scalar(connection, "select coalesce(sum(rows_written), 0)::bigint from ops.ingest_batches")
    assert sum(value for key, value in found.items() if key[0] == "globalmart_ingest_rows_total") == written


def test_jobs_stand_as_their_last_runs_say(stack: Settings, tmp_path: Path) -> None:
    name = f"jobs_{next(names)}"
    owner = stack.dsn("warehouse", admin=True)
    with closing(psycopg2.connect(owner)) as connection, connection.cursor() as cursor:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    for job in ("etl/good", "etl/failing", "etl/at_work", "explore/by_hand", "ingest/saver", "etl/new"):
        (tmp_path / f"{job}.ipynb").parent.mkdir(exist_ok=True)
        (tmp_path / f"{job}.ipynb").touch()
    try:
        with closing(psycopg2.connect(owner, dbname=name)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute("create schema ops")
                cursor.execute((ROOT / "sql" / "warehouse" / "001_ops.sql").read_text())
                cursor.execute(RUNS)
            found = jobs.read(connection, tmp_path)
    finally:
        with closing(psycopg2.connect(owner)) as connection, connection.cursor() as cursor:
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            cursor.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
    assert {job.name: (job.has_failed, _minute(job.finished_at), _minute(job.began_at)) for job in found.jobs} == {
        "etl/good": (False, 12, 10),
        "etl/failing": (True, 2, 0),
        "etl/at_work": (False, 3, 0),
        "explore/by_hand": (True, 4, None),
        "ingest/saver": (None, None, None),
        "etl/new": (None, None, None),
    }
    assert _minute(found.cycle_at) == 10


def _minute(moment: datetime | None) -> int | None:
    return moment.minute if moment else None
