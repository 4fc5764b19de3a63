"""Each identifier of the program as the name of an unknown field: stored in a real table, and read by every query."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, cast

import psycopg2
import pyarrow as pa
import pytest
import stored
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from pyspark.sql import SparkSession

from lib import database, migrate
from lib.cli import status
from lib.etl import facts
from lib.ingest import dead_letters
from lib.ingest.evolution import MOST
from lib.ingest.sink import MESSAGES, Writer, write_batch
from lib.ledger import receipt, totals
from lib.ledger.cuts import Cut, Window
from lib.schemas import CONTRACTS
from lib.settings import ROOT, Settings, overridden
from lib.warehouse import culprits, held, quality
from lib.warehouse.load import Load
from tests.fuzz.identifiers import harvest, harvest_of_loads
from tests.fuzz.values import NAMES

WRITER = Writer(1, "names")
DAY = date(2026, 3, 1)
VALUES = ('"homepage"', "12.50", "true")
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
EVENT = {"user_id": "u", "country": "Chad"}
SHOPPING = EVENT | {"product_id": "p", "session_id": "s", "category": "Books", "timestamp": f"{DAY}T12:00:00Z"}
COLUMNS = 1500
"""Columns that are added to a table at once; PostgreSQL's limit is 1,600."""
NO_SPARK = cast(SparkSession, None)
PLAIN: dict[str, dict[str, Any]] = {
    "transactions": EVENT
    | {"transaction_timestamp": f"{DAY}T12:00:00Z", "total_amount": 59.98}
    | {"products": [{"product_id": "p", "quantity": 2, "price": 29.99, "category": "Books"}]},
    "product_view_events": SHOPPING | {"event_type": "view", "view_duration": 3},
    "cart_events": SHOPPING | {"event_type": "add", "quantity": 1, "price": 2.5},
}


@pytest.fixture
def template(stack: Settings) -> Iterator[Settings]:
    """Settings whose realtime database is `names`, which each group of names makes anew from an empty one."""
    server = stack.dsn("realtime", admin=True).rpartition("/")[0]
    _make(server, "names_template", "template1")
    dsn, admin = (stack.dsn("realtime", admin=admin).rpartition("/")[0] for admin in (False, True))
    with overridden(
        GM_EMBEDDED=",".join(part for part in stack.parts if part != "realtime"),
        GM_REALTIME_DSN=f"{dsn}/names_template",
        GM_REALTIME_ADMIN_DSN=f"{admin}/names_template",
    ) as config:
        migrate.migrate(config, "realtime")
    with overridden(
        GM_EMBEDDED=",".join(part for part in stack.parts if part != "realtime"),
        GM_REALTIME_DSN=f"{dsn}/names",
        GM_REALTIME_ADMIN_DSN=f"{admin}/names",
    ) as config:
        yield config


