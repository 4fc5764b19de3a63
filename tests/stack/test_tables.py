"""Both databases as Spark's catalogs: by name, across both, reading only, and as of a load's cut."""

import os
import stat
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import psycopg2.errors
import pytest
import stored
from line import Line
from pushed import push_nothing
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib import spark
from lib import warehouse as warehouse_room
from lib.ledger.cuts import Cut, Window
from lib.schemas import CONTRACTS
from lib.settings import Settings
from lib.warehouse import read
from lib.warehouse.load import Load
from lib.warehouse.read import exact_sum


@pytest.fixture(scope="module")
def batch(stack: Settings) -> Iterator[SparkSession]:
    """A session on the batch layer's server."""
    session = spark.batch()
    yield session
    spark.close(session)


def test_tables_of_both_databases_have_names_and_can_be_joined(batch: SparkSession) -> None:
    both = (
        "select h.source_table from realtime.ops.ingest_heads h join warehouse.public.dim_customers c"
        " on c.customer_id = -1 and c.user_id = '' order by 1"
    )
    assert [row.source_table for row in batch.sql(both).collect()] == sorted(CONTRACTS)
    shown = {row.tableName for row in batch.sql("show tables in warehouse.public").collect()}
    assert {"fact_sales", "dim_customers"} <= shown


@pytest.mark.parametrize(
    "statement",
    [
        "insert into warehouse.public.dim_geography (country) values ('Chad')",
        "create table warehouse.public.mine (a int)",
        "drop table warehouse.public.product_performance",
        "alter table realtime.public.transactions add column mine int",
        "truncate table realtime.public.cart_events",
    ],
)
def test_nobody_writes_through_a_catalog(batch: SparkSession, statement: str) -> None:
    with pytest.raises(PySparkException):
        batch.sql(statement).collect()
    assert batch.table("warehouse.public.product_performance").limit(0).collect() == []
    assert "mine" not in batch.table("realtime.public.transactions").columns


def test_no_setting_of_a_session_tells_a_password(stack: Settings, batch: SparkSession) -> None:
    told = "\n".join(f"{row.key} {row.value}" for row in batch.sql("set").collect())
    assert "spark.sql.catalog.warehouse.url" in told
    for secret in (stack.realtime_password, stack.warehouse_password, stack.admin_password):
        assert secret.get_secret_value() not in told
    assert stat.S_IMODE(os.stat(stack.data_dir / "pgpass").st_mode) == 0o600


def test_a_load_sees_a_fact_as_of_its_cut(line: Line, batch: SparkSession, warehouse: stored.Connection) -> None:
    found = stored.rows(warehouse, "select distinct ingest_batch_id as number from fact_sales order by 1")
    upto = found[len(found) // 2]["number"]
    cut = Cut(0, date(2026, 1, 1), dict.fromkeys(CONTRACTS, upto))
    load = Load("test/tables", batch, warehouse, Window(None, cut, (cut,)), publish=False)
    rows = stored.scalar(warehouse, f"select count(*) from fact_sales where ingest_batch_id <= {upto}")
    assert 0 < rows < stored.scalar(warehouse, "select count(*) from fact_sales")
    assert load.table("fact_sales").count() == rows
    assert load.table("dim_date").count() == stored.scalar(warehouse, "select count(*) from dim_date")


@pytest.mark.parametrize("amount", [10**18, 10**20 + 1, 10**30])
def test_a_sum_of_money_is_exact_or_refused_and_never_wrong(
    batch: SparkSession, warehouse: stored.Connection, amount: int
) -> None:
    with warehouse, warehouse.cursor() as cursor:
        cursor.execute(
            "drop table if exists public.test_sums; create table public.test_sums (amount numeric(38, 2));"
            " grant select on public.test_sums to globalmart_etl;"
            f" insert into public.test_sums values ({amount}), (0.01)"
        )
    frame = batch.table("warehouse.public.test_sums").agg(F.sum("amount").cast("decimal(38, 2)").alias("total"))
    if amount > 10**20:
        with pytest.raises(PySparkException):
            frame.collect()
    else:
        assert frame.collect() == [(Decimal(amount) + Decimal("0.01"),)]
    with warehouse, warehouse.cursor() as cursor:
        cursor.execute("drop table public.test_sums")


@pytest.mark.parametrize("amount", [0, 10**8 - 1, 10**16 - 1, 10**23 - 1])
@pytest.mark.parametrize("pushed", [True, False])
def test_an_exact_sum_is_that_of_postgresql_also_where_spark_would_refuse_it(
    stack: Settings, warehouse: stored.Connection, monkeypatch: pytest.MonkeyPatch, amount: int, pushed: bool
) -> None:
    with warehouse, warehouse.cursor() as cursor:
        cursor.execute(
            "drop table if exists public.test_sums;"
            " create table public.test_sums (name text, amount numeric(38, 2), quantity integer);"
            " grant select on public.test_sums to globalmart_etl;"
            f" insert into public.test_sums select 'many', {amount}.99, 2147483647 from generate_series(1, 20000)"
            f" union all values ('few', {amount}.01, 1), ('few', 99999999.99, 100000000), ('none', null, null)"
        )
    if not pushed:
        push_nothing(monkeypatch)
    session = spark.batch()
    try:
        sums = [exact_sum(column).alias(column) for column in ("amount", "quantity")]
        frame = session.table("warehouse.public.test_sums").groupBy("name").agg(*sums)
        plan = frame._explain_string()  # type: ignore[operator]
        assert ("PushedAggregates: [SUM" in plan) == pushed
        found = {row.name: (row.amount, row.quantity) for row in frame.collect()}
    finally:
        spark.close(session)
    sums_of_postgres = (
        "select name, sum(amount) as amount, sum(quantity) as quantity from public.test_sums group by name"
    )
    expected = stored.rows(warehouse, sums_of_postgres)
    assert found == {row["name"]: (row["amount"], row["quantity"]) for row in expected}
    with warehouse, warehouse.cursor() as cursor:
        cursor.execute("drop table public.test_sums")


def test_a_column_that_no_staging_table_can_have_is_named(stack: Settings) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    try:
        frame = load.session.sql("select 'x' as country, array(1, 2) as numbers")
        with pytest.raises(TypeError, match=r"numbers is of type array<int>; a staging table has boolean, .*: cast it"):
            load.stage("odd", frame, like="dim_geography")
    finally:
        load.abandon()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("'01.11.2026' as analysis_date", "string, and product_performance has it as date"),
        ("timestamp '2026-11-01 12:00:00' as analysis_date", "timestamp, and product_performance has it as date"),
        ("1.7 as total_sales", r"decimal\(2,1\), and product_performance has it as bigint"),
        ("1.7d as total_sales", "double, and product_performance has it as bigint"),
        ("19.999d as total_revenue", "double, and product_performance has it as numeric"),
        ("'12' as total_sales", "string, and product_performance has it as bigint"),
        ("12 as product_id", "int, and product_performance has it as character varying"),
    ],
)
def test_a_column_that_postgresql_would_change_in_silence_is_named_with_both_types(
    stack: Settings, column: str, kind: str
) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    try:
        with pytest.raises(TypeError, match=f"{column.split()[-1]} is of type {kind}: cast it"):
            load.stage("odd", load.session.sql(f"select {column}"), like="product_performance")
    finally:
        load.abandon()


