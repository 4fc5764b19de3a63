"""What the databases themselves refuse, whoever asks: changed facts, versions that contradict each other, changed migrations."""

import shutil
from pathlib import Path

import pytest
import stored
from psycopg2 import Error
from psycopg2 import errors as sqlstate

from lib import migrate
from lib.settings import ROOT, Settings

CHANGES = {
    "update": "update {} set ingest_batch_id = ingest_batch_id",
    "delete": "delete from {}",
    "truncate": "truncate {}",
}


@pytest.mark.usefixtures("line")
@pytest.mark.parametrize("fact", stored.FACTS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("admin", "error"),
    [(False, sqlstate.InsufficientPrivilege), (True, sqlstate.RestrictViolation)],
    ids=["etl", "admin"],
)
def test_facts_are_append_only_for_the_jobs_and_for_everyone_else(
    stack: Settings, fact: str, change: str, admin: bool, error: type[Error]
) -> None:
    with (
        stored.connected(stack, "warehouse", admin=admin) as connection,
        connection.cursor() as cursor,
        pytest.raises(error, match=fact),
    ):
        cursor.execute(CHANGES[change].format(fact))


@pytest.mark.usefixtures("line")
@pytest.mark.parametrize(("table", "key"), [("transactions", "transaction_id"), ("cart_events", "event_id")])
def test_the_savers_can_neither_change_nor_remove_what_is_stored(stack: Settings, table: str, key: str) -> None:
    for statement in (f"update {table} set {key} = {key}", f"delete from {table}", f"truncate {table}"):
        with (
            stored.connected(stack, "realtime", admin=False) as connection,
            connection.cursor() as cursor,
            pytest.raises(sqlstate.InsufficientPrivilege),
        ):
            cursor.execute(statement)


VERSIONS = {
    "overlapping": ("2025-12-22", "2025-12-26", sqlstate.ExclusionViolation),
    "a second current": ("2999-01-01", None, (sqlstate.UniqueViolation, sqlstate.ExclusionViolation)),
    "empty": ("2025-11-01", "2025-11-01", sqlstate.CheckViolation),
}


@pytest.mark.usefixtures("line")
@pytest.mark.parametrize("case", VERSIONS)
@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("dim_customers", "user_id, customer_segment", ["medium", "New"]),
        ("dim_products", "product_id, category", ["aba", "A"]),
    ],
)
def test_versions_that_contradict_each_other_are_refused(
    warehouse: stored.Connection, table: str, columns: str, values: list[str], case: str
) -> None:
    start, end, error = VERSIONS[case]
    statement = f"insert into {table} ({columns}, effective_date, end_date, is_current) values (%s, %s, %s, %s, %s)"
    with warehouse.cursor() as cursor, pytest.raises(error):
        cursor.execute(statement, [*values, start, end, end is None])


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the warehouse's migrations."""
    return Path(shutil.copytree(ROOT / "sql" / "warehouse", tmp_path / "warehouse"))


def test_a_changed_applied_migration_is_refused_by_name(stack: Settings, migrations: Path) -> None:
    file = migrations / "003_facts.sql"
    file.write_text(file.read_text() + "\n-- a word\n")
    with pytest.raises(migrate.MigrationError, match=r"003_facts\.sql was changed after it was applied"):
        migrate.migrate(stack, "warehouse", migrations)


def test_an_applied_migration_that_is_gone_is_refused_by_name(stack: Settings, migrations: Path) -> None:
    (migrations / "004_analytics.sql").unlink()
    with pytest.raises(migrate.MigrationError, match=r"004_analytics\.sql was applied and is gone"):
        migrate.migrate(stack, "warehouse", migrations)


def test_a_migration_that_fails_leaves_nothing(stack: Settings, migrations: Path, warehouse: stored.Connection) -> None:
    ledger = stored.rows(warehouse, "select * from ops.migrations order by file")
    (migrations / "999_bad.sql").write_text("create table half_done (id integer);\nselect 1 / 0;\n")
    with pytest.raises(
        migrate.MigrationError, match=r"999_bad\.sql failed, and nothing of it was applied: division by"
    ):
        migrate.migrate(stack, "warehouse", migrations)
    assert stored.scalar(warehouse, "select to_regclass('half_done')") is None
    assert stored.rows(warehouse, "select * from ops.migrations order by file") == ledger
