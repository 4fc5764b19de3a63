"""What PostgreSQL computes of the batch notebooks' reads: their plans say so, and with push-down off the results are the same."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import nbformat
import pytest
import stored
from line import Line
from pushed import push_nothing
from pyspark.sql import DataFrame

from lib.jobs import discovery
from lib.ledger import cuts
from lib.ledger.cuts import Cut
from lib.settings import ROOT
from lib.warehouse.load import Load

pytestmark = pytest.mark.filterwarnings("ignore:WARN WindowExpression")
"""Spark warns of windows over all rows, which quintiles take."""

JOBS = [job for job in discovery.discover(ROOT / "notebooks") if job.schedule == "batch"]
NAMES = [job.name for job in JOBS]

AGGREGATED = {
    "etl/dim_geography": {"transactions", "product_view_events", "cart_events"},
    "etl/dim_customers": {"order_lines", "product_view_events", "cart_events"},
    "analytics/product_performance": {"fact_sales", "fact_product_views"},
    "analytics/sales_trends": {"fact_sales"},
    "analytics/rfm_analysis": {"fact_sales"},
    "analytics/customer_segments": {"dim_customers"},
}
"""Of which tables Spark gets sums, and no rows."""

JOINED = {
    "etl/dim_customers": ["customer_days", "dim_customers"],
    "analytics/product_performance": ["fact_sales", "dim_products", "dim_date"],
    "analytics/sales_trends": ["fact_sales", "dim_products", "dim_date"],
    "analytics/rfm_analysis": ["fact_sales", "dim_date", "dim_customers"],
}
"""Which tables PostgreSQL joins."""

NOT_ALIKE = re.compile(r"EXTRACT\(SECOND|CAST\(.* AS (byte|short|integer|long|string)\)")
"""What PostgreSQL computes otherwise than Spark (docs/notebooks.md), as it stands in a plan that has it pushed down."""


@dataclass
class Computed:
    """What a notebook has staged: the plan and the rows of each frame, by its name."""

    plans: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)

    @property
    def scans(self) -> list[tuple[str, str]]:
        """Each scan of a database in the plans: the table that it begins with, and what the plan says of it."""
        found = []
        for plan in self.plans.values():
            for part in re.split(r"(?=Scan JDBC v1 Relation from v2 scan )", plan)[1:]:
                name = part.removeprefix("Scan JDBC v1 Relation from v2 scan ").partition("[")[0]
                found.append((name, part))
        return found


def compute(job: str, monkeypatch: pytest.MonkeyPatch, since: Cut | None, *, pushed: bool = True) -> Computed:
    """Run a notebook's Read and Transform as a load since a cut, or as the first one, and roll it back."""
    computed = Computed()
    found, write = cuts.watermark, Load.stage

    def watermark(cursor: Any, name: str) -> Cut | None:
        return since if name == job else found(cursor, name)

    def stage(load: Load, name: str, frame: DataFrame, **more: Any) -> str:
        load.session.conf.set("spark.sql.maxMetadataStringLength", "100000")
        computed.plans[name] = frame._explain_string()  # type: ignore[operator]
        table = write(load, name, frame, **more)
        rows = load.query(f'select to_jsonb(rows)::text as row from staging."{table}" as rows')
        computed.rows[name] = sorted(rows["row"])
        return table

    with monkeypatch.context() as patch:
        patch.setattr(cuts, "watermark", watermark)
        patch.setattr(Load, "stage", stage)
        if not pushed:
            push_nothing(patch)
        namespace: dict[str, Any] = {"cut": 0, "run_date": "", "publish": False}
        try:
            for cell in nbformat.read(ROOT / "notebooks" / f"{job}.ipynb", 4).cells:
                if cell.source.startswith("## Write"):
                    break
                if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                    exec(compile(cell.source, job, "exec"), namespace)
        finally:
            if "load" in namespace:
                namespace["load"].abandon()
    assert computed.rows
    return computed


@pytest.fixture(scope="module")
def earlier(line: Line, stack: Any) -> Cut:
    """The cut of a cycle of the story after which others came, with new facts."""
    with stored.connected(stack, "warehouse") as connection, connection.cursor() as cursor:
        known = cuts.cuts_upto(cursor, 10**9)
    last = known[-1].batches
    return next(cut for cut in reversed(known) if all(cut.batches[table] < last[table] for table in last))


@pytest.mark.parametrize("job", NAMES)
def test_a_load_of_new_data_gets_the_same_with_push_down_and_without(
    job: str, earlier: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = compute(job, monkeypatch, earlier)
    plain = compute(job, monkeypatch, earlier, pushed=False)
    assert computed.rows == plain.rows
    assert not any("PushedAggregates" in scan or "PushedJoins" in scan for _, scan in plain.scans)
    _assert_plans(job, computed, is_incremental=True)


@pytest.mark.parametrize("job", sorted(AGGREGATED))
def test_a_first_load_gets_the_same_with_push_down_and_without(
    job: str, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = compute(job, monkeypatch, None)
    assert any(computed.rows.values())
    assert computed.rows == compute(job, monkeypatch, None, pushed=False).rows
    _assert_plans(job, computed, is_incremental=False)


def _assert_plans(job: str, computed: Computed, *, is_incremental: bool) -> None:
    aggregated, joined = AGGREGATED.get(job, set()), JOINED.get(job)
    summed = set()
    for name, scan in computed.scans:
        catalog, schema, table = name.split(".")
        assert not NOT_ALIKE.search(scan), scan
        if table in aggregated:
            assert "PushedAggregates: [" in scan and "PushedGroupByExpressions: [" in scan, scan
            summed.add(table)
        if catalog == "realtime" and schema == "public":
            assert re.search(r"ingest_batch_id > \d+", scan) and re.search(r"ingest_batch_id <= \d+", scan), scan
        if table.startswith("fact_"):
            assert re.search(r"ingest_batch_id <= \d+", scan), scan
            if is_incremental:
                assert re.search(r"date_id (IN \(|= \d)|ingest_batch_id > \d+", scan), scan
    assert summed == aggregated
    if joined:
        relations = [re.findall(r"Relation: \w+\.\w+\.(\w+)", scan) for _, scan in computed.scans]
        assert any(_begin(found, joined) for found in relations), relations


def _begin(found: list[str], names: list[str]) -> bool:
    """Whether these are the tables, a staging table by the beginning of its name."""
    return len(found) == len(names) and all(one.startswith(name) for one, name in zip(found, names, strict=True))


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """What notebooks show isn't looked at here."""
    yield
    capsys.readouterr()
