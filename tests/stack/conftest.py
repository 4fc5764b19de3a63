"""A real stack for the tests of this folder: own free ports, own data, thrown away at the end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import psycopg2
import pytest
from kafka.admin import NewTopic
from pyspark.sql import SparkSession

from lib.stack import scratch

# before anything reads the settings
FOLDER = scratch.folder("test")
os.environ.update(scratch.environment(FOLDER), GM_SPARK_DRIVER_MEMORY="1g")

import line as telling  # noqa: E402
import load  # noqa: E402
import stored  # noqa: E402
from world import World  # noqa: E402

from lib import migrate, spark  # noqa: E402
from lib.ingest import stream  # noqa: E402
from lib.schemas import CART_EVENTS  # noqa: E402
from lib.settings import ROOT, TOPICS, Settings, settings  # noqa: E402
from lib.stack import lifecycle as parts_of_stack  # noqa: E402

WORLDS = count(1)
FOREIGN = {"message.timestamp.type": "CreateTime"}
"""A topic that somebody else has made may keep the times that its producers give."""


@pytest.fixture(scope="session")
def stack() -> Iterator[Settings]:
    """The settings of the running test stack: Kafka, two PostgreSQL servers, two Spark Connect servers."""
    settings.cache_clear()
    config = settings()
    config.runs_dir.mkdir(parents=True)
    try:
        parts_of_stack.up(config)
        yield config
    finally:
        parts_of_stack.down(config)
        shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def schedule(stack: Settings) -> telling.Schedule:
    """Run `schedule.py` with arguments against the test stack; fails the test on another exit code than `expect`."""

    def call(*arguments: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "schedule.py"), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def line(stack: Settings, schedule: telling.Schedule) -> telling.Line:
    """The story told to the stack: what was sent, and what the tables held after each cycle."""
    return telling.tell(stack, schedule)


@pytest.fixture
def realtime(stack: Settings) -> Iterator[stored.Connection]:
    """An administrator's connection to the realtime database."""
    with stored.connected(stack, "realtime") as connection:
        yield connection


@pytest.fixture
def warehouse(stack: Settings) -> Iterator[stored.Connection]:
    """An administrator's connection to the warehouse."""
    with stored.connected(stack, "warehouse") as connection:
        yield connection


@pytest.fixture(scope="module")
def session(stack: Settings) -> Iterator[SparkSession]:
    """A session on the speed layer's server."""
    session = spark.speed()
    yield session
    spark.close(session)


@pytest.fixture
def world(stack: Settings, session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> World:
    """A topic of three partitions, and a realtime database of the test's own that `lib` takes for the real one."""
    name = f"world{next(WORLDS)}"
    with stored.connected(stack, "realtime") as connection:
        connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            cursor.execute(f"create database {name}")
    config = settings()  # another object than `stack` when a test has had settings of its own
    for setting, address in stored.renamed(config, name).items():
        monkeypatch.setattr(config, setting, address)
    migrate.migrate(config, "realtime")
    monkeypatch.setattr(stream, "LOOK_SECONDS", 1)
    world = World(config, session, name, replace(CART_EVENTS, topic=name))
    with world.admin() as admin:
        admin.create_topics([NewTopic(name, num_partitions=3, replication_factor=1, topic_configs=FOREIGN)])
    return world


@pytest.fixture(scope="module")
def drained(stack: Settings, schedule: telling.Schedule) -> dict[str, int]:
    """Everything that Kafka holds is stored; the last batch of each table."""
    if not all(map(load.is_level, TOPICS)):
        schedule("run", "ingest")
    with stored.connected(stack, "realtime") as connection:
        heads = stored.rows(connection, "select source_table, last_batch from ops.ingest_heads")
    return {head["source_table"]: head["last_batch"] for head in heads}


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test is wanted."""
    return bool(request.config.getoption("soak"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The line comes first: it counts everything in Kafka from the first message on."""
    items.sort(key=lambda item: "line" not in getattr(item, "fixturenames", ()))
