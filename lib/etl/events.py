"""Events of all three kinds as the dimensions read them: which ones, and beside which current version."""

from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame

from lib.ledger.cuts import own_day
from lib.schemas import CONTRACTS
from lib.warehouse import held
from lib.warehouse.load import Load
from lib.warehouse.read import read_warehouse
from lib.warehouse.scd2 import Dimension


def unread(load: Load, table: str) -> str:
    """The SQL condition on a realtime table that finds the events that no earlier load has read."""
    after, upto = load.window.unread(table)
    return f"ingest_batch_id > {after} and ingest_batch_id <= {upto}"


def still_open(load: Load, table: str) -> str:
    """The SQL condition on a realtime table that finds the events booked on days that aren't settled, read or not.

    Of the batches that the first cut of the open day covered, these are the events of that very day; an earlier event
    in them was on time, and is settled. All later batches are booked on the open day or after it.
    """
    after, upto = load.window.open(table)
    time, first = CONTRACTS[table].time, load.window.opened(table)
    of_the_day = f"(ingest_batch_id > {first} or {time} >= '{load.window.settled_before} 00:00+00')"
    return f"ingest_batch_id > {after} and ingest_batch_id <= {upto} and {of_the_day}"


def select_events(
    load: Load, columns: Mapping[str, str], where: Mapping[str, str], sources: Mapping[str, str] = {}
) -> str:
    """The query for columns of all three kinds of events, without held ones, and their own `day`."""
    tables = {table: held.source(load, table) for table in CONTRACTS} | dict(sources)
    return " union all ".join(
        f"select {columns[table]}, {own_day(contract.time)} as day from {tables[table]} where {where[table]}"
        for table, contract in CONTRACTS.items()
    )


def read_beside_current(load: Load, dimension: Dimension, query: str, columns: Sequence[str]) -> DataFrame:
    """These columns of a query on the warehouse, and the current version of each row's key, if it has one (`known_…`)."""
    names = ("effective_date", *dimension.type2, *dimension.type1)
    known = ", ".join(f"c.{name} as known_{name}" for name in names)
    same = " and ".join(f"c.{name} = n.{name}" for name in dimension.key)
    return read_warehouse(
        load,
        f"select {', '.join(f'n.{name}' for name in columns)}, {known} from ({query}) as n"
        f" left join {dimension.table} c on {same} and c.is_current",
    )
