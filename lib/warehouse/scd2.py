"""Slowly changing dimensions, type 2: which versions a load makes, and one transactional apply.

A key's versions are half-open ranges of whole UTC days, `[effective_date, end_date)`, without gap or overlap; the last
is open and current. `versions` is pure, from DataFrames to a DataFrame; `apply` writes its result with one UPDATE and
one INSERT inside the caller's transaction. Running again on the same input writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

from psycopg2 import sql
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lib.warehouse.load import Load


@dataclass(frozen=True)
class Dimension:
    """A dimension table: its natural key, and its type 2 and type 1 attributes."""

    table: str
    key: tuple[str, ...]
    type2: tuple[str, ...]
    type1: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """What a version says: its attributes and its range of days."""
        return (*self.type2, *self.type1, "effective_date", "end_date", "is_current")


@dataclass(frozen=True)
class Applied:
    """What a load wrote: versions inserted, versions closed, and current rows changed in place."""

    inserted: int
    closed: int
    updated: int


def versions(
    changes: DataFrame, current: DataFrame, *, key: Sequence[str], attributes: Sequence[str], inferred: str = ""
) -> DataFrame:
    """The versions of each key from its current one on, after the changes took effect.

    Parameters
    ----------
    changes
        One row per key and day on which the attributes take a value: key, `effective_date`, attributes. Many days per
        key are allowed; a key that isn't in `current` starts with its first.
    current
        At most one row per key, its current version: key, `effective_date`, attributes. A change on that very day
        changes it in place; one before that day is ignored, since the past is settled.
    inferred
        The column of `current` that marks inferred members (see `infer`). Nothing is known of them yet: from the member's
        start on holds the key's last change up to then, or else its first one.

    Returns
    -------
    DataFrame
        Grain: one row per key and version: key, `effective_date`, attributes, `end_date`, `is_current`. A change to
        the value that is valid already makes no version, NULL being a value like any other.
    """
    columns = [*key, "effective_date", *attributes]
    if inferred:
        changes = _reveal(changes, current.where(inferred), key)
        current = current.where(f"not {inferred}")
    known = current.select(*columns, F.lit(True).alias("is_known"))
    return collapse(
        known.unionByName(changes.select(*columns, F.lit(False).alias("is_known"))), key=key, attributes=attributes
    )


def _reveal(changes: DataFrame, members: DataFrame, key: Sequence[str]) -> DataFrame:
    """The changes; of an inferred member those after its start, and the one that says what held on it, on that day."""
    by_day = Window.partitionBy(*key).orderBy("effective_date")
    starts = members.select(*key, F.col("effective_date").alias("start"))
    dated = changes.join(starts, [*key], "left").withColumn("next", F.lead("effective_date").over(by_day))
    told = dated.where("start is null or next is null or next > start")
    is_first = F.row_number().over(by_day) == 1
    day = F.coalesce(F.when(is_first, F.col("start")), "effective_date")
    return told.withColumn("effective_date", day).drop("start", "next")


def change(effective_date: Column, is_known: Column, **attributes: Column) -> Column:
    """One row of the history that `collapse` takes, as a struct: the attributes from a day on."""
    named = [value.alias(name) for name, value in attributes.items()]
    return F.struct(effective_date.alias("effective_date"), *named, is_known.alias("is_known"))


def collapse(history: DataFrame, *, key: Sequence[str], attributes: Sequence[str]) -> DataFrame:
    """As `versions`, from one frame: the changes, and the current version of a key as the row that `is_known`.

    Takes one sort by key, and no join. Further columns of `history` are kept: they are those of the change that made the
    version.
    """
    of_key = Window.partitionBy(*key)
    in_order = of_key.orderBy("effective_date", F.desc("is_known"))
    whole = in_order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    current_from = F.max(F.when(F.col("is_known"), F.col("effective_date"))).over(whole)
    is_settled = F.coalesce(F.col("effective_date") < current_from, F.lit(False))
    is_replaced = F.col("is_known") & F.lead("effective_date").over(in_order).eqNullSafe(F.col("effective_date"))
    valid = history.withColumn("is_void", is_settled | is_replaced).where("not is_void").drop("is_void", "is_known")

    by_day = of_key.orderBy("effective_date")
    value = F.struct(*attributes)
    is_change = (F.row_number().over(by_day) == 1) | ~value.eqNullSafe(F.lag(value).over(by_day))
    distinct = valid.withColumn("is_change", is_change).where("is_change").drop("is_change")
    return distinct.withColumn("end_date", F.lead("effective_date").over(by_day)).withColumn(
        "is_current", F.col("end_date").isNull()
    )


def beside_current(load: Load, dimension: Dimension, rows: DataFrame) -> DataFrame:
    """The rows, each with the current version of its key, if there is one: the attributes as `known_<attribute>`.

    Rows that are staged are joined by PostgreSQL.
    """
    names = ("effective_date", *dimension.type2, *dimension.type1)
    current = load.table(dimension.table).where("is_current").alias("current")
    same = reduce(and_, (F.col(f"rows.{key}") == F.col(f"current.{key}") for key in dimension.key))
    known = (F.col(f"current.{name}").alias(f"known_{name}") for name in names)
    return rows.alias("rows").join(current, same, "left").select("rows.*", *known)


_CHANGE = sql.SQL("""
with changed as (
    update {table} d
    set {sets}, changed_by_cut = case when {is_other_version} then {cut} else changed_by_cut end
    from staging.{staged} s where {same} and {differs}
    returning d.end_date
)
select count(*) as changed, count(end_date) as closed from changed
""")

_ADD = sql.SQL("""
insert into {table} ({columns}, changed_by_cut)
select {values}, {cut} from staging.{staged} s
where not exists (select from {table} d where {same})
order by {order}
""")


def apply(load: Load, dimension: Dimension, staged: str) -> Applied:
    """Write staged versions: existing rows are closed or changed in place where they differ, new ones inserted.

    `staged` is the staging table of `versions` with the type 1 attributes joined. Expiring and inserting are one
    transaction, and the table's constraints refuse overlaps and a second current row.
    """
    place = ("effective_date", *dimension.key)
    said = [*dimension.type2, *dimension.type1, "end_date", "is_current"]
    parts: dict[str, sql.Composable] = dict(
        table=sql.Identifier(dimension.table),
        staged=sql.Identifier(staged),
        same=sql.SQL(" and ").join(map(_equal, place)),
        cut=sql.Literal(load.cut.cut_id or None),
    )
    change = _CHANGE.format(
        **parts,
        sets=sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in said),
        differs=_differ(said),
        is_other_version=_differ([*dimension.type2, "end_date"]),
    )
    changed, closed = map(int, load.query(change).iloc[0])
    new = [*place, *said]
    columns = sql.SQL(", ").join(map(sql.Identifier, new))
    order = _columns("s", [*dimension.key, "effective_date"])
    inserted = load.execute(_ADD.format(**parts, columns=columns, values=_columns("s", new), order=order))
    return Applied(inserted=inserted, closed=closed, updated=changed - closed)


def infer(load: Load, dimension: Dimension, staged: str, *, flag: str) -> int:
    """Insert a member for each staged key that the dimension doesn't have yet, and return their number.

    For facts that come before their dimension: the member holds from the earliest staged `first_date` on, every attribute
    has its column's default, and `flag` (boolean, a type 1 attribute of the dimension) is true. What `versions` makes of the
    first change, with `flag` false, takes the member's place under its surrogate key (Kimball's inferred member).
    """
    columns = sql.SQL(", ").join(map(sql.Identifier, dimension.key))
    return load.execute(
        sql.SQL(
            "insert into {table} ({key}, effective_date, is_current, {flag}, changed_by_cut)"
            " select {key}, min(first_date), true, true, {cut} from staging.{staged} s"
            " where not exists (select from {table} d where {same}) group by {key} order by {key}"
        ).format(
            table=sql.Identifier(dimension.table),
            key=columns,
            flag=sql.Identifier(flag),
            cut=sql.Literal(load.cut.cut_id or None),
            staged=sql.Identifier(staged),
            same=sql.SQL(" and ").join(_equal(name) for name in dimension.key),
        )
    )


def move_starts(load: Load, dimension: Dimension, staged: str) -> int:
    """Move the start of each key's first version back to the earliest staged `first_date`, where that is earlier.

    Nothing else of the past changes.
    """
    return load.execute(
        sql.SQL(
            "update {table} d set effective_date = s.first_date, changed_by_cut = {cut}"
            " from (select {key}, min(first_date) as first_date from staging.{staged} group by {key}) as s"
            " where {same} and s.first_date < d.effective_date"
            " and not exists (select from {table} e where {earlier} and e.effective_date < d.effective_date)"
        ).format(
            table=sql.Identifier(dimension.table),
            key=sql.SQL(", ").join(map(sql.Identifier, dimension.key)),
            cut=sql.Literal(load.cut.cut_id or None),
            staged=sql.Identifier(staged),
            same=sql.SQL(" and ").join(_equal(name) for name in dimension.key),
            earlier=sql.SQL(" and ").join(
                sql.SQL("e.{0} = d.{0}").format(sql.Identifier(name)) for name in dimension.key
            ),
        )
    )


def broken(load: Load, dimension: Dimension) -> int:
    """The number of versions that don't follow on: a gap or overlap before them, or not exactly one current per key."""
    partition = sql.SQL(", ").join(map(sql.Identifier, dimension.key))
    return int(
        load.query(
            sql.SQL(
                "select count(*) from (select effective_date, is_current,"
                " lag(end_date) over w as ended, row_number() over w as number, count(*) over (partition by {key}) as versions"
                " from {table} window w as (partition by {key} order by effective_date)) as v"
                " where (number > 1 and ended is distinct from effective_date) or is_current <> (number = versions)"
            ).format(key=partition, table=sql.Identifier(dimension.table))
        ).iloc[0, 0]
    )


def _equal(name: str) -> sql.Composable:
    return sql.SQL("d.{0} = s.{0}").format(sql.Identifier(name))


def _differ(names: Sequence[str]) -> sql.Composable:
    return sql.SQL("({}) is distinct from ({})").format(_columns("d", names), _columns("s", names))


def _columns(alias: str, names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(name)) for name in names)
