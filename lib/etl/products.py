"""The product dimension: category as type 2, and the votes of the open day that later loads need."""

from datetime import date

from psycopg2 import sql
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lib.etl.events import select_events, still_open, unread
from lib.schemas import CONTRACTS
from lib.warehouse import held, scd2
from lib.warehouse.load import Load
from lib.warehouse.read import read_realtime
from lib.warehouse.scd2 import Dimension

MENTION = ("product_id", "category", "time", "id", "line", "first_date", "booked")
"""The columns of `read_mentions`."""

TOTAL = "All"
"""What the total of all categories is called, so that no category may be."""

PRODUCTS = Dimension(table="dim_products", key=("product_id",), type2=("category",), type1=("first_booked_date",))


def product_versions(mentions: DataFrame, settled_before: date, run_date: date) -> DataFrame:
    """Versions of the products in `mentions` from the current one on; the input of `scd2.apply`.

    A product begins on the day of its first event, with the earliest category of its first booked day, else `Unknown`;
    while that day is open, this changes in place. The last category of each booked day before `run_date` takes effect on
    the following day. `settled_before` is the first day that no load has settled.

    Parameters
    ----------
    mentions
        One row per event or order line that counts (`read_mentions`): `product_id`, `category`, `time`, `id`,
        `line`, `first_date`, `booked`; beside it the current version, if there is one (`known_…`).
    """
    of_product = Window.partitionBy("product_id")
    known_from, known_booked = F.col("known_effective_date"), F.col("known_first_booked_date")
    first_booked = F.coalesce(known_booked, F.min("booked").over(of_product))
    begins = F.coalesce(known_from, F.min("first_date").over(of_product))
    is_young = known_booked.isNull() | (known_booked >= F.lit(settled_before))
    day = votes(mentions).select(
        "product_id",
        first_booked.alias("first_booked_date"),
        F.when(known_from.isNotNull(), scd2.change(known_from, F.lit(True), category=F.col("known_category"))).alias(
            "known"
        ),
        F.when(
            is_young & (F.col("booked") == first_booked),
            scd2.change(begins, F.lit(False), category=F.coalesce("first", F.lit("Unknown"))),
        ).alias("beginning"),
        F.when(
            (F.col("booked") < F.lit(run_date)) & F.col("last").isNotNull(),
            scd2.change(F.date_add("booked", 1), F.lit(False), category=F.col("last")),
        ).alias("voted"),
    )
    changes = day.select("product_id", "first_booked_date", F.inline(F.array("known", "beginning", "voted")))
    once = changes.where("effective_date is not null").distinct()
    return scd2.collapse(once, key=PRODUCTS.key, attributes=PRODUCTS.type2)


def votes(mentions: DataFrame) -> DataFrame:
    """The category of each product and day. Grain: one row per product and booked day, with the current version.

    An event that carries a category votes on its own day, unless it is late. `first` is the earliest vote of the day by
    (time, id, line), `last` the latest; `All`, the name of the total, counts as `Unknown`.
    """
    order = F.when(F.expr("category <> '' and first_date = booked"), F.struct("time", "id", "line"))
    category = F.when(F.col("category") == TOTAL, "Unknown").otherwise(F.col("category"))
    known = [name for name in mentions.columns if name.startswith("known_")]
    return mentions.groupBy("product_id", "booked", *known).agg(
        F.min_by(category, order).alias("first"),
        F.max_by(category, order).alias("last"),
        F.min("first_date").alias("first_date"),
    )


def has_votes(load: Load) -> bool:
    """Whether votes of the open day are kept; without, all of it has to be read again."""
    return bool(load.query("select exists (select from ops.product_votes)").iloc[0, 0])


def votes_query(load: Load, staged: str) -> str:
    """The query for the staged mentions, and for the votes of days that weren't settled before this load.

    When the open day ends, these are the votes of every product: its category is due.
    """
    kept = f"booked >= '{load.window.settled_before}'"
    if load.cut.run_date == load.window.settled_before:
        kept += f' and product_id in (select product_id from staging."{staged}")'
    columns = "product_id, category, time, id, line"
    return (
        f'select {columns}, first_date, booked from staging."{staged}"'
        f" union all select {columns}, booked, booked from ops.product_votes where {kept}"
    )


def keep_votes(load: Load, staged: str) -> None:
    """Keep the first and the last vote of each product on the day that this load leaves open, and no older ones."""
    load.execute("delete from ops.product_votes where booked < %s", load.cut.run_date)
    load.execute(
        sql.SQL(
            "insert into ops.product_votes (product_id, category, time, id, line, booked)"
            " select product_id, category, time, id, line, booked from staging.{}"
            " where category <> '' and first_date = booked and booked >= %s on conflict do nothing"
        ).format(sql.Identifier(staged)),
        load.cut.run_date,
    )
    place = "(v.time, v.id, v.line)"
    other = "select from ops.product_votes o where (o.product_id, o.booked) = (v.product_id, v.booked)"
    load.execute(
        f"delete from ops.product_votes v where exists ({other} and (o.time, o.id, o.line) < {place})"
        f" and exists ({other} and (o.time, o.id, o.line) > {place})"
    )


def read_mentions(load: Load, *, whole_day: bool) -> DataFrame:
    """Products in new events, or in all of the open day with `whole_day`. Grain: one row per event or order line that counts.

    Of each product, booked day and kind (whether it votes on the category) the first and the last by (time, id, line):
    nothing else follows from the others. `product_id`, `category`, `time`, `id` of the event, `line` (0 but for order
    lines), the own day (`first_date`) and the `booked` day.
    """
    condition = still_open if whole_day and load.window.since else unread
    booked = {table: load.window.booked_day(table, contract.time) for table, contract in CONTRACTS.items()}
    columns = {
        table: f"product_id, category, {CONTRACTS[table].time} as time, event_id as id, 0 as line, {day} as booked"
        for table, day in booked.items()
    }
    columns["transactions"] = (
        "line.value ->> 'product_id' as product_id, line.value ->> 'category' as category, transaction_timestamp as time,"
        f" transaction_id as id, line.number::integer as line, {booked['transactions']} as booked"
    )
    lines = (
        f"{held.source(load, 'transactions')}, jsonb_array_elements(products) with ordinality as line (value, number)"
    )
    places = {table: condition(load, table) for table in CONTRACTS}
    events = select_events(load, columns, places, {"transactions": lines})
    query = (
        "select product_id, category, time, id, line, day as first_date, booked from ("
        "select product_id, category, time, id, line, day, booked, row_number() over same as number,"
        f" lead(line) over same is null as is_last from ({events}) as events window same as ("
        "partition by product_id, booked, category <> '' and day = booked order by time, id collate \"C\", line)) as ordered"
        " where number = 1 or is_last"
    )
    return read_realtime(load, query)