def test_what_a_load_is_asked_for_by_a_wrong_name_is_told_with_the_right_one(stack: Settings) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    try:
        with pytest.raises(LookupError, match=r"transaction is no realtime table .* transactions, product_view_events"):
            load.events("transaction")
        with pytest.raises(ValueError, match="day: a load computes a column of this name"):
            load.events("cart_events", "day")
        with pytest.raises(ValueError, match="is too long: a table's has 63 bytes"):
            load.stage("n" * 51, load.session.range(1), like="product_performance")
        frame = load.session.sql("select 'p' as product_id, date '2026-11-01' as analysis_date, 0.5d as conversion_rat")
        staged = load.stage("odd", frame, like="product_performance")
        with pytest.raises(
            LookupError, match="product_performance has no column conversion_rat; do you mean conversion_rate"
        ):
            load.upsert("product_performance", staged, ["product_id", "analysis_date"])
    finally:
        load.abandon()


def test_a_load_says_how_it_ended_and_that_nothing_was_checked(
    stack: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse_room.begin("test/tables", reads=()).finish()
    assert capsys.readouterr().out.startswith("No rule was checked. test/tables has read up to")


@pytest.mark.parametrize(
    "wrong",
    ["select 'p' as product_id, 1.5d as total_views", "select raise_error('planted') as product_id"],
    ids=["refused", "failed in Spark"],
)
def test_a_load_of_which_a_part_could_not_be_staged_is_not_finished(stack: Settings, wrong: str) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    with pytest.raises((TypeError, PySparkException)):
        load.stage("products", load.session.sql(wrong), like="product_performance")
    with pytest.raises(RuntimeError, match=r"products couldn't be staged, .* mend the cell that failed"):
        load.finish()
    load.stage("products", load.session.sql("select 'p' as product_id"), like="product_performance")
    load.finish()


def test_a_percent_sign_in_a_query_without_values_is_one(stack: Settings) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    try:
        assert load.query("select 'Books' like 'B%' as found").iloc[0, 0]
        assert load.query("select 'Books' like %s as found", "B%").iloc[0, 0]
        assert load.execute("select 1 where 'Books' like 'B%'") == 1
    finally:
        load.abandon()


def test_after_a_statement_that_has_failed_a_load_says_to_begin_again(stack: Settings) -> None:
    load = warehouse_room.begin("test/tables", reads=())
    try:
        with pytest.raises(psycopg2.errors.UndefinedTable):
            load.query("select * from nowhere")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction) as refused:
            load.query("select 1")
        assert "run from `begin` again" in refused.value.__notes__[0]
    finally:
        load.abandon()


@pytest.mark.parametrize(("few", "compiled"), [(10**9, "false"), (0, "true")])
def test_spark_compiles_the_plans_of_a_load_of_many_rows_only(
    line: Line, monkeypatch: pytest.MonkeyPatch, few: int, compiled: str
) -> None:
    monkeypatch.setattr(read, "FEW_ROWS", few)
    load = warehouse_room.begin("test/tables", reads=())
    try:
        assert load.session.conf.get("spark.sql.codegen.wholeStage") == compiled
    finally:
        load.abandon()
