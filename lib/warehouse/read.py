"""What a load reads of the realtime database, the events that are new to its job; and exact sums of money."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lib import database
from lib.ledger.cuts import Window
from lib.schemas import CONTRACTS, ORDER_LINES
from lib.settings import settings
from lib.warehouse.held import Reader

FEW_ROWS = 50_000
"""So few aren't worth a second task, nor a shuffle afterwards, nor that Spark compiles their query (docs/performance.md)."""

PART = 10**8
"""What `exact_sum` takes apart: whole multiples of this, and the rest."""


def events(
    session: SparkSession, load: Reader, name: str, added: Sequence[str], *, open_day: bool, as_rows: bool
) -> DataFrame:
    """See `Load.events`."""
    if name not in (known := [*CONTRACTS, ORDER_LINES]):
        raise LookupError(f"{name} is no realtime table with events; there are {', '.join(known)}")
    table = "transactions" if name == ORDER_LINES else name
    rereads = open_day and load.window.since is not None
    after, upto = load.window.open(table) if rereads else load.window.unread(table)
    bounds = _partitions(table, after, upto) if as_rows else {}
    declared = () if name == ORDER_LINES else (*CONTRACTS[table].columns, *added, "ingest_batch_id")
    stored = session.read.options(**bounds).table(f"realtime.public.{name}").select(*declared or "*")
    batch, day = F.col("ingest_batch_id"), F.to_date(CONTRACTS[table].time)
    seen = _as_held(session, load, table, stored).where((batch > after) & (batch <= upto))
    if rereads:
        # of the batches that the first cut of the open day covered, only the events of that very day aren't settled
        seen = seen.where((batch > load.window.opened(table)) | (day >= F.lit(load.window.settled_before)))
    # each column from the stored ones alone: PostgreSQL can't group by what Spark has computed before
    computed = {
        "day": day,
        "booked": booked_day(load.window, table, batch, day),
        "is_new": batch > load.window.unread(table)[0] if rereads else F.lit(True),
    }
    if taken := sorted(computed.keys() & set(added)):
        raise ValueError(f"{', '.join(taken)}: a load computes a column of this name; read the field from the table")
    dated = seen.withColumns(computed)
    return dated.coalesce(1) if as_rows and not bounds else dated


def booked_day(window: Window, table: str, batch: Column, day: Column) -> Column:
    """The day on which an event of a realtime table is booked (`Window.bookings`), from its batch and its own UTC day."""

    def not_before(first: date) -> Column:
        # in this form PostgreSQL can group by it; `greatest` would be Spark's
        return day if first == date.min else F.when(day < F.lit(first), F.lit(first)).otherwise(day)

    *earlier, (_, last) = window.bookings(table)
    if not earlier:
        return not_before(last)
    (upto, first), *more = earlier
    cases = F.when(batch <= upto, not_before(first))
    return reduce(lambda made, each: made.when(batch <= each[0], not_before(each[1])), more, cases).otherwise(
        not_before(last)
    )


def has_few_rows(window: Window) -> bool:
    """Whether few events have come since the job's last load, of all three kinds together."""
    return _stored({table: window.unread(table) for table in CONTRACTS}) <= FEW_ROWS


def _stored(batches: Mapping[str, tuple[int, int]]) -> int:
    """How many events there are in these batches `(after, upto]` of each realtime table."""
    query = """
        select coalesce(sum(rows_written), 0)::bigint from ops.ingest_batches
        join unnest(%s, %s::bigint[], %s::bigint[]) as asked (name, after, upto) on source_table = name
        where ingest_batch_id > after and ingest_batch_id <= upto
    """
    after, upto = zip(*batches.values(), strict=True)
    with closing(database.connect("realtime")) as connection:
        return int(database.frame(connection, query, [list(batches), list(after), list(upto)]).iloc[0, 0])


def _partitions(table: str, after: int, upto: int) -> dict[str, str]:
    """Options by which Spark reads many events in several tasks, by ranges of batches; none for few."""
    rows = _stored({table: (after, upto)})
    partitions = min(settings().spark_parallelism, upto - after, 1 + rows // FEW_ROWS)
    if partitions <= 1:
        return {}
    bounds = {"partitionColumn": "ingest_batch_id", "lowerBound": str(after + 1), "upperBound": str(upto + 1)}
    return bounds | {"numPartitions": str(partitions)}


def _as_held(session: SparkSession, load: Reader, table: str, stored: DataFrame) -> DataFrame:
    """The events of a realtime table as the load's job sees them: `held.source` says how, and why."""
    if table not in load.held:
        return stored
    key = CONTRACTS[table].key
    held = session.table("realtime.ops.held_events").where(F.col("source_table") == table).alias("held")
    rows = stored.alias("stored")
    same = F.col(f"stored.{key}") == F.col("held.event_id")
    loaded = F.from_json("held.loaded_by", "map<string, bigint>")[load.job]
    batch = F.coalesce(loaded, "held.released_batch").alias("ingest_batch_id")
    columns = [batch if name == "ingest_batch_id" else F.col(f"stored.{name}") for name in stored.columns]
    moved = rows.join(held, same).select(*columns).where("ingest_batch_id is not null")
    return rows.join(held, same, "left_anti").unionByName(moved)


def exact_sum(amount: str | Column) -> Column:
    """The sum of an amount of money (two decimals) or of a quantity, exact as long as it is below 10²⁸, as `decimal(38, 2)`.

    Spark takes a sum that PostgreSQL has computed as `decimal(38, 18)`, which holds 20 digits before the point. So the
    multiples of 10⁸ and the rest are summed apart, both by PostgreSQL.
    """
    whole = F.col(amount) if isinstance(amount, str) else amount
    rest = whole % PART
    multiples = (whole - rest) * F.lit(1 / Decimal(PART))
    # nothing is lost by the cast: multiples are whole numbers
    total = F.sum(multiples).cast("decimal(28, 0)") * F.lit(Decimal(PART)) + F.sum(rest)
    return total.cast("decimal(38, 2)")
