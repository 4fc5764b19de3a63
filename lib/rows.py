"""Events into their table: COPY straight in; what is there already, or refused by the database, is found out after."""

import io
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import sql
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor
from pyarrow import csv

from lib.database import savepoint
from lib.decode import Dead
from lib.schemas import Contract

CHUNK = 1 << 18
"""Bytes that COPY takes at a time."""


@dataclass
class Stored:
    """What became of rows: written and conflicting ones per partition, the span of the written ones' times.

    A conflict is a duplicate with another payload; `rejected` holds what the database refuses, by place.
    """

    written: Counter[int] = field(default_factory=Counter)
    conflicts: Counter[int] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    rejected: dict[int, Dead] = field(default_factory=dict)

    def add(self, other: "Stored") -> "Stored":
        """Both together."""
        times = [time for time in (self.first, self.last, other.first, other.last) if time]
        return Stored(
            self.written + other.written,
            self.conflicts + other.conflicts,
            min(times, default=None),
            max(times, default=None),
            self.rejected | other.rejected,
        )


def store(cursor: Cursor, contract: Contract, rows: pa.Table) -> Stored:
    """Insert rows in their order; of those with the same key the first one stays.

    `rows` has the column `place` and columns of the table, `ingest_batch_id` with the same value in all of them. What the
    database itself refuses is found by halving, and the rest is stored.
    """
    if not len(rows):
        return Stored()
    try:
        with savepoint(cursor):
            return _insert(cursor, contract, rows)
    except (psycopg2.DataError, psycopg2.IntegrityError) as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            return store(cursor, contract, rows[:middle]).add(store(cursor, contract, rows[middle:]))
        detail = f"SQLSTATE {error.pgcode}: {str(error).splitlines()[0]}"
        return Stored(rejected={rows["place"][0].as_py(): Dead("rejected_by_database", detail)})


def _insert(cursor: Cursor, contract: Contract, rows: pa.Table) -> Stored:
    try:
        with savepoint(cursor):
            _copy(cursor, contract.table, rows)
    except UniqueViolation:
        return _merge(cursor, contract, rows)
    counts = pc.value_counts(rows["kafka_partition"]).to_pylist()
    span = pc.min_max(rows[contract.time]).as_py()
    first, last = (span[end].replace(tzinfo=UTC) for end in ("min", "max"))
    return Stored(Counter({row["values"]: row["counts"] for row in counts}), first=first, last=last)


def _copy(cursor: Cursor, table: str, rows: pa.Table) -> None:
    """COPY in CSV: NULL is empty and unquoted, a text is quoted, an instant is UTC."""
    rows = rows.drop_columns("place")
    buffer = io.BytesIO()
    csv.write_csv(rows, buffer, csv.WriteOptions(include_header=False))
    buffer.seek(0)
    statement = sql.SQL("copy {} ({}) from stdin with (format csv)")
    columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    cursor.copy_expert(statement.format(sql.Identifier(table), columns), buffer, CHUNK)


_MERGE = """
insert into {table} ({columns}) select {columns} from {incoming} order by kafka_partition, kafka_offset
on conflict do nothing;
with compared as (
    select i.kafka_partition, t.{time} as event_at,
        (t.ingest_batch_id, t.kafka_partition, t.kafka_offset)
        = (i.ingest_batch_id, i.kafka_partition, i.kafka_offset) as is_written,
        ({incoming_payload}) is distinct from ({stored_payload}) as is_other
    from {incoming} as i join {table} as t using ({key})
)
select kafka_partition, count(*) filter (where is_written), count(*) filter (where is_other),
    min(event_at) filter (where is_written), max(event_at) filter (where is_written)
from compared group by kafka_partition
"""


def _merge(cursor: Cursor, contract: Contract, rows: pa.Table) -> Stored:
    """Through a temporary table, which has to be another one when columns have been added."""
    names = [name for name in rows.column_names if name != "place"]
    columns, table = sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(contract.table)
    staging = f"incoming_{contract.table}_{len(contract.added)}"
    incoming = sql.Identifier(staging)
    create = "create temporary table if not exists {} as select {} from {} limit 0; truncate {}"
    cursor.execute(sql.SQL(create).format(incoming, columns, table, incoming))
    _copy(cursor, staging, rows)
    parts = {"table": table, "columns": columns, "incoming": incoming}
    parts |= {"key": sql.Identifier(contract.key), "time": sql.Identifier(contract.time)}
    parts |= {"incoming_payload": _payload(contract, "i"), "stored_payload": _payload(contract, "t")}
    cursor.execute(sql.SQL(_MERGE).format(**parts))
    stored = Stored()
    for partition, written, conflicts, first, last in cursor.fetchall():
        stored = stored.add(Stored(Counter({partition: written}), Counter({partition: conflicts}), first, last))
    return stored


def _payload(contract: Contract, alias: str) -> sql.Composable:
    """What an event said: its declared columns, and one object of all else, wherever it is kept."""
    declared = [sql.Identifier(alias, field.column) for field in contract.fields]
    added = [
        item for field in contract.added for item in (sql.Literal(field.name), sql.Identifier(alias, field.column))
    ]
    other = sql.SQL("jsonb_strip_nulls(jsonb_build_object({})) || coalesce({}, '{{}}')")
    return sql.SQL(", ").join([*declared, other.format(sql.SQL(", ").join(added), sql.Identifier(alias, "extra"))])
