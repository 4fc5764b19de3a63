"""One job's load of the warehouse: what it reads, what it stages, and the one transaction that it writes in."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import pandas as pd
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, StructField

from lib import database, locks, plain, report, spark
from lib.jobs import lineage
from lib.ledger import cuts
from lib.ledger.cuts import Cut, Window
from lib.settings import settings
from lib.warehouse import dedup, held, read

BATCH_SIZE = 5000
"""Rows that Spark writes to a staging table at a time."""

IDLE_MINUTES = 10
"""After so long PostgreSQL ends the connection of a load that does nothing."""

STALE_HOURS = 12
"""A staging table that is older was left by a run that was killed."""

LONGEST_NAME = 63
"""Bytes of a name that PostgreSQL keeps."""

PREVIEW = 5
"""Rows that `Load.preview` shows."""


@dataclass
class Load:
    """One run of a job on the warehouse: its Spark session, its window, and the transaction that it writes in.

    Nothing is visible to others before `finish`, which commits with `publish` and rolls back without. When a notebook
    fails before, its connection closes, and PostgreSQL rolls back.
    """

    job: str
    session: SparkSession
    connection: Connection
    window: Window
    publish: bool
    past: bool = False
    """Whether the run date lies before that of the cut: one snapshot is written, and the watermark stays."""
    short_of: str = ""
    """That this load doesn't get to its cycle's cut, and which jobs it waits for."""
    _staging: list[str] = field(default_factory=list)
    checked: bool = False
    """Whether rules of quality were checked, none of the hard ones broken."""
    _unstaged: set[str] = field(default_factory=set)
    """What couldn't be staged, and hasn't been since."""
    seconds: dict[str, float] = field(default_factory=lambda: {"spark": 0.0, "postgres": 0.0})
    """How long this load has waited for Spark (its actions are the writes to staging tables) and for PostgreSQL."""

    @cached_property
    def held(self) -> dict[str, list[str]]:
        """The realtime tables of which an event was ever held, with their columns: what `held.source` needs to know."""
        return held.columns()

    @property
    def cut(self) -> Cut:
        """The cut that this run reads up to."""
        return self.window.cut

    def table(self, name: str) -> DataFrame:
        """A table of the warehouse, as committed; of a fact the rows of the batches up to this load's cut.

        It is a table of Spark's catalog `warehouse`: what PostgreSQL can compute of a query on it, PostgreSQL computes.

        Raises
        ------
        LookupError
            When the table has rows by batch, and no job that reads one realtime table writes it.
        """
        frame = self.session.table(f"warehouse.public.{name}")
        if name not in self._by_batch:
            return frame
        return frame.where(F.col("ingest_batch_id") <= self.cut.batches[self._source(f"warehouse.{name}")])

    def events(self, name: str, *added: str, open_day: bool = False, as_rows: bool = False) -> DataFrame:
        """The events of a realtime table that this job hasn't read yet, up to the load's cut, without held ones.

        Grain: one row per event, with its declared fields and its batch; of `order_lines`, the lines of the orders in
        `transactions`, one row per line. Each has its own UTC day (`day`), too, and the day on which it is booked (`booked`):
        the own day, or the first day that was still open when the event came, if that is later.

        Parameters
        ----------
        added
            Columns of fields that weren't declared, to be read as well.
        open_day
            Also those that an earlier load has read, and that are booked on a day that was open then; `is_new` says of each
            row whether it is unread.
        as_rows
            Spark needs the rows themselves, rather than what PostgreSQL makes of them by grouping: many are read in
            several tasks.

        Raises
        ------
        LookupError
            When there is no such realtime table.
        ValueError
            When an added column has the name of one that is computed here.
        """
        return read.events(self.session, self, name, added, open_day=open_day, as_rows=as_rows)

    def staged(self, table: str) -> DataFrame:
        """A staging table of this load as a frame."""
        return self.session.table(f"warehouse.staging.{table}")

    @cached_property
    def _by_batch(self) -> set[str]:
        """The tables of the warehouse whose rows say in which batch of the realtime database they came."""
        return set(self.query(_BY_BATCH)["relname"])

    def _source(self, table: str) -> str:
        """The realtime table that the job reads which writes a fact."""
        folder = settings().notebooks_dir
        reads = [each for job in lineage.writers(folder, [table]) for each in lineage.declared(folder, job)["reads"]]
        sources = [name.partition(".")[2] for name in reads if name.startswith("realtime.")]
        if len(sources) != 1:
            raise LookupError(f"{table} has rows by batch, and no job that reads one realtime table writes it")
        return str(sources[0])

    def stage(self, name: str, frame: DataFrame, *, like: str) -> str:
        """Compute a frame and write it into an unlogged staging table, whose name is returned.

        Its columns have the types of the columns of the table `like` with the same name; others have those of the frame.

        Raises
        ------
        ValueError
            When the name is too long: PostgreSQL would cut off what tells two staging tables apart.
        TypeError
            When the frame has a column of a type, such as a list, that a staging table can't have, or of one that
            PostgreSQL would change to that of the table in silence: a text to a date, a double to an amount of money.
        """
        self._unstaged.add(name)
        table = f"{name}_{uuid.uuid4().hex[:12]}"
        if len(table.encode()) > LONGEST_NAME:
            raise ValueError(f"the name {name} is too long: a table's has {LONGEST_NAME} bytes, 13 of them added here")
        place, source = sql.Identifier("staging", table), sql.Identifier(*like.split("."))
        known, fields = self._types(source), frame.schema.fields
        _refuse_other_types(like, known, fields)
        columns = [sql.Identifier(each.name) if each.name in known else _null(each) for each in fields]
        create = sql.SQL("create unlogged table {} as select {} from {} limit 0").format(
            place, sql.SQL(", ").join(columns), source
        )
        with self._waiting_for("postgres"), closing(database.connect("warehouse")) as own, own, own.cursor() as cursor:
            cursor.execute(create)
            cursor.execute(sql.SQL("comment on table {} is %s").format(place), [datetime.now(UTC).isoformat()])
        self._staging.append(table)
        options = spark.jdbc("warehouse") | {"batchsize": str(BATCH_SIZE), "dbtable": place.as_string(self.connection)}
        with self._waiting_for("spark"):
            frame.write.format("jdbc").options(**options).mode("append").save()
        self.execute(sql.SQL("analyze {}").format(place))
        self._unstaged.discard(name)
        return table

    def preview(self, staged: str) -> int:
        """Show the first five rows of a staging table, and return how many it has."""
        place = sql.Identifier("staging", staged)
        rows = self.query(sql.SQL("select * from {} limit {}").format(place, sql.Literal(PREVIEW)))
        total = int(self.query(sql.SQL("select count(*) from {}").format(place)).iloc[0, 0])
        report.table(rows, caption=f"{len(rows)} of {total:,} rows", limit=PREVIEW)
        return total

    def execute(self, statement: sql.Composable | str, *parameters: Any) -> int:
        """Run one statement in the load's transaction, and return the number of rows that it touched."""
        with self._waiting_for("postgres"), self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return int(cursor.rowcount)

    @contextmanager
    def _waiting_for(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except psycopg2.errors.InFailedSqlTransaction as error:
            error.add_note("An earlier statement of this load has failed, so none can follow: run from `begin` again.")
            raise
        except psycopg2.InterfaceError as error:
            error.add_note("The load is over, or has lost its connection: run from `begin` again.")
            raise
        self.seconds[what] += time.monotonic() - began

    def insert_new(self, table: str, staged: str, key: Sequence[str]) -> int:
        """Insert the staged rows whose key the table doesn't have, and return their number."""
        names = sql.SQL(", ").join(map(sql.Identifier, self._columns(staged, table)))
        statement = sql.SQL("insert into {table} ({names}) select {names} from staging.{staged} as staged where {new}")
        new = dedup.unless_known(table, "staged", key)
        target, source = sql.Identifier(*table.split(".")), sql.Identifier(staged)
        return self.execute(statement.format(table=target, names=names, staged=source, new=new))

    def upsert(self, table: str, staged: str, key: Sequence[str], *, touch: str = "") -> int:
        """Insert staged rows, or replace those with the same key where they differ; return the number written.

        `touch` names a column that takes the time of a replacement.

        Raises
        ------
        LookupError
            When a staged column is none of the table's: a misspelled one would leave the right one empty.
        """
        columns, known = self._names(sql.Identifier("staging", staged)), self._names(sql.Identifier(*table.split(".")))
        if unknown := [name for name in columns if name not in known]:
            missing = [name for name in known if name not in columns]
            raise LookupError(f"{table} has no column {', '.join(unknown)}{plain.do_you_mean(unknown[0], missing)}")
        values = [sql.Identifier(name) for name in columns if name not in key]
        sets = [sql.SQL("{0} = excluded.{0}").format(name) for name in values]
        sets += [sql.SQL("{} = clock_timestamp()").format(sql.Identifier(touch))] if touch else []
        old = sql.SQL(", ").join(sql.SQL("t.{}").format(name) for name in values)
        new = sql.SQL(", ").join(sql.SQL("excluded.{}").format(name) for name in values)
        return self.execute(
            sql.SQL(
                "insert into {table} as t ({names}) select {names} from staging.{staged} on conflict ({key})"
                " do update set {sets} where ({old}) is distinct from ({new})"
            ).format(
                table=sql.Identifier(*table.split(".")),
                names=sql.SQL(", ").join(map(sql.Identifier, columns)),
                staged=sql.Identifier(staged),
                key=sql.SQL(", ").join(map(sql.Identifier, key)),
                sets=sql.SQL(", ").join(sets),
                old=old,
                new=new,
            )
        )

    def delete_missing(self, table: str, staged: str, key: Sequence[str], *, among: Mapping[str, object] = {}) -> int:
        """Delete the rows whose key isn't staged, among those with the values of `among`; return their number."""
        conditions = [sql.SQL("t.{} = {}").format(sql.Identifier(name), sql.Literal(among[name])) for name in among]
        same = sql.SQL(" and ").join(sql.SQL("s.{0} = t.{0}").format(sql.Identifier(name)) for name in key)
        missing = sql.SQL("not exists (select from staging.{} as s where {})").format(sql.Identifier(staged), same)
        where = sql.SQL(" and ").join([*conditions, missing])
        return self.execute(sql.SQL("delete from {} as t where {}").format(sql.Identifier(*table.split(".")), where))

    def _columns(self, staged: str, table: str) -> list[str]:
        """The staged columns that the table has, too."""
        known = set(self._names(sql.Identifier(*table.split("."))))
        return [name for name in self._names(sql.Identifier("staging", staged)) if name in known]

    def _names(self, table: sql.Composable) -> list[str]:
        """The columns of a table, in order."""
        return list(self._types(table))

    def _types(self, table: sql.Composable) -> dict[str, str]:
        """The columns of a table, in order, each with its type."""
        columns = self.query(_COLUMNS, table.as_string(self.connection))
        return dict(zip(columns["attname"], columns["type"], strict=True))

    def query(self, statement: sql.Composable | str, *values: Any, **named: Any) -> pd.DataFrame:
        """The rows of a query as the load's transaction sees them; values for its `%s`, or named ones for `%(name)s`."""
        with self._waiting_for("postgres"):
            return database.frame(self.connection, statement, named or values)

    def finish(self, *, rows_written: int | None = None) -> None:
        """Move the job's watermark and commit, both together; without `publish` roll everything back.

        Says in a sentence which of the two. With `rows_written` that is told as a number of this run, and beside it how
        long the load has waited for Spark and for PostgreSQL (`seconds`).

        Raises
        ------
        RuntimeError
            When something couldn't be staged, and hasn't been since: the watermark would pass over its events.
        """
        if self._unstaged:
            raise RuntimeError(
                f"{', '.join(sorted(self._unstaged))} couldn't be staged, and the watermark would pass over its events:"
                " mend the cell that failed and run it again, or all from `begin`"
            )
        with self.connection.cursor() as cursor:
            cut = self.cut if self.cut.cut_id else cuts.store_cut(cursor, self.cut)
            if not self.past:
                cuts.advance(cursor, self.job, cut)
        with self._waiting_for("postgres"):
            if self.publish:
                self.connection.commit()
            else:
                self.connection.rollback()
        self._close()
        if rows_written is not None:
            report.glue(rows_written=rows_written, seconds=self.seconds)
        done = "committed, rows and watermark together" if self.publish else "rolled back, since `publish` is off"
        checks = "The checks hold." if self.checked else "No rule was checked."
        print(f"{checks} {self.job} has read up to the cut of {cut.run_date}{self.short_of}; {done}.")

    def abandon(self) -> None:
        """Roll everything back and close the load, so that no later cell of the notebook can commit it."""
        self.connection.rollback()
        self._close()

    def _close(self) -> None:
        _drop(self._staging)
        self.connection.close()
        spark.close(self.session)


_BY_BATCH = """
select relname from pg_class join pg_attribute on attrelid = pg_class.oid
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and attname = 'ingest_batch_id'
"""

_COLUMNS = """
select attname, atttypid::regtype::text as type from pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
"""

_TYPES = {
    "boolean": sql.SQL("null::boolean"),
    "int": sql.SQL("null::integer"),
    "bigint": sql.SQL("null::bigint"),
    "double": sql.SQL("null::double precision"),
    "string": sql.SQL("null::text"),
    "date": sql.SQL("null::date"),
    "timestamp": sql.SQL("null::timestamptz"),
}

_NUMBERS = {"smallint", "integer", "bigint", "numeric", "double precision"}
_KEPT = {
    "boolean": {"boolean"},
    "tinyint": _NUMBERS,
    "smallint": _NUMBERS,
    "int": _NUMBERS,
    "bigint": _NUMBERS,
    "decimal": {"numeric", "double precision"},
    "float": {"double precision"},
    "double": {"double precision"},
    "string": {"text", "character varying"},
    "date": {"date"},
    "timestamp": {"timestamp with time zone"},
}
"""For each of Spark's types those of PostgreSQL that keep its values, or refuse those that are too large."""


def _refuse_other_types(table: str, known: Mapping[str, str], fields: Sequence[StructField]) -> None:
    """Refuse columns whose values PostgreSQL would change in silence, as it puts them into a table with these columns."""
    wrong = []
    for column in fields:
        kind = column.dataType.simpleString()
        kept = _KEPT.get(kind.partition("(")[0])
        if column.name in known and kept and known[column.name] not in kept:
            wrong.append(f"{column.name} is of type {kind}, and {table} has it as {known[column.name]}")
    if wrong:
        raise TypeError(f"{'; '.join(wrong)}: cast it, as by `F.col(…).cast(…)`")


def _null(column: StructField) -> sql.Composable:
    """A column of PostgreSQL for one of Spark, with nothing in it."""
    kind = column.dataType
    null: sql.Composable
    if isinstance(kind, DecimalType):
        null = sql.SQL("null::numeric({}, {})").format(sql.Literal(kind.precision), sql.Literal(kind.scale))
    elif kind.simpleString() in _TYPES:
        null = _TYPES[kind.simpleString()]
    else:
        known = ", ".join([*_TYPES, "decimal"])
        raise TypeError(
            f"{column.name} is of type {kind.simpleString()}; a staging table has {known}: cast it, or leave it out"
        )
    return sql.SQL("{} as {}").format(null, sql.Identifier(column.name))


def begin(
    job: str, *, cut: int = 0, run_date: str = "", publish: bool = False, reads: Sequence[str] | None = None
) -> Load:
    """Begin a job's load: a Spark session, the window from its watermark to the cut, and a transaction.

    A job never reads past those that write what it reads: the cut is at most their watermarks'. `reads` is what the front
    matter of its notebook says, or given for a load that has no notebook. A run date before that of the cut is for jobs
    that keep snapshots: it makes the one of that day. A load by hand that is left open gives its locks back after ten
    minutes: PostgreSQL ends its connection.

    Raises
    ------
    LookupError
        When there is no such notebook, or a job that writes what it reads has loaded nothing yet.
    ValueError
        When the run date lies before that of the cut, and the job keeps no snapshots.
    """
    folder = settings().notebooks_dir
    declared = lineage.declared(folder, job) if reads is None else {"reads": reads}
    upstream = lineage.writers(
        folder, [table for table in declared.get("reads", ()) if table != declared.get("writes")]
    )
    try:
        connection = database.connect("warehouse")
    except psycopg2.OperationalError as error:
        error.add_note("Is the stack up? `make status` says what runs, and `make up` starts it.")
        raise
    with connection.cursor() as cursor:
        cursor.execute("set idle_in_transaction_session_timeout = %s", [f"{IDLE_MINUTES}min"])
        if publish:
            # nobody puts events aside while a load may have read them and isn't committed
            locks.share(cursor, locks.LOADS, job)
        wanted = cuts.find_cut(cursor, cut, run_date)
        upto, holding = cuts.at_most(cursor, wanted, upstream)
        day = date.fromisoformat(run_date) if run_date else upto.run_date
        past = day < upto.run_date
        if past and "snapshots" not in declared:
            raise ValueError(
                f"{job} keeps no snapshots, so a run for {day} would overwrite rows of a later day;"
                f" its cut is of {upto.run_date}"
            )
        window = cuts.past_window(upto, day) if past else cuts.window(cursor, job, upto)
        stale = _left_behind(cursor)
    connection.commit()
    _drop(stale)
    # by hand the cut would be "now", which no job has loaded yet: nothing to speak of
    short_of = f", not to cut {cut}: {', '.join(holding)} got no further" if cut and holding else ""
    session = spark.batch(few_rows=read.has_few_rows(window))
    return Load(job, session, connection, window, publish, past, short_of)


def _left_behind(cursor: Cursor) -> list[str]:
    """Staging tables of runs that were killed."""
    cursor.execute(
        "select relname from pg_class where relnamespace = 'staging'::regnamespace and relkind = 'r'"
        " and obj_description(oid)::timestamptz < %s",
        [datetime.now(UTC) - timedelta(hours=STALE_HOURS)],
    )
    return [row[0] for row in cursor.fetchall()]


def _drop(tables: list[str]) -> None:
    """Drop staging tables: those of this run at its end, or those that killed runs left behind."""
    with closing(database.connect("warehouse")) as own, own, own.cursor() as cursor:
        for table in tables:
            cursor.execute(sql.SQL("drop table if exists staging.{}").format(sql.Identifier(table)))