def _make(server: str, name: str, template: str) -> None:
    with closing(psycopg2.connect(f"{server}/postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"drop database if exists {name} with (force)")
            cursor.execute(f"create database {name} template {template}")


def test_every_name_is_stored_and_no_query_minds(template: Settings) -> None:
    names = sorted({*harvest(), *NAMES} - {"\n"})
    columns = [name for name in names if COLUMN.fullmatch(name)]
    others = [name for name in names if not COLUMN.fullmatch(name)]
    failures = []
    for start in range(0, len(columns), MOST):
        failures += _meet(template, columns[start : start + MOST])
    failures += _meet(template, others)
    assert not failures, "\n".join(failures)


def _meet(config: Settings, names: Sequence[str]) -> list[str]:
    """Store events with fields of these names, and run every query; on failure name by name, to find who it was."""
    try:
        _meet_together(config, names)
    except Exception as error:
        if len(names) == 1:
            return [f"{names[0]!r}: {type(error).__name__}: {str(error)[:300]}"]
        middle = len(names) // 2
        apart = [*_meet(config, names[:middle]), *_meet(config, names[middle:])]
        return apart or [f"only together: {names}: {error!r:.300}"]
    return []


def _meet_together(config: Settings, names: Sequence[str]) -> None:
    _make(config.dsn("realtime", admin=True).rpartition("/")[0], "names", "names_template")
    with closing(database.connect("realtime")) as connection:
        for table in CONTRACTS:
            _store(connection, table, names)
            with connection, connection.cursor() as cursor:
                cursor.execute(f"select * from {table}_full")
                assert cursor.rowcount == len(_events(table, names))
            receipt.read(connection, CONTRACTS[table], WRITER.query_id, "published")
        dead_letters.summary(connection)
    with closing(database.connect("realtime")) as connection:
        assert not any(known.counts["dead_letters"] for known in totals.refresh(connection, {}).values())
    status.read([])
    with closing(database.connect("realtime")) as realtime, closing(database.connect("warehouse")) as loaded:
        for window in _windows(realtime):
            _ask(realtime, Load("names", NO_SPARK, loaded, window, False))
        _put_aside(config)
        for window in _windows(realtime):
            _ask(realtime, Load("names", NO_SPARK, loaded, window, False))


def _store(connection: Connection, table: str, names: Sequence[str]) -> None:
    """Store events with these names; the same again, which are duplicates; and the same ids with something else."""
    contract = CONTRACTS[table]
    events = _events(table, names)
    others = [event.replace(b'"u"', b'"other"') for event in events]
    for number, batch in enumerate((events, events, others)):
        start = number * len(events)
        rows = [
            {"partition": 0, "offset": start + place, "key": None, "value": value} for place, value in enumerate(batch)
        ]
        with connection:
            taken = write_batch(
                connection, contract, pa.Table.from_pylist(rows, MESSAGES), WRITER, number, kafka="localhost:1"
            )
        assert taken is not None
        counts = (taken.rows_written, taken.duplicates, taken.conflicts, taken.dead_letters)
        assert counts == ((len(rows), 0, 0, 0), (0, len(rows), 0, 0), (0, len(rows), len(rows), 0))[number], counts


def _events(table: str, names: Sequence[str]) -> list[bytes]:
    """An event for each name that isn't declared, one with all of them, and a plain one."""
    declared = {field.name for field in CONTRACTS[table].fields}
    fields = {name: VALUES[place % len(VALUES)] for place, name in enumerate(names) if name not in declared}
    texts = []
    for place, given in enumerate([{name: value} for name, value in fields.items()] + [fields, {}]):
        plain = PLAIN[table] | {CONTRACTS[table].key: f"event {place}"}
        members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
        members += [f"{json.dumps(name)}: {value}" for name, value in given.items()]
        texts.append("{" + ", ".join(members) + "}")
    return [text.encode() for text in texts]


def _put_aside(config: Settings) -> None:
    """Of each table hold an event, and release another one, which some job had loaded before."""
    rows = [
        (table, event, batch, batch and DAY)
        for table in CONTRACTS
        for event, batch in (("event 0", None), ("event 1", 3))
    ]
    with stored.connected(config, "realtime") as owner, owner, owner.cursor() as cursor:
        cursor.executemany(
            "insert into ops.held_events (source_table, event_id, why, released_batch, released_at, loaded_by)"
            " values (%s, %s, 'names', %s, %s, '{\"other\": 1}')",
            rows,
        )


def _windows(realtime: Connection) -> list[Window]:
    """A first load of everything, and a later one whose open day isn't settled."""
    heads = stored.rows(realtime, "select source_table, last_batch from ops.ingest_heads")
    last = {head["source_table"]: head["last_batch"] for head in heads}
    first, second = Cut(0, DAY, dict.fromkeys(CONTRACTS, 1)), Cut(0, DAY.replace(day=2), last)
    return [Window(None, second, (second,)), Window(first, second, (first, second))]


def _ask(realtime: Connection, load: Load) -> None:
    """Every query of the ETL on the realtime database, but for Spark's."""
    for column in ("user_id", "product_id", "country"):
        culprits.of_keys(load, column, ["u", "p", "Chad"])
    for fact in facts.FACTS:
        held.sums(realtime, load, fact.source)
        culprits.missing(load, fact.table, fact.source)
        quality.about_events(realtime, load, fact)
        realtime.commit()


def test_the_etl_reads_tables_with_a_column_of_every_name(template: Settings, tmp_path: Path) -> None:
    """The notebooks themselves, with events that are held and released, so that every join is made.

    The names are those of loads: others are the business of the queries above.
    """
    names = [name for name in harvest_of_loads() if COLUMN.fullmatch(name)]
    server = template.dsn("warehouse", admin=True).rpartition("/")[0]
    for start in range(0, len(names), COLUMNS):
        _make(template.dsn("realtime", admin=True).rpartition("/")[0], "names", "names_template")
        _make(server, "names_warehouse", "template1")
        dsn = template.dsn("warehouse").rpartition("/")[0]
        with overridden(
            GM_EMBEDDED=",".join(part for part in template.parts if part != "warehouse"),
            GM_WAREHOUSE_DSN=f"{dsn}/names_warehouse",
            GM_WAREHOUSE_ADMIN_DSN=f"{server}/names_warehouse",
            GM_RUNS_DIR=str(tmp_path),
        ) as config:
            migrate.migrate(config, "warehouse")
            with closing(database.connect("realtime")) as connection:
                for table in CONTRACTS:
                    _store(connection, table, [])
            _add_columns(config, names[start : start + COLUMNS])
            _put_aside(config)
            command = [sys.executable, str(ROOT / "schedule.py"), "run", "etl"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            with closing(database.connect("warehouse")) as connection:
                for table in ("fact_sales", "fact_product_views", "fact_cart_events"):
                    # of two events one is held, and one released into a later batch
                    assert stored.scalar(connection, f"select count(*) from {table}") == 1


def _add_columns(config: Settings, names: Sequence[str]) -> None:
    """Give each realtime table a column of each name that it hasn't got."""
    with stored.connected(config, "realtime") as owner, owner, owner.cursor() as cursor:
        for table in CONTRACTS:
            cursor.execute("select attname from pg_attribute where attrelid = %s::regclass", [table])
            known = {name for (name,) in cursor}
            added = [
                sql.SQL("add column {} text default 'foreign'").format(sql.Identifier(name))
                for name in names
                if name not in known
            ]
            cursor.execute(sql.SQL("alter table {} {}").format(sql.Identifier(table), sql.SQL(", ").join(added)))
