"""A fact table: staged rows with natural keys are merged into it, and look up the keys of the dimensions."""

from dataclasses import dataclass

import pandas as pd
import psycopg2
from psycopg2 import sql

from lib.ledger.cuts import Cut
from lib.schemas import CONTRACTS
from lib.warehouse import culprits, dedup
from lib.warehouse.load import Load

_DIMENSIONS = ("date_id", "customer_id", "product_id_pk", "geography_id")


@dataclass(frozen=True)
class Fact:
    """A fact table: the realtime table that it is loaded from, its own columns, and the name of its time."""

    table: str
    source: str
    columns: tuple[str, ...]
    time: str
    keys: tuple[str, ...] = ("event_id",)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every column of the table, but for the time of writing."""
        return ("event_id", *_DIMENSIONS, *self.columns, "ingest_batch_id")


_MERGE = sql.SQL("""
with added as (
    insert into {fact} (event_id, {dimensions}, {names}, ingest_batch_id)
    select s.event_id, d.date_id, c.customer_id, p.product_id_pk, g.geography_id, {own}
    from staging.{staged} s
    left join dim_date d on d.date = s.event_date
    left join dim_customers c on c.user_id = s.user_id and s.event_date >= c.effective_date
        and (c.end_date is null or s.event_date < c.end_date)
    left join dim_products p on p.product_id = s.product_id and s.event_date >= p.effective_date
        and (p.end_date is null or s.event_date < p.end_date)
    left join dim_geography g on g.country = coalesce(s.country, '')
    where {new} and {among}
    -- in the order of time, neighbours in the table are neighbours in most of its indexes: a fifth less work
    order by s.{time}
    returning date_id, {amount} as amount
), counted as (
    insert into ops.fact_days as f (fact, date_id, row_count, amount)
    select {name}, date_id, count(*), sum(amount) from added group by date_id
    on conflict (fact, date_id) do update
    set row_count = f.row_count + excluded.row_count,
        amount = coalesce(f.amount + excluded.amount, f.amount, excluded.amount)
)
select count(*) from added
""")


def merge(load: Load, fact: Fact, staged: str) -> int:
    """Insert the staged rows that the fact doesn't hold yet, count them into `ops.fact_days`, and return their number.

    Each gets the dimension versions that were valid on the event's own day; a key that no dimension has fails the load
    (the column is NOT NULL), and a country that is absent is member -1.

    Raises
    ------
    culprits.FailedOn
        When the database refuses some of the events; it names them. The load is rolled back, and stays begun.
    """
    parts: dict[str, sql.Composable] = dict(
        fact=sql.Identifier(fact.table),
        dimensions=sql.SQL(", ").join(map(sql.Identifier, _DIMENSIONS)),
        names=sql.SQL(", ").join(map(sql.Identifier, fact.columns)),
        own=sql.SQL(", ").join(sql.Identifier("s", name) for name in (*fact.columns, "ingest_batch_id")),
        staged=sql.Identifier(staged),
        new=dedup.unless_known(fact.table, "s", fact.keys),
        amount=sql.SQL("total_amount") if "total_amount" in fact.columns else sql.SQL("null::numeric"),
        name=sql.Literal(fact.table),
        time=sql.Identifier(fact.time),
    )
    try:
        return int(load.query(_MERGE.format(**parts, among=sql.SQL("true"))).iloc[0, 0])
    except (psycopg2.DataError, psycopg2.IntegrityError) as error:
        key = sql.Identifier("s", CONTRACTS[fact.source].key)
        only = _MERGE.format(**parts, among=sql.SQL("{} = any(%s)").format(key))
        _blame(load, fact, staged, only, error)
        raise


def _blame(load: Load, fact: Fact, staged: str, only: sql.Composable, error: psycopg2.Error) -> None:
    """Raise an error that names the events that a merge fails on, if they can be found; `only` merges some of them."""
    load.connection.rollback()
    key = sql.Identifier(CONTRACTS[fact.source].key)
    ids = sql.SQL("select distinct {} as id from staging.{} order by 1").format(key, sql.Identifier(staged))
    events = list(load.query(ids)["id"])
    if found := culprits.of_statement(load, events, lambda cursor, some: cursor.execute(only, [some])):
        why = f"nothing was written: {' '.join(str(error).split())}"
        raise culprits.FailedOn(culprits.message(f"{fact.table} can't be loaded", why, {fact.source: found})) from error


_STALE = sql.SQL("""
select date_id from {fact} where ingest_batch_id > %(after)s
union
select f.date_id from {fact} as f
join dim_products as p on p.product_id_pk = f.product_id_pk
where p.changed_by_cut > %(cut_id)s and p.first_booked_date >= %(run_date)s
""")


def stale_days(load: Load, fact: Fact, since: Cut) -> set[int]:
    """The days (`date_id`) of which the sums are no longer those at a cut.

    They have rows of later batches, or rows of products whose first version has changed in place since.
    """
    query = _STALE.format(fact=sql.Identifier(fact.table))
    after = since.batches[fact.source]
    found = load.query(query, after=after, cut_id=since.cut_id, run_date=since.run_date)
    return set(map(int, found["date_id"]))


def by_day(load: Load, fact: Fact) -> pd.DataFrame:
    """Rows of the fact, and the sum of its amounts (`amount`), by the day of the event."""
    return load.query(
        "select date, row_count as rows, amount from ops.fact_days join dim_date using (date_id)"
        " where fact = %s order by date",
        fact.table,
    )
